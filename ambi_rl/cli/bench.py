"""`ambi bench`, `find-close` and `plot`: codecs measured on pictures, and their curves."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining

from ambi_rl.bench.benchmark import RESULTS, Plan, run_benchmark, write_outputs
from ambi_rl.bench.codecs import AmbiCodec, Codec
from ambi_rl.bench.compressai import read_curve
from ambi_rl.bench.dataset import Job, Outcome, expand, open_picture
from ambi_rl.bench.figures import Axes, check_figure, draw_curves, write_figure
from ambi_rl.bench.find_close import Close, Kind, Trial, find_close
from ambi_rl.bench.report import describe, markdown, result_rows, result_table
from ambi_rl.bench.results import (
    FORMAT,
    METRICS,
    Comparison,
    CurveEntry,
    Failure,
    Results,
    load_results,
)
from ambi_rl.bench.selector import PEERS, make_codec, runs_kernels
from ambi_rl.bench.superres_codecs import SuperresCodec
from ambi_rl.cli.report import check_options, make_report
from ambi_rl.codec.files import check_target, read_file, write_file
from ambi_rl.codec.warmup import announce, ensure_compiled
from ambi_rl.errors import AmbiError, UsageError
from ambi_rl.report.build import REPORT

_ALL_PEERS = "peers"
_SHIPPED = "default"


def parse_efforts(text: str | None) -> list[int]:
    """Efforts of a list such as 0,5,9.

    Raises:
        UsageError: It is something else.
    """
    words = [] if text is None else [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) <= 9 for word in words):
        raise UsageError(f"--efforts is {text!r}; give numbers of 0…9 with commas between: 0,5,9")
    return [int(word) for word in words]


def ambi_selectors(
    efforts: Sequence[int], strategists: Sequence[str], bundles: Sequence[str]
) -> list[str]:
    """Selectors of ambi with every bundle and everyone who decides."""
    who = [f"effort={e}" for e in efforts] + [f"strategist={name}" for name in strategists]
    found = []
    for bundle in bundles or [_SHIPPED]:
        tail = "" if bundle == _SHIPPED else f",bundle={bundle}"
        found += [f"ambi:{w}{tail}" for w in who or ["effort=5"]]
    return found


def make_codecs(selectors: Sequence[str]) -> list[Codec]:
    """Codecs of selectors, with distinct names; where the peers are meant, those that are installed.

    Raises:
        UsageError: A selector that was given by name cannot be made.
    """
    codecs: dict[str, Codec] = {}
    for selector in selectors:
        for one in PEERS if selector == _ALL_PEERS else [selector]:
            try:
                codec = make_codec(one)
            except UsageError as error:
                if selector != _ALL_PEERS:
                    raise
                announce(f"{one} is left out: {error}")
                continue
            codecs[codec.selector] = codec
    counts = Counter(codec.name for codec in codecs.values())
    return [
        # Bundles of equal names in different folders.
        replace(codec, name=f"{codec.name} ({codec.bundle})")
        if counts[codec.name] > 1 and isinstance(codec, (AmbiCodec, SuperresCodec))
        else codec
        for codec in codecs.values()
    ]


def read_curves(paths: Sequence[Path], codecs: Sequence[Codec]) -> tuple[CurveEntry, ...]:
    """Curves of files; where a name is taken, as by CompressAI's "WebP", the file's name is added to it.

    Raises:
        UsageError: A file has no curve.
    """
    curves = [read_curve(path) for path in paths]
    counts = Counter(curve.name for curve in curves) + Counter(codec.name for codec in codecs)
    return tuple(
        replace(curve, name=f"{curve.name} ({path.name})") if counts[curve.name] > 1 else curve
        for curve, path in zip(curves, paths, strict=True)
    )


def with_anchor(
    codecs: list[Codec], paths: Sequence[Path], anchor: str
) -> tuple[list[Codec], tuple[CurveEntry, ...], str]:
    """The codecs with the anchor among them, the curves of files, and the anchor's name.

    A codec goes before a curve: one that was published under the anchor's name or selector never takes the
    place of what is measured, and gets another name.

    Args:
        codecs: That are measured.
        paths: Of curves.
        anchor: The name of a codec, a selector, or the name of a curve.

    Raises:
        UsageError: It is none of these, or a file has no curve.
    """
    if anchor in [codec.name for codec in codecs]:
        return codecs, read_curves(paths, codecs), anchor
    try:
        made = make_codec(anchor)
    except UsageError as error:
        curves = read_curves(paths, codecs)
        if anchor in [curve.name for curve in curves]:
            return codecs, curves, anchor
        names = ", ".join([*(codec.name for codec in codecs), *(curve.name for curve in curves)])
        raise UsageError(f"--anchor: {error}; or name one of {names}") from error
    if made.name not in [codec.name for codec in codecs]:
        codecs = [made, *codecs]
    return codecs, read_curves(paths, codecs), made.name


def bench_command(
    sources: Sequence[str],
    folder: Path,
    *,
    codecs: Sequence[str],
    efforts: str | None,
    strategists: Sequence[str],
    bundles: Sequence[str],
    curves: Sequence[Path],
    anchor: str,
    low: float,
    high: float,
    every: int,
    crop: int | None,
    jobs: int,
    as_json: bool,
    as_markdown: bool,
    report: bool,
    report_images: int | None,
    report_size: float | None,
) -> None:
    """Measure codecs on pictures, write the result to a folder and print its table.

    Raises:
        UsageError: An argument cannot work.
        AmbiError: Something could not be measured; all the rest is written.
    """
    if low >= high:
        raise UsageError(f"the range {low:g}…{high:g} dB is empty; --low must be below --high")
    check_options(report, report_images, report_size)
    selectors = list(codecs) or [_ALL_PEERS]
    numbers = parse_efforts(efforts)
    if numbers or strategists or bundles or not codecs:
        selectors += ambi_selectors(numbers, strategists, bundles)
    made = make_codecs(selectors)
    made, imported, anchor = with_anchor(made, curves, anchor)
    plan = Plan(
        tuple(expand(sources, every=every)),
        tuple(made),
        imported,
        Comparison(anchor, low, high),
        crop,
        jobs,
        tuple(sys.argv[1:]),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{folder} is not a folder; choose another -o") from error
    console = Console(stderr=True)
    _compile(made)
    try:
        with _progress(console) as display:
            results = run_benchmark(plan, folder, begin=display.begin, done=display.done)
    except KeyboardInterrupt:
        announce("interrupted; what is measured is kept, and the same command goes on from there")
        raise
    write_outputs(results, folder)
    _print_results(results, as_json=as_json, as_markdown=as_markdown)
    announce(f"written to {folder / RESULTS}")
    if report:
        make_report(
            results, folder / REPORT, images=report_images, megabytes=report_size, jobs=jobs
        )
    _list_failures(results.failures)


def _compile(codecs: Sequence[Codec]) -> None:
    if any(runs_kernels(codec.selector) for codec in codecs):
        # Here and once, rather than in every process at the same time.
        ensure_compiled("encode", announce)


class _Display(Protocol):
    """What shows how far a benchmark is."""

    def begin(self, work: Sequence[Job], known: Sequence[Job]) -> None: ...

    def done(self, job: Job, outcome: Outcome) -> None: ...


class _Bar:
    """A progress bar, on a terminal."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("measuring", total=None)

    def begin(self, work: Sequence[Job], known: Sequence[Job]) -> None:
        self._bar.update(self._task, total=len(work), completed=len(known))

    def done(self, job: Job, outcome: Outcome) -> None:
        what = escape(f"{job.codec.name} {job.path.stem}")
        self._bar.update(self._task, advance=1, description=what)


class _Lines:
    """A line for each picture as its last point is measured, in a log."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._left: Counter[Path] = Counter()
        self._pictures = 0

    def begin(self, work: Sequence[Job], known: Sequence[Job]) -> None:
        announce(f"{len(work)} points, {len(known)} of them measured before")
        self._left = Counter(job.path for job in work)
        self._left.subtract(job.path for job in known)
        self._pictures = sum(not left for left in self._left.values())

    def done(self, job: Job, outcome: Outcome) -> None:
        self._left[job.path] -= 1
        if not self._left[job.path]:
            self._pictures += 1
            minutes = (time.monotonic() - self._start) / 60
            announce(
                f"{job.path.stem}: {self._pictures} of {len(self._left)} pictures, {minutes:.1f} minutes"
            )


@contextmanager
def _progress(console: Console) -> Iterator[_Display]:
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        Remaining(),
    )
    # Codecs differ a thousandfold in speed: only the mean over a whole picture says something.
    with Progress(*columns, console=console, speed_estimate_period=600) as bar:
        yield _Bar(bar)


def _print_results(results: Results, *, as_json: bool, as_markdown: bool) -> None:
    if as_json:
        typer.echo(json.dumps(results.to_json()))
    elif as_markdown:
        typer.echo(markdown(result_rows(results), title=describe(results)))
    else:
        Console().print(result_table(results))


def _list_failures(failures: Sequence[Failure]) -> None:
    """Print what failed, a line for each codec and picture.

    Raises:
        AmbiError: There is something to print.
    """
    if not failures:
        return
    groups: dict[tuple[str | None, str | None], list[Failure]] = {}
    for failure in failures:
        groups.setdefault((failure.codec, failure.image), []).append(failure)
    for (codec, image), some in groups.items():
        # What cannot be read names itself.
        what = f"{codec} on {image}, {len(some)} settings: " if codec is not None else ""
        announce(f"failed: {what}{some[0].message}")
    raise AmbiError(f"{len(groups)} of the measurements failed, see above; all others are written")


def find_close_command(
    selector: str,
    source: Path,
    *,
    psnr: float | None,
    bpp: float | None,
    ms_ssim: float | None,
    target: Path | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Search the setting whose file is closest to a goal, and print what it meets.

    Raises:
        UsageError: Not exactly one goal is given, or an argument cannot work.
        AmbiError: The picture cannot be used.
    """
    goals: dict[Kind, float | None] = {"psnr": psnr, "bpp": bpp, "ms_ssim": ms_ssim}
    given = [(kind, goal) for kind, goal in goals.items() if goal is not None]
    if len(given) != 1:
        raise UsageError("give one of --psnr, --bpp and --ms-ssim")
    kind, goal = given[0]
    if target is not None:
        check_target(target)
    codec = make_codec(selector)
    image = open_picture(source)
    _compile([codec])

    def report(trial: Trial) -> None:
        if verbose:
            announce(_trial_text(codec, trial))

    close = find_close(codec, image, kind, goal, report)
    if target is not None:
        write_file(target, close.best.data)
    if not close.is_within:
        announce(f"{kind} {goal:g} is out of the codec's reach; this is as near as it comes")
    if as_json:
        typer.echo(json.dumps(_facts(codec, close, kind, goal)))
    else:
        typer.echo(f"{_trial_text(codec, close.best)}, after {close.trials} encodes")


def _trial_text(codec: Codec, trial: Trial) -> str:
    text = (
        f"{codec.name}, {codec.scale.label} {trial.setting:g}: {len(trial.data)} bytes, "
        f"{trial.bpp:.4f} bit/pixel, PSNR {trial.psnr:.3f} dB"
    )
    return text if trial.ms_ssim is None else f"{text}, MS-SSIM {trial.ms_ssim:.5f}"


def _facts(codec: Codec, close: Close, kind: Kind, goal: float) -> dict[str, Any]:
    return {
        "codec": codec.name,
        "description": codec.description,
        "goal": {kind: goal},
        "is_within": close.is_within,
        "setting_name": codec.scale.label,
        "setting": close.best.setting,
        "bytes": len(close.best.data),
        "bpp": close.best.bpp,
        # JSON has no infinity, which equal pictures have.
        "psnr": close.best.psnr if close.best.psnr < float("inf") else None,
        "ms_ssim": close.best.ms_ssim,
        "encodes": close.trials,
    }


def plot_command(
    sources: Sequence[Path],
    target: Path,
    *,
    metric: str,
    image: str | None,
    title: str | None,
    axes: Axes | None,
) -> None:
    """Plot the curves of files by a metric, which may be spelt as on the command line: ms-ssim.

    Raises:
        UsageError: A file is none with curves, or none of them has the metric; or the plot cannot be written.
    """
    check_figure(target)
    curves = [curve for source in sources for curve in _curves_of(source, image)]
    shown = title if title is not None else (image or "")
    chosen = next(known for known in METRICS if known == metric.replace("-", "_"))
    write_figure(draw_curves(curves, chosen, title=shown, axes=axes), target, shown or "Curves")


def _curves_of(source: Path, image: str | None) -> list[CurveEntry]:
    """The curves of a file: of a benchmark's result, or the one in CompressAI's schema.

    Raises:
        UsageError: The file is neither, or has no curve of the picture.
    """
    try:
        document = json.loads(read_file(source))
    except ValueError as error:
        raise UsageError(f"{source} is not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        return [read_curve(source)]
    results = load_results(source)
    if image is None:
        return [*results.means, *results.imported]
    found = [results.curve(codec.name, image) for codec in results.codecs]
    curves = [curve for curve in found if curve is not None]
    if not curves:
        names = ", ".join(entry.name for entry in results.images)
        raise UsageError(f"{source} has no curves of a picture {image!r}; it has {names}")
    return curves
