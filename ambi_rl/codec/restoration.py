"""The learned filter after decoding: a small convolutional network, run without torch.

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

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ambi_rl.codec.convolve import Activations, Layer, convolve, make_layer
from ambi_rl.codec.kernel.state import DISTORTION_WEIGHTS
from ambi_rl.codec.quality import STEP_SCALE
from ambi_rl.codec.threads import in_threads
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

TILE_ROWS, TILE_COLUMNS = 64, 384
"""The most cells that are filtered at a time: their activations stay in the cache."""


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


def blank_tensors(factor: int, channels: int, blocks: int) -> dict[str, Floats]:
    """Tensors of a network that changes nothing."""
    sizes = [3 * factor * factor, *[channels] * (2 * blocks + 1), 3 * factor * factor]
    tensors: dict[str, Floats] = {}
    for k, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        tensors[f"w{k}"] = np.zeros((outputs, inputs, 3, 3), np.float32)
        tensors[f"gain{k}"] = np.zeros((outputs, 2), np.float32)
        tensors[f"bias{k}"] = np.zeros((outputs, 3), np.float32)
    return tensors


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
    _check_magnitude(tensors)


def _check_magnitude(tensors: Tensors) -> None:
    """Refuse weights with which some picture would overflow at some step."""
    bound = MIDDLE / (CODE_VALUE * STEP_RANGE[0])
    # Infinite bounds are what is looked for, so they are no fault here.
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(len(tensors) // 3):
            weights = np.abs(tensors[f"w{k}"].astype(np.float64)).sum(axis=(1, 2, 3))
            gain = np.exp(_largest_exponents(tensors[f"gain{k}"].astype(np.float64)))
            bias = np.abs(tensors[f"bias{k}"].astype(np.float64)) @ np.abs(basis(STEP_RANGE[0]))
            # At least 1: weights have to be representable even where all that they see is zero.
            rise = (weights * gain).max() * max(bound, 1.0) + bias.max()
            bound = rise if k == 0 else bound + rise
            if not bound < _MAX_ACTIVATION:
                raise _fail(f"w{k}", "is so large that pictures overflow")


def _largest_exponents(gain: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The largest gain·(x, x²), by row of [O, 2], over the x of all steps: at an end, or at the vertex."""
    ends = np.stack([gain @ basis(step)[1:] for step in STEP_RANGE])
    low, high = (basis(step)[1] for step in STEP_RANGE)
    slope, bend = gain.T
    vertex = np.divide(-slope, 2 * bend, out=np.zeros_like(slope), where=bend != 0)
    within = np.clip(vertex, low, high)
    result: npt.NDArray[np.float64] = np.maximum(
        ends.max(axis=0), slope * within + bend * within**2
    )
    return result


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
        layers.append(make_layer(weights, bias))
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

    def convolved(k: int, source: Activations, skip: Activations, relu: bool) -> Activations:
        # Each layer to come looks one cell further than it gives; beyond the border are zeros.
        area = tile.grown(len(layers) - 1 - k)
        inside = area.within(*size)
        shape = layers[k].bias.size, area.bottom - area.top, area.right - area.left
        array = np.zeros(shape, np.float32) if inside != area else np.empty(shape, np.float32)
        result = Activations(array, area.top, area.left)
        convolve(source, layers[k], skip, relu, result, *inside)
        return result

    seen = tile.grown(len(layers))
    samples = Activations(_cells(planes, seen, factor), seen.top, seen.left)
    nothing = Activations(np.empty((0, 0, 0), np.float32), 0, 0)
    last = len(layers) - 1
    hidden = convolved(0, samples, nothing, last == 1)
    for k in range(1, last, 2):
        middle = convolved(k, hidden, nothing, True)
        hidden = convolved(k + 1, middle, hidden, k + 2 == last)
    residual = convolved(last, hidden, nothing, False).array
    rows, columns = residual.shape[1:]
    cells = residual.reshape(3, factor, factor, rows, columns)
    return cells.transpose(0, 3, 1, 4, 2).reshape(3, rows * factor, columns * factor)


def _parts(size: int, largest: int) -> list[tuple[int, int]]:
    """Divide 0…size into equal parts, up to one, of at most `largest`."""
    count = -(-size // largest)
    return [(k * size // count, (k + 1) * size // count) for k in range(count)]


def _tiles(height: int, width: int) -> list[_Area]:
    """A picture's cells in tiles, in raster order."""
    return [
        _Area(*rows, *columns)
        for rows in _parts(height, TILE_ROWS)
        for columns in _parts(width, TILE_COLUMNS)
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

    in_threads(work, _tiles(-(-height // factor), -(-width // factor)))


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
