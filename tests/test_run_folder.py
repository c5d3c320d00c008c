"""What a run folder's configuration says the run trains, and what is said where it says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ambi_rl.cli.train import export_command
from ambi_rl.errors import AmbiError, ConfigError
from ambi_rl.training.checkpoint import FeatureCheckpoint, Progress, save_feature_checkpoint
from ambi_rl.training.run_folder import RunFolder


@pytest.mark.parametrize(
    ("text", "system"),
    [("system: block", "block"), ("system: features", "features"), ("name: x", "block")],
)
def test_the_configuration_says_what_is_trained(text: str, system: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.system() is None
    folder.config.write_text(text)
    assert folder.system() == system


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"system: [",
        b"a: b: c",
        b"- system",
        b"system: \xff",
        b"system: flock",
        b"system: [features]",
        b"system: ${nothing}",
    ],
)
def test_a_configuration_that_says_nothing_is_refused_in_one_line(
    content: bytes, tmp_path: Path
) -> None:
    folder, target = RunFolder(tmp_path), tmp_path / "x.ambic"
    folder.config.write_bytes(content)
    folder.last.write_bytes(b"of whatever")
    with pytest.raises(
        ConfigError, match=r"config\.yaml does not say .*put the file back"
    ) as caught:
        export_command(tmp_path, target)
    assert "\n" not in str(caught.value)
    assert not target.exists()


def test_a_configuration_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    RunFolder(tmp_path).config.mkdir()
    with pytest.raises(ConfigError, match="does not say what the run trains"):
        RunFolder(tmp_path).system()


def test_checkpoints_without_a_configuration_are_not_taken_for_others(tmp_path: Path) -> None:
    checkpoint = FeatureCheckpoint({}, {}, {}, {}, {}, {}, Progress())
    save_feature_checkpoint(tmp_path / "last.pt", checkpoint)
    with pytest.raises(AmbiError, match=r"not of the block codec; put back the config\.yaml"):
        export_command(tmp_path, tmp_path / "x.ambic")
