"""What the commands need of a codec of pictures, whichever it is: settings that encode, and that decode."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from ambi_rl.codec.container import MAX_PIXELS
from ambi_rl.codec.image_io import image_to_bytes, open_image
from ambi_rl.errors import UnsupportedImageError

_MAGIC = b"\x8dAM"
"""What files of all profiles begin with."""


@dataclass(frozen=True)
class Result:
    """What becomes of a file.

    Attributes:
        data: To be written.
        facts: About it; JSON types only.
    """

    data: bytes = field(repr=False)
    facts: dict[str, Any]


class Encoding(Protocol):
    """How pictures are encoded."""

    def facts(self) -> dict[str, Any]:
        """All that decides what is written; JSON types only. Equal facts and pictures make equal files."""
        ...

    def prepare(self) -> None:
        """What has to be done once before pictures are encoded, by one thread."""

    def encode(self, data: bytes, name: str) -> Result:
        """Encode a picture file's bytes; `name` is what messages call it.

        Raises:
            AmbiError: It is no picture that the codec takes, or is damaged.
        """
        ...

    def text(self, facts: dict[str, Any]) -> str:
        """How an encode went, for a line that begins with names."""
        ...

    def details(self, facts: dict[str, Any]) -> str:
        """More lines, of what the file consists of."""
        ...


class Decoding(Protocol):
    """How files are decoded."""

    def prepare(self) -> None:
        """What has to be done once before files are decoded, by one thread."""

    def decode(self, data: bytes) -> Result:
        """Decode a file to a picture file.

        Raises:
            AmbiError: It is no file of the codec, is damaged, or its bundle is not at hand.
        """
        ...


class _OwnPixelLimit:
    """While it is entered, the format's own limit on the size holds, not Pillow's, which is lower.

    The user named the file. Pillow's is a variable of its module: it is put back for the rest of the process,
    by whichever thread is the last to leave.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = Image.MAX_IMAGE_PIXELS
                Image.MAX_IMAGE_PIXELS = MAX_PIXELS
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                Image.MAX_IMAGE_PIXELS = self._before


_own_pixel_limit = _OwnPixelLimit()


def open_picture(data: bytes, name: str) -> Image.Image:
    """Open a picture file that the user named; see `open_image`.

    Raises:
        UnsupportedImageError: It is no picture, among others because it is coded already.
    """
    if data.startswith(_MAGIC):
        # Pillow would open it where somebody has imported our plugin.
        raise UnsupportedImageError(f"{name} is not a picture but an ambi file; decode it first")
    with _own_pixel_limit:
        return open_image(data, name)


def written_picture(decode: Callable[[], Image.Image], image_format: str) -> Result:
    """Decode and write a picture.

    Args:
        decode: Does it; is timed.
        image_format: See `image_to_bytes`.
    """
    start = time.perf_counter()
    image = decode()
    seconds = time.perf_counter() - start
    facts = {
        "width": image.width,
        "height": image.height,
        "mode": image.mode,
        "format": image_format,
        "seconds": round(seconds, 3),
        "metadata": sorted(image.info),
    }
    return Result(image_to_bytes(image, image_format), facts)


def decode_text(facts: dict[str, Any]) -> str:
    """How a decode went, for a line that begins with names."""
    return f"{facts['width']}x{facts['height']} {facts['mode']}, {facts['seconds']:.2f} s"


def decode_details(facts: dict[str, Any]) -> str:
    """A line on the picture's format and metadata."""
    return f"{facts['format']}, metadata: {', '.join(facts['metadata']) or 'none'}"


def sizes_text(sizes: dict[str, int]) -> str:
    """Parts of a file with their bytes."""
    return ", ".join(f"{name} {length:,}" for name, length in sizes.items())
