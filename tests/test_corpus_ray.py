"""A corpus on a Ray cluster: the files of the plain folder mode, also when workers die."""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import ambi_rl
from ambi_rl.cli.app import app
from ambi_rl.codec.bundle import Bundle
from ambi_rl.corpus.coding import EncodeSettings
from ambi_rl.corpus.manifest import NAME, read_manifest
from ambi_rl.corpus.plan import PICTURE_SUFFIXES, Naming, Plan, make_plan
from ambi_rl.corpus.run import Manner, encode_corpus
from ambi_rl.corpus.work import Outcome, Status
from ambi_rl.errors import UsageError

ray = pytest.importorskip("ray")
pytest.importorskip("pyarrow")
ray_pool = pytest.importorskip("ambi_rl.corpus.ray_pool")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two cores of this machine."""
    ray.init(
        num_cpus=2,
        object_store_memory=80 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()


@pytest.fixture
def photos(photograph: Image.Image, tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for number in range(10):
        crop = photograph.crop((number, number, number + 40, number + 32))
        crop.save(folder / ("sub" if number % 2 else "") / f"{number}.png")
    return folder


def plan_of(photos: Path, out: Path) -> Plan:
    return make_plan([str(photos)], out, suffixes=PICTURE_SUFFIXES, naming=Naming(".ambi"))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.ambi")}


def run(*arguments: object) -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_killed_worker_loses_nothing(
    cluster: None, photos: Path, default_bundle: Bundle, tmp_path: Path
) -> None:
    out, plain = tmp_path / "out", tmp_path / "plain"
    settings = EncodeSettings(default_bundle, effort=0)
    manner = Manner(jobs=1, manifest=True, ray="local")
    outcomes: list[Outcome] = []
    for outcome in encode_corpus(plan_of(photos, out), settings, manner, bundle=None):
        if not outcomes:
            # At work on the next file, for results come task by task.
            os.kill(outcome.process, signal.SIGKILL)
        outcomes.append(outcome)
    killed, *others = (outcome.process for outcome in outcomes)
    assert {outcome.status for outcome in outcomes} == {Status.DONE}
    assert len(outcomes) == 10
    # One worker at a time: the second took over.
    assert len(set(others) - {killed}) == 1
    for _ in encode_corpus(plan_of(photos, plain), settings, Manner(), bundle=None):
        pass
    assert contents(out) == contents(plain)
    assert len(contents(out)) == 10
    assert {record["status"] for record in read_manifest(out / NAME).values()} == {"done"}

    # The command does what is missing, and nothing where nothing is.
    options = ("-o", out, "-e", 0, "--ray", "auto", "--json")
    assert {v["status"] for v in run("encode", photos, *options)} == {"unchanged"}
    (out / "sub" / "3.ambi").unlink()
    done = [v for v in run("encode", photos, *options) if v["status"] == "done"]
    assert [Path(v["input"]).name for v in done] == ["3.png"]
    assert contents(out) == contents(plain)


def test_a_file_that_kills_its_workers_fails_alone(
    cluster: None,
    photos: Path,
    default_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def deadly(row: dict[str, Any], **arguments: Any) -> dict[str, Any]:
        # Runs in the worker.
        from ambi_rl.corpus import ray_pool as there

        encode = there.encode_job
        there._TRIES = 2
        there.encode_job = lambda job, *rest: (
            os._exit(1) if job.name == "4.png" else encode(job, *rest)
        )
        try:
            return there._encode_row(row, **arguments)
        finally:
            there.encode_job = encode

    monkeypatch.setattr(ray_pool, "_encode_row", deadly)
    out = tmp_path / "out"
    settings = EncodeSettings(default_bundle, effort=0)
    manner = Manner(jobs=2, manifest=True, ray="local")
    outcomes = list(encode_corpus(plan_of(photos, out), settings, manner, bundle=None))
    failed = [outcome for outcome in outcomes if outcome.status is not Status.DONE]
    assert [outcome.job.name for outcome in failed] == ["4.png"]
    assert "worker died" in failed[0].error
    assert len(contents(out)) == 9
    assert read_manifest(out / NAME)["4.ambi"]["status"] == "failed"


class _Missing:
    """What a worker cannot load, as where the package is not installed on its node."""

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, ("ambi_rl_that_is_not_there",)


def test_the_reason_for_lost_tasks_is_told(
    cluster: None,
    photos: Path,
    default_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = _Missing()
    monkeypatch.setattr(ray_pool, "_encode_row", lambda row, **_: {"outcome": repr(missing)})
    settings = EncodeSettings(default_bundle, effort=0)
    manner = Manner(jobs=1, ray="local")
    plan = plan_of(photos, tmp_path / "out")
    outcomes = list(encode_corpus(plan, settings, manner, bundle=None))
    assert len(outcomes) == 10
    for outcome in outcomes:
        assert outcome.status is Status.FAILED
        assert "Ray lost its task" in outcome.error
        assert "No module named 'ambi_rl_that_is_not_there'" in outcome.error
        assert "\n" not in outcome.error


def test_more_threads_than_a_node_has_cores_are_refused(
    cluster: None, photos: Path, tmp_path: Path
) -> None:
    arguments = ["encode", photos, "-o", tmp_path / "out", "--ray", "auto", "--threads", 3]
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 2
    assert "--threads 3 is more than the 2 cores" in result.stderr
    assert not (tmp_path / "out").exists()


def test_errors_come_back_from_workers(cluster: None, photos: Path, tmp_path: Path) -> None:
    (photos / "bad.png").write_bytes((photos / "0.png").read_bytes()[:500])
    arguments = ["encode", photos, "-o", tmp_path / "out", "-e", 0, "--ray", "auto"]
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 9
    assert result.stderr.count("\n") == 1
    assert "bad.png: the image is damaged" in result.stderr
    assert "10 encoded" in result.stdout
    expected = ambi_rl.encode(Image.open(photos / "0.png"), effort=0)
    assert (tmp_path / "out" / "0.ambi").read_bytes() == expected


def test_workers_of_another_version_are_refused(default_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="same version"):
        ray_pool._bundle(None, "0" * 16)
    assert ray_pool._bundle(None, default_bundle.encoder_id).id == default_bundle.id


def test_no_cluster_is_one_line(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.\nAnd more.")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", fail)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    with socket.socket() as bound:
        # A port that is taken, at which nobody listens.
        bound.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{bound.getsockname()[1]}"
        for address, why in (
            ("auto", "Could not find any running Ray instance"),
            (nobody, "[Errno 111] Connection refused"),
        ):
            arguments = ["encode", str(photos), "-o", str(tmp_path / "out"), "--ray", address]
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == 2
            assert result.stderr.count("\n") == 1
            assert f"reached at {address}: {why}; check --ray" in result.stderr
            assert not (tmp_path / "out").exists()
