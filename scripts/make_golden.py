"""Write the golden files of tests/golden: run only when the bitstream changes, with a new format version."""

from __future__ import annotations

import argparse
import json
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

import ambi_rl
from ambi_rl.codec.bundle import Bundle, make_manifest
from ambi_rl.codec.context import DEFAULT_LAMBDA_SCALE, DEFAULT_OFFSETS, DEFAULT_STRATEGIES
from ambi_rl.codec.entropy.model import untrained
from ambi_rl.codec.strategists import Strategist, for_search

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


def main() -> None:
    """Encode the golden pictures and note what they decode to."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    bundle = golden_bundle()
    facts = {}
    for name, (image, quality, strategist) in pictures().items():
        data = ambi_rl.encode(image, quality=quality, strategist=strategist, bundle=bundle)
        (FOLDER / f"{name}.ambi").write_bytes(data)
        decoded = ambi_rl.decode(data, bundle=bundle)
        facts[name] = {
            "mode": decoded.mode,
            "size": list(decoded.size),
            "crc32": zlib.crc32(decoded.tobytes()),
        }
    (FOLDER / "golden.json").write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
