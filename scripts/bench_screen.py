"""Code a drawn picture of text and lines with ambi, PNG, WebP and JPEG: what the codec was not made for.

    python scripts/bench_screen.py [--output PICTURE.png]

The picture is drawn by this script, so that the numbers in docs/model-card.md can be made again.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import ambi_rl
from ambi_rl.metrics import psnr

TEXT = "A quadtree of blocks, each predicted from its border and coded by mixed models. 0123456789 {}[]()"
AMBI_QUALITIES = (60, 75, 90, 100)
WEBP_QUALITIES = (60, 75, 90)
JPEG_QUALITIES = (75, 90)


def draw(width: int = 640, height: int = 480) -> Image.Image:
    """A page of text in several sizes, a table, thin lines and flat coloured boxes."""
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    y = 8
    for size in (11, 12, 13, 14, 16, 20, 11, 12, 13, 14):
        pen.text((10, y), TEXT, fill="black", font=ImageFont.load_default(size))
        y += size + 6
    for row in range(6):
        for column in range(5):
            box = (10 + 60 * column, 230 + 22 * row, 70 + 60 * column, 252 + 22 * row)
            pen.rectangle(box, outline=(90, 90, 90), fill="#eef" if row % 2 else None)
            place = box[0] + 6, box[1] + 4
            pen.text(
                place, str(37 * row * column + row), fill="#036", font=ImageFont.load_default(12)
            )
    for k in range(0, 280, 14):
        pen.line((340, 230, 340 + k, 362), fill="black")
        pen.line((340 + k, 230, 620, 362), fill="#c00")
    for k, colour in enumerate(("#c00", "#0a0", "#00c", "#fc0", "#0cc", "#c0c")):
        pen.rectangle((10 + 100 * k, 380, 95 + 100 * k, 460), fill=colour)
        pen.ellipse((30 + 100 * k, 395, 75 + 100 * k, 440), fill="white", outline="black")
    return image


def saved(image: Image.Image, **options: Any) -> bytes:
    """A picture as Pillow writes it."""
    stream = io.BytesIO()
    image.save(stream, **options)
    return stream.getvalue()


def files(image: Image.Image) -> Iterator[tuple[str, bytes, Image.Image]]:
    """Each codec's name, file and what it decodes to."""
    peers = [("PNG, optimized", {"format": "PNG", "optimize": True})]
    peers.append(("WebP, lossless", {"format": "WEBP", "lossless": True, "method": 6}))
    for quality in WEBP_QUALITIES:
        peers.append((f"WebP -q {quality}", {"format": "WEBP", "quality": quality, "method": 6}))
    for quality in JPEG_QUALITIES:
        options = {"format": "JPEG", "quality": quality, "optimize": True, "subsampling": 0}
        peers.append((f"JPEG 4:4:4 -q {quality}", options))
    for name, options in peers:
        data = saved(image, **options)
        yield name, data, Image.open(io.BytesIO(data)).convert("RGB")
    for quality in AMBI_QUALITIES:
        data = ambi_rl.encode(image, quality=quality)
        yield f"ambi -q {quality}", data, ambi_rl.decode(data)


def main() -> None:
    """Print a table of bytes and PSNR."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, help="write the picture here, as PNG")
    arguments = parser.parse_args()
    image = draw()
    if arguments.output:
        arguments.output.write_bytes(saved(image, format="PNG"))
    source = np.asarray(image)
    print("| codec | bytes | bit/pixel | PSNR, dB | largest error |\n|---|---|---|---|---|")
    for name, data, decoded in files(image):
        pixels = np.asarray(decoded)
        worst = int(np.abs(source.astype(int) - pixels).max())
        rate = 8 * len(data) / (image.width * image.height)
        quality = f"{psnr(source, pixels):.1f}" if worst else "∞"
        print(f"| {name} | {len(data)} | {rate:.3f} | {quality} | {worst} |")


if __name__ == "__main__":
    main()
