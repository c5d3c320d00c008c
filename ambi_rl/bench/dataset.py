"""Points over a set of pictures: on several processes, each kept in a file as soon as it is measured."""

from __future__ import annotations

import glob
import hashlib
import json
import multiprocessing
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ambi_rl.bench.codecs import Codec, use_one_thread
from ambi_rl.bench.curves import Curve, Point, mean_curve, measure, warm_up
from ambi_rl.codec.files import read_file
from ambi_rl.codec.image_io import check_image
from ambi_rl.data.source import SUFFIXES
from ambi_rl.errors import AmbiError, UnsupportedImageError, UsageError


class Job(NamedTuple):
    """One codec on one picture at one setting.

    Attributes:
        codec: What is measured.
        path: The picture.
        setting: Of the codec.
        crop: Side of the centre that is taken of it, in pixels; None for all of it.
    """

    codec: Codec
    path: Path
    setting: float
    crop: int | None = None


Outcome = Point | str
"""What was measured, or why it could not be."""


def pictures(folder: Path, *, every: int = 1) -> list[Path]:
    """The pictures of a folder by name, every n-th of them.

    Raises:
        UsageError: The folder does not exist or holds no picture, or `every` is not positive.
    """
    if every < 1:
        raise UsageError(f"every is {every}; give 1 for all pictures, 2 for every second one, …")
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise UsageError(f"{folder} holds no picture ({', '.join(SUFFIXES)})")
    return found[::every]


def expand(sources: Sequence[str], *, every: int = 1) -> list[Path]:
    """The pictures that files, folders and patterns such as `photos/**/*.png` stand for.

    Args:
        sources: In this order; what one of them holds is sorted by name.
        every: Take every n-th of all.

    Raises:
        UsageError: One of them does not exist or holds no picture, or `every` is not positive.
    """
    if every < 1:
        raise UsageError(f"every is {every}; give 1 for all pictures, 2 for every second one, …")
    found: list[Path] = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            found += pictures(path)
        elif path.exists():
            found.append(path)
        elif glob.has_magic(source):
            # Path.glob takes no absolute pattern.
            matches = map(Path, sorted(glob.glob(source, recursive=True)))  # noqa: PTH207
            some = [p for p in matches if p.suffix.lower() in SUFFIXES and p.is_file()]
            if not some:
                raise UsageError(f"{source} matches no picture ({', '.join(SUFFIXES)})")
            found += some
        else:
            raise UsageError(f"{source} does not exist; check the name")
    return list({path.resolve(): path for path in found}.values())[::every]


def open_picture(path: Path, crop: int | None = None) -> Image.Image:
    """A picture as RGB.

    Args:
        path: Of a gray, RGB or palette picture with 8 bits a channel, without transparency.
        crop: Take the centre, at most so many pixels a side.

    Raises:
        AmbiError: The file cannot be read or is no such picture.
    """
    try:
        # What is read with loss, without a word, is refused as it is by the codec.
        with Image.open(path) as opened:
            check_image(opened)
            opened.load()
            image = _opaque(opened.copy(), path)
    except UnsupportedImageError as error:
        raise AmbiError(f"{path}: {error}") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise AmbiError(f"{path} cannot be read as a picture: {error}") from error
    if crop is None:
        return image
    width, height = min(crop, image.width), min(crop, image.height)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _opaque(image: Image.Image, path: Path) -> Image.Image:
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] != 255:
            raise AmbiError(
                f"{path} is transparent, which the metrics do not see; flatten it first"
            )
    return image.convert("RGB")


@cache
def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal, computed once."""
    return hashlib.sha256(read_file(path)).hexdigest()


class PointStore:
    """Points that were measured, one a line in a file, so that an interruption loses none.

    A point is found again for the same content of the picture, the same crop and setting and a codec whose
    `identity` is the same, so with the same versions and bundle. Other lines, such as a last
    one that was cut off, are passed over.

    Args:
        path: A file of JSON lines, made with the first point; None to remember nothing.
        run: What seconds depend on besides the codec, kept with each new point: JSON types.
    """

    def __init__(self, path: Path | None, run: Mapping[str, Any] | None = None) -> None:
        self._path = path
        self._run = dict(run or {})
        self._others: set[str] = set()
        self._points: dict[str, Point] = {}
        text = path.read_bytes() if path is not None and path.exists() else b""
        self._is_cut = bool(text) and not text.endswith(b"\n")
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                point = Point(**entry["point"])
                self._points[entry["key"]] = point
                # A line of before that was kept may be of any run.
                if any(entry.get(name) != value for name, value in self._run.items()):
                    self._others.add(entry["key"])
                else:
                    self._others.discard(entry["key"])
            except (ValueError, TypeError, KeyError):
                continue

    def get(self, job: Job) -> Point | None:
        """The point as measured before, or None."""
        return self._points.get(_key(job))

    def is_of_another_run(self, job: Job) -> bool:
        """Whether a point was measured otherwise than `run` says, or it is not known how."""
        return _key(job) in self._others

    def put(self, job: Job, point: Point) -> None:
        """Remember a point, on disk at once."""
        key = _key(job)
        self._points[key] = point
        self._others.discard(key)
        if self._path is None:
            return
        # Names are for people who look into the file.
        entry = {"key": key, "codec": job.codec.name, "image": job.path.name}
        line = json.dumps(entry | self._run | {"point": point._asdict()})
        with self._path.open("a") as file:
            file.write(("\n" if self._is_cut else "") + line + "\n")
        self._is_cut = False


def _key(job: Job) -> str:
    text = f"{file_hash(job.path)} {job.crop} {job.setting!r} {job.codec.identity()}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


_last_picture: tuple[Path, int | None, Image.Image] | None = None
_warm: set[str] = set()


def run_job(job: Job) -> Outcome:
    """Measure one point, in whatever process this is called; what goes wrong is told, not raised."""
    global _last_picture
    try:
        if _last_picture is None or _last_picture[:2] != (job.path, job.crop):
            _last_picture = (job.path, job.crop, open_picture(job.path, job.crop))
        if job.codec.identity() not in _warm:
            use_one_thread()
            warm_up(job.codec)
            _warm.add(job.codec.identity())
        return measure(job.codec, _last_picture[2], job.setting)
    except AmbiError as error:
        return " ".join(str(error).split())
    except (
        Exception
    ) as error:  # Whatever a peer's library raises must not end the others' measurement.
        return " ".join(f"{type(error).__name__}: {error}".split())


def measure_jobs(
    work: Sequence[Job],
    *,
    workers: int = 1,
    store: PointStore | None = None,
    done: Callable[[Job, Outcome], None] = lambda job, outcome: None,
) -> list[Outcome]:
    """Measure points.

    Args:
        work: Best by picture, so that a process opens one seldom.
        workers: Processes. Seconds are of single calls; with as many workers as cores they are a little
            longer than on an idle machine.
        store: Where points are looked up and kept.
        done: Called for each job but those that the store has a point of.

    Returns:
        A point or the reason why there is none for each job.

    Raises:
        AmbiError: A process ended abruptly.
    """
    store = PointStore(None) if store is None else store
    outcomes: list[Outcome | None] = [store.get(job) for job in work]

    def keep(index: int, outcome: Outcome) -> None:
        outcomes[index] = outcome
        if isinstance(outcome, Point):
            store.put(work[index], outcome)
        done(work[index], outcome)

    waiting = [i for i, outcome in enumerate(outcomes) if outcome is None]
    if workers == 1 or len(waiting) < 2:
        for i in waiting:
            keep(i, run_job(work[i]))
    else:
        _measure_side_by_side([work[i] for i in waiting], workers, lambda k, o: keep(waiting[k], o))
    return [outcome for outcome in outcomes if outcome is not None]


def _ignore_interrupt() -> None:
    # Ctrl-C reaches all processes of a terminal; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _measure_side_by_side(
    work: Sequence[Job], workers: int, keep: Callable[[int, Outcome], None]
) -> None:
    # Spawned, not forked: compiled code and its threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_ignore_interrupt) as pool:
        try:
            futures = {pool.submit(run_job, job): i for i, job in enumerate(work)}
            for future in as_completed(futures):
                keep(futures[future], future.result())
        except BrokenProcessPool as error:
            raise AmbiError(
                "a process of the benchmark ended abruptly, perhaps for want of memory; what is measured "
                "is kept: repeat the command, with -j 1 to need the least"
            ) from error
        except BaseException:
            # Without waiting for what they are at, which can take half a minute.
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def dataset_curves(
    codecs: Sequence[Codec],
    paths: Sequence[Path],
    *,
    workers: int = 1,
    store: PointStore | None = None,
) -> dict[str, list[Curve]]:
    """Measure all settings of codecs on pictures.

    Args:
        codecs: With distinct names.
        paths: The pictures.
        workers: As for `measure_jobs`.
        store: Likewise.

    Returns:
        By codec name, the curves of the pictures in the order of `paths`.

    Raises:
        AmbiError: Something could not be measured.
    """
    work = [Job(c, path, setting) for path in paths for c in codecs for setting in c.settings]
    curves: dict[str, list[Curve]] = {codec.name: [] for codec in codecs}
    points: list[Point] = []
    for job, outcome in zip(work, measure_jobs(work, workers=workers, store=store), strict=True):
        if isinstance(outcome, str):
            raise AmbiError(f"{job.codec.name} on {job.path} at {job.setting:g}: {outcome}")
        points.append(outcome)
        if len(points) == len(job.codec.settings):
            curve = Curve(job.codec.name, job.codec.description, tuple(points))
            curves[job.codec.name].append(curve)
            points = []
    return curves


def mean_curves(measured: dict[str, list[Curve]]) -> dict[str, Curve]:
    """The dataset-mean curve of each codec in what `dataset_curves` returned."""
    return {name: mean_curve(curves) for name, curves in measured.items()}
