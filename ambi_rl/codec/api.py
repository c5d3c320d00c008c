"""Whole files in and out: glues pictures, planes, bundle and container together."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ambi_rl.codec.alpha import decode_alpha, encode_alpha
from ambi_rl.codec.bundle import Bundle, default_bundle, find_bundle, load_bundle
from ambi_rl.codec.color import strips
from ambi_rl.codec.container import (
    MAX_PIXELS,
    Colour,
    Container,
    Restoration,
    Section,
    crc_of_planes,
    read_container,
    write_container,
)
from ambi_rl.codec.frame import EncodedFrame, Planes, decode_frame, encode_frame
from ambi_rl.codec.image_io import (
    Raster,
    image_from_raster,
    metadata_of_container,
    raster_from_image,
)
from ambi_rl.codec.quality import step_from_quality
from ambi_rl.codec.restoration import best_strength, restore
from ambi_rl.codec.strategists import Strategist, by_name, for_effort
from ambi_rl.codec.tiles import TileGrid, decode_tiles, encode_tiles, grid_for
from ambi_rl.codec.warmup import announce, ensure_compiled
from ambi_rl.errors import BundleError, CorruptFileError

BundleLike = Bundle | str | os.PathLike[str]
DEFAULT_QUALITY = 75.0


@dataclass(frozen=True)
class Prepared:
    """A picture ready to be coded any number of times: what does not depend on the quality.

    Attributes:
        raster: Its planes, alpha and (what is kept of its) metadata.
        sections: Payloads of everything but the picture itself.
    """

    raster: Raster
    sections: Mapping[Section, bytes]

    def grid(self, *, tiles: bool) -> TileGrid | None:
        """How the picture is divided, if it is large enough and `tiles` says so; None for not at all."""
        return grid_for(*self.raster.planes.shape[1:]) if tiles else None


@dataclass(frozen=True)
class EncodedImage:
    """Result of `encode_image`.

    Attributes:
        data: The file.
        container: What it says.
        frame: The coded planes: decisions, cost and reconstruction.
        source: The picture as it was given to the coder.
        strategist: Who decided.
        bundle: What it was coded with.
    """

    data: bytes
    container: Container
    frame: EncodedFrame
    source: Raster
    strategist: Strategist
    bundle: Bundle

    def decoded(self) -> Image.Image:
        """The picture that a decoder will return, from the encoder's own reconstruction."""
        planes = restored(self.frame.planes, self.container, self.bundle)
        return image_from_raster(Raster(planes, self.source.alpha, self.source.metadata))

    def psnr(self) -> float:
        """PSNR of what a decoder will return, in dB over its 8-bit gray or RGB samples; inf if equal.

        Alpha is left out: it is coded without loss.
        """
        source = self.source.planes
        decoded = restored(self.frame.planes, self.container, self.bundle)
        # Of whole pictures the samples as integers would take many times what the coder itself does. The
        # sums are exact, so nothing depends on how many rows there are in a strip.
        total = sum(
            _squared_error(source[:, rows], decoded[:, rows]) for rows in strips(*source.shape[1:])
        )
        error = total / source.size
        return math.inf if error == 0 else 10 * math.log10(255 * 255 / error)


def _squared_error(source: Planes, decoded: Planes) -> int:
    """Sum over the 8-bit gray or RGB samples of two pictures' planes, int16 [P, H, W]."""
    first, second = (
        np.asarray(image_from_raster(Raster(planes)), np.int32) for planes in (source, decoded)
    )
    return int(np.square(first - second).sum(dtype=np.int64))


def resolve_bundle(bundle: BundleLike | None) -> Bundle:
    """Turn what a caller may give as a bundle (a path, a bundle, None for the default) into one."""
    if bundle is None:
        return default_bundle()
    return bundle if isinstance(bundle, Bundle) else load_bundle(bundle)


def resolve_strategist(
    strategist: Strategist | str | None, effort: int, bundle: Bundle
) -> Strategist:
    """The strategist that is named, or the one that `effort` stands for with this bundle."""
    if strategist is None:
        return for_effort(effort, policy=bool(bundle.policy))
    return strategist if isinstance(strategist, Strategist) else by_name(strategist)


def choose_restoration(
    wanted: bool | None, frame: EncodedFrame, source: Planes, step: int, bundle: Bundle, weigh: bool
) -> Restoration:
    """Decide how a picture will be filtered after decoding.

    Args:
        wanted: True or False as the caller wishes; None for yes if the bundle can.
        frame: The coded picture.
        source: int16 [P, H, W], what was coded.
        step: Quantizer step in 1/64 of an 8-bit code value.
        bundle: With or without restoration.
        weigh: Find the strength of least squared error instead of taking the full one.

    Raises:
        BundleError: It is wanted and the bundle has none.
    """
    if wanted and not bundle.restoration:
        raise BundleError(
            "the bundle holds no restoration; leave it to the bundle, or use one that has it"
        )
    if wanted is False or not bundle.restoration:
        return Restoration.OFF
    if not weigh:
        return Restoration.FULL
    choices = {kind.strength: kind for kind in Restoration}
    return choices[best_strength(source, frame.planes, step, bundle.restoration, list(choices))]


def restored(planes: Planes, container: Container, bundle: Bundle) -> Planes:
    """The planes that are shown: decoded ones after the filter that the file asks for.

    Raises:
        CorruptFileError: The file asks for one and its bundle has none.
    """
    if container.restoration is Restoration.OFF:
        return planes
    if not bundle.restoration:
        raise CorruptFileError(
            "the header asks for restoration, which the file's bundle does not hold, so no encoder "
            "wrote it; encode the file again"
        )
    strength = container.restoration.strength
    return restore(planes, container.step, bundle.restoration, strength)


def prepare_image(image: Image.Image, *, strip: bool = False) -> Prepared:
    """Read a picture and code what does not depend on the quality: alpha and metadata.

    Args:
        image: As for `ambi_rl.encode`.
        strip: Leave out ICC profile, EXIF and XMP.

    Raises:
        UnsupportedImageError: see `raster_from_image`.
        ImageTooLargeError: see `raster_from_image`.
        CorruptFileError: see `raster_from_image`.
    """
    raster = raster_from_image(image)
    metadata = raster.metadata.stripped() if strip else raster.metadata
    sections = {
        Section.ICC: metadata.icc,
        Section.EXIF: metadata.exif,
        Section.XMP: metadata.xmp,
        Section.ALPHA: None if raster.alpha is None else encode_alpha(raster.alpha),
    }
    return Prepared(
        Raster(raster.planes, raster.alpha, metadata),
        {kind: payload for kind, payload in sections.items() if payload is not None},
    )


def encode_prepared(
    prepared: Prepared,
    *,
    quality: float,
    bundle: Bundle,
    strategist: Strategist,
    restoration: bool | None = None,
    grid: TileGrid | None = None,
) -> EncodedImage:
    """Code a prepared picture as a file.

    Args:
        prepared: The picture.
        quality: 1…100 in hundredths.
        bundle: The codec bundle.
        strategist: Who decides.
        restoration: See `choose_restoration`.
        grid: The tiles to divide it into (see `Prepared.grid`), or None.

    Raises:
        UsageError: The quality is not a number from 1 to 100.
        BundleError: The bundle holds no policy and the strategist needs one, or no restoration and it is
            wanted.
    """
    step = step_from_quality(quality)
    raster = prepared.raster
    if grid is None:
        kind, frame = Section.PICTURE, encode_frame(raster.planes, step, bundle, strategist)
    else:
        kind, frame = Section.TILES, encode_tiles(raster.planes, step, bundle, strategist, grid)
    filtering = choose_restoration(
        restoration, frame, raster.planes, step, bundle, strategist.weighs_restoration
    )
    planes, height, width = raster.planes.shape
    container = Container(
        width=width,
        height=height,
        colour=Colour.GRAY if planes == 1 else Colour.YCBCR,
        step=step,
        bundle_id=bundle.id,
        planes_crc=crc_of_planes(frame.planes),
        sections={**prepared.sections, kind: frame.payload},
        quality=quality,
        orientation=raster.metadata.orientation,
        restoration=filtering,
    )
    return EncodedImage(
        data=write_container(container),
        container=container,
        frame=frame,
        source=raster,
        strategist=strategist,
        bundle=bundle,
    )


def encode_image(
    image: Image.Image,
    *,
    quality: float = DEFAULT_QUALITY,
    effort: int = 5,
    bundle: BundleLike | None = None,
    strategist: Strategist | str | None = None,
    strip: bool = False,
    restoration: bool | None = None,
    tiles: bool = True,
) -> EncodedImage:
    """Encode a picture at a quality; arguments and errors as for `ambi_rl.encode`."""
    quality = round(quality, 2) if isinstance(quality, float) else quality
    step_from_quality(quality)  # What is out of range is refused before any work is done.
    codec = resolve_bundle(bundle)
    chosen = resolve_strategist(strategist, effort, codec)
    prepared = prepare_image(image, strip=strip)
    ensure_compiled("encode", report=announce)
    return encode_prepared(
        prepared,
        quality=quality,
        bundle=codec,
        strategist=chosen,
        restoration=restoration,
        grid=prepared.grid(tiles=tiles),
    )


def decode_container(container: Container, bundle: Bundle, *, restoration: bool = True) -> Raster:
    """Decode a parsed file with the bundle it was coded with.

    Args:
        container: The file.
        bundle: The one that its id names.
        restoration: Filter the picture if the file asks for it.

    Raises:
        CorruptFileError: the picture or alpha section is damaged, or the decoded planes are not the
            encoder's.
    """
    alpha = container.sections.get(Section.ALPHA)
    height, width = container.height, container.width
    # Alpha first: it is quick, and a damaged one spares the work on the picture.
    alpha_plane = None if alpha is None else decode_alpha(alpha, height, width)
    size = height, width, container.num_planes
    if (payload := container.sections.get(Section.PICTURE)) is not None:
        planes = decode_frame(payload, *size, container.step, bundle)
    else:
        planes = decode_tiles(container.sections[Section.TILES], *size, container.step, bundle)
    if crc_of_planes(planes) != container.planes_crc:
        raise CorruptFileError(
            "the decoded picture fails its checksum; fetch the file again, and if it still fails "
            "report it: it should decode the same everywhere"
        )
    if restoration:
        planes = restored(planes, container, bundle)
    return Raster(planes, alpha_plane, metadata_of_container(container))


def decode_image(
    data: bytes,
    *,
    bundle: BundleLike | None = None,
    max_pixels: int = MAX_PIXELS,
    restoration: bool = True,
) -> Image.Image:
    """Decode a file; arguments and errors as for `ambi_rl.decode`."""
    container = read_container(data, max_pixels=max_pixels)
    ensure_compiled("decode", report=announce)
    explicit = None if bundle is None else resolve_bundle(bundle)
    found = find_bundle(container.bundle_id, explicit)
    return image_from_raster(decode_container(container, found, restoration=restoration))
