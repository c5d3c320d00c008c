"""A 3×3 convolution in compiled code: what restoration spends its time on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ambi_rl.codec.jit import kernel

Floats = npt.NDArray[np.float32]

GROUP = 3
"""Outputs computed together: their 27 weights fit the registers of AVX-512."""
_WIDTH = 192
"""Columns computed together. A constant, so that the compiler knows the rows of sums not to overlap."""


class Activations(NamedTuple):
    """Activations of a rectangle of cells.

    Attributes:
        array: float32 [C, rows, columns], contiguous.
        top: Row that it begins with.
        left: Column that it begins with.
    """

    array: Floats
    top: int
    left: int


class Layer(NamedTuple):
    """A convolution, its outputs in groups.

    Attributes:
        weights: float32 [I, G, 27]: for each input and group of outputs, 9 weights of each output.
        bias: float32 [O].
    """

    weights: Floats
    bias: Floats


def make_layer(weights: npt.NDArray[np.float64], bias: npt.NDArray[np.float64]) -> Layer:
    """Arrange weights [O, I, 3, 3] and biases [O] for `convolve`."""
    outputs, inputs = weights.shape[:2]
    groups = -(-outputs // GROUP)
    padded = np.zeros((groups * GROUP, inputs, 9), np.float32)
    padded[:outputs] = weights.reshape(outputs, inputs, 9)
    grouped = padded.reshape(groups, GROUP, inputs, 9).transpose(2, 0, 1, 3)
    return Layer(
        np.ascontiguousarray(grouped).reshape(inputs, groups, GROUP * 9), bias.astype(np.float32)
    )


@kernel(fused=True)
def _accumulate(
    above: Floats, middle: Floats, below: Floats, weights: Floats, sums: Floats, n: int
) -> None:
    """Add an input to n sums of each output of a group, spelt out for the compiler to use registers."""
    u0, u1, u2 = weights[0], weights[1], weights[2]
    u3, u4, u5 = weights[3], weights[4], weights[5]
    u6, u7, u8 = weights[6], weights[7], weights[8]
    v0, v1, v2 = weights[9], weights[10], weights[11]
    v3, v4, v5 = weights[12], weights[13], weights[14]
    v6, v7, v8 = weights[15], weights[16], weights[17]
    w0, w1, w2 = weights[18], weights[19], weights[20]
    w3, w4, w5 = weights[21], weights[22], weights[23]
    w6, w7, w8 = weights[24], weights[25], weights[26]
    for x in range(n):
        a0, a1, a2 = above[x], above[x + 1], above[x + 2]
        b0, b1, b2 = middle[x], middle[x + 1], middle[x + 2]
        c0, c1, c2 = below[x], below[x + 1], below[x + 2]
        sums[x] += (
            u0 * a0 + u1 * a1 + u2 * a2 + u3 * b0 + u4 * b1 + u5 * b2 + u6 * c0 + u7 * c1 + u8 * c2
        )
        sums[x + _WIDTH] += (
            v0 * a0 + v1 * a1 + v2 * a2 + v3 * b0 + v4 * b1 + v5 * b2 + v6 * c0 + v7 * c1 + v8 * c2
        )
        sums[x + 2 * _WIDTH] += (
            w0 * a0 + w1 * a1 + w2 * a2 + w3 * b0 + w4 * b1 + w5 * b2 + w6 * c0 + w7 * c1 + w8 * c2
        )


@kernel(fused=True)
def convolve(
    source: Activations,
    layer: Layer,
    skip: Activations,
    relu: bool,
    target: Activations,
    top: int,
    bottom: int,
    left: int,
    right: int,
) -> None:
    """Compute target = [relu](convolution of source [+ skip]) in a rectangle.

    Args:
        source: What is convolved; covers the rectangle and one more cell on each side.
        layer: Weights and biases.
        skip: What is added; covers the rectangle, or has no channels.
        relu: Whether negative results become zero.
        target: What is written; covers the rectangle.
        top: First row.
        bottom: Row after the last.
        left: First column.
        right: Column after the last.
    """
    inputs, groups, _ = layer.weights.shape
    outputs = layer.bias.size
    sums = np.empty(groups * GROUP * _WIDTH, np.float32)
    for y in range(top, bottom):
        for begin in range(left, right, _WIDTH):
            n = min(_WIDTH, right - begin)
            for o in range(outputs):
                for x in range(n):
                    sums[o * _WIDTH + x] = layer.bias[o]
            for i in range(inputs):
                row, column = y - source.top, begin - source.left
                above = source.array[i, row - 1, column - 1 : column + n + 1]
                middle = source.array[i, row, column - 1 : column + n + 1]
                below = source.array[i, row + 1, column - 1 : column + n + 1]
                for g in range(groups):
                    _accumulate(
                        above,
                        middle,
                        below,
                        layer.weights[i, g],
                        sums[g * GROUP * _WIDTH : (g + 1) * GROUP * _WIDTH],
                        n,
                    )
            for o in range(outputs):
                mine = sums[o * _WIDTH : (o + 1) * _WIDTH]
                if skip.array.shape[0] > 0:
                    start = begin - skip.left
                    added = skip.array[o, y - skip.top, start : start + n]
                    for x in range(n):
                        mine[x] += added[x]
                start = begin - target.left
                written = target.array[o, y - target.top, start : start + n]
                if relu:
                    for x in range(n):
                        written[x] = max(mine[x], np.float32(0))
                else:
                    for x in range(n):
                        written[x] = mine[x]
