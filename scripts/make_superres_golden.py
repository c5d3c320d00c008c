"""Write tests/golden/superres: a bundle, a file and its picture. Only for a new format version."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

import ambi_rl
from ambi_rl.codec.image_io import image_to_bytes
from ambi_rl.superres.bundle import save_bundle
from ambi_rl.superres.codec import decode_picture, encode_picture
from tests.superres_models import tiny_bundle

FOLDER = Path(__file__).parent.parent / "tests" / "golden" / "superres"
PHOTOGRAPHS = Path(ambi_rl.__file__).parent / "data" / "photographs"


def picture() -> Image.Image:
    """A piece of a photograph of odd size, with transparency and metadata."""
    with Image.open(PHOTOGRAPHS / "train-otters.webp") as photograph:
        image = photograph.convert("RGB").crop((150, 100, 201, 143))
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.info["exif"] = exif.tobytes()
    image.info["icc_profile"] = bytes(range(200))
    return image


def main() -> None:
    """Write the files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    bundle = tiny_bundle()
    save_bundle(bundle, FOLDER / "tiny.ambic")
    data = encode_picture(picture(), bundle, base="jpeg", quality=70).data
    (FOLDER / "alpha.ambi").write_bytes(data)
    (FOLDER / "alpha.png").write_bytes(image_to_bytes(decode_picture(data, bundle)))


if __name__ == "__main__":
    main()
