"""The pictures of the report: originals, ambi, and peers at equal rate, as many as fit a size."""

from __future__ import annotations

import io
import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ambi_rl.bench.codecs import AmbiCodec, Codec
from ambi_rl.bench.dataset import file_hash, open_picture
from ambi_rl.bench.find_close import find_close
from ambi_rl.bench.results import CodecEntry, ImageEntry, Results
from ambi_rl.bench.selector import make_codec
from ambi_rl.codec.anatomy import leaves_of
from ambi_rl.codec.api import resolve_bundle
from ambi_rl.codec.container import read_container
from ambi_rl.errors import AmbiError
from ambi_rl.metrics import ms_ssim, psnr
from ambi_rl.metrics.fidelity import MS_SSIM_SIDE
from ambi_rl.report.blocks import PackedBlocks, pack_blocks

THUMBNAIL_WIDTH = 160

_SIGNATURES = (
    ("image/jpeg", 0, b"\xff\xd8\xff"),
    ("image/webp", 8, b"WEBP"),
    ("image/avif", 4, b"ftypavif"),
)
"""Files that browsers show themselves, by what stands at an offset."""
_SHOWN_FAMILIES = ("jpeg", "webp", "avif")


class Asset(NamedTuple):
    """Bytes in the page."""

    mime: str
    data: bytes


class Rate(NamedTuple):
    """A rate that everything is compared at.

    Attributes:
        id: "low", "middle" or "high".
        setting: Of the codec whose files define it.
    """

    id: str
    setting: float


@dataclass(frozen=True)
class Side:
    """A codec's picture at a rate.

    Attributes:
        codec: Its name.
        setting: What makes the file closest in size.
        size: Of the real file, in bytes.
        psnr: Of RGB in dB; None if the pictures are equal.
        ms_ssim: Of RGB; None for small pictures.
        shown: The file itself if browsers show it, otherwise what it decodes to, without loss.
        blocks: Decisions and bits, of ambi only.
    """

    codec: str
    setting: float
    size: int
    psnr: float | None
    ms_ssim: float | None
    shown: Asset
    blocks: PackedBlocks | None


@dataclass
class View:
    """A picture in the viewer.

    Attributes:
        image: Which.
        original: What was coded, without loss.
        thumbnail: Small and lossy.
        thumbnail_size: Width and height in pixels.
        sides: By rate, in the order of the codecs.
    """

    image: ImageEntry
    original: Asset
    thumbnail: Asset
    thumbnail_size: tuple[int, int]
    sides: dict[str, list[Side]] = field(default_factory=dict)


@dataclass(frozen=True)
class Views:
    """All pictures in the viewer.

    Attributes:
        reference: Name of the codec whose files define the rates; empty without pictures.
        pictures: In the order of the results.
        left_out: What did not fit, one line.
        problems: What could not be shown and why, a line each.
    """

    reference: str
    pictures: list[View]
    left_out: str
    problems: list[str]


class _Job(NamedTuple):
    """Some codecs on one picture at one rate."""

    image: ImageEntry
    crop: int | None
    rate: Rate
    reference: CodecEntry
    codecs: tuple[CodecEntry, ...]
    known: dict[str, list[tuple[float, int]]]
    needs_original: bool


class _Done(NamedTuple):
    """What came of a job: the view that it begins, if it was to, sides, and what could not be made."""

    view: View | None
    sides: list[Side]
    problems: tuple[str, ...] = ()

    def size(self) -> int:
        """Bytes of everything, as base64."""
        assets = [side.shown.data for side in self.sides]
        assets += [side.blocks.data for side in self.sides if side.blocks]
        if self.view is not None:
            assets += [self.view.original.data, self.view.thumbnail.data]
        return sum(-(-len(data) // 3) * 4 for data in assets)


def make_views(
    results: Results,
    *,
    images: int,
    budget: int,
    jobs: int = 1,
    progress: Callable[[str], None] = lambda line: None,
) -> Views:
    """Code the pictures of the viewer.

    First comes every picture at the middle rate with what browsers can show, then the low and the high rate,
    then the codecs that have to be stored without loss: other variants of ambi, JPEG 2000, JPEG XL, HEIC.

    Args:
        results: The benchmark; pictures are looked for where it found them.
        images: At most so many pictures, spread evenly.
        budget: Bytes of the page that they may take; what does not fit is left out from the end.
        jobs: Processes.
        progress: Told what is done.

    Raises:
        AmbiError: A process ended abruptly.
    """
    reference = reference_of(results)
    if reference is None or images < 1:
        return Views("", [], "", [])
    if budget < 1:
        return Views("", [], "from the first picture on", [])
    chosen = spread(results.images, images)
    rates = rates_of(results, reference)
    work = [job for stage in _stages(results, reference, chosen, rates) for job in stage]
    pictures: dict[str, View] = {}
    problems: list[str] = []
    left_out = ""
    spent = 0
    for job, done in _run(work, jobs):
        lines = (f"{job.image.name}: {problem}" for problem in done.problems)
        problems += [line for line in lines if line not in problems]
        if not done.sides:
            continue
        spent += done.size()
        if spent > budget:
            left_out = f"from {job.image.name} at the {job.rate.id} rate on ({job.codecs[0].name})"
            break
        _add(pictures, job, done)
        progress(f"{job.image.name}, {job.rate.id}: {', '.join(c.name for c in job.codecs)}")
    order = [codec.name for codec in results.codecs]
    for view in pictures.values():
        for sides in view.sides.values():
            sides.sort(key=lambda side: order.index(side.codec))
    shown = [
        pictures[image.name]
        for image in chosen
        if image.name in pictures and pictures[image.name].sides
    ]
    return Views(reference.name, shown, left_out, problems)


def _add(pictures: dict[str, View], job: _Job, done: _Done) -> None:
    """Put what came of a job in its place."""
    name, rate = job.image.name, job.rate.id
    if done.view is not None:
        pictures[name] = done.view
    # Without the picture, or the file that defines the rate, there is nothing to compare with.
    is_defined = any(side.codec == job.reference.name for side in done.sides)
    if name in pictures and (is_defined or rate in pictures[name].sides):
        pictures[name].sides.setdefault(rate, []).extend(done.sides)


def reference_of(results: Results) -> CodecEntry | None:
    """The codec whose files define the rates: ambi at the default effort, any ambi, or else any codec."""
    able = [codec for codec in results.codecs if results.mean(codec.name) is not None]
    ours = [codec for codec in able if codec.family == "ambi"]
    usual = [codec for codec in ours if "effort=5" in codec.selector]
    return next(iter([*usual, *ours, *able]), None)


def rates_of(results: Results, reference: CodecEntry) -> list[Rate]:
    """Up to three rates, the middle one first: measured settings whose mean PSNR divides the range evenly."""
    curve = results.mean(reference.name)
    if curve is None:
        return []
    low, high = results.comparison.low, results.comparison.high
    found: list[Rate] = []
    for name, share in (("middle", 1 / 2), ("low", 1 / 6), ("high", 5 / 6)):
        wanted = low + share * (high - low)
        index = min(range(len(curve.psnr)), key=lambda i: abs(curve.psnr[i] - wanted))
        if all(rate.setting != curve.setting[index] for rate in found):
            found.append(Rate(name, curve.setting[index]))
    return found


def spread(images: Sequence[ImageEntry], count: int) -> list[ImageEntry]:
    """At most `count` pictures, evenly from first to last."""
    if count >= len(images):
        return list(images)
    return [images[i * len(images) // count] for i in range(count)]


def _stages(
    results: Results, reference: CodecEntry, images: Sequence[ImageEntry], rates: Sequence[Rate]
) -> Iterator[list[_Job]]:
    """Jobs by importance: see `make_views`."""
    known: dict[str, dict[str, list[tuple[float, int]]]] = {}
    for point in results.points:
        sizes = known.setdefault(point.image, {}).setdefault(point.codec, [])
        sizes.append((point.setting, point.size))

    def jobs(rate: Rate, codecs: Sequence[CodecEntry], *, first: bool) -> list[_Job]:
        found = []
        for image in images:
            sizes = known.get(image.name, {})
            able = tuple(codec for codec in codecs if codec.name in sizes)
            if able and rate.setting in dict(sizes.get(reference.name, [])):
                job = _Job(image, results.crop, rate, reference, able, sizes, first)
                found.append(job)
        return found

    cheap = [c for c in results.codecs if c is reference or c.family in _SHOWN_FAMILIES]
    dear = sorted((c for c in results.codecs if c not in cheap), key=lambda c: c.family != "ambi")
    for index, rate in enumerate(rates):
        yield jobs(rate, cheap, first=index == 0)
    for rate in rates:
        for codec in dear:
            yield jobs(rate, [codec], first=False)


def _run(work: Sequence[_Job], jobs: int) -> Iterator[tuple[_Job, _Done]]:
    """Do jobs, in order.

    Raises:
        AmbiError: A process ended abruptly.
    """
    if jobs == 1:
        yield from ((job, _do(job)) for job in work)
        return
    # Spawned, not forked: compiled code and its threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        try:
            # A few at a time, so that not much is done in vain when the page is full.
            for start in range(0, len(work), 2 * jobs):
                some = work[start : start + 2 * jobs]
                yield from zip(some, pool.map(_do, some), strict=True)
        except BrokenProcessPool as error:
            raise AmbiError(
                "a process that codes pictures for the report ended abruptly, perhaps for want of memory; "
                "what is measured is kept: make the page with ambi report and -j 1, which needs the least"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _do(job: _Job) -> _Done:
    """Code one picture at one rate with some codecs; what goes wrong is told, not raised."""
    sides: list[Side] = []
    problems: list[str] = []
    try:
        rgb = _picture(job.image, job.crop)
        view = _view(job.image, rgb) if job.needs_original else None
    except Exception as error:
        return _Done(None, [], (_why(error),))
    for entry in job.codecs:
        try:
            sides.append(_coded(job, entry, rgb))
        except Exception as error:  # Whatever one codec raises must not cost the others' pictures.
            problems.append(f"{entry.name}: {_why(error)}")
    return _Done(view, sides, tuple(problems))


def _why(error: Exception) -> str:
    """An error on one line; one that is not of this package is named."""
    text = str(error) if isinstance(error, AmbiError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def _picture(image: ImageEntry, crop: int | None) -> Image.Image:
    """The pixels that were measured.

    Raises:
        AmbiError: The file is not where it was, or not what it was.
    """
    path = Path(image.path)
    if file_hash(path) != image.sha256:
        raise AmbiError(f"{path} has changed since it was measured; measure again")
    return open_picture(path, crop)


def _coded(job: _Job, entry: CodecEntry, rgb: Image.Image) -> Side:
    """A codec's picture at the rate of a job.

    Raises:
        AmbiError: The codec does not make the file that was measured.
    """
    target = dict(job.known[job.reference.name])[job.rate.setting]
    pixels = rgb.width * rgb.height
    codec = make_codec(entry.selector)
    if entry.name == job.reference.name:
        setting, data = job.rate.setting, codec.encode(rgb, job.rate.setting)
    else:
        known = [(setting, 8 * size / pixels) for setting, size in job.known[entry.name]]
        best = find_close(codec, rgb, "bpp", 8 * target / pixels, known=known).best
        setting, data = best.setting, best.data
    measured = dict(job.known[entry.name]).get(setting)
    if measured is not None and measured != len(data):
        raise AmbiError(
            f"setting {setting:g} makes {len(data)} bytes now and made {measured} when it was measured, so "
            "the codec, its library or its bundle is another one; measure again"
        )
    return _side(entry, codec, rgb, setting, data)


def _side(entry: CodecEntry, codec: Codec, rgb: Image.Image, setting: float, data: bytes) -> Side:
    decoded = codec.decode(data)
    original, copy = np.asarray(rgb), np.asarray(decoded)
    decibels = psnr(original, copy)
    return Side(
        codec=entry.name,
        setting=setting,
        size=len(data),
        psnr=decibels if math.isfinite(decibels) else None,
        ms_ssim=ms_ssim(original, copy) if min(rgb.size) >= MS_SSIM_SIDE else None,
        shown=shown_as(data) or lossless(decoded),
        blocks=_blocks(codec, data),
    )


def _blocks(codec: Codec, data: bytes) -> PackedBlocks | None:
    if not isinstance(codec, AmbiCodec):
        return None
    return pack_blocks(leaves_of(read_container(data), resolve_bundle(codec.bundle)))


def shown_as(data: bytes) -> Asset | None:
    """A file as it is, if browsers show its format."""
    for mime, offset, signature in _SIGNATURES:
        if data[offset : offset + len(signature)] == signature:
            return Asset(mime, data)
    return None


def lossless(image: Image.Image) -> Asset:
    """A picture's pixels, exactly, in a format that browsers show."""
    buffer = io.BytesIO()
    if max(image.size) > 16383:  # More than WebP can.
        image.save(buffer, "PNG", optimize=True)
        return Asset("image/png", buffer.getvalue())
    image.save(buffer, "WEBP", lossless=True, method=4, quality=80)
    return Asset("image/webp", buffer.getvalue())


def _view(image: ImageEntry, rgb: Image.Image) -> View:
    small = rgb.copy()
    small.thumbnail((THUMBNAIL_WIDTH, 2 * THUMBNAIL_WIDTH), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=70, method=6)
    return View(image, lossless(rgb), Asset("image/webp", buffer.getvalue()), small.size)
