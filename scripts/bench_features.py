"""Compare a feature codec with picture formats at equal bytes a frame: pixels, ball and paddle, and the game.

    python scripts/bench_features.py BUNDLE --test-set runs/breakout-test.npz --out runs/bench-features

Writes results.json (with sample.npy), tables.md, moments.png (originals, reconstructions below them),
scores.png (score over bytes) and play.gif (the agent playing on reconstructions) to the folder. What
results.json has already is not measured again, so that a run that was stopped goes on where it was.

Settings of the formats are chosen on frames of the agent's own play that are not in the test set.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from ambi_rl.bench.feature_agent import (
    FeatureAgent,
    describe,
    find_bundle_file,
    load_agent,
    stream_of,
)
from ambi_rl.bench.feature_figures import (
    SheetRow,
    animation,
    choose_moments,
    contact_sheet,
    score_figure,
)
from ambi_rl.bench.feature_table import (
    FrameRow,
    code_all,
    make_row,
    markdown_table,
    paper_note,
    score_cell,
)
from ambi_rl.bench.figures import write_figure
from ambi_rl.bench.frame_codecs import (
    FORMATS,
    Choice,
    CodedFrames,
    Count,
    FrameCodec,
    FrameFormat,
    Frames,
    GridPoint,
    MeanFrame,
    OriginalFrames,
    PictureFrames,
    at_bytes,
    make_codec,
    measure_grid,
)
from ambi_rl.bench.task import TaskScore, play
from ambi_rl.cli.guard import run_script
from ambi_rl.codec.files import read_file, write_file
from ambi_rl.codec.warmup import ensure_compiled
from ambi_rl.envs.atari import ImageEnvSettings, game_of, make_vec_env
from ambi_rl.errors import UsageError
from ambi_rl.neural.bundle import FeatureBundle
from ambi_rl.training.test_set import TestSet, default_policies, load_test_set, make_test_set

SAMPLE_STEPS = 1500
"""Of the play that sample frames are taken from, at most."""
SAMPLE_ENVS = 4
SAMPLE_SEED = 500_000
"""Added to the seed for the play of the sample, so that it is none of the games that are scored."""
SAMPLE_FILE = "sample.npy"
MOMENTS = 4
ANIMATED_STEPS = 300


@dataclass
class Recorder:
    """Keeps the frames that go through a codec, and what becomes of them.

    Attributes:
        codec: The codec.
        originals: uint8 [n, H, W] of each call.
        decoded: Likewise.
    """

    codec: FrameCodec
    originals: list[Frames] = field(default_factory=list)
    decoded: list[Frames] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The codec's."""
        return self.codec.name

    def code(self, stacks: Frames) -> CodedFrames:
        """See `FrameCodec`."""
        coded = self.codec.code(stacks)
        self.originals.append(stacks[:, -1].copy())
        self.decoded.append(coded.frames.copy())
        return coded


@dataclass
class Results:
    """What is measured so far, on disk after every part.

    Attributes:
        path: The JSON file.
        record: Its content: `request`, `bundle`, and by key `grids`, `rows` and `scores`.
    """

    path: Path
    record: dict[str, Any]

    @classmethod
    def open(cls, path: Path, request: dict[str, Any], bundle: dict[str, Any]) -> Results:
        """Those of the file if it has any.

        Raises:
            UsageError: The file is damaged, or was made with other arguments.
        """
        empty = {"request": request, "bundle": bundle, "grids": {}, "rows": {}, "scores": {}}
        if not path.exists():
            return cls(path, empty)
        try:
            record = json.loads(read_file(path))
            found = record["request"]
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{path} is not a result of this script; remove it") from None
        for key in request:
            if found.get(key) != request[key]:
                raise UsageError(
                    f"{path} was made with {key} = {found.get(key)}, not {request[key]}; name another folder"
                )
        return cls(path, record)

    def once(self, kind: str, key: str, measure: Callable[[], Any]) -> Any:
        """What is known, or what `measure` returns, which is then kept."""
        known = self.record[kind]
        if key not in known:
            known[key] = measure()
            write_file(self.path, json.dumps(self.record, indent=1).encode())
        return known[key]


@dataclass(frozen=True)
class Options:
    """What is asked for; everything here decides about results.

    Attributes:
        env: Id of the environment.
        episodes: Games for each score.
        max_steps: A game ends after so many.
        seed: Of the first game.
        sample: Frames on which settings are chosen.
        deterministic: Whether the agent takes its likeliest action.
    """

    env: str
    episodes: int
    max_steps: int
    seed: int
    sample: int
    deterministic: bool


class Comparison:
    """Measures what the tables and pictures need, part by part."""

    def __init__(
        self,
        agent: FeatureAgent,
        test_set: TestSet,
        options: Options,
        results: Results,
        bar: Progress,
    ) -> None:
        self.agent, self.test_set, self.options = agent, test_set, options
        self.results, self.bar = results, bar
        self.is_breakout = game_of(options.env) == "breakout"
        self.features = agent.frames()
        self._sample: Frames | None = None

    def env(self, count: int) -> Any:
        """Environments, one for each game, whose observations are as the agent was trained on."""
        settings = replace(env_settings(self.agent.bundle, self.options.env), num_envs=count)
        return make_vec_env(settings, seed=self.options.seed, training=False)

    def sample(self) -> Frames:
        """Frames of the agent's own play, none of them in the test set, uint8 [N, 84, 84]; kept in a file."""
        path = self.results.path.with_name(SAMPLE_FILE)
        if self._sample is None and path.exists():
            self._sample = np.load(io.BytesIO(read_file(path)), allow_pickle=False)
        if self._sample is None:
            self._sample = self._take_sample()
            buffer = io.BytesIO()
            np.save(buffer, self._sample)
            write_file(path, buffer.getvalue())
        return self._sample

    def _take_sample(self) -> Frames:
        recorder = Recorder(OriginalFrames("sample"))
        self.play(recorder, SAMPLE_ENVS, min(SAMPLE_STEPS, self.options.max_steps), SAMPLE_SEED)
        frames = np.unique(np.concatenate(recorder.originals), axis=0)
        frames = frames[~self.test_set.contains(frames)]
        count = min(self.options.sample, len(frames))
        rng = np.random.default_rng(self.options.seed)
        taken: Frames = frames[np.sort(rng.choice(len(frames), count, replace=False))]
        return taken

    def play(self, codec: FrameCodec, games: int, max_steps: int, offset: int = 0) -> TaskScore:
        """Scores of games on a codec's frames."""
        task = self.bar.add_task(f"play: {codec.name}", total=games)
        env = self.env(games)
        try:
            return play(
                self.agent,
                env,
                codec,
                deterministic=self.options.deterministic,
                max_steps=max_steps,
                seed=self.options.seed + offset,
                report=lambda step, over, _: self.bar.update(
                    task, completed=over, description=f"play: {codec.name}, step {step}"
                ),
            )
        finally:
            env.close()
            self.bar.remove_task(task)

    def score(self, key: str, codec: FrameCodec) -> TaskScore:
        """The score on a codec's frames, kept by `key`."""
        options = self.options
        record = self.results.once(
            "scores", key, lambda: self.play(codec, options.episodes, options.max_steps).to_json()
        )
        score = TaskScore.from_json(record)
        self.bar.console.print(f"{key}: {score.bare:.1f} bytes, score {score_cell(score)}")
        return score

    def grid(self, form: FrameFormat) -> list[GridPoint]:
        """All settings of a format on the sample."""
        task = self.bar.add_task(f"settings of {form.name}")

        def report(done: int, total: int) -> None:
            self.bar.update(task, completed=done, total=total)

        def measure() -> list[dict[str, Any]]:
            return [asdict(point) for point in measure_grid(form, self.sample(), report=report)]

        records = self.results.once("grids", form.name, measure)
        self.bar.remove_task(task)
        return [GridPoint(**record) for record in records]

    def row(
        self, key: str, codec: FrameCodec, setting: str, *, met: bool = True, streams: bool = False
    ) -> FrameRow:
        """What a codec makes of the test set, kept by `key`."""

        def measure() -> dict[str, Any]:
            task = self.bar.add_task(f"test set: {codec.name}", total=len(self.test_set))
            stacks = self.test_set.observations
            coded = code_all(codec, stacks, lambda done: self.bar.update(task, completed=done))
            stream = None
            if streams:
                latents = self.agent.codec.latents(stacks)
                stream = len(stream_of(self.agent.bundle, latents)) / len(stacks)
            self.bar.remove_task(task)
            return make_row(
                codec,
                setting,
                self.test_set.frames,
                coded,
                is_breakout=self.is_breakout,
                met=met,
                stream=stream,
            ).to_json()

        return FrameRow.from_json(self.results.once("rows", key, measure))

    def peer(
        self, form: FrameFormat, target: float, count: Count
    ) -> tuple[str, PictureFrames, Choice]:
        """The codec of a format nearest below a target, its key, and how it was chosen."""
        choice = at_bytes(self.grid(form), target, count=count)
        point = choice.point
        key = f"{form.name} {describe_point(point)}"
        return key, make_codec(form, point, self.sample()), choice


def describe_point(point: GridPoint) -> str:
    """Setting and size for people: `q12 1/4`."""
    words = [f"q{point.setting['quality']:g}"]
    if "optimize" in point.setting:
        words.append("own tables" if point.setting["optimize"] else "usual tables")
    if point.shrinking != 1:
        words.append(f"1/{point.shrinking:g}")
    if point.difference:
        words.append("of differences")
    return " ".join(words)


@dataclass
class Outcome:
    """All that tables and figures are made of.

    Attributes:
        equal_bare: Rows at the features' bare bytes, the features first.
        equal_whole: Rows at their whole bytes, likewise.
        curves: Scores by codec, from the fewest bytes on.
        curve_rows: Of each score but the original's, in the same order.
        original: The score on true frames.
        codecs: Those of `equal_bare`.
    """

    equal_bare: list[FrameRow]
    equal_whole: list[FrameRow]
    curves: dict[str, list[TaskScore]]
    curve_rows: dict[str, list[FrameRow]]
    original: TaskScore
    codecs: list[FrameCodec]


def compare(
    comparison: Comparison, formats: Sequence[FrameFormat], multiples: Sequence[float]
) -> Outcome:
    """Measure the features and formats."""
    features = comparison.features
    row = comparison.row("features", features, "latents", streams=True)
    original = comparison.score("original", OriginalFrames())
    score = comparison.score("features", features)
    outcome = Outcome(
        [row], [row], {"features": [score]}, {"features": [row]}, original, [features]
    )
    _add_mean_frame(comparison, outcome)
    for form in formats:
        seen: set[str] = set()
        scores, rows = [], []
        for multiple in multiples:
            key, codec, choice = comparison.peer(form, multiple * row.bare, "bare")
            setting = describe_point(choice.point)
            measured = comparison.row(key, codec, setting)
            if multiple == 1:
                outcome.equal_bare.append(_marked(measured, choice.met))
                outcome.codecs.append(codec)
            if key not in seen:
                seen.add(key)
                rows.append(measured)
                scores.append(comparison.score(key, codec))
        outcome.curves[form.name], outcome.curve_rows[form.name] = scores, rows
        key, codec, choice = comparison.peer(form, row.whole, "whole")
        measured = comparison.row(key, codec, describe_point(choice.point))
        outcome.equal_whole.append(_marked(measured, choice.met))
    return outcome


def _add_mean_frame(comparison: Comparison, outcome: Outcome) -> None:
    """What no bytes at all would do."""
    codec = MeanFrame.of(comparison.sample())
    row = comparison.row(codec.name, codec, "always the same")
    outcome.equal_bare.append(row)
    outcome.codecs.append(codec)
    outcome.curves[codec.name] = [comparison.score(codec.name, codec)]
    outcome.curve_rows[codec.name] = [row]


def _marked(row: FrameRow, met: bool) -> FrameRow:
    """A row, which may be known from another target, with whether this one was met."""
    return FrameRow(**{**vars(row), "met": met})


def tables(outcome: Outcome, options: Options, rows_of: int) -> str:
    """The Markdown file."""
    first = outcome.equal_bare[0]
    at_equal = {row.codec: outcome.curves[row.codec][0] for row in outcome.equal_bare}
    action = "its likeliest action" if options.deterministic else "drawn actions"
    games = (
        f"{options.episodes} games each, from seed {options.seed} on, the same for all codecs, with {action} "
        f"and at most {options.max_steps} steps; mean, 95 % bootstrap interval of the mean, standard error."
    )
    parts = [
        f"# Features and picture formats at equal bytes a frame\n\n{rows_of} test frames of "
        f"{options.env}. Bare bytes are without what all files of a setting have in common; formats may "
        "shrink frames before coding.\n",
        "## Equal bare bytes\n",
        markdown_table(outcome.equal_bare, at_equal, outcome.original),
        games + "\n",
        f"In a stream of many frames, header and checksums included, the features take {first.stream:.1f} "
        "bytes a frame.\n",
        paper_note(outcome.equal_bare),
        "## Equal whole files\n",
        markdown_table(outcome.equal_whole),
        "## Score against bytes\n",
        curve_table(outcome),
    ]
    return "\n".join(parts)


def curve_table(outcome: Outcome) -> str:
    """Scores of all settings, and differences from the original frames' in games that begin alike."""
    lines = [
        "| codec | setting | bare bytes in play | whole file in play | score | difference from originals |",
        "|---|---|--:|--:|--:|--:|",
        f"| original | – | {outcome.original.bare:.0f} | {outcome.original.whole:.0f} | "
        f"{score_cell(outcome.original)} | – |",
    ]
    for name, scores in outcome.curves.items():
        for score, row in zip(scores, outcome.curve_rows[name], strict=True):
            mean, low, high = score.difference(outcome.original)
            lines.append(
                f"| {name} | {row.setting} | {score.bare:.1f} | {score.whole:.1f} | {score_cell(score)} | "
                f"{mean:+.1f} [{low:+.1f}, {high:+.1f}] |"
            )
    return "\n".join(lines) + "\n"


def draw(comparison: Comparison, outcome: Outcome, folder: Path) -> None:
    """Write the pictures."""
    if comparison.is_breakout:
        stacks = comparison.test_set.observations
        stacks = stacks[choose_moments(comparison.test_set.frames, MOMENTS)]
        rows = [SheetRow(("original", "7056 bytes"), stacks[:, -1])]
        for row, codec in zip(outcome.equal_bare, outcome.codecs, strict=True):
            label = (row.codec, row.setting, f"{row.bare:.1f} bytes", f"{row.psnr:.1f} dB")
            rows.append(SheetRow(label, codec.code(stacks).frames))
        write_file(folder / "moments.png", contact_sheet(rows))
    figure = score_figure(outcome.original, outcome.curves)
    write_figure(figure, folder / "scores.png", "score against bytes a frame")
    recorder = Recorder(comparison.features)
    comparison.play(recorder, 1, min(ANIMATED_STEPS, comparison.options.max_steps))
    originals, decoded = np.concatenate(recorder.originals), np.concatenate(recorder.decoded)
    write_file(folder / "play.gif", animation(originals, decoded))


def env_settings(bundle: FeatureBundle, env: str | None) -> ImageEnvSettings:
    """The environment that a bundle's agent was trained in, as far as the bundle says it; or another one."""
    training = bundle.manifest.get("training", {})
    known = dict(training.get("config", {}).get("env", {}))
    settings = ImageEnvSettings(**{**known, "frame_stack": bundle.manifest["encoder"]["frames"]})
    return settings if env is None else replace(settings, id=env)


def _test_set(path: Path | None, settings: ImageEnvSettings, frames: int, seed: int) -> TestSet:
    if path is not None:
        return load_test_set(path)
    return make_test_set(settings, frames=frames, seed=seed, policies=default_policies(settings))


def main(
    agent: Annotated[Path, typer.Argument(help="Bundle of features, or a folder with one.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("runs/bench-features"),
    test_set: Annotated[Path | None, typer.Option(help="Test set; else one is made.")] = None,
    frames: Annotated[int, typer.Option(min=2, help="Frames of a test set that is made.")] = 1000,
    env: Annotated[
        str | None, typer.Option(help="Environment; the bundle's own if left out.")
    ] = None,
    episodes: Annotated[int, typer.Option(min=2, max=1024, help="Games for each score.")] = 20,
    max_steps: Annotated[int, typer.Option(min=1, help="End games after so many steps.")] = 5000,
    seed: Annotated[int, typer.Option(min=0, help="Of the first game.")] = 1000,
    sample: Annotated[int, typer.Option(min=2, help="Frames to choose settings on.")] = 128,
    multiple: Annotated[
        list[float] | None,
        typer.Option(min=1, help="Bytes of the peers, as multiples of the features'; repeatable."),
    ] = None,
    deterministic: Annotated[bool, typer.Option(help="Take the likeliest action.")] = False,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help=f"{', '.join(FORMATS)}; repeatable, all if left out."),
    ] = None,
) -> None:
    """Compare a feature codec with picture formats."""
    console = Console(stderr=True)
    chosen = formats or list(FORMATS)
    if unknown := [name for name in chosen if name not in FORMATS]:
        raise UsageError(f"there is no format {unknown[0]!r}; give some of {', '.join(FORMATS)}")
    bundle = find_bundle_file(agent)
    loaded = load_agent(bundle)
    settings = env_settings(loaded.bundle, env)
    tests = _test_set(test_set, settings, frames, seed)
    options = Options(settings.id, episodes, max_steps, seed, sample, deterministic)
    request = {
        **asdict(options),
        "bundle": hashlib.sha256(read_file(bundle)).hexdigest(),
        "test_set": hashlib.sha256(tests.observations.tobytes()).hexdigest(),
    }
    out.mkdir(parents=True, exist_ok=True)
    results = Results.open(out / "results.json", request, describe(loaded.bundle))
    if "ambi" in chosen:
        ensure_compiled("encode", console.print)
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        comparison = Comparison(loaded, tests, options, results, bar)
        made = [FORMATS[name]() for name in chosen]
        outcome = compare(comparison, made, sorted({1.0, *(multiple or (2, 4, 8))}))
        text = tables(outcome, options, len(tests))
        write_file(out / "tables.md", text.encode())
        draw(comparison, outcome, out)
    print(text)


if __name__ == "__main__":
    run_script(main, "bench_features")
