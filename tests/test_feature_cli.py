"""`ambi encode`, `decode` and `info` of frames: formats in and out, refusals in one line, light imports."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import io
import json
import os
import subprocess
import sys
import termios
import time
import zipfile
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from ambi_rl.cli import profiles  # noqa: E402
from ambi_rl.cli.app import app  # noqa: E402
from ambi_rl.cli.frames import find_files, read_pictures  # noqa: E402
from ambi_rl.cli.streams import look_at_stdin, read_input  # noqa: E402
from ambi_rl.codec import bundle as block_bundle  # noqa: E402
from ambi_rl.codec import bundle_file  # noqa: E402
from ambi_rl.errors import CorruptFileError  # noqa: E402
from ambi_rl.neural.bundle import feature_bundle, load_bundle, save_bundle  # noqa: E402
from ambi_rl.neural.feature_codec import FeatureCodec, Frames  # noqa: E402
from ambi_rl.neural.networks import FeatureEncoder, FrameDecoder  # noqa: E402
from ambi_rl.neural.priors import NormalPrior  # noqa: E402
from ambi_rl.neural.stream import MAGIC  # noqa: E402
from ambi_rl.neural.tables import tables_from_prior  # noqa: E402
from ambi_rl.superres import stream as superres_stream  # noqa: E402

DEFAULT = Path(block_bundle.__file__).with_name("default.ambic")
GRAY = Path(__file__).parent / "golden" / "gray.ambi"


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)


def one_line(result: Result, code: int, *words: object) -> None:
    """The command failed with this exit code and one line on stderr that says these words."""
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("ambi: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert str(word) in result.stderr


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    encoder = FeatureEncoder(4, 3, "features", 8, 8)
    seen = np.random.default_rng(0).integers(-20, 20, (5, 8, 1, 1), np.int32)
    decoder = FrameDecoder(encoder.latent_shape, 2)
    path = tmp_path_factory.mktemp("bundle") / "x.ambic"
    tables = tables_from_prior(NormalPrior(8), seen)
    save_bundle(feature_bundle(encoder, nn.Linear(8, 4), decoder, tables, facts={}), path)
    return path


@pytest.fixture(scope="module")
def codec(bundle: Path) -> FeatureCodec:
    return FeatureCodec(load_bundle(bundle))


@pytest.fixture(scope="module")
def frames() -> Frames:
    """13 frames, all different."""
    return np.random.default_rng(1).integers(0, 256, (13, 84, 84), np.uint8)


@pytest.fixture
def stream(codec: FeatureCodec, frames: Frames, tmp_path: Path) -> Path:
    path = tmp_path / "game.ambi"
    path.write_bytes(codec.encode(frames))
    return path


def write_frames(kind: str, frames: Frames, folder: Path) -> Path:
    """Frames as a source of some kind."""
    images = [Image.fromarray(frame) for frame in frames]
    path = folder / f"source{kind}"
    if kind == ".npy":
        np.save(path, frames)
    elif kind == ".npz":
        np.savez_compressed(path, other=np.zeros(3), frames=frames)
    elif kind == "colour.npy":
        np.save(path, np.repeat(frames[..., None], 3, axis=3))
    elif kind in (".gif", ".png", ".webp"):
        options: dict[str, Any] = {"lossless": True} if kind == ".webp" else {}
        images[0].save(path, save_all=True, append_images=images[1:], duration=50, **options)
    else:
        path.mkdir()
        for number, image in enumerate(images):
            image.save(path / f"frame{number}.png")
        (path / "notes.txt").write_text("not a frame")
    return path / "*.png" if kind == "pattern" else path


@pytest.mark.parametrize(
    "kind", [".npy", ".npz", "colour.npy", ".gif", ".png", ".webp", "folder", "pattern"]
)
def test_frames_of_every_kind_become_the_same_stream(
    kind: str, codec: FeatureCodec, bundle: Path, frames: Frames, tmp_path: Path
) -> None:
    source, target = write_frames(kind, frames, tmp_path), tmp_path / "out.ambi"
    result = run("encode", source, target, "-b", bundle)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("\n") == 1
    for word in ("13 frames", "bytes", "bits a frame", "a latent"):
        assert word in result.stdout
    assert target.read_bytes() == codec.encode(frames)


@pytest.mark.parametrize("suffix", [".npy", ".gif", ".png", ".webp", ""])
def test_decoding_to_every_kind_is_without_loss(
    suffix: str, codec: FeatureCodec, bundle: Path, stream: Path, tmp_path: Path
) -> None:
    expected = codec.decode(stream.read_bytes())
    assert len({frame.tobytes() for frame in expected}) == 13
    target = tmp_path / f"out{suffix}"
    where = [target] if suffix else ["-o", target]
    result = run("decode", stream, *where, "-b", bundle)
    assert result.exit_code == 0, result.stderr
    assert "13 frames of 84x84" in result.stdout
    if suffix == ".npy":
        found = np.load(target)
    elif suffix:
        with Image.open(target) as image:
            assert getattr(image, "n_frames", 1) == 13
            found = []
            for index in range(13):
                image.seek(index)
                found.append(np.asarray(image.convert("L")))
    else:
        names = sorted(path.name for path in target.iterdir())
        assert names == [f"{number:06d}.png" for number in range(13)]
        found = [np.asarray(Image.open(target / name)) for name in names]
    assert np.array_equal(np.stack(found), expected)


def test_a_stream_of_one_frame_is_a_picture(
    codec: FeatureCodec, bundle: Path, frames: Frames, tmp_path: Path
) -> None:
    Image.fromarray(frames[0]).save(tmp_path / "one.bmp")
    assert run("encode", tmp_path / "one.bmp", tmp_path / "one.ambi", "-b", bundle).exit_code == 0
    data = (tmp_path / "one.ambi").read_bytes()
    assert data == codec.encode(frames[:1])
    for suffix in (".png", ".gif", ".webp"):
        target = tmp_path / f"one{suffix}"
        assert run("decode", tmp_path / "one.ambi", target, "-b", bundle).exit_code == 0
        with Image.open(target) as image:
            assert getattr(image, "n_frames", 1) == 1
            assert np.array_equal(np.asarray(image.convert("L")), codec.decode(data)[0])


def test_several_sources_and_pipes(
    codec: FeatureCodec, bundle: Path, frames: Frames, tmp_path: Path
) -> None:
    np.save(tmp_path / "b.npy", frames[:5])
    np.save(tmp_path / "a.npy", frames[5:])
    sources = [tmp_path / "b.npy", tmp_path / "a.npy"]
    result = run("encode", *sources, "-o", "-", "-b", bundle)
    assert result.exit_code == 0
    assert result.stdout_bytes == codec.encode(frames)
    result = run("decode", "-", "-", "-b", bundle, "--quiet", stdin=result.stdout_bytes)
    np.save(tmp_path / "expected.npy", codec.decode(codec.encode(frames)))
    assert result.stdout_bytes == (tmp_path / "expected.npy").read_bytes()


def drip(data: bytes, *arguments: object, slow: int = 6) -> subprocess.CompletedProcess[bytes]:
    """Run a command whose stdin gives each of the first bytes only when it has taken the one before."""
    if not hasattr(termios, "FIONREAD"):
        pytest.skip("this system does not say how much waits in a pipe")
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "ambi_rl.cli", *map(str, arguments)]
    process = subprocess.Popen(
        command, stdin=reading, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    waiting = array("i", [0])
    for at in range(slow):
        os.write(writing, data[at : at + 1])
        while fcntl.ioctl(reading, termios.FIONREAD, waiting) or waiting[0]:
            # Had it decided by fewer bytes, it could have ended without taking this one.
            if process.poll() is not None:
                break
            time.sleep(0.01)
    # It may be gone already, which then shows in what it said.
    os.close(reading)
    with contextlib.suppress(BrokenPipeError):
        os.write(writing, data[slow:])
    os.close(writing)
    output, errors = process.communicate(timeout=600)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def test_a_slow_pipe_is_decoded_by_the_codec_that_it_is_for(
    codec: FeatureCodec,
    bundle: Path,
    stream: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AMBI_BUNDLES", str(bundle.parent))
    done = drip(stream.read_bytes(), "decode", "-", tmp_path / "out.npy")
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "out.npy"), codec.decode(stream.read_bytes()))
    # The block codec's decoder sees all bytes as well: it gets past the header's checksum.
    done = drip(GRAY.read_bytes(), "decode", "-", tmp_path / "out.png", "--max-pixels", 1)
    assert b"over the limit of 1;" in done.stderr.splitlines()[-1]
    assert done.returncode == 3
    done = drip(b"\x8dA", "decode", "-", tmp_path / "out.png", slow=2)
    assert done.stderr.splitlines()[-1].startswith(b"ambi: ")
    assert done.returncode == 4


def test_what_was_looked_at_of_stdin_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for data in (b"abcdefgh", b"ab", b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert look_at_stdin(4) == look_at_stdin(4) == data[:4]
        assert look_at_stdin(2) == data[:2]
        assert read_input("-") == data
        assert read_input("-") == b""


def test_other_frames_are_preprocessed_as_the_agents_are(
    codec: FeatureCodec, bundle: Path, tmp_path: Path
) -> None:
    cv2 = pytest.importorskip("cv2")
    screens = np.random.default_rng(0).integers(0, 256, (3, 210, 160, 3), np.uint8)
    np.save(tmp_path / "screens.npy", screens)
    grays = [cv2.cvtColor(screen, cv2.COLOR_RGB2GRAY) for screen in screens]
    seen = np.stack([cv2.resize(gray, (84, 84), interpolation=cv2.INTER_AREA) for gray in grays])
    result = run("encode", tmp_path / "screens.npy", tmp_path / "out.ambi", "-b", bundle)
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "out.ambi").read_bytes() == codec.encode(seen)


def test_preprocessing_without_opencv_is_one_line(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "screens.npy", np.zeros((1, 100, 90), np.uint8))
    monkeypatch.setitem(sys.modules, "cv2", None)
    result = run("encode", tmp_path / "screens.npy", tmp_path / "out.ambi", "-b", bundle)
    one_line(result, 2, "OpenCV", "ambi-rl[atari]")


def test_json_verbose_and_info(
    bundle: Path, codec: FeatureCodec, frames: Frames, stream: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "f.npy", frames)
    target = tmp_path / "out.ambi"
    result = run("encode", tmp_path / "f.npy", target, "-b", bundle, "--json", "--quiet")
    values = json.loads(result.stdout)
    data = target.read_bytes()
    assert values["bytes"] == len(data)
    assert values["frames"] == 13
    assert values["bits_per_frame"] == round(8 * len(data) / 13, 2)
    latents = codec.latents(codec.stacks(frames))
    assert values["ideal_bytes"] == round(codec.bundle.tables.bits(latents).sum() / 8, 1)
    error = (codec.decode(data).astype(float) - frames) ** 2
    assert values["mse"] == round(error.mean(), 2)
    result = run("encode", tmp_path / "f.npy", target, "-b", bundle, "--verbose")
    assert f"error of the decoded frames {values['mse']}" in result.stdout
    assert run("encode", tmp_path / "f.npy", target, "-b", bundle, "--quiet").stdout == ""
    facts = json.loads(run("info", stream, "--json").stdout)
    assert {key: values[key] for key in facts} == facts
    assert facts["kind"] == "stream"
    assert facts["latent"] == [8, 1, 1]
    decoded = json.loads(run("decode", stream, tmp_path / "o.npy", "-b", bundle, "--json").stdout)
    assert {key: decoded[key] for key in facts} == facts
    assert codec.bundle.id in run("decode", stream, tmp_path / "o.npy", "-b", bundle, "-v").stdout
    facts = json.loads(run("info", bundle, "--json").stdout)
    assert facts["profile"] == facts["manifest"]["profile"] == "features"
    assert facts["bundle_id"] == codec.bundle.id
    assert facts["tensors"]["prior/minimum"] == ["int32", 8]
    assert codec.bundle.id in run("info", bundle).stdout


def test_the_bundle_is_found_by_its_id(
    bundle: Path, stream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AMBI_BUNDLES", raising=False)
    one_line(run("decode", stream, tmp_path / "o.npy"), 6, "not at hand", "AMBI_BUNDLES")
    monkeypatch.setenv("AMBI_BUNDLES", str(bundle.parent))
    assert run("decode", stream, tmp_path / "o.npy").exit_code == 0


@pytest.mark.parametrize(
    "options",
    [
        ["-q", "75"],
        ["--effort=5"],
        ["--strip"],
        ["--target-size", "1kB"],
        ["-j", "2"],
        ["--dry-run"],
    ],
)
def test_options_without_a_meaning_are_refused(
    options: list[str], bundle: Path, stream: Path, tmp_path: Path
) -> None:
    result = run("encode", tmp_path / "f.npy", tmp_path / "x.ambi", "-b", bundle, *options)
    one_line(result, 2, "no meaning", "features")
    if options[0] in ("-j", "--dry-run"):
        one_line(run("decode", stream, tmp_path / "x.gif", *options), 2, "no meaning", "features")


def test_bundles_and_files_of_different_profiles(
    bundle: Path, stream: Path, tmp_path: Path
) -> None:
    target = tmp_path / "o.png"
    one_line(run("decode", stream, target, "-b", DEFAULT), 7, "'block'", "'features'")
    one_line(run("decode", GRAY, target, "-b", bundle), 4, "not a stream of features")
    assert not target.exists()
    data = bundle.read_bytes()
    manifest = bundle_file.read_manifest(data) | {"profile": "later"}
    tensors = bundle_file.read_tensors(data, manifest)
    (tmp_path / "later.ambic").write_bytes(bundle_file.dump(manifest, tensors))
    for command in (
        ["encode", "a", "b", "-b", tmp_path / "later.ambic"],
        ["info", tmp_path / "later.ambic"],
    ):
        one_line(run(*command), 7, "'later'", "update ambi-rl")


def test_profiles_are_told_by_magic_numbers_that_their_modules_use() -> None:
    assert profiles.MAGICS == {MAGIC: "features", superres_stream.MAGIC: "superres"}
    for name in profiles.MODULES.values():
        module = importlib.import_module(name)
        assert callable(module.encode_command)
        assert callable(module.decode_command)
        assert callable(module.facts)


def test_targets_that_would_lose_something_are_refused(
    bundle: Path, stream: Path, frames: Frames, tmp_path: Path
) -> None:
    folder = write_frames("folder", frames, tmp_path)
    one_line(run("decode", stream, "-o", folder, "-b", bundle), 2, "holds pictures", "new folder")
    one_line(run("decode", stream, tmp_path / "out.xyz", "-b", bundle), 2, "no file that frames")
    one_line(run("decode", stream, "-o", stream, "-b", bundle), 2, "is a file")
    pictures = [folder / "frame0.png", folder / "frame1.png"]
    one_line(run("encode", *pictures, "-b", bundle), 2, "frame1.png is a picture", "-o")
    one_line(run("encode", pictures[0], "-o", pictures[0], "-b", bundle), 2, "input itself")
    result = run("encode", folder, stream, "-b", bundle, "--no-overwrite")
    one_line(result, 2, "exists", "--no-overwrite")
    out = tmp_path / "many"
    assert run("decode", stream, "-o", out, "-b", bundle).exit_code == 0
    assert run("decode", stream, "-o", out, "-b", bundle).exit_code == 0
    one_line(run("decode", stream, "-o", out, "-b", bundle, "--no-overwrite"), 2, "holds pictures")
    Image.fromarray(frames[0]).save(out / "000013.png")
    one_line(run("decode", stream, "-o", out, "-b", bundle), 2, "more frames than the 13")
    assert run("encode", folder, "-b", bundle).exit_code == 2
    assert run("encode", *pictures, tmp_path / "x.ambi", "-b", bundle).exit_code == 2


def test_limits_damage_and_quiet(bundle: Path, stream: Path, tmp_path: Path) -> None:
    target = tmp_path / "o.npy"
    result = run("decode", stream, target, "-b", bundle, "--max-pixels", 12 * 84 * 84)
    one_line(result, 3, "13 frames or more", "max_pixels")
    data = bytearray(stream.read_bytes())
    data[-1] ^= 1
    stream.write_bytes(data)
    one_line(run("decode", stream, target, "-b", bundle), 4, "packet 0", "checksum")
    one_line(run("info", stream), 4, "packet 0", "checksum")
    stream.write_bytes(data[:30])
    one_line(run("decode", stream, target, "-b", bundle), 4, "truncated")
    assert not target.exists()
    result = run("decode", stream, target, "-b", bundle, "--quiet", "-v")
    one_line(result, 2, "--quiet and --verbose")


def test_sources_that_hold_no_frames(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "floats.npy", np.zeros((2, 84, 84)))
    np.save(tmp_path / "none.npy", np.zeros((0, 84, 84), np.uint8))
    np.save(tmp_path / "flat.npy", np.zeros((2, 0, 84), np.uint8))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=np.zeros(1), b=np.zeros(1))
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("frames", "no array")
    Image.new("I;16", (84, 84)).save(tmp_path / "deep.png")
    for name, code, word in (
        ("empty", 2, "has no pictures"),
        ("nothing*.png", 2, "has no pictures"),
        ("missing.png", 2, "does not exist"),
        ("missing.npy", 2, "does not exist"),
        ("text.png", 3, "not a picture"),
        ("text.npy", 4, "no array"),
        ("text.npz", 4, "no array"),
        ("other.npz", 4, "no array"),
        ("objects.npy", 4, "no array"),
        ("floats.npy", 3, "float64"),
        ("flat.npy", 3, "no pixels"),
        ("two.npz", 3, "none called frames"),
        ("none.npy", 2, "has no frames"),
        ("deep.png", 3, "I;16"),
    ):
        result = run("encode", tmp_path / name, tmp_path / "x.ambi", "-b", bundle)
        one_line(result, code, word, tmp_path / name if code != 2 else word)
    one_line(run("encode", "-", tmp_path / "x.ambi", "-b", bundle), 2, "stdin")
    assert not (tmp_path / "x.ambi").exists()


def test_damaged_arrays_are_said_to_be_damaged(tmp_path: Path) -> None:
    content = np.random.default_rng(0).integers(0, 9, (2, 84, 84), np.uint8)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 840, 84)}
    )
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("frames.npy", header.getvalue())
    np.savez_compressed(tmp_path / "bits.npz", frames=content)
    good = (tmp_path / "bits.npz").read_bytes()
    (tmp_path / "bits.npz").write_bytes(good[:300] + bytes(200) + good[500:])
    np.save(tmp_path / "header.npy", content)
    header_text = (tmp_path / "header.npy").read_bytes()
    (tmp_path / "header.npy").write_bytes(header_text.replace(b"}", b" ", 1))
    for name in ("huge.npz", "bits.npz", "header.npy"):
        with pytest.raises(CorruptFileError, match="is no array that can be read"):
            list(read_pictures(tmp_path / name))


def test_names_are_ordered_as_people_do(tmp_path: Path) -> None:
    names = ["a2.png", "a10.png", "b1.png", "b1x.png", "b01.png", "10.png", "9.png"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    found = [path.name for path in find_files([str(tmp_path)])]
    assert found == ["9.png", "10.png", "a2.png", "a10.png", "b01.png", "b1.png", "b1x.png"]
    assert [path.name for path in find_files([str(tmp_path / "a*.png")])] == ["a2.png", "a10.png"]


MODULES = """
import contextlib, json, sys
from ambi_rl.cli.app import app
with contextlib.suppress(SystemExit):
    for command in json.loads(sys.argv[1]):
        app(command, standalone_mode=False)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def modules_of(*commands: list[object]) -> tuple[set[str], str]:
    """Packages that a process has imported after commands, and what it said on stderr."""
    lines = json.dumps([[str(word) for word in command] for command in commands])
    result = subprocess.run(
        [sys.executable, "-c", MODULES, lines], capture_output=True, text=True, check=True
    )
    return set(json.loads(result.stdout.splitlines()[-1])), result.stderr


def test_neither_direction_needs_environments_or_agent_libraries(
    bundle: Path, stream: Path, frames: Frames, tmp_path: Path
) -> None:
    np.save(tmp_path / "f.npy", frames)
    names, errors = modules_of(
        ["decode", stream, tmp_path / "o.gif", "-b", bundle],
        ["encode", tmp_path / "f.npy", tmp_path / "o.ambi", "-b", bundle],
    )
    assert (tmp_path / "o.gif").is_file(), errors
    assert (tmp_path / "o.ambi").is_file(), errors
    assert "torch" in names
    heavy = {"ale_py", "gymnasium", "stable_baselines3", "cv2", "hydra", "numba"}
    assert not names & heavy


def test_the_block_codec_imports_no_network_library(tmp_path: Path) -> None:
    # Ends for lack of a source, after all its imports.
    names, errors = modules_of(["encode", tmp_path / "none.png", tmp_path / "x", "-b", DEFAULT])
    assert "does not exist" in errors
    assert "PIL" in names
    assert not names & {"torch", "constriction", "gymnasium", "rich"}
