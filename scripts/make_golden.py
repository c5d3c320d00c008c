"""Write the golden files of tests/golden: run only when the bitstream changes, with a new format version."""

from __future__ import annotations

import argparse
import json
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

import ambi_rl
from ambi_rl.codec.api import encode_prepared, prepare_image
from ambi_rl.codec.bundle import Bundle, make_manifest
from ambi_rl.codec.context import DEFAULT_LAMBDA_SCALE, DEFAULT_OFFSETS, DEFAULT_STRATEGIES
from ambi_rl.codec.entropy.model import untrained
from ambi_rl.codec.strategists import Strategist, for_search
from ambi_rl.codec.tiles import MIN_SIDE, TileGrid

FOLDER = Path(__file__).parent.parent / "tests" / "golden"
PHOTOGRAPHS = Path(ambi_rl.__file__).parent / "data" / "photographs"


_SPANS = {
    "net_rows": 61,
    "net_bias": 97,
    "net_w1": 601,
    "net_b1": 90001,
    "net_w2": 1201,
    "net_b2": 90001,
}


def golden_bundle() -> Bundle:
    """The untrained bundle with a patterned level network: it is code, so that no file of it has to be kept.

    The pattern means nothing, but with zeros the files would not hold the network's arithmetic still.
    """
    manifest = make_manifest(DEFAULT_STRATEGIES, DEFAULT_OFFSETS, DEFAULT_LAMBDA_SCALE)
    entropy = untrained()
    for name, span in _SPANS.items():
        zeros = entropy[name]
        pattern = np.arange(zeros.size, dtype=np.int64) * 48271 % 2147483647 % span - span // 2
        entropy[name] = pattern.reshape(zeros.shape).astype(zeros.dtype)
    return Bundle(manifest, entropy)


def pictures() -> dict[str, tuple[Image.Image, float, Strategist]]:
    """What is frozen: a picture, a quality and who decides, by name."""
    with Image.open(sorted(PHOTOGRAPHS.glob("*.webp"))[1]) as photograph:
        image = photograph.convert("RGB").crop((100, 60, 196, 131))
    ramp = Image.fromarray(np.tile(np.arange(96, dtype=np.uint8) * 2, (71, 1)))
    with_alpha = image.copy()
    with_alpha.putalpha(ramp)
    every_offset = Strategist("search", candidates=4, offset_span=2, exact_chroma=True)
    return {
        "photograph": (image, 75, for_search(8)),
        "offsets": (image, 55, every_offset),
        "fine": (image.crop((0, 0, 41, 35)), 100, for_search(6)),
        "coarse": (image, 5, for_search(7)),
        "gray": (image.convert("L"), 60, for_search(7)),
        "alpha": (with_alpha, 70, for_search(5)),
        "small_blocks": (image, 40, Strategist("fixed", fixed_size=4)),
        "one_pixel": (image.crop((3, 3, 4, 4)), 80, for_search(7)),
    }


def tiled() -> bytes:
    """The file of a picture in four tiles; pictures this small usually are not divided."""
    with Image.open(sorted(PHOTOGRAPHS.glob("*.webp"))[1]) as photograph:
        image = photograph.convert("RGB").crop((40, 20, 340, 310))
    prepared = prepare_image(image)
    grid = TileGrid(image.height, image.width, MIN_SIDE, MIN_SIDE)
    encoded = encode_prepared(
        prepared, quality=8, bundle=golden_bundle(), strategist=for_search(5), grid=grid
    )
    return encoded.data


def main() -> None:
    """Encode the golden pictures, or those that are named, and note what they decode to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="which to write; the others stay (default: all)")
    names = parser.parse_args().names
    FOLDER.mkdir(parents=True, exist_ok=True)
    bundle = golden_bundle()
    files = {
        name: ambi_rl.encode(image, quality=quality, strategist=strategist, bundle=bundle)
        for name, (image, quality, strategist) in pictures().items()
        if name in names or not names
    }
    if "tiles" in names or not names:
        files["tiles"] = tiled()
    index = FOLDER / "golden.json"
    facts = json.loads(index.read_text()) if names else {}
    for name, data in files.items():
        (FOLDER / f"{name}.ambi").write_bytes(data)
        decoded = ambi_rl.decode(data, bundle=bundle)
        facts[name] = {
            "mode": decoded.mode,
            "size": list(decoded.size),
            "crc32": zlib.crc32(decoded.tobytes()),
        }
    index.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
