"""Encoding to a given file size, bit rate or PSNR: the search for the quality that meets it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from ambi_rl.codec.api import (
    BundleLike,
    EncodedImage,
    Prepared,
    encode_prepared,
    prepare_image,
    resolve_bundle,
    resolve_strategist,
)
from ambi_rl.codec.container import Section
from ambi_rl.codec.quality import STEP_SCALE, step_from_quality
from ambi_rl.codec.strategists import Strategist
from ambi_rl.codec.warmup import announce, ensure_compiled
from ambi_rl.errors import UsageError

Array = npt.NDArray[np.float64]
Kind = Literal["size", "bpp", "psnr"]

SIZE_TOLERANCE = 0.005
"""A file this much below the size asked for, as a part of it, ends the search."""
PSNR_TOLERANCE = 0.03
"""A PSNR this much above the one asked for, in dB, ends the search: about as much as the other of a file."""
MAX_ATTEMPTS = 10
"""From here on the best file seen that meets the target is returned, if there is one."""
_SMART_ATTEMPTS = 7
"""From here on the bracket is halved: the curve is not one to interpolate."""

_TYPICAL = np.array(
    [
        # step in code values, log2 of bits per pixel, PSNR in dB
        (0.5, 3.4, 58.0),
        (1.28, 2.4, 51.7),
        (6.4, 0.4, 41.6),
        (16.0, -0.8, 36.7),
        (32.0, -1.8, 32.8),
        (64.0, -2.9, 28.9),
        (160.0, -4.7, 25.2),
        (533.0, -6.7, 20.9),
        (1600.0, -8.2, 17.5),
    ]
)
"""Mean of photographs. Only the search's speed depends on it: the first guess, and the curve's shape."""

_UNITS = {"": 1, "b": 1, "kb": 1000, "kib": 1024, "mb": 1000**2, "mib": 1024**2}


@dataclass(frozen=True)
class Target:
    """What a file should meet.

    Attributes:
        kind: "size": bytes of the whole file, at most; "bpp": its bits per pixel of the picture, at most;
            "psnr": dB of the decoded picture, at least.
        value: Positive.
    """

    kind: Kind
    value: float

    def __str__(self) -> str:
        unit = {"size": "bytes", "bpp": "bit/pixel", "psnr": "dB"}[self.kind]
        return f"{self.value:,.10g} {unit}"

    def limit(self, pixels: int) -> int:
        """The largest file, in bytes, that meets a target of size or bits per pixel."""
        if self.kind == "size":
            return math.floor(self.value)
        limit = math.floor(self.value * pixels / 8)
        # The product may have been rounded up.
        return limit - 1 if 8 * limit / pixels > self.value else limit


class Attempt(NamedTuple):
    """One file that the search made: its quality, its size in bytes, and its PSNR if that is the target."""

    quality: float
    size: int
    psnr: float | None


@dataclass(frozen=True)
class Found:
    """Result of `encode_to_target`.

    Attributes:
        encoded: The file, which meets the target.
        attempts: Every file that was made, in order.
    """

    encoded: EncodedImage
    attempts: list[Attempt]


def parse_size(text: str) -> int:
    """Bytes that a text such as 98304, 100kB, 64 KiB or 1.5MB stands for (kB is 1000, KiB 1024 bytes).

    Raises:
        UsageError: It is something else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)\s*", text.lower())
    if match is None or match[2] not in _UNITS:
        raise UsageError(
            f"target size is {text!r}; give bytes, or a number with kB, KiB, MB or MiB: 100kB"
        )
    return math.floor(float(match[1]) * _UNITS[match[2]])


def make_target(
    *,
    quality: float | None = None,
    size: float | None = None,
    bpp: float | None = None,
    psnr: float | None = None,
) -> Target | None:
    """The one target that is given, or None where there is none.

    Raises:
        UsageError: More than one of the four is given, or the target is not a positive number.
    """
    given = {"quality": quality, "target size": size, "target bpp": bpp, "target PSNR": psnr}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise UsageError(f"{' and '.join(names)} exclude each other; give only one of them")
    kinds: dict[Kind, float | None] = {"size": size, "bpp": bpp, "psnr": psnr}
    for kind, value in kinds.items():
        if value is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or value <= 0:
            raise UsageError(f"{names[0]} is {value!r}; give a positive number")
        return Target(kind, value)
    return None


class _Ladder(NamedTuple):
    """The qualities that differ in their step, from 1 to 100.

    Attributes:
        qualities: In hundredths; of those with equal steps the highest.
        steps: float64 [n], their steps in code values.
    """

    qualities: list[int]
    steps: Array


@lru_cache(maxsize=1)
def _ladder() -> _Ladder:
    by_step = {step_from_quality(h / 100): h for h in range(100, 10001)}
    steps = sorted(by_step, reverse=True)
    return _Ladder([by_step[s] for s in steps], np.array(steps, np.float64) / STEP_SCALE)


def _typical(column: int) -> Array:
    """What a typical photograph has at each quality of the ladder, ascending."""
    steps = _ladder().steps
    return np.interp(-np.log2(steps), -np.log2(_TYPICAL[::-1, 0]), _TYPICAL[::-1, column])


class _Trials:
    """Encodes at the qualities that the search asks for and remembers the best file that meets the target.

    A file is measured by `expected`'s unit: log2 of the bits per pixel that depend on the quality, without
    metadata and alpha, or dB.
    """

    def __init__(
        self,
        prepared: Prepared,
        target: Target,
        encode: Callable[[float], EncodedImage],
        report: Callable[[Attempt], None],
    ) -> None:
        _, height, width = prepared.raster.planes.shape
        self._target = target
        self._encode = encode
        self._report = report
        self._pixels = height * width
        self._limit = target.limit(self._pixels)
        self._fixed = sum(map(len, prepared.sections.values()))
        self._metadata = self._fixed - len(prepared.sections.get(Section.ALPHA, b""))
        self.attempts: list[Attempt] = []
        self.best: EncodedImage | None = None
        if target.kind == "psnr":
            self.expected, self.goal = _typical(2), float(target.value)
            self.tolerance = PSNR_TOLERANCE
        else:
            self.expected, self.goal = _typical(1), self._log_rate(self._limit)
            self.tolerance = -math.log2(1 - SIZE_TOLERANCE)

    def _log_rate(self, size: int) -> float:
        bits = 8 * (size - self._fixed)
        return math.log2(bits / self._pixels) if bits > 0 else -math.inf

    def __call__(self, index: int) -> float:
        """Encode at a quality of the ladder and measure the file."""
        encoded = self._encode(_ladder().qualities[index] / 100)
        size = len(encoded.data)
        psnr = encoded.psnr() if self._target.kind == "psnr" else None
        attempt = Attempt(encoded.container.quality, size, psnr)
        self.attempts.append(attempt)
        self._report(attempt)
        if self._is_better(encoded, attempt):
            self.best = encoded
        return self._log_rate(size) if psnr is None else psnr

    def _is_better(self, encoded: EncodedImage, attempt: Attempt) -> bool:
        if attempt.psnr is None:
            is_met = attempt.size <= self._limit
            return is_met and (
                self.best is None or encoded.container.step < self.best.container.step
            )
        is_met = attempt.psnr >= self._target.value
        return is_met and (self.best is None or attempt.size < len(self.best.data))

    def unreachable(self) -> str:
        """Says what was the nearest to a target that no quality meets, and how to mend it."""
        if self._target.kind == "psnr":
            nearest = max(self.attempts, key=lambda a: a.psnr or 0.0)
            return (
                f"a PSNR of {self._target} cannot be reached: the highest found is "
                f"{nearest.psnr:.2f} dB at quality {nearest.quality:g}; lower the target"
            )
        nearest = min(self.attempts, key=lambda a: a.size)
        bpp = 8 * nearest.size / self._pixels
        mend = "raise the target"
        if self._metadata:
            mend += f", strip the {self._metadata:,} bytes of metadata"
        return (
            f"a file of {self._target} cannot be made: the smallest possible is {nearest.size:,} bytes "
            f"({bpp:.4f} bit/pixel) at quality {nearest.quality:g}; {mend} or scale the picture down"
        )


class _Bracket:
    """Where a nearly monotone sequence passes a goal, as far as it is known.

    Args:
        expected: float64 [n], ascending: values that are expected at the indices.
        aim: How much above the goal, in the values' unit, a measurement should end up.
    """

    def __init__(self, expected: Array, goal: float, aim: float) -> None:
        self._expected = expected
        self._goal = goal
        self._aim = aim
        self._points: list[tuple[int, float]] = []
        self._last_side = 0
        # Ends, and by how much the values there miss the goal; at first outside and not measured.
        self.low, self.high = -1, expected.size
        self._below, self._above = -math.inf, math.inf

    def add(self, index: int, miss: float, side: int) -> None:
        """Replace an end, the lower one for a negative side.

        The end that stays for the second time counts with half of its miss (the Illinois rule), so that the
        secant does not creep.
        """
        self._points.append((index, miss))
        if side < 0:
            self.low, self._below = index, miss
            self._above /= 2 if self._last_side == side else 1
        else:
            self.high, self._above = index, miss
            self._below /= 2 if self._last_side == side else 1
        self._last_side = side

    @property
    def width(self) -> float:
        """How far apart the values at the ends are expected to be; infinite before both are measured."""
        if self.low < 0 or self.high == self._expected.size:
            return math.inf
        return float(self._expected[self.high] - self._expected[self.low])

    def guess(self) -> int:
        """The index strictly within the bracket that should be measured next."""
        wanted = self._wanted()
        nearest = int(np.searchsorted(self._expected, wanted))
        if nearest == self._expected.size or (
            nearest and wanted - self._expected[nearest - 1] < self._expected[nearest] - wanted
        ):
            nearest -= 1
        return min(max(nearest, self.low + 1), self.high - 1)

    def _wanted(self) -> float:
        """The expected value of the index to measure: real curves over the expected one are near to lines."""
        if not self._points:
            return self._goal + self._aim
        if not math.isfinite(self.width):
            return self._beyond()
        low, high = self._expected[[self.low, self.high]]
        is_line = math.isfinite(self._below) and math.isfinite(self._above)
        if not is_line or len(self._points) >= _SMART_ATTEMPTS:
            return float(low + high) / 2
        share = (self._aim - self._below) / (self._above - self._below)
        return float(low + share * (high - low))

    def _beyond(self) -> float:
        """The same while all measurements lie on one side of the goal."""
        (index, miss), slope = self._points[-1], 1.0
        if not math.isfinite(miss):
            return -miss
        if len(self._points) > 1:
            before, miss_before = self._points[-2]
            run = float(self._expected[index] - self._expected[before])
            # A little flatter than measured, to come out on the other side.
            slope = 0.8 * (miss - miss_before) / run if run else 1.0
            slope = min(max(slope, 0.1), 2.0) if math.isfinite(slope) else 1.0
        return float(self._expected[index]) - (miss - self._aim) / slope


def search(
    measure: Callable[[int], float],
    expected: Array,
    goal: float,
    tolerance: float,
    *,
    at_least: bool,
) -> None:
    """Narrow down where a nearly monotone sequence passes a goal, with few measurements.

    The first guess is where `expected` passes it; then a bracket is closed by the secant and, if that takes
    long, by halving. The search ends when a value meets the goal to within the tolerance, when the bracket
    has closed (to about the tolerance, if a value met the goal), or after `MAX_ATTEMPTS` if a value met it.
    Where none does, the end of the sequence that is nearest to it has been measured.

    Args:
        measure: Gives the value at an index; called once for an index.
        expected: float64 [n], ascending: values that are expected at the indices.
        goal: What the values should come near.
        tolerance: Positive; see above.
        at_least: Whether a value meets the goal from it upwards; otherwise from it downwards.
    """
    bracket = _Bracket(expected, goal, tolerance / 2 if at_least else -tolerance / 2)
    attempts, is_met = 0, False
    while bracket.high - bracket.low > 1:
        if is_met and (attempts >= MAX_ATTEMPTS or bracket.width <= tolerance):
            return
        index = bracket.guess()
        value = measure(index)
        # Minus infinity is the goal where metadata and alpha alone are too large.
        miss = value - goal if math.isfinite(goal) else math.inf
        meets = miss >= 0 if at_least else miss <= 0
        if meets and abs(miss) <= tolerance:
            return
        attempts, is_met = attempts + 1, is_met or meets
        bracket.add(index, miss, 1 if meets == at_least else -1)


def encode_to_target(
    image: Image.Image,
    target: Target,
    *,
    effort: int = 5,
    bundle: BundleLike | None = None,
    strategist: Strategist | str | None = None,
    strip: bool = False,
    restoration: bool | None = None,
    tiles: bool = True,
    report: Callable[[Attempt], None] = lambda attempt: None,
) -> Found:
    """Encode a picture at the quality that just meets a target.

    For a size or a bit rate that is the best quality whose file is not larger, for a PSNR the smallest file
    that reaches it, both to the tolerances of this module. Every file is coded with the strategist asked
    for, and what is returned is one of them.

    Args:
        image: As for `ambi_rl.encode`, and so the other arguments and errors.
        target: What to meet.
        effort: 0…9.
        bundle: The codec bundle or its path.
        strategist: Who decides.
        strip: Leave out metadata.
        restoration: Have decoders filter the picture, or not.
        tiles: Divide a large picture.
        report: Called after each file.

    Raises:
        UsageError: No quality meets the target; the message says what can be reached.
    """
    codec = resolve_bundle(bundle)
    chosen = resolve_strategist(strategist, effort, codec)
    prepared = prepare_image(image, strip=strip)
    grid = prepared.grid(tiles=tiles)
    ensure_compiled("encode", report=announce)

    def encode(quality: float) -> EncodedImage:
        return encode_prepared(
            prepared,
            quality=quality,
            bundle=codec,
            strategist=chosen,
            restoration=restoration,
            grid=grid,
        )

    trials = _Trials(prepared, target, encode, report)
    search(trials, trials.expected, trials.goal, trials.tolerance, at_least=target.kind == "psnr")
    if trials.best is None:
        raise UsageError(trials.unreachable())
    return Found(trials.best, trials.attempts)
