"""The wheel holds everything an installation needs, and works outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow

USE_WHEEL = """
import sys
from pathlib import Path
import ambi_rl, ambi_rl.conf, ambi_rl.codec.bundle
from PIL import Image
for module in (ambi_rl, ambi_rl.conf):
    assert Path(module.__file__).is_relative_to(sys.argv[1]), module.__file__
image = Image.open(sys.argv[2])
data = ambi_rl.encode(image)
assert ambi_rl.decode(data).size == image.size
assert ambi_rl.codec.bundle.default_bundle().policy
Path(sys.argv[3]).write_bytes(data)
"""

COMPILE = """
import sys
import numpy as np
from ambi_rl.codec.jit import cache_folder
from ambi_rl.codec.restoration import blank_tensors, restore
restore(np.full((3, 4, 4), 512, np.int16), 64, blank_tensors(2, 1, 1))
compiled = list(cache_folder().rglob("*.nbc"))
assert compiled and all(path.is_relative_to(sys.argv[1]) for path in compiled), compiled
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the checkout's sources, so that no build folder is left in it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("ambi_rl", "envs", "conf"):
        for path in (ROOT / name).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                copy = source / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "-o",
            str(target),
            str(source),
        ],
        check=True,
        capture_output=True,
    )
    (built,) = target.glob("*.whl")
    return built


def installed_name(path: Path) -> str:
    """Where a file of the checkout lies in the wheel."""
    relative = path.relative_to(ROOT)
    return str(relative if relative.parts[0] == "ambi_rl" else Path("ambi_rl") / relative)


def test_contents(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {
        installed_name(path)
        for folder in ("ambi_rl", "envs", "conf")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".yaml", ".html", ".css", ".js")
    }
    assert modules
    assert modules <= names
    assert {"ambi_rl/py.typed", "ambi_rl/codec/default.ambic"} <= names
    assert any(name.startswith("ambi_rl/data/photographs/") for name in names)
    assert any(name.startswith("ambi_rl/envs/") for name in names)
    assert any(name.startswith("ambi_rl/conf/") and name.endswith(".yaml") for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    # Nothing called plain `envs`, `conf` or `tests` may be installed.
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"ambi_rl"}
    assert not any("__pycache__" in name for name in names)


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 8e6


def test_encode_and_decode_outside_the_checkout(
    wheel: Path, photograph: Image.Image, tmp_path: Path
) -> None:
    target = tmp_path / "installed"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(target), str(wheel)],
        check=True,
        capture_output=True,
    )
    picture, file = tmp_path / "p.png", tmp_path / "p.ambi"
    photograph.crop((0, 0, 20, 18)).save(picture)
    # PYTHONPATH comes before the editable installation that this test itself runs in.
    environment = {**os.environ, "PYTHONPATH": str(target)}
    environment.pop("PYTHONSAFEPATH", None)
    # Code is compiled for each place anew, which takes minutes: it is interpreted here, but for one kernel.
    interpreted = {"NUMBA_DISABLE_JIT": "1"}
    cache = tmp_path / "cache"
    for command, variables in (
        (["-c", USE_WHEEL, str(target), str(picture), str(file)], interpreted),
        (["-m", "ambi_rl.cli", "decode", str(file), str(tmp_path / "out.png")], interpreted),
        (["-c", COMPILE, str(cache)], {"AMBI_CACHE_DIR": str(cache)}),
        (["-m", "ambi_rl.cli", "train", "--cfg", "job", "system=features", "name=x"], {}),
    ):
        result = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=environment | variables,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
    assert Image.open(tmp_path / "out.png").size == (20, 18)
