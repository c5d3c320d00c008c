"""A 3×3 convolution in compiled code: what restoration spends its time on.

Down the columns it is Winograd's F(4, 3) (Lavin and Gray 2016): four rows of results come from six products
of transformed rows instead of twelve. Along the rows it is plain, so that nothing has to be shuffled.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ambi_rl.codec.jit import kernel

Floats = npt.NDArray[np.float32]

INPUTS, OUTPUTS = 3, 3
"""Channels computed together: their 27 weights fit the registers of AVX-512."""
_WIDTH = 400
"""Columns computed together: a constant, so that the compiler knows the rows of sums not to overlap, and no
power of two, for those would share the lines of the cache."""
_ROWS, _PRODUCTS = 4, 6
"""Rows of results computed together, and rows that they are products of."""
_LANES = 16
"""Samples in the longest vector registers."""
_STRIDE = OUTPUTS * _WIDTH
"""From an output's sums of one product to those of the next."""
_WEIGHT_TRANSFORM = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)


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
    """A convolution, its inputs and outputs in groups.

    Attributes:
        weights: float32 [6, J, G, 27]: for each transformed row, group of inputs and group of outputs the
            weights by output, input and column.
        bias: float32 [O].
    """

    weights: Floats
    bias: Floats


def make_layer(weights: npt.NDArray[np.float64], bias: npt.NDArray[np.float64]) -> Layer:
    """Arrange weights [O, I, 3, 3] and biases [O] for `convolve`."""
    outputs, inputs = weights.shape[:2]
    rest = [(0, -outputs % OUTPUTS), (0, -inputs % INPUTS)]
    transformed = np.einsum(
        "rk,oikc->roic", _WEIGHT_TRANSFORM, np.pad(weights, [*rest, *[(0, 0)] * 2])
    )
    packs, groups = -(-inputs // INPUTS), -(-outputs // OUTPUTS)
    # Product, group of outputs, output, group of inputs, input, column.
    grouped = transformed.reshape(_PRODUCTS, groups, OUTPUTS, packs, INPUTS, 3)
    arranged = grouped.transpose(0, 3, 1, 2, 4, 5).astype(np.float32)
    return Layer(
        np.ascontiguousarray(arranged).reshape(*arranged.shape[:3], -1), bias.astype(np.float32)
    )


@kernel(fused=True)
def _transform(rows: Floats, first: int, last: int, begin: int, n: int, out: Floats) -> None:
    """Transform rows first…first + 5 of [rows, columns], n columns from `begin` on, into [6, n or more].

    Rows after `last` do not exist; the results that need them are not used, so `last` stands for them.
    """
    d0 = rows[min(first, last), begin : begin + n]
    d1 = rows[min(first + 1, last), begin : begin + n]
    d2 = rows[min(first + 2, last), begin : begin + n]
    d3 = rows[min(first + 3, last), begin : begin + n]
    d4 = rows[min(first + 4, last), begin : begin + n]
    d5 = rows[min(first + 5, last), begin : begin + n]
    two, four, five = np.float32(2), np.float32(4), np.float32(5)
    for x in range(n):
        out[0, x] = four * d0[x] - five * d2[x] + d4[x]
        out[5, x] = four * d1[x] - five * d3[x] + d5[x]
    for x in range(n):
        even, odd = d4[x] - four * d2[x], d3[x] - four * d1[x]
        out[1, x] = even + odd
        out[2, x] = even - odd
    for x in range(n):
        even, odd = d4[x] - d2[x], two * (d3[x] - d1[x])
        out[3, x] = even + odd
        out[4, x] = even - odd


@kernel(fused=True)
def _combine(sums: Floats, n: int) -> None:
    """Turn an output's sums of products into results in place: rows at 0, 1, 2 and 3 times `_STRIDE`."""
    two, four, eight = np.float32(2), np.float32(4), np.float32(8)
    for x in range(n):
        m1, m2 = sums[x + _STRIDE], sums[x + 2 * _STRIDE]
        m3, m4 = sums[x + 3 * _STRIDE], sums[x + 4 * _STRIDE]
        inner, outer = m1 + m2, m3 + m4
        inner_odd, outer_odd = m1 - m2, m3 - m4
        sums[x] += inner + outer
        sums[x + _STRIDE] = inner_odd + two * outer_odd
        sums[x + 2 * _STRIDE] = inner + four * outer
        sums[x + 3 * _STRIDE] = inner_odd + eight * outer_odd + sums[x + 5 * _STRIDE]


@kernel(fused=True)
def _store(sums: Floats, bias: float, skip: Floats, relu: bool, target: Floats, n: int) -> None:
    """Write a row: target = [relu](sums + bias [+ skip]), n samples; skip is empty for nothing."""
    added = np.float32(bias)
    if skip.size > 0:
        for x in range(n):
            target[x] = sums[x] + added + skip[x]
    else:
        for x in range(n):
            target[x] = sums[x] + added
    if relu:
        for x in range(n):
            value = target[x]
            target[x] = value if value > 0 else np.float32(0)


@kernel(fused=True)
def _accumulate(
    first: Floats, second: Floats, third: Floats, weights: Floats, sums: Floats, n: int
) -> None:
    """Add a group of inputs to n sums of each output of a group, spelt out to be kept in registers."""
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
        a0, a1, a2 = first[x], first[x + 1], first[x + 2]
        b0, b1, b2 = second[x], second[x + 1], second[x + 2]
        c0, c1, c2 = third[x], third[x + 1], third[x + 2]
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
def _convolve(
    source: Activations,
    layer: Layer,
    skip: Activations,
    relu: bool,
    target: Activations,
    top: int,
    bottom: int,
    left: int,
    right: int,
    seen: Floats,
    sums: Floats,
    nothing: Floats,
) -> None:
    """What `convolve` says, with its working memory."""
    _, packs, groups, _ = layer.weights.shape
    inputs, outputs = source.array.shape[0], layer.bias.size
    by_output = sums.reshape((groups, _PRODUCTS * _STRIDE))
    every_row = sums.reshape((groups * _PRODUCTS * OUTPUTS, _WIDTH))
    for y in range(top, bottom, _ROWS):
        rows = min(_ROWS, bottom - y)
        for begin in range(left, right, _WIDTH):
            n = min(_WIDTH, right - begin)
            # Whole vectors, for what a compiler makes of the rest is slow; what is too much is not stored.
            whole = (n + _LANES - 1) // _LANES * _LANES
            for i in range(inputs):
                row, column = y - 1 - source.top, begin - 1 - source.left
                _transform(source.array[i], row, bottom - source.top, column, n + 2, seen[i])
            for k in range(every_row.shape[0]):
                for x in range(whole):
                    every_row[k, x] = 0
            for r in range(_PRODUCTS):
                for j in range(packs):
                    i = INPUTS * j
                    first, second, third = seen[i, r], seen[i + 1, r], seen[i + 2, r]
                    for g in range(groups):
                        _accumulate(first, second, third, layer.weights[r, j, g], sums[g, r], whole)
            for o in range(outputs):
                mine = by_output[o // OUTPUTS, o % OUTPUTS * _WIDTH :]
                _combine(mine, whole)
                for row in range(rows):
                    added = nothing
                    if skip.array.shape[0] > 0:
                        added = skip.array[o, y + row - skip.top, begin - skip.left :]
                    _store(
                        mine[row * _STRIDE :],
                        layer.bias[o],
                        added,
                        relu,
                        target.array[o, y + row - target.top, begin - target.left :],
                        n,
                    )


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
    _, packs, groups, _ = layer.weights.shape
    # Made here, so that the kernel counts no references.
    seen = np.zeros((packs * INPUTS, _PRODUCTS, _WIDTH + 2), np.float32)
    # Group of outputs, product, output, column.
    sums = np.empty((groups, _PRODUCTS, _STRIDE), np.float32)
    nothing = np.empty(0, np.float32)
    _convolve(source, layer, skip, relu, target, top, bottom, left, right, seen, sums, nothing)
