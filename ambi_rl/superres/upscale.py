"""Enlarging a base layer with a bundle's network: onnxruntime, tile by tile, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ambi_rl.codec.threads import thread_count
from ambi_rl.errors import BundleError
from ambi_rl.superres.graph import check_graph

INPUT, OUTPUT = "base", "image"
"""Names of the network's input and output."""
DEFAULT_THREADS = 4
"""More do not help tiles of this size much."""
WINDOW = 192
"""Side of what the network sees at a time, in base-layer pixels."""
MEMORY_LIMIT = 2 << 30
"""Bytes that all networks of a process may hold together besides their weights."""
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""ITU-R BT.601, as the codec's own gray."""

Pixels = npt.NDArray[np.uint8]


class Span(NamedTuple):
    """A tile along one side: the network sees the window first…end, of which start…stop is kept."""

    first: int
    start: int
    stop: int
    end: int


def spans(length: int, radius: int) -> list[Span]:
    """Cut a side into tiles whose windows are of one length, if the side is long enough for more than one.

    Windows of one shape share memory, and reach beyond a tile by the radius wherever the picture goes on; at
    the picture's borders they end with it, so that a network pads just where it would for the whole picture.

    Args:
        length: Of the side, in base-layer pixels.
        radius: By which a window reaches beyond its tile at least.
    """
    window = max(WINDOW, 3 * radius)
    if length <= window:
        return [Span(0, 0, length, length)]
    found: list[Span] = []
    start = 0
    while start < length:
        first = min(max(start - radius, 0), length - window)
        end = first + window
        stop = length if end == length else end - radius
        found.append(Span(first, start, stop, end))
        start = stop
    return found


def require_onnxruntime() -> Any:
    """The module onnxruntime.

    Raises:
        BundleError: It is not installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise BundleError(
            "bundles of the profile superres need onnxruntime, which is not installed: pip install "
            '"ambi-rl[superres]"'
        ) from None
    return onnxruntime


@cache
def _prepare_onnxruntime() -> None:
    """Have sessions of this process share an allocator that refuses to grow over `MEMORY_LIMIT`."""
    runtime = require_onnxruntime()
    # What its allocator has to say goes past the sessions' own settings.
    runtime.set_default_logger_severity(4)
    kind = runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    memory = runtime.OrtMemoryInfo("Cpu", kind, 0, runtime.OrtMemType.DEFAULT)
    # Grown by what is asked for: by powers of two it would take up to twice as much.
    settings = runtime.OrtArenaCfg({"max_mem": MEMORY_LIMIT, "arena_extend_strategy": 1})
    runtime.create_and_register_allocator(memory, settings)


def _session(model: bytes, threads: int) -> Any:
    runtime = require_onnxruntime()
    _prepare_onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    # Errors come as exceptions; on stderr they would be said twice.
    options.log_severity_level = 4
    options.add_session_config_entry("session.use_env_allocators", "1")
    # Idle threads shall not spin: there may be other work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return runtime.InferenceSession(
        model,
        options,
        providers=["CPUExecutionProvider"],
        # Constants would be computed outside of the limited memory.
        disabled_optimizers=["ConstantFolding"],
        # It prints what is wrong, and tries the same again.
        enable_fallback=False,
    )


def _ends(session: Any) -> tuple[list[tuple[str, str, int]], ...]:
    """Name, type and number of dimensions of each input, and of each output."""
    # A network need not say what shapes it has.
    return tuple(
        [(end.name, end.type, len(end.shape or ())) for end in ends]
        for ends in (session.get_inputs(), session.get_outputs())
    )


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:197]}..."


class Upscaler:
    """A network, ready to enlarge pictures.

    Args:
        model: An ONNX file: float32 `base` [1, 3, h, w], RGB in 0…1, to float32 `image` [1, 3, s h, s w].
        scale: s.
        radius: How far an output may depend on inputs around it, in base-layer pixels.
        threads: That work on a tile; None for `thread_count`, at most `DEFAULT_THREADS`. The result does not
            depend on it.

    Raises:
        BundleError: The network cannot be loaded or has other inputs or outputs, or onnxruntime is not
            installed.
        UsageError: See `thread_count`.
    """

    def __init__(self, model: bytes, scale: int, radius: int, threads: int | None = None) -> None:
        self._scale = scale
        self._radius = radius
        require_onnxruntime()
        check_graph(model)
        count = min(DEFAULT_THREADS, thread_count()) if threads is None else threads
        try:
            self._session = _session(model, count)
            ends = _ends(self._session)
        except Exception as error:  # Its exceptions have no common base.
            raise BundleError(
                f"the bundle's network cannot be loaded ({_reason(error)}); export it again"
            ) from None
        for kind, name, found in zip(("input", "output"), (INPUT, OUTPUT), ends, strict=True):
            if found != [(name, "tensor(float)", 4)]:
                raise BundleError(
                    f"the bundle's network has not the one {kind} {name}, float32 [1, 3, height, width]; "
                    "export it again"
                )

    def run(self, planes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Apply the network once.

        Args:
            planes: float32 [3, h, w], RGB in 0…1.

        Returns:
            float32 [3, s h, s w], not clipped.

        Raises:
            BundleError: The network fails, or its output is of another shape or not finite.
        """
        try:
            (output,) = self._session.run([OUTPUT], {INPUT: planes[None]})
        except Exception as error:  # Its exceptions have no common base.
            raise BundleError(
                f"the bundle's network cannot be run on {planes.shape[2]}x{planes.shape[1]} pixels "
                f"({_reason(error)}); export it again"
            ) from None
        expected = (1, 3, self._scale * planes.shape[1], self._scale * planes.shape[2])
        if output.shape != expected:
            raise BundleError(
                f"the bundle's network makes {list(output.shape)} of {[1, *planes.shape]}, not "
                f"{list(expected)}; export it again"
            )
        if not np.isfinite(output).all():
            raise BundleError(
                "the bundle's network gives numbers that are not finite; train it again"
            )
        result: npt.NDArray[np.float32] = output[0]
        return result

    def enlarge(self, base: Pixels, height: int, width: int, *, gray: bool = False) -> Pixels:
        """Enlarge a base layer.

        Args:
            base: uint8 [h, w, 3], RGB.
            height: Rows to return, up to s h; those beyond are cut off.
            width: Columns likewise.
            gray: Return the luma only.

        Returns:
            uint8 [height, width, 3], or [height, width] if gray.

        Raises:
            BundleError: See `run`.
        """
        picture = np.empty((height, width) if gray else (height, width, 3), np.uint8)
        scale = self._scale
        for rows, columns in self._tiles(*base.shape[:2]):
            window = base[rows.first : rows.end, columns.first : columns.end]
            planes = np.ascontiguousarray(window.transpose(2, 0, 1), np.float32) / np.float32(255)
            output = self.run(planes)
            kept = output[
                :,
                scale * (rows.start - rows.first) : scale * (rows.stop - rows.first),
                scale * (columns.start - columns.first) : scale * (columns.stop - columns.first),
            ]
            target = picture[
                scale * rows.start : scale * rows.stop,
                scale * columns.start : scale * columns.stop,
            ]
            target[:] = to_pixels(kept[:, : target.shape[0], : target.shape[1]], gray=gray)
        return picture

    def _tiles(self, height: int, width: int) -> Iterator[tuple[Span, Span]]:
        for rows in spans(height, self._radius):
            for columns in spans(width, self._radius):
                yield rows, columns


def to_pixels(planes: npt.NDArray[np.float32], *, gray: bool) -> Pixels:
    """Round a network's output to 8 bits.

    Args:
        planes: float32 [3, H, W], RGB of which 0…1 is shown.
        gray: Return the luma only.

    Returns:
        uint8 [H, W, 3], or [H, W] if gray.
    """
    shown = np.clip(planes, 0, 1)
    samples = np.einsum("c,chw->hw", _LUMA, shown) if gray else shown.transpose(1, 2, 0)
    return np.rint(samples * np.float32(255)).astype(np.uint8)
