"""Checks that photographs decode to the same pixels wherever this machine can be made to differ.

Usage: scripts/verify_exact.py FOLDER [QUALITY [EFFORT]]

Every photograph is encoded once, without restoration, which is in floating point. Two fresh processes decode
all files, one with a single thread, the other with as many as there are files, at the same time; their pixels
are compared with the encoder's own reconstruction. A third process, without the compiler
(NUMBA_DISABLE_JIT=1), decodes a crop of 48x40 pixels of every photograph.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

import ambi_rl
from ambi_rl.codec.api import encode_image
from ambi_rl.data import list_photographs
from ambi_rl.errors import AmbiError

CROP = (48, 40)
DECODE = "--decode"


def checksum(image: Image.Image) -> int:
    """CRC-32 of a picture's samples."""
    return zlib.crc32(image.tobytes())


def decode_all(folder: Path, pattern: str, threads: int) -> dict[str, int]:
    """Checksums of all files of a folder, decoded by `threads` threads at a time."""
    paths = sorted(folder.glob(pattern))
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda path: checksum(ambi_rl.decode(path.read_bytes())), paths)
        return dict(zip([path.name for path in paths], found, strict=True))


def elsewhere(folder: Path, pattern: str, threads: int, **variables: str) -> dict[str, int]:
    """What `decode_all` returns in a process of its own."""
    command = [sys.executable, __file__, DECODE, str(folder), pattern, str(threads)]
    environment = {**os.environ, "AMBI_THREADS": str(threads)}
    done = subprocess.run(
        command, env=environment | variables, stdout=subprocess.PIPE, text=True, check=True
    )
    result: dict[str, int] = json.loads(done.stdout)
    return result


def main(photographs: Path, quality: float, effort: int) -> int:
    """Encode, decode elsewhere, compare; return the number of files that differ."""
    expected: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for path in list_photographs(photographs):
            with Image.open(path) as picture:
                image = picture.convert("RGB")
            left, top = (image.width - CROP[0]) // 2, (image.height - CROP[1]) // 2
            crop = image.crop((left, top, left + CROP[0], top + CROP[1]))
            for kind, piece in (("whole", image), ("crop", crop)):
                encoded = encode_image(piece, quality=quality, effort=effort, restoration=False)
                name = f"{path.stem}.{kind}.ambi"
                (folder / name).write_bytes(encoded.data)
                expected[name] = checksum(encoded.decoded())
        whole = {name: crc for name, crc in expected.items() if ".whole." in name}
        cropped = {name: crc for name, crc in expected.items() if ".crop." in name}
        wrong = 0
        for what, wanted, found in (
            ("1 thread", whole, elsewhere(folder, "*.whole.ambi", 1)),
            (f"{len(whole)} threads", whole, elsewhere(folder, "*.whole.ambi", len(whole))),
            ("no compiler", cropped, elsewhere(folder, "*.crop.ambi", 1, NUMBA_DISABLE_JIT="1")),
        ):
            differing = [name for name, crc in wanted.items() if found.get(name) != crc]
            wrong += len(differing)
            print(
                f"{what}: {len(wanted) - len(differing)} of {len(wanted)} files decode to the same pixels"
            )
    return wrong


if __name__ == "__main__":
    if len(sys.argv) == 5 and sys.argv[1] == DECODE:
        print(json.dumps(decode_all(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))))
        sys.exit(0)
    if not 2 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    try:
        rest = [float(word) for word in sys.argv[2:]] + [75.0, 5.0][len(sys.argv) - 2 :]
        sys.exit(1 if main(Path(sys.argv[1]), rest[0], int(rest[1])) else 0)
    except AmbiError as error:
        print(f"verify_exact: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
