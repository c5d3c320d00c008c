"""The result of a benchmark as a file: what was measured, where, with which versions, and what follows.

`results.json` is the dataclass `Results`, field by field: objects for dataclasses, arrays for tuples, null
for None. A number that is not measured is null; an infinite PSNR (equal pictures) is the string "inf".

    results = load_results(Path("bench/results.json"))
    for codec in results.codecs:
        curve = results.mean(codec.name)            # or results.curve(codec.name, image.name)
        delta = results.delta(codec.name)           # BD-rate of the mean in RGB-PSNR, with its range
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from ambi_rl.codec.files import read_file, write_file
from ambi_rl.errors import UsageError

FORMAT = "ambi-bench"
SCHEMA = 1
"""Raised by a change that a reader of the old schema would not understand."""

Metric = Literal["psnr", "psnr_luma", "ssim", "ms_ssim"]
METRICS: tuple[Metric, ...] = typing.get_args(Metric)

T = TypeVar("T")


@dataclass(frozen=True)
class Machine:
    """What the seconds belong to; no host name.

    Attributes:
        cpu: Name of the processor, or its architecture where the system does not tell.
        cores: That this process may use.
        system: Operating system and architecture, "Linux x86_64".
    """

    cpu: str
    cores: int
    system: str


@dataclass(frozen=True)
class Comparison:
    """How rate-distortion curves are compared.

    Attributes:
        anchor: Name of the codec that BD-rates are against.
        low: Lower end of the RGB-PSNR range, in dB.
        high: Upper end.
        interpolation: Of log10(rate) over quality, and of quality over log10(rate): "pchip".
    """

    anchor: str
    low: float
    high: float
    interpolation: str = "pchip"


@dataclass(frozen=True)
class ImageEntry:
    """A picture that was measured.

    Attributes:
        name: Unique among the pictures: the file's name without suffix, with folders where that is needed.
        path: As given on the command line, so relative to the folder it was started in.
        width: Of what was coded, so after `Results.crop`, in pixels.
        height: Likewise.
        sha256: Of the file, in hexadecimal.
    """

    name: str
    path: str
    width: int
    height: int
    sha256: str


@dataclass(frozen=True)
class CodecEntry:
    """A codec with everything fixed but one setting.

    Attributes:
        name: Unique among codecs and imported curves; what tables and plots call it.
        family: Of codecs that differ in options, as a selector begins: "ambi", "jpeg", "avif", "superres"…
        description: Its options, in words, with the version of its library or the bundle's id.
        selector: What makes it again, `ambi_rl.bench.codecs.make_codec(selector)`: "avif:tune=psnr,speed=4".
        setting_name: What the setting is: "quality", "target PSNR in dB"…
        settings: Values that were measured, from the smallest files to the largest.
    """

    name: str
    family: str
    description: str
    selector: str
    setting_name: str
    settings: tuple[float, ...]


@dataclass(frozen=True)
class PointEntry:
    """One picture coded once by one codec.

    Attributes:
        codec: Name of the codec.
        image: Name of the picture.
        setting: Of the codec.
        size: Of the whole file, in bytes.
        bpp: Bits per pixel: 8·size / (width·height).
        psnr: Of RGB, the squared error averaged over the three channels, in dB.
        psnr_luma: Of Y after BT.601 (full range, not rounded), in dB.
        ssim: Of RGB, mean over channels; None below 11 pixels a side.
        ms_ssim: Likewise, with five scales; None below 176 pixels a side, where they do not fit.
        encode_seconds: Wall-clock time of one call, from pixels to bytes, in memory.
        decode_seconds: From bytes to pixels.
    """

    codec: str
    image: str
    setting: float
    size: int
    bpp: float
    psnr: float
    psnr_luma: float
    ssim: float | None
    ms_ssim: float | None
    encode_seconds: float
    decode_seconds: float


@dataclass(frozen=True)
class CurveEntry:
    """A rate-distortion curve of the whole set of pictures, from low rate to high.

    Lists have as many values as `bpp`, or none where that was not measured.

    Attributes:
        name: Of the codec, or of what was imported.
        description: How it was made.
        source: The file it was imported from, as given; None for what was measured here.
        bpp: Mean bits per pixel.
        psnr: Mean RGB-PSNR, in dB.
        psnr_luma: Mean luma PSNR, in dB.
        ssim: Mean SSIM, at most 1.
        ms_ssim: Mean MS-SSIM, at most 1.
        encode_seconds: Mean of a picture.
        decode_seconds: Mean of a picture.
        setting: Of the codec.
    """

    name: str
    description: str
    source: str | None
    bpp: tuple[float, ...]
    psnr: tuple[float, ...] = ()
    psnr_luma: tuple[float, ...] = ()
    ssim: tuple[float, ...] = ()
    ms_ssim: tuple[float, ...] = ()
    encode_seconds: tuple[float, ...] = ()
    decode_seconds: tuple[float, ...] = ()
    setting: tuple[float, ...] = ()

    def quality(self, metric: Metric) -> tuple[float, ...]:
        """Values of a metric in dB, a similarity x as −10·log10(1 − x); none where it was not measured."""
        values: tuple[float, ...] = getattr(self, metric)
        return values if metric.startswith("psnr") else tuple(map(decibels, values))


@dataclass(frozen=True)
class DeltaEntry:
    """A curve against the anchor's (Bjøntegaard), for a picture or for the mean of all.

    PSNR is compared over the range that `Comparison` states, other metrics over what the anchor has where its
    PSNR is at the ends of that range; where a curve does not reach as far, over what both cover.

    Attributes:
        codec: Name of the codec or of the imported curve.
        image: Name of the picture; None for the curve of the whole set.
        metric: What is compared; similarities x in dB, −10·log10(1 − x).
        bd_rate: Mean difference in rate at equal quality, in percent; None if there is nothing to compare.
        low: Lower end of the range of qualities that it is the mean over, in dB; None with `bd_rate`.
        high: Upper end.
        is_whole: Whether that is all of the stated range, which the anchor then covers as well.
        bd_quality: Mean difference in quality at equal rate, in dB: BD-PSNR. None if there is nothing to
            compare, or a curve falls with the rate.
        bpp_low: Lower end of the range of rates that it is the mean over; None with `bd_quality`.
        bpp_high: Upper end.
        is_whole_rate: Whether these are all the rates that the anchor has over the stated range, so that
            `bd_quality` is not of a part; None in files of before this was told.
    """

    codec: str
    image: str | None
    metric: Metric
    bd_rate: float | None
    low: float | None
    high: float | None
    is_whole: bool
    bd_quality: float | None
    bpp_low: float | None
    bpp_high: float | None
    is_whole_rate: bool | None = None

    @property
    def is_gain_whole(self) -> bool:
        """Whether `bd_quality` is of all that was to be compared, as far as it is known."""
        return self.is_whole if self.is_whole_rate is None else self.is_whole_rate


@dataclass(frozen=True)
class Failure:
    """What could not be measured.

    Attributes:
        codec: Name or selector of the codec; None where a picture or a file could not be read.
        image: Name or path of the picture; None where a codec cannot be used at all.
        setting: Of the codec; None where it did not come so far.
        message: Why, on one line.
    """

    codec: str | None
    image: str | None
    setting: float | None
    message: str


@dataclass(frozen=True)
class Results:
    """A benchmark.

    Attributes:
        command: Arguments of `ambi bench`, as given.
        date: When it ended, ISO 8601, in UTC.
        versions: By name of the program or library: "ambi-rl", "python", "pillow", "libavif"…
        machine: Where it ran, or where the last of several runs was.
        jobs: How many processes worked side by side, which lengthens seconds a little; None where some points
            were kept from runs with another number or on another machine, or it is not known of them.
        crop: Side of the centre square that was coded, in pixels; None for whole pictures.
        comparison: How curves are compared.
        images: What was coded.
        codecs: What coded it, in the order of tables.
        points: All measurements, by codec, then picture, then setting.
        means: Curves of the whole set of `codecs`, in their order; a codec without any picture has none.
        mean_images: Names of the pictures that the means are over: those that all these codecs managed.
        imported: Curves of files in CompressAI's schema.
        deltas: Of every codec and imported curve but the anchor.
        failures: What is missing.
    """

    command: tuple[str, ...]
    date: str
    versions: dict[str, str]
    machine: Machine
    jobs: int | None
    crop: int | None
    comparison: Comparison
    images: tuple[ImageEntry, ...]
    codecs: tuple[CodecEntry, ...]
    points: tuple[PointEntry, ...]
    means: tuple[CurveEntry, ...]
    mean_images: tuple[str, ...]
    imported: tuple[CurveEntry, ...]
    deltas: tuple[DeltaEntry, ...]
    failures: tuple[Failure, ...]

    def curve(self, codec: str, image: str) -> CurveEntry | None:
        """A codec's curve of one picture; None if it was not measured at all settings."""
        entry = next((c for c in self.codecs if c.name == codec), None)
        points = [p for p in self.points if p.codec == codec and p.image == image]
        if entry is None or len(points) < len(entry.settings):
            return None
        return curve_of(entry, points)

    def mean(self, name: str) -> CurveEntry | None:
        """The curve of the whole set of a codec or of what was imported; None if there is none."""
        return next((c for c in (*self.means, *self.imported) if c.name == name), None)

    def delta(
        self, codec: str, image: str | None = None, metric: Metric = "psnr"
    ) -> DeltaEntry | None:
        """A curve against the anchor's; None for the anchor itself and for what has no such curve."""
        wanted = (codec, image, metric)
        return next((d for d in self.deltas if (d.codec, d.image, d.metric) == wanted), None)

    def to_json(self) -> dict[str, Any]:
        """JSON types only; `from_json` reads it."""
        return {"format": FORMAT, "schema": SCHEMA, **_plain(dataclasses.asdict(self))}


def decibels(similarity: float) -> float:
    """A similarity x in dB, −10·log10(1 − x): infinite for 1."""
    return math.inf if similarity >= 1 else -10 * math.log10(1 - similarity)


def curve_of(codec: CodecEntry, points: list[PointEntry]) -> CurveEntry:
    """The curve through a codec's points, which are of one picture or means of several."""

    def column(values: list[float | None]) -> tuple[float, ...]:
        known = tuple(v for v in values if v is not None)
        return known if len(known) == len(values) else ()

    return CurveEntry(
        codec.name,
        codec.description,
        None,
        bpp=tuple(p.bpp for p in points),
        psnr=tuple(p.psnr for p in points),
        psnr_luma=tuple(p.psnr_luma for p in points),
        ssim=column([p.ssim for p in points]),
        ms_ssim=column([p.ms_ssim for p in points]),
        encode_seconds=tuple(p.encode_seconds for p in points),
        decode_seconds=tuple(p.decode_seconds for p in points),
        setting=tuple(p.setting for p in points),
    )


def save_results(results: Results, path: Path) -> None:
    """Write a result as a whole.

    Raises:
        UsageError: The file cannot be written there.
    """
    write_file(path, json.dumps(results.to_json(), indent=1).encode())


def load_results(path: Path) -> Results:
    """Read what `save_results` wrote.

    Raises:
        UsageError: The file is missing, is no result of a benchmark, is of a newer schema, or lacks a field.
    """
    try:
        document = json.loads(read_file(path))
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    try:
        return from_json(document)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def from_json(document: object) -> Results:
    """A result from JSON types.

    Raises:
        UsageError: It is none, of a newer schema, or a field is missing or of another type.
    """
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UsageError(
            "this is no result of a benchmark; give the results.json that ambi bench wrote"
        )
    if document.get("schema") != SCHEMA:
        raise UsageError(
            f"schema {document.get('schema')} of results is unknown, this version reads {SCHEMA}; "
            "use the version of ambi-rl that wrote it, or measure again"
        )
    fields = {name: v for name, v in document.items() if name not in ("format", "schema")}
    return _typed(Results, fields, "results")


def _plain(value: Any) -> Any:
    """The same with what JSON has no number for replaced."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _typed(kind: Any, value: Any, where: str) -> Any:
    """A value of JSON as the type that a field declares.

    Raises:
        UsageError: It is of another type.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _record(kind, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {name: _typed(arguments[1], v, f"{where}.{name}") for name, v in value.items()}
    if origin is types.UnionType:
        if value is None:
            return None
        return _typed(arguments[0], value, where)
    if origin is Literal and value in arguments:
        return value
    if kind is float and value in ("inf", "-inf"):
        return float(value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    raise UsageError(f"{where} has an unexpected value, {json.dumps(value)[:40]}")


def _record(kind: type[T], value: dict[str, Any], where: str) -> T:
    """An object of JSON as a dataclass; only fields with a default may be missing.

    Raises:
        UsageError: A field is missing or unknown, or of another type.
    """
    hints = typing.get_type_hints(kind)
    # What was added later has a default: files of before stay readable.
    added = {name for name in hints if hasattr(kind, name)} - value.keys()
    hints = {name: hint for name, hint in hints.items() if name not in added}
    for name in (*hints, *value):
        if name not in hints or name not in value:
            problem = "lacks the field" if name not in value else "has an unknown field,"
            raise UsageError(f"{where} {problem} {name}")
    return kind(
        **{name: _typed(hint, value[name], f"{where}.{name}") for name, hint in hints.items()}
    )
