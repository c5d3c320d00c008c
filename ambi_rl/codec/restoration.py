"""The learned filter after decoding: a small convolutional network, in numpy.

Decoded planes, minus 512 and divided by the quantizer step, are cut into F×F cells whose samples become 3·F²
channels. A 3×3 convolution (the head) takes them to C channels, residual blocks h + conv(relu(conv(h)))
follow, and a 3×3 convolution of relu(h) (the tail) gives 3·F² channels, which are put back in place,
multiplied by the step and added. Beyond the picture's border the head sees the samples at the border
again; the other convolutions see zeros.

What a convolution does depends on the step Δ: with x = (log2 Δ − 4)/2 its outputs are multiplied by
exp(gain·(x, x²)), and bias·(1, x, x²) is added. One network serves all qualities, and the multiplication is
done with the weights before a picture is filtered.

Filtering is outside the prediction loop and in float32: machines may differ by one code value.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ambi_rl.codec.kernel.state import DISTORTION_WEIGHTS
from ambi_rl.codec.quality import STEP_SCALE
from ambi_rl.errors import BundleError

Planes = npt.NDArray[np.int16]
Floats = npt.NDArray[np.float32]
Tensors = Mapping[str, npt.NDArray[Any]]

MIDDLE = 512
"""What is taken from a sample before the network sees it."""
STEP_RANGE = (1.0, 256.0)
"""Steps beyond these, in code values, are taken for these: the network was not trained there."""
CODE_VALUE = 4
"""An 8-bit code value in the planes' unit."""
_HIGHEST = 1023

_FACTORS = (2, 4)
_MAX_LAYERS = 34
_MAX_CHANNELS = 256
_MAX_ACTIVATION = 1e30

TILE = 96
"""Side of the cells filtered at a time: their activations stay in the cache."""
_STRIP_CELLS = 1 << 11
"""Cells that one matrix product takes."""


class Layer(NamedTuple):
    """A convolution for one step.

    Attributes:
        weights: float32 [3, O, 3·I], by row of the kernel; columns are kernel column × input channel.
        bias: float32 [O, 1].
    """

    weights: Floats
    bias: Floats


class Network(NamedTuple):
    """The network for one step.

    Attributes:
        layers: head, two for each block, tail.
        factor: Side F of a cell in pixels.
    """

    layers: tuple[Layer, ...]
    factor: int


def basis(step: float) -> npt.NDArray[np.float64]:
    """1, x and x² for a step in 8-bit code values."""
    x = (np.log2(np.clip(step, *STEP_RANGE)) - 4) / 2
    return np.array([1.0, x, x * x])


def _fail(name: str, problem: str) -> BundleError:
    return BundleError(f"bundle tensor restoration/{name} {problem}; train and export it again")


def _shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    """The shapes that all tensors must have, from their number and the first one."""
    count = sum(name.startswith("w") for name in tensors)
    if not 2 <= count <= _MAX_LAYERS or count % 2:
        raise BundleError(
            f"the bundle's restoration has {count} convolutions, not an even number up to {_MAX_LAYERS}; "
            "train and export it again"
        )
    first = tensors.get("w0")
    inputs = [3 * factor * factor for factor in _FACTORS]
    if first is None or first.ndim != 4 or first.shape[1] not in inputs:
        raise _fail("w0", f"is missing or has not one of {inputs} input channels")
    outside, inside = first.shape[1], first.shape[0]
    if not 1 <= inside <= _MAX_CHANNELS:
        raise _fail("w0", f"has {inside} output channels, not 1 to {_MAX_CHANNELS}")
    shapes: dict[str, tuple[int, ...]] = {}
    for k in range(count):
        taken, given = inside if k else outside, inside if k + 1 < count else outside
        shapes |= {f"w{k}": (given, taken, 3, 3), f"gain{k}": (given, 2), f"bias{k}": (given, 3)}
    return shapes


def validate_tensors(tensors: Tensors) -> None:
    """Check the tensors of a bundle's restoration: names, shapes, types, and that nothing can overflow.

    Args:
        tensors: w{k} [O, I, 3, 3], gain{k} [O, 2], bias{k} [O, 3] for each convolution k; float16 or float32.

    Raises:
        BundleError: they are not a network that this program runs.
    """
    shapes = _shapes(tensors)
    if set(shapes) != set(tensors):
        wrong = ", ".join(sorted(set(shapes) ^ set(tensors)))
        raise BundleError(
            f"bundle tensors restoration/... are missing or unknown: {wrong}; train and export it again"
        )
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tensor.dtype not in (np.float16, np.float32) or tensor.shape != shape:
            raise _fail(
                name,
                f"is {tensor.dtype} {list(tensor.shape)}, not float16 or float32 {list(shape)}",
            )
        if not np.isfinite(tensor).all():
            raise _fail(name, "has values that are not finite")
    for step in STEP_RANGE:
        _check_magnitude(tensors, step)


def _check_magnitude(tensors: Tensors, step: float) -> None:
    """Refuse weights with which some picture would overflow."""
    bound = MIDDLE / (CODE_VALUE * step)
    # Infinite bounds are what is looked for, so they are no fault here.
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(len(tensors) // 3):
            weights, bias = _folded(tensors, k, step)
            rise = np.abs(weights).sum(axis=(1, 2, 3)).max() * bound + np.abs(bias).max()
            bound = rise if k == 0 else bound + rise
            if not bound < _MAX_ACTIVATION:
                raise _fail(f"w{k}", f"is so large that pictures at step {step:g} overflow")


def _folded(
    tensors: Tensors, k: int, step: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Weights [O, I, 3, 3] and biases [O] of convolution k at a step."""
    powers = basis(step)
    gain = np.exp(tensors[f"gain{k}"].astype(np.float64) @ powers[1:])
    weights = tensors[f"w{k}"].astype(np.float64) * gain[:, None, None, None]
    return weights, tensors[f"bias{k}"].astype(np.float64) @ powers


def network_for(tensors: Tensors, step: int) -> Network:
    """The network of a bundle's tensors for a quantizer step in 1/64 code value."""
    delta = step / STEP_SCALE
    layers = []
    count = len(tensors) // 3
    for k in range(count):
        weights, bias = _folded(tensors, k, delta)
        if k == 0:
            weights /= CODE_VALUE * delta
        if k == count - 1:
            weights *= CODE_VALUE * delta
            bias *= CODE_VALUE * delta
        outputs, inputs = weights.shape[:2]
        by_row = weights.transpose(2, 0, 3, 1).reshape(3, outputs, 3 * inputs)
        layers.append(
            Layer(np.ascontiguousarray(by_row, np.float32), bias.astype(np.float32)[:, None])
        )
    return Network(tuple(layers), round((tensors["w0"].shape[1] / 3) ** 0.5))


def macs_per_pixel(tensors: Tensors) -> float:
    """Multiplications for each pixel of a picture."""
    weights = sum(tensor.size for name, tensor in tensors.items() if name.startswith("w"))
    return float(weights / (tensors["w0"].shape[1] / 3))


class _Area(NamedTuple):
    """A rectangle of cells: first row, row after the last, first column, column after the last."""

    top: int
    bottom: int
    left: int
    right: int

    def grown(self, by: int) -> _Area:
        """This and `by` more cells on every side, also where there is no picture."""
        return _Area(self.top - by, self.bottom + by, self.left - by, self.right + by)

    def within(self, height: int, width: int) -> _Area:
        """What of it lies within a picture."""
        return _Area(
            max(self.top, 0), min(self.bottom, height), max(self.left, 0), min(self.right, width)
        )

    def part(self, array: Floats, area: _Area) -> Floats:
        """View of `area` in an array [C, rows, columns] that covers this one."""
        return array[
            :,
            area.top - self.top : area.bottom - self.top,
            area.left - self.left : area.right - self.left,
        ]


class _Activations(NamedTuple):
    """Activations of an area of cells, which may reach beyond the picture.

    Attributes:
        array: float32 [C, rows, columns].
        area: Where.
    """

    array: Floats
    area: _Area

    def at(self, area: _Area) -> Floats:
        """View of an area within it."""
        return self.area.part(self.array, area)


def _blank(channels: int, area: _Area, inside: _Area) -> _Activations:
    """Activations to be filled in `inside`, and zero elsewhere."""
    shape = channels, area.bottom - area.top, area.right - area.left
    array = np.empty(shape, np.float32)
    if inside != area:
        array[...] = 0
    return _Activations(array, area)


def _convolve(
    layer: Layer, source: _Activations, relu_first: bool, area: _Area
) -> Iterator[tuple[_Area, Floats]]:
    """Give the convolution in `area`, strip by strip, as float32 [O, rows, columns] of strips of it.

    The three columns of the kernel are laid out side by side, its three rows are three matrix products with
    the same array, each one row further down.
    """
    weights, bias = layer
    columns = area.right - area.left
    rows = max(1, min(_STRIP_CELLS // columns, area.bottom - area.top))
    channels = source.array.shape[0]
    taps = np.empty(3 * channels * (rows + 2) * columns, np.float32)
    sums = np.empty((2, weights.shape[1] * rows * columns), np.float32)
    for top in range(area.top, area.bottom, rows):
        strip = area._replace(top=top, bottom=min(top + rows, area.bottom))
        count = strip.bottom - strip.top
        shape = 3, channels, count + 2, columns
        shifted = taps[: 3 * channels * (count + 2) * columns].reshape(shape)
        for k in range(3):
            seen = _Area(top - 1, strip.bottom + 1, area.left + k - 1, area.right + k - 1)
            if relu_first:
                np.maximum(source.at(seen), 0, out=shifted[k])
            else:
                shifted[k] = source.at(seen)
        matrix = shifted.reshape(3 * channels, (count + 2) * columns)
        cells = count * columns
        total, product = (s[: weights.shape[1] * cells].reshape(-1, cells) for s in sums)
        for k in range(3):
            np.matmul(
                weights[k],
                matrix[:, k * columns : k * columns + cells],
                out=product if k else total,
            )
            total += product if k else bias
        yield strip, total.reshape(-1, count, columns)


def _cells(planes: Planes, area: _Area, factor: int) -> Floats:
    """The samples of an area's cells, minus 512; those beyond the border repeat the ones at it."""
    count, height, width = planes.shape
    rows = np.clip(np.arange(area.top * factor, area.bottom * factor), 0, height - 1)
    columns = np.clip(np.arange(area.left * factor, area.right * factor), 0, width - 1)
    size = area.bottom - area.top, area.right - area.left
    # Gray pictures have colourless chroma, which is zero here.
    samples = np.zeros((3, size[0], factor, size[1], factor), np.float32)
    seen = planes[:, rows[:, None], columns] - np.int16(MIDDLE)
    samples[:count] = seen.reshape(count, size[0], factor, size[1], factor)
    return samples.transpose(0, 2, 4, 1, 3).reshape(-1, *size)


def _residual_of_tile(network: Network, planes: Planes, tile: _Area) -> Floats:
    """What the network would add to the pixels of a tile of cells: float32 [3, rows·F, columns·F]."""
    factor, layers = network.factor, network.layers
    _, height, width = planes.shape
    size = -(-height // factor), -(-width // factor)

    def blank(k: int) -> tuple[_Activations, _Area]:
        """For what layer k gives, and where: each layer to come looks one cell further than it gives."""
        area = tile.grown(len(layers) - 1 - k)
        inside = area.within(*size)
        return _blank(layers[k].bias.size, area, inside), inside

    seen = tile.grown(len(layers))
    samples = _Activations(_cells(planes, seen, factor), seen)
    hidden, inside = blank(0)
    for strip, values in _convolve(layers[0], samples, False, inside):
        hidden.at(strip)[...] = values
    for k in range(1, len(layers) - 1, 2):
        middle, inside = blank(k)
        for strip, values in _convolve(layers[k], hidden, False, inside):
            np.maximum(values, 0, out=middle.at(strip))
        after, inside = blank(k + 1)
        for strip, values in _convolve(layers[k + 1], middle, False, inside):
            np.add(values, hidden.at(strip), out=after.at(strip))
        hidden = after
    rows, columns = tile.bottom - tile.top, tile.right - tile.left
    out = np.empty((3, rows, factor, columns, factor), np.float32)
    for strip, values in _convolve(layers[-1], hidden, True, tile):
        cells = values.reshape(3, factor, factor, -1, columns)
        out[:, strip.top - tile.top : strip.bottom - tile.top] = cells.transpose(0, 3, 1, 4, 2)
    return out.reshape(3, rows * factor, columns * factor)


def _tiles(height: int, width: int) -> list[_Area]:
    """A picture's cells in tiles, in raster order."""
    return [
        _Area(top, min(top + TILE, height), left, min(left + TILE, width))
        for top in range(0, height, TILE)
        for left in range(0, width, TILE)
    ]


def _for_each_tile(
    planes: Planes, step: int, tensors: Tensors, use: Callable[[slice, slice, Floats], None]
) -> None:
    """Call `use` with the rows and columns of each tile and what the network would add there.

    Tiles are shared among threads; `use` is called by one at a time, in any order.
    """
    network = network_for(tensors, step)
    planes_count, height, width = planes.shape
    factor = network.factor
    lock = threading.Lock()

    def work(tile: _Area) -> None:
        rows = slice(tile.top * factor, min(tile.bottom * factor, height))
        columns = slice(tile.left * factor, min(tile.right * factor, width))
        residual = _residual_of_tile(network, planes, tile)
        with lock:
            use(
                rows,
                columns,
                residual[:planes_count, : rows.stop - rows.start, : columns.stop - columns.start],
            )

    tiles = _tiles(-(-height // factor), -(-width // factor))
    threads = min(len(tiles), os.cpu_count() or 1)
    if threads == 1:
        for tile in tiles:
            work(tile)
        return
    with ThreadPoolExecutor(threads) as pool:
        # Consumed, so that what a thread raises is raised here.
        for _ in pool.map(work, tiles):
            pass


def restore(planes: Planes, step: int, tensors: Tensors, strength: float = 1.0) -> Planes:
    """Filter decoded planes.

    Args:
        planes: int16 [P, H, W], 0…1023, P is 1 or 3; not changed.
        step: Quantizer step in 1/64 of an 8-bit code value.
        tensors: A bundle's valid restoration tensors.
        strength: What of the network's output is added, 0…1.

    Returns:
        int16 [P, H, W], 0…1023.
    """
    restored = np.empty_like(planes)

    def use(rows: slice, columns: slice, residual: Floats) -> None:
        sums = planes[:, rows, columns] + np.float32(strength) * residual
        restored[:, rows, columns] = np.clip(np.rint(sums), 0, _HIGHEST)

    _for_each_tile(planes, step, tensors, use)
    return restored


def best_strength(
    source: Planes, decoded: Planes, step: int, tensors: Tensors, strengths: Sequence[float]
) -> float:
    """The strength with the least squared error (mean of R, G and B) against the source.

    Args:
        source: int16 [P, H, W], what was encoded.
        decoded: int16 [P, H, W], what it decodes to.
        step: Quantizer step in 1/64 of an 8-bit code value.
        tensors: A bundle's valid restoration tensors.
        strengths: What to choose from.
    """
    # |e − a·r|² = |e|² − 2a·er + a²·rr: two sums give the error at every strength.
    sums = np.zeros(2)
    weights = DISTORTION_WEIGHTS[: len(source)]

    def use(rows: slice, columns: slice, residual: Floats) -> None:
        missing = source[:, rows, columns] - decoded[:, rows, columns]
        for k, other in enumerate((missing, residual)):
            sums[k] += weights @ (residual * other).sum(axis=(1, 2), dtype=np.float64)

    _for_each_tile(decoded, step, tensors, use)
    return min(strengths, key=lambda a: a * a * sums[1] - 2 * a * sums[0])
