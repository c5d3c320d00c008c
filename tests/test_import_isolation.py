"""The codec works without torch, Gymnasium, Stable-Baselines3 and Hydra, and starts quickly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

HEAVY = (
    "torch",
    "gymnasium",
    "stable_baselines3",
    "sb3_contrib",
    "hydra",
    "omegaconf",
    "tensorboard",
)

USE_CODEC = """
import json, sys
from PIL import Image
import ambi_rl
image = Image.open(sys.argv[1])
for effort in (0, 5):
    data = ambi_rl.encode(image, effort=effort)
    assert ambi_rl.decode(data).size == image.size
print(json.dumps(sorted(sys.modules)))
"""

# Every module below ambi_rl.codec, and the command line's.
IMPORT_EVERYTHING = """
import importlib, json, pkgutil, sys
import ambi_rl.codec
for module in pkgutil.walk_packages(ambi_rl.codec.__path__, "ambi_rl.codec."):
    importlib.import_module(module.name)
for name in ("app", "coding", "info", "streams", "guard"):
    importlib.import_module(f"ambi_rl.cli.{name}")
print(json.dumps(sorted(sys.modules)))
"""

STARTED = "import json, sys; import ambi_rl.cli.app; print(json.dumps(sorted(sys.modules)))"


BENCHMARK = "import json, sys; import ambi_rl.cli.bench; print(json.dumps(sorted(sys.modules)))"


def modules_after(code: str, *arguments: str) -> set[str]:
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in json.loads(result.stdout.splitlines()[-1])}


def test_using_the_codec_imports_nothing_heavy(photograph: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "small.png"
    photograph.crop((0, 0, 40, 40)).save(path)
    assert not modules_after(USE_CODEC, str(path)) & set(HEAVY)


def test_no_module_of_the_codec_imports_anything_heavy() -> None:
    assert not modules_after(IMPORT_EVERYTHING) & set(HEAVY)


def test_the_command_line_starts_without_the_compiler() -> None:
    assert not modules_after(STARTED) & {*HEAVY, "numba", "llvmlite", "numpy", "PIL"}


def test_benchmarks_start_without_training_and_load_peers_when_they_run() -> None:
    optional = {"imagecodecs", "matplotlib", "pillow_heif", "plotly"}
    assert not modules_after(BENCHMARK) & {*HEAVY, *optional}


@pytest.mark.parametrize("package", ["codec", "metrics"])
def test_sources_name_only_what_they_may_import(package: str) -> None:
    """The boundaries of docs/architecture.md, for the packages that must stay light."""
    import ast

    import ambi_rl

    own = {"codec": {"codec", "errors"}, "metrics": {"metrics", "errors"}}[package]
    foreign = {"codec": {"numpy", "numba", "PIL", "safetensors"}, "metrics": {"numpy"}}[package]
    root = Path(ambi_rl.__file__).parent / package
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
                if node.module == "ambi_rl":
                    names = [f"ambi_rl.{alias.name}" for alias in node.names]
            for name in names:
                top, _, rest = name.partition(".")
                if top == "ambi_rl":
                    assert rest.partition(".")[0] in own, f"{path} imports {name}"
                else:
                    assert top in foreign or top in sys.stdlib_module_names, f"{path}: {name}"
