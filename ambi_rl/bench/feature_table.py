"""Codecs of frames compared on a test set: error of pixels and of objects, and bytes, as rows of tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ambi_rl.bench.frame_codecs import CodedFrames, FrameCodec, Frames
from ambi_rl.bench.task import TaskScore
from ambi_rl.envs.breakout_frames import object_errors

_CHUNK = 64
_PEAK = 255.0
_PAPER_MSE = 1895.0


@dataclass(frozen=True)
class FrameRow:
    """What a codec makes of a test set.

    Attributes:
        codec: Its name.
        setting: What it was set to, for people.
        frames: How many were measured.
        pixels: Of a frame.
        whole: Mean bytes of a frame's file.
        bare: Mean bytes of a frame without what all files have in common.
        mse: Mean squared error of a pixel, 0…255².
        objects: See `ambi_rl.envs.breakout_frames.object_errors`; empty where the game is another.
        met: Whether the bytes that were aimed at were within reach.
        stream: Mean bytes of a frame in a stream of many, with everything; None where there is no stream.
    """

    codec: str
    setting: str
    frames: int
    pixels: int
    whole: float
    bare: float
    mse: float
    objects: Mapping[str, float]
    met: bool = True
    stream: float | None = None

    @property
    def psnr(self) -> float:
        """In dB, of the mean squared error of all frames; infinite where nothing is lost."""
        return 10 * math.log10(_PEAK**2 / self.mse) if self.mse else math.inf

    def to_json(self) -> dict[str, Any]:
        """As JSON keeps it: what is not a number is null."""
        record = asdict(self)
        record["objects"] = {k: None if math.isnan(v) else v for k, v in self.objects.items()}
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> FrameRow:
        """From what `to_json` gave."""
        objects = {k: math.nan if v is None else v for k, v in record["objects"].items()}
        return cls(**{**record, "objects": objects})


def code_all(
    codec: FrameCodec, stacks: Frames, report: Callable[[int], None] | None = None
) -> CodedFrames:
    """Code the newest frames of many stacks uint8 [N, k, H, W].

    Args:
        codec: The codec.
        stacks: One at least.
        report: Called with how many are done.
    """
    parts = []
    for start in range(0, len(stacks), _CHUNK):
        parts.append(codec.code(stacks[start : start + _CHUNK]))
        if report is not None:
            report(min(start + _CHUNK, len(stacks)))
    return CodedFrames(
        np.concatenate([part.frames for part in parts]),
        np.concatenate([part.whole for part in parts]),
        np.concatenate([part.bare for part in parts]),
    )


def make_row(
    codec: FrameCodec,
    setting: str,
    originals: Frames,
    coded: CodedFrames,
    *,
    is_breakout: bool,
    met: bool = True,
    stream: float | None = None,
) -> FrameRow:
    """The row of a codec; originals uint8 [N, H, W] are what was coded, for the rest see `FrameRow`."""
    # By frames, so that no copy of all in floats is made.
    errors = [
        np.mean((frame.astype(np.float64) - shown) ** 2)
        for frame, shown in zip(originals, coded.frames, strict=True)
    ]
    return FrameRow(
        codec=codec.name,
        setting=setting,
        frames=len(originals),
        pixels=originals[0].size,
        whole=float(coded.whole.mean()),
        bare=float(coded.bare.mean()),
        mse=float(np.mean(errors)),
        objects=object_errors(originals, coded.frames) if is_breakout else {},
        met=met,
        stream=stream,
    )


_HEAD = (
    ("codec", "---"),
    ("setting", "---"),
    ("bytes a frame: bare", "--:"),
    ("whole file", "--:"),
    ("bits a frame (bare)", "--:"),
    ("MSE a pixel", "--:"),
    ("MSE a frame (sum)", "--:"),
    ("PSNR, dB", "--:"),
)
_OBJECTS = (
    ("ball found", "--:"),
    ("ball within 3 px", "--:"),
    ("ball error, px: mean / 95 %", "--:"),
    ("paddle found", "--:"),
    ("paddle error, px: mean / 95 %", "--:"),
)
_SCORES = (("score on reconstructions", "--:"), ("on originals", "--:"))


def markdown_table(
    rows: Sequence[FrameRow],
    scores: Mapping[str, TaskScore] | None = None,
    original: TaskScore | None = None,
) -> str:
    """Rows as a Markdown table, with objects where they were measured.

    Args:
        rows: One for each codec.
        scores: By codec; columns for them if this and the next are given.
        original: The score on true frames.
    """
    head = list(_HEAD)
    if rows and rows[0].objects:
        head += _OBJECTS
    if scores is not None:
        head += _SCORES
    lines = ["| " + " | ".join(name for name, _ in head) + " |"]
    lines.append("|" + "|".join(rule for _, rule in head) + "|")
    for row in rows:
        cells = [*_size_cells(row), *_object_cells(row.objects)]
        if scores is not None:
            cells += [score_cell(scores.get(row.codec)), score_cell(original)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _size_cells(row: FrameRow) -> list[str]:
    mark = "" if row.met else " (its least)"
    return [
        row.codec,
        row.setting,
        f"{row.bare:.1f}{mark}",
        f"{row.whole:.1f}",
        f"{8 * row.bare:.0f}",
        f"{row.mse:.1f}",
        f"{row.mse * row.pixels:.0f}",
        f"{row.psnr:.1f}",
    ]


def _object_cells(objects: Mapping[str, float]) -> list[str]:
    if not objects:
        return []
    return [
        _percent(objects["ball_found"]),
        _percent(objects["ball_hit"]),
        _pair(objects["ball_error_mean"], objects["ball_error_95"]),
        _percent(objects["paddle_found"]),
        _pair(objects["paddle_error_mean"], objects["paddle_error_95"]),
    ]


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.1f} %"


def _pair(mean: float, most: float) -> str:
    return "–" if math.isnan(mean) else f"{mean:.2f} / {most:.2f}"


def score_cell(score: TaskScore | None) -> str:
    """Mean, 95 % interval and standard error of a score; episodes that the cap ended are counted."""
    if score is None:
        return "–"
    low, high = score.interval
    cell = f"{score.mean:.1f} [{low:.1f}, {high:.1f}] ± {score.standard_error:.1f}"
    return cell + (f", {score.capped} at the cap" if score.capped else "")


def paper_note(rows: Sequence[FrameRow]) -> str:
    """How the paper's error may be read, for comparison with rows."""
    pixels = rows[0].pixels
    psnr = 10 * math.log10(_PEAK**2 / _PAPER_MSE)
    return (
        "The paper reports an MSE of 1895 and does not say on which scale. Its equation 3 is a sum over "
        f"all pixels: of 84x84 of them, 0…255, that would be {_PAPER_MSE / pixels:.2f} a pixel, and of as "
        f"many of 0…1, {_PAPER_MSE / pixels * _PEAK**2:.0f} a pixel on the scale of the tables. As a mean "
        f"over pixels of 0…255, which is what libraries call MSE, it is 1895 a pixel, {psnr:.1f} dB.\n"
    )
