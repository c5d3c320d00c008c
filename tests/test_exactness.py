"""The same file decodes to the same planes everywhere: other threads, no compiler, bounds checked."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ambi_rl
from ambi_rl.codec.bundle import Bundle, save_bundle
from ambi_rl.codec.color import rgb_to_planes
from ambi_rl.codec.frame import encode_frame
from ambi_rl.codec.strategists import for_search

GOLDEN = Path(__file__).parent / "golden"
MAKE_GOLDEN = Path(__file__).parent.parent / "scripts" / "make_golden.py"

DECODE = """
import sys, zlib
from ambi_rl.codec.bundle import load_bundle
from ambi_rl.codec.frame import decode_frame
payload = open(sys.argv[1], "rb").read()
height, width, planes, step = map(int, sys.argv[3:])
print(zlib.crc32(decode_frame(payload, height, width, planes, step, load_bundle(sys.argv[2])).tobytes()))
"""


def decode_elsewhere(
    folder: Path,
    payload: bytes,
    bundle: Bundle,
    shape: tuple[int, ...],
    step: int,
    **variables: str,
) -> int:
    """CRC-32 of the planes that a new process with other environment variables decodes."""
    (folder / "payload").write_bytes(payload)
    save_bundle(bundle, folder / "bundle.ambic")
    planes, height, width = shape
    arguments = [str(folder / "payload"), str(folder / "bundle.ambic")]
    result = subprocess.run(
        [sys.executable, "-c", DECODE, *arguments, *map(str, (height, width, planes, step))],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(result.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"AMBI_THREADS": "1", "OMP_NUM_THREADS": "1"},
        {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
        {"NUMBA_DISABLE_JIT": "1"},
    ],
    ids=lambda v: ",".join(f"{k}={x}" for k, x in v.items()),
)
def test_other_processes_decode_the_same_planes(
    tmp_path: Path, photograph: Image.Image, default_bundle: Bundle, variables: dict[str, str]
) -> None:
    planes = rgb_to_planes(np.asarray(photograph)[20:61, 30:67])
    encoded = encode_frame(planes, 300, default_bundle, for_search(8))
    crc = decode_elsewhere(
        tmp_path, encoded.payload, default_bundle, planes.shape, 300, **variables
    )
    assert crc == zlib.crc32(encoded.planes.tobytes())


def test_threads_decode_side_by_side(default_bundle: Bundle, photograph: Image.Image) -> None:
    """Working memory belongs to a call: eight decodes at a time, of different files, do not mix."""
    files = [
        ambi_rl.encode(photograph.crop((8 * i, 4 * i, 8 * i + 40, 4 * i + 36)), quality=60 + i)
        for i in range(8)
    ]
    alone = [np.asarray(ambi_rl.decode(data)) for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: np.asarray(ambi_rl.decode(data)), files * 4))
    for index, pixels in enumerate(together):
        assert np.array_equal(pixels, alone[index % 8])


CHECKED = """
import sys
import numpy as np
from ambi_rl.codec.bundle import load_bundle
from ambi_rl.codec.frame import decode_frame, encode_frame
from ambi_rl.codec.strategists import Strategist, for_effort, for_search
from ambi_rl.errors import CorruptFileError
bundle = load_bundle(sys.argv[1])
rng = np.random.default_rng(0)
planes = rng.integers(0, 1024, (3, 37, 42)).astype(np.int16)
planes[:, :20] = 1023
every = Strategist("search", candidates=3, offset_span=2, exact_chroma=True, fine=True)
for source in (planes, planes[:1], planes[:, :1, :1], planes[:, :9, 3:]):
    count, height, width = source.shape
    for strategist in (for_effort(0), for_effort(3), every):
        encoded = encode_frame(np.ascontiguousarray(source), 300, bundle, strategist)
        decoded = decode_frame(encoded.payload, height, width, count, 300, bundle)
        assert np.array_equal(decoded, encoded.planes)
    for _ in range(150):
        payload = bytearray(encoded.payload)
        for _ in range(3):
            payload[rng.integers(len(payload))] = rng.integers(256)
        try:
            decode_frame(bytes(payload), height, width, count, 300, bundle)
        except CorruptFileError:
            pass
print("checked")
"""


@pytest.mark.slow
def test_no_array_is_indexed_out_of_bounds(tmp_path: Path, default_bundle: Bundle) -> None:
    """Every strategist, odd sizes and damaged payloads, in code compiled with bounds checks."""
    save_bundle(default_bundle, tmp_path / "bundle.ambic")
    # Without optimization the compilation, which is most of this test, takes two thirds of the time.
    checked = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_OPT": "0"}
    result = subprocess.run(
        [sys.executable, "-c", CHECKED, str(tmp_path / "bundle.ambic")],
        env={**os.environ, **checked, "AMBI_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout == "checked\n", result.stderr[-2000:]


@pytest.mark.slow
def test_without_a_compiler_the_encoder_writes_the_same_bytes(
    tmp_path: Path, photograph: Image.Image, default_bundle: Bundle
) -> None:
    image = photograph.crop((30, 20, 46, 36))
    image.save(tmp_path / "in.png")
    compiled = ambi_rl.encode(image, quality=60, effort=5)
    code = (
        "import sys, ambi_rl; from PIL import Image;"
        "sys.stdout.buffer.write(ambi_rl.encode(Image.open(sys.argv[1]), quality=60, effort=5))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "in.png")],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        check=True,
    )
    assert result.stdout == compiled


def golden_names() -> list[str]:
    return sorted(path.stem for path in GOLDEN.glob("*.ambi"))


@pytest.mark.parametrize("name", golden_names())
def test_golden_files_decode_to_the_frozen_pixels(name: str) -> None:
    """A failure here means that the bitstream has changed: that takes a new format version.

    scripts/make_golden.py wrote the files, with a bundle that is code.
    """
    facts = json.loads((GOLDEN / "golden.json").read_text())[name]
    bundle = runpy.run_path(str(MAKE_GOLDEN))["golden_bundle"]()
    image = ambi_rl.decode((GOLDEN / f"{name}.ambi").read_bytes(), bundle=bundle)
    assert image.mode == facts["mode"]
    assert list(image.size) == facts["size"]
    assert zlib.crc32(image.tobytes()) == facts["crc32"]


def test_there_are_golden_files() -> None:
    assert len(golden_names()) >= 5
