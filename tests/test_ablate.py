"""The ablation script: which photographs, what a row means, and what the table says."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ambi_rl.codec.bundle import default_bundle, save_bundle
from ambi_rl.codec.strategists import for_search
from ambi_rl.errors import AmbiError

SCRIPT = Path(__file__).parent.parent / "scripts" / "ablate.py"


def ablate(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def cells(output: str) -> dict[str, list[str]]:
    """By the name of a row, its other cells; the headings have none."""
    lines = [line.strip("| ").split(" | ") for line in output.splitlines() if line[:2] == "| "]
    return {name: numbers for name, *numbers in lines[1:]}


@pytest.fixture
def folder(tmp_path: Path, photograph: Image.Image) -> Path:
    """Four photographs, of which the last is the one that training would hold out, and it can be coded."""
    path = tmp_path / "photographs"
    path.mkdir()
    for name in "abc":
        (path / f"{name}.png").write_bytes(b"not opened")
    photograph.crop((0, 0, 96, 64)).save(path / "d.png")
    return path


def test_rows_are_compared_on_held_out_photographs(folder: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "copy.ambic"
    save_bundle(default_bundle(), bundle)
    done = ablate(
        folder, "--row", "one: strategist=fixed", "--row", "two:effort=6",
        "--row", f"same: strategist=fixed, bundle={bundle}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 held-out photographs, the middle 384x256")
    table = cells(done.stdout)
    assert list(table) == ["one", "two", "same"]
    assert table["one"][1:] == ["–", "1.00", "1.00"]
    assert all(row[0].startswith("−") for row in table.values())
    # More effort needs less rate and more time; the same codec in another file needs the same.
    assert table["two"][1].startswith("−")
    assert float(table["two"][2]) > 1
    assert table["same"][:2] == [table["one"][0], "+0.00 %"]


def test_rows_can_change_the_search_of_an_effort() -> None:
    parse_row = runpy.run_path(str(SCRIPT))["parse_row"]
    codec = parse_row("quick: effort=9, candidates=2, exact_chroma=no, restoration=no", 5)
    assert not codec.restoration
    assert codec.strategist == replace(for_search(9), candidates=2, exact_chroma=False)


def test_bundles_are_rows(folder: Path, tmp_path: Path) -> None:
    save_bundle(default_bundle(), tmp_path / "first.ambic")
    shutil.copy(tmp_path / "first.ambic", tmp_path / "second.ambic")
    done = ablate(
        folder, "--effort", 5, "-b", tmp_path / "first.ambic", "-b", tmp_path / "second.ambic"
    )
    assert done.returncode == 0, done.stderr
    table = cells(done.stdout)
    assert list(table) == ["first", "second"]
    assert table["second"][1] == "+0.00 %"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["a: speed=3"], "'speed=3' is not KEY=VALUE with a key of effort, strategist"),
        (["a: effort"], "'effort' is not KEY=VALUE"),
        (["a: effort=much"], "effort is 'much'"),
        ([": effort=3"], "has no name"),
        (["a", "a: effort=1"], "same name"),
        (["a: effort=12"], "effort 12"),
        (["a: bundle=none.ambic"], "none.ambic"),
        (["a: strategist=clever"], "clever"),
        (["a: restoration=maybe"], "restoration is 'maybe'"),
        (["a: strategist=fixed, candidates=2"], "change a search"),
    ],
)
def test_mistakes_are_refused(folder: Path, rows: list[str], words: str) -> None:
    main = runpy.run_path(str(SCRIPT))["main"]
    with pytest.raises(AmbiError, match=re.escape(words)) as caught:
        main(folder, rows, None, 5, 10)
    assert "\n" not in str(caught.value)


def test_a_folder_without_photographs_is_refused(tmp_path: Path) -> None:
    done = ablate(tmp_path / "none")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("ablate: ")
    assert done.stderr.count("\n") == 1
    assert "none does not exist" in done.stderr
