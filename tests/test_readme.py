"""What the README shows runs as written."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_examples_run(
    code: str, photograph: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photograph.save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - our own documentation


def test_codec_examples_run(photograph: Image.Image, tmp_path: Path) -> None:
    photograph.save(tmp_path / "photo.png")
    lines = [line for line in blocks("bash")[0].splitlines() if line.startswith("ambi ")]
    assert len(lines) == 3
    for line in lines:
        command = [sys.executable, "-m", "ambi_rl.cli", *shlex.split(line, comments=True)[1:]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_training_examples_are_valid(tmp_path: Path) -> None:
    lines = [line for block in blocks("bash")[1:] for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("ambi train")]
    assert len(commands) == 6
    (tmp_path / "PHOTOGRAPHS").mkdir()
    for command in commands:
        # A run to resume, and the reader's own reward file, exist only on the reader's machine.
        overrides = [word for word in command[2:] if word not in ("-m", "--cfg", "job")]
        overrides = ["reward=psnr" if word == "reward=mine" else word for word in overrides]
        if "resume=true" in overrides:
            continue
        swept = [word.split(",")[0] for word in overrides]
        check = [sys.executable, "-m", "ambi_rl.cli", "train", "--cfg", "job", *swept]
        done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(targets) > 5
    for target in targets:
        assert target.startswith("https://") or (ROOT / target).exists(), target
