"""Teaches Pillow the file format: after `import ambi_rl.pillow`, `Image.open` and `save` know .ambi.

Pillow looks for no plugins by itself, so the import is what registers this one. What Pillow's own plugins
do, this one does: opening reads what the header and the metadata say and decodes nothing, pixels are decoded
when they are first asked for, errors are those that callers of Pillow expect. See docs/pillow.md.
"""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Any

from PIL import Image, ImageFile

from ambi_rl.codec.container import MAGIC, Section, read_container
from ambi_rl.errors import AmbiError, NotAmbiFileError, UsageError

if TYPE_CHECKING:
    from ambi_rl.codec.bundle import Bundle

__all__ = ["EXTENSION", "FORMAT", "MIME_TYPE", "AmbiImageFile"]

FORMAT = "AMBI"
EXTENSION = ".ambi"
MIME_TYPE = "image/x-ambi"

_METADATA_KEYS = ("exif", "icc_profile", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
"""Where Pillow's plugins keep metadata in `info`."""


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(MAGIC)


class AmbiImageFile(ImageFile.ImageFile):
    """A picture in an .ambi file, of mode L, LA, RGB or RGBA, decoded when its pixels are needed.

    Attributes:
        bundle: The bundle to decode with, or its path, if it is neither the default one nor in a folder that
            the environment variable AMBI_BUNDLES names; set it before the pixels are needed.
    """

    format = FORMAT
    format_description = "ambi-rl image"
    bundle: Bundle | str | os.PathLike[str] | None = None
    _data: bytes | None = None

    def _open(self) -> None:
        # Deferred, here and below, so that the import does not wait for what only some programs need.
        from ambi_rl.codec.image_io import info_of_metadata, metadata_of_container

        assert self.fp is not None
        data = self.fp.read()
        try:
            container = read_container(data)
        except NotAmbiFileError as error:
            # What Pillow takes for "some other format".
            raise SyntaxError(str(error)) from error
        except AmbiError as error:
            raise OSError(str(error)) from error
        self._size = (container.width, container.height)
        has_alpha = Section.ALPHA in container.sections
        self._mode = ("L" if container.num_planes == 1 else "RGB") + ("A" if has_alpha else "")
        self.info.update(info_of_metadata(metadata_of_container(container)))
        # Pillow takes a picture with tiles for one that is not loaded yet.
        self.tile = [ImageFile._Tile(FORMAT, (0, 0, *self._size))]
        self._data = data

    def load(self) -> Image.core.PixelAccess | None:
        """Decode the pixels, unless they are.

        Raises:
            OSError: The file is damaged, or its bundle is not at hand; the message says what to do.
        """
        if self.tile and self._data is not None:
            from ambi_rl.codec.api import decode_image

            try:
                decoded = decode_image(self._data, bundle=self.bundle)
            except AmbiError as error:
                raise OSError(str(error)) from error
            self.im = decoded.im
            self.tile = []
            self._data = None
            if self._exclusive_fp and self.fp is not None:
                self.fp.close()
            self.fp = None
        return super().load()

    def verify(self) -> None:
        """Check the file without decoding it; afterwards it has to be opened again, as ever in Pillow.

        All checksums of the file were compared when it was opened, so nothing is left to do but what all of
        Pillow's plugins do: to close it.
        """
        self.tile = []
        self._data = None
        super().verify()


def _save(image: Image.Image, stream: IO[bytes], filename: str | bytes) -> None:
    """Write a picture; `Image.save` calls this.

    Args:
        image: The picture; `image.encoderinfo` has the options: quality 1…100 (75), effort 0…9 (5), bundle,
            exif, icc_profile (by default the picture's own) and xmp.
        stream: Where to write.
        filename: Its name, not used.

    Raises:
        ValueError: quality or effort is out of range.
        OSError: The picture has a mode or size that the codec does not code, or the bundle cannot be used.
    """
    from ambi_rl.codec.api import DEFAULT_QUALITY, encode_image

    options: dict[str, Any] = image.encoderinfo
    # A copy is this frame alone of an animation, and what is in `info` can be chosen.
    plain = image.copy()
    for key in _METADATA_KEYS:
        plain.info.pop(key, None)
    exif = options.get("exif")
    metadata = {
        "exif": exif.tobytes() if isinstance(exif, Image.Exif) else exif,
        "icc_profile": options.get("icc_profile", image.info.get("icc_profile")),
        "xmp": options.get("xmp"),
    }
    plain.info |= {key: value for key, value in metadata.items() if value}
    try:
        encoded = encode_image(
            plain,
            quality=options.get("quality", DEFAULT_QUALITY),
            effort=options.get("effort", 5),
            bundle=options.get("bundle"),
        )
    except UsageError as error:
        raise ValueError(str(error)) from error
    except AmbiError as error:
        raise OSError(str(error)) from error
    stream.write(encoded.data)


Image.register_open(FORMAT, AmbiImageFile, _accept)
Image.register_save(FORMAT, _save)
Image.register_extension(FORMAT, EXTENSION)
Image.register_mime(FORMAT, MIME_TYPE)
