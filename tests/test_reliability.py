"""What is promised in docs/reliability.md: bounded memory, whole files or none, threads, no growth."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save as save_tensors
from typer.testing import CliRunner

import ambi_rl
import ambi_rl.pillow  # Registers the format.
from ambi_rl.cli.app import app
from ambi_rl.cli.info import file_facts
from ambi_rl.codec import bundle_file
from ambi_rl.codec.bundle import Bundle, dump_bundle, find_bundle, load_bundle, parse_bundle
from ambi_rl.codec.container import Section, read_container, write_container
from ambi_rl.codec.files import read_file, write_file
from ambi_rl.codec.threads import THREADS_VARIABLE
from ambi_rl.errors import AmbiError, BundleError, UnknownBundleError, UsageError
from tests.test_bundle import altered

ROOT = Path(__file__).parent.parent
LIMITS = ROOT / "scripts" / "check_limits.py"
PIXELS = 16384 * 16384


@pytest.fixture(scope="module")
def rich(photograph: Image.Image) -> bytes:
    """A file with a section of every kind, but for tiles."""
    image = photograph.crop((20, 10, 67, 51))
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.info |= {"icc_profile": bytes(90), "exif": exif.tobytes(), "xmp": b"<xmp/>"}
    return ambi_rl.encode(image, effort=3)


# --- Truncation -------------------------------------------------------------------------------------------


def test_truncation_at_every_byte_reaches_no_reader(rich: bytes) -> None:
    tiled = (ROOT / "tests" / "golden" / "tiles.ambi").read_bytes()
    for data in (rich, tiled):
        for length in range(len(data)):
            piece = data[:length]
            for read in (ambi_rl.decode, file_facts):
                with pytest.raises(AmbiError) as caught:
                    read(piece)
                assert "\n" not in str(caught.value)
            with pytest.raises(OSError, match=r"truncated|cannot identify"):
                Image.open(io.BytesIO(piece))


def test_payloads_cut_at_every_byte_behind_right_checksums(rich: bytes) -> None:
    """A payload may lack what the decoder reads there anyway; all other cuts are noticed."""
    container = read_container(rich)
    right = ambi_rl.decode(rich).tobytes()
    for kind in (Section.PICTURE, Section.ALPHA):
        payload = container.sections[kind]
        for length in range(len(payload)):
            sections = {**container.sections, kind: payload[:length]}
            forged = write_container(dataclasses.replace(container, sections=sections))
            try:
                assert ambi_rl.decode(forged).tobytes() == right
            except AmbiError:
                continue


# --- Large claims -----------------------------------------------------------------------------------------


CLAIMS = """
import json, runpy, sys
from pathlib import Path
script = runpy.run_path(sys.argv[1])
path = Path(sys.argv[2])
rows = {}
for name in sys.argv[3:]:
    make, limit = script["CLAIMS"][name]
    path.write_bytes(make())
    rows[name] = script["memory_row"](path, limit) | {"bytes": path.stat().st_size}
print(json.dumps(rows))
"""


def test_claims_of_16384_pixels_a_side_take_less_memory_than_the_picture(tmp_path: Path) -> None:
    """In bytes a pixel, of which the picture has 3, or 4 with alpha."""
    most = {
        "claim, max_pixels 2^20": 0.01,
        "claim of 4096 empty tiles": 0.1,
        "claim": 1.0,
        "claim with alpha": 2.0,
    }
    command = [sys.executable, "-c", CLAIMS, str(LIMITS), str(tmp_path / "x.ambi"), *most]
    # One thread: the memory that an allocator keeps for each thread differs from run to run.
    alone = os.environ | {THREADS_VARIABLE: "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=alone)
    for name, row in json.loads(done.stdout).items():
        assert row["bytes"] < (5000 if "tiles" in name else 60)
        assert row["outcome"] == ("ImageTooLargeError" if "max" in name else "CorruptFileError")
        assert row["growth"] < most[name] * PIXELS


# --- Disks ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def folder_of_somebody_else(mode: int) -> Iterator[Path]:
    """A folder with a folder in it, of such permissions, for somebody whom permissions apply to."""
    is_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "inner").mkdir()
        folder.chmod(mode)
        if is_root:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if is_root:
                os.seteuid(0)
            folder.chmod(0o755)


def test_a_read_only_folder_is_one_line() -> None:
    with folder_of_somebody_else(0o555) as folder:
        with pytest.raises(UsageError, match=r"x\.ambi may not be written"):
            write_file(folder / "x.ambi", b"data")
        assert [path.name for path in folder.iterdir()] == ["inner"]


def test_a_folder_that_may_not_be_looked_into_is_one_line() -> None:
    with folder_of_somebody_else(0o000) as folder:
        with pytest.raises(UsageError, match=r"x\.ambi may not be written"):
            write_file(folder / "inner" / "x.ambi", b"data")
        with pytest.raises(UsageError, match=r"x\.ambi may not be read"):
            read_file(folder / "inner" / "x.ambi")


SMALL_DISK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
from ambi_rl.cli import main
main()
"""


def test_a_file_that_does_not_fit_leaves_the_old_one_and_nothing_else(
    photograph: Image.Image, tmp_path: Path
) -> None:
    picture, target = tmp_path / "in.png", tmp_path / "out.ambi"
    photograph.save(picture)
    target.write_bytes(b"old")
    command = [sys.executable, "-c", SMALL_DISK, "encode", str(picture), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"ambi: {target} cannot be written: File too large\n"
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", "out.ambi"]


FULL_DISK = """
mount -t tmpfs -o size=16k none "$1" || exit 99
head -c 8192 /dev/zero > "$1/filler"
echo old > "$1/out.ambi"
"$2" -m ambi_rl.cli encode "$3" "$1/out.ambi" -q 95
echo "exit $?, $(cat "$1/out.ambi"), $(ls -A "$1" | tr '\\n' ' ')"
"""


def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    photograph: Image.Image, tmp_path: Path
) -> None:
    """On a real file system of 16 kB, where the kernel lets us mount one."""
    picture, folder = tmp_path / "in.png", tmp_path / "disk"
    photograph.resize((224, 176)).save(picture)
    folder.mkdir()
    arguments = [str(folder), sys.executable, str(picture)]
    try:
        done = subprocess.run(
            ["unshare", "--mount", "--map-root-user", "sh", "-c", FULL_DISK, "sh", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if "exit" not in done.stdout:
        pytest.skip(f"no file system can be mounted here: {done.stderr}")
    assert done.stdout == "exit 1, old, filler out.ambi \n"
    assert done.stderr.endswith("out.ambi cannot be written: No space left on device\n")
    assert done.stderr.count("\n") == 1


WRITE_FOR_EVER = """
import sys
from pathlib import Path
from ambi_rl.codec.files import write_file
letters = [bytes([letter]) * 4_000_000 for letter in b"AB"]
print("ready", flush=True)
while True:
    for content in letters:
        write_file(Path(sys.argv[1]), content)
"""


@pytest.mark.parametrize("which", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_write_leaves_a_whole_file(which: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "x"
    rng = random.Random(3)
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE_FOR_EVER, str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        while not path.exists():
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))
        process.send_signal(which)
        process.wait()
        process.stdout.close()
        content = path.read_bytes()
        assert content in (b"A" * 4_000_000, b"B" * 4_000_000)
    others = [other.name for other in tmp_path.iterdir() if other != path]
    # Whoever can still act cleans up; what a kill leaves does not pass for a file of ours.
    assert which != signal.SIGINT or others == []
    assert all(name.startswith(".x.") and name.endswith(".part") for name in others)


COMPILE = """
import sys, zlib
import numpy as np
from ambi_rl.codec.restoration import blank_tensors, restore
rng = np.random.default_rng(0)
tensors = blank_tensors(2, 6, 1)
for name, tensor in tensors.items():
    tensors[name] = rng.normal(size=tensor.shape, scale=0.05).astype(np.float32)
planes = rng.integers(0, 1024, (3, 70, 90)).astype(np.int16)
print("ready", flush=True)
sys.stdin.readline()
print(zlib.crc32(restore(planes, 900, tensors).tobytes()))
"""


def test_two_processes_fill_one_cache_at_once(tmp_path: Path) -> None:
    environment = {**os.environ, "AMBI_CACHE_DIR": str(tmp_path)}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", COMPILE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    processes = [start(), start()]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    assert not list(tmp_path.rglob("*.nbc"))
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [process.communicate() for process in processes]
    assert [error for _, error in results] == ["", ""]
    assert list(tmp_path.rglob("*.nbc"))
    third = start().communicate("go\n")[0].removeprefix("ready\n")
    assert {output for output, _ in results} == {third}
    assert third.strip().isdigit()


# --- Bundles ----------------------------------------------------------------------------------------------


def header_claiming(tensor: dict[str, object], bundle: Bundle) -> bytes:
    """A bundle in whose header a tensor is said to be something else."""
    data = dump_bundle(bundle)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["entropy/counters"] |= tensor
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@pytest.mark.parametrize(
    "tensor",
    [
        {"shape": [1 << 40]},
        {"shape": [1 << 63, 2]},
        {"shape": [1 << 31, 1 << 31, 1 << 31]},
        {"data_offsets": [0, 1 << 62]},
        {"dtype": "F64"},
        {"dtype": "BF16"},
        {"shape": [0]},
        {"shape": [], "data_offsets": [0, 0]},
    ],
    ids=str,
)
def test_tensors_that_a_bundle_does_not_hold(
    tensor: dict[str, object], plain_bundle: Bundle
) -> None:
    with pytest.raises(BundleError) as caught:
        parse_bundle(header_claiming(tensor, plain_bundle))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("lambda_scale", 10**400, "lambda_scale"),
        ("lambda_scale", 1e300, "lambda_scale"),
        ("training", json.loads("[" * 40 + "]" * 40), "levels"),
        ("training", {"a": json.loads("[" * 400 + "]" * 400)}, "levels"),
        ("strategies", ["../../../etc/passwd"], "unknown to this program"),
    ],
)
def test_manifests_that_no_export_writes(
    key: str, value: object, words: str, plain_bundle: Bundle
) -> None:
    bare = dataclasses.replace(plain_bundle, policy={})
    data = altered(bare, lambda manifest: manifest.update({key: value}))
    with pytest.raises(BundleError, match=words):
        ambi_rl.encode(Image.new("L", (4, 4)), bundle=parse_bundle(data), effort=5)


def test_a_manifest_of_100_mb_is_refused_unread(plain_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "large.ambic"
    with path.open("wb") as stream:
        stream.write((100 << 20).to_bytes(8, "little") + b'{"__metadata__":{"ambi":"')
        stream.truncate(100 << 20)
    with pytest.raises(BundleError, match="over the limit"):
        load_bundle(path)
    # Within the file's limit, but not the header's: refused before it is parsed.
    text = json.dumps({"__metadata__": {"ambi": "x" * (5 << 20)}}).encode()
    with pytest.raises(BundleError, match="not a bundle"):
        parse_bundle(len(text).to_bytes(8, "little") + text)


def test_files_without_an_end_are_read_up_to_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_file, "MAX_BYTES", 1 << 20)
    with pytest.raises(BundleError, match="over the limit"):
        load_bundle("/dev/zero")


def test_what_lies_in_a_folder_of_bundles_is_no_trap(
    default_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe would be waited for, a device read for ever; an id is a number and never part of a path."""
    os.mkfifo(tmp_path / "a.ambic")
    (tmp_path / "b.ambic").symlink_to("/dev/zero")
    (tmp_path / "c.ambic").symlink_to(tmp_path / "c.ambic")
    (tmp_path / "d.ambic").mkdir()
    (tmp_path / "e.ambic").write_bytes(save_tensors({"x": np.zeros(3)}, {"ambi": "{}"}))
    monkeypatch.setenv("AMBI_BUNDLES", f"{tmp_path}:{tmp_path / 'missing'}:/proc/self/mem")
    for name in ("../../secret", "*", "0" * 16):
        with pytest.raises(UnknownBundleError, match=r"unusable there: e\.ambic"):
            find_bundle(name)


def test_a_bundle_s_text_does_not_act_on_the_terminal(plain_bundle: Bundle, tmp_path: Path) -> None:
    notes = {"clear": "\x1b[2J\x07", "half": "\ud800", "line\nbreak": "é 東"}
    path = tmp_path / "x.ambic"
    path.write_bytes(altered(plain_bundle, lambda manifest: manifest.update(metrics=notes)))
    result = CliRunner().invoke(app, ["info", str(path)])
    assert result.exit_code == 0
    assert r"\x1b[2J\x07" in result.output
    assert r"\ud800" in result.output
    assert r"line\nbreak  é 東" in result.output
    assert json.loads(CliRunner().invoke(app, ["info", "--json", str(path)]).output)


# --- Threads and time -------------------------------------------------------------------------------------


def test_eight_threads_decode_one_file_and_encode_one_picture(
    rich: bytes, photograph: Image.Image
) -> None:
    tiled = (ROOT / "tests" / "golden" / "tiles.ambi").read_bytes()
    golden = runpy.run_path(str(ROOT / "scripts" / "make_golden.py"))["golden_bundle"]()
    small = photograph.crop((0, 0, 40, 36))

    def work(number: int) -> tuple[bytes, bytes, bytes]:
        return (
            ambi_rl.decode(rich).tobytes(),
            ambi_rl.decode(tiled, bundle=golden).tobytes(),
            ambi_rl.encode(small, effort=(0, 5, 7)[number % 3]),
        )

    alone = [work(number) for number in range(3)]
    assert len({data for _, _, data in alone}) == 3
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(work, range(24)))
    assert together == [alone[number % 3] for number in range(24)]


def test_coding_does_not_grow() -> None:
    """A short soak; scripts/check_limits.py has the long one. A picture kept each time would be 2 MB."""
    soak = runpy.run_path(str(LIMITS))["soak"]
    early, late = soak(150, (50, 150), report=lambda line: None)
    assert late - early < 6 << 20
