"""Draw what feature codecs keep of test frames: originals, and below them the reconstructions of each bundle.

    python scripts/feature_sheet.py last.ambic conv3.ambic --test-set TEST_SET.npz --out sheet.png

Green circles are balls that are found within 3 pixels of their place, red ones those that are not. Bytes are
those of a frame's latents alone, in the mean over the test set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ambi_rl.bench.feature_agent import load_agent
from ambi_rl.bench.feature_figures import SheetRow, choose_moments, contact_sheet
from ambi_rl.cli.guard import run_script
from ambi_rl.codec.files import write_file
from ambi_rl.training.test_set import TestSet, load_test_set


def sheet_row(path: Path, test_set: TestSet, count: int) -> SheetRow:
    """A bundle's reconstructions of the chosen frames of Breakout."""
    coded = load_agent(path).frames().code(test_set.observations)
    moments = choose_moments(test_set.frames, count)
    return SheetRow((path.stem, f"{coded.bare.mean():.1f} bytes"), coded.frames[moments])


def main(
    bundles: Annotated[list[Path], typer.Argument(help="Bundles of Breakout's features.")],
    test_set: Annotated[Path, typer.Option(help="Test set of a run.")],
    out: Annotated[Path, typer.Option(help="PNG to write.")],
    count: Annotated[int, typer.Option(min=1, help="Frames to show.")] = 8,
) -> None:
    """Draw the sheet."""
    tests = load_test_set(test_set)
    originals = tests.frames[choose_moments(tests.frames, count)]
    rows = [SheetRow(("original", f"{originals[0].size} bytes"), originals)]
    rows += [sheet_row(path, tests, count) for path in bundles]
    write_file(out, contact_sheet(rows))


if __name__ == "__main__":
    run_script(main, "feature_sheet")
