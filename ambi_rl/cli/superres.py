"""`ambi encode`, `decode` and `info` for the profile "superres": pictures, one or many."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

from ambi_rl.cli.arguments import WRITTEN_SUFFIXES, OneFile, check_options, sort_out
from ambi_rl.cli.one_file import decode_file, encode_file
from ambi_rl.cli.profiles import Request
from ambi_rl.codec.container import MAX_PIXELS
from ambi_rl.corpus.run import Manner
from ambi_rl.corpus.settings import Result, open_picture, sizes_text, written_picture
from ambi_rl.superres.bundle import SuperresBundle, find_bundle, load_bundle, parse_bundle
from ambi_rl.superres.codec import (
    DEFAULT_BASE,
    DEFAULT_QUALITY,
    EncodedPicture,
    decode_picture,
    encode_picture,
)
from ambi_rl.superres.stream import STREAM_VERSION, Stream, is_stream, read_stream

ENCODE_OPTIONS = (
    "quality",
    "base",
    "strip",
    "jobs",
    "full_names",
    "dry_run",
    "manifest",
    "verify",
)
DECODE_OPTIONS = ("max_pixels", "jobs", "suffix", "dry_run")


@dataclass(frozen=True)
class PictureEncoding:
    """How pictures are encoded; an `Encoding`.

    Attributes:
        bundle: The codec bundle.
        base: Format of the base layer.
        quality: Of the base layer, 1…100.
        strip: Leave out ICC, EXIF and XMP.
        measure: Decode and compute the PSNR; without, it is None among the facts.
    """

    bundle: SuperresBundle = field(repr=False)
    base: str
    quality: float
    strip: bool
    measure: bool

    def facts(self) -> dict[str, Any]:
        """See `Encoding`."""
        return {
            "bundle_id": self.bundle.id,
            "base": self.base,
            "quality": self.quality,
            "strip": self.strip,
        }

    def prepare(self) -> None:
        """See `Encoding`; the block codec's kernels are compiled if it codes the base layer."""
        if self.base == "ambi":
            from ambi_rl.codec.warmup import announce, ensure_compiled

            ensure_compiled("encode", report=announce)

    def encode(self, data: bytes, name: str) -> Result:
        """See `Encoding`."""
        image = open_picture(data, name)
        start = time.perf_counter()
        encoded = encode_picture(
            image, self.bundle, base=self.base, quality=self.quality, strip=self.strip
        )
        facts = {"input_bytes": len(data), "seconds": round(time.perf_counter() - start, 3)}
        facts |= _stream_facts(encoded.data, encoded.stream)
        return Result(encoded.data, facts | {"quality": self.quality, "psnr": self._psnr(encoded)})

    def _psnr(self, encoded: EncodedPicture) -> float | None:
        psnr = encoded.psnr() if self.measure else math.inf
        return round(psnr, 3) if math.isfinite(psnr) else None

    def text(self, facts: dict[str, Any]) -> str:
        """See `Encoding`."""
        psnr = "" if facts["psnr"] is None else f"PSNR {facts['psnr']:.2f} dB, "
        return f"{facts['bytes']:,} bytes, {facts['bpp']:.3f} bpp, {psnr}{facts['seconds']:.2f} s"

    def details(self, facts: dict[str, Any]) -> str:
        """See `Encoding`."""
        return (
            f"base layer {facts['base']}, quality {facts['quality']:g}, shrunk by {self.bundle.scale}, "
            f"bundle {facts['bundle_id']}\nsections (bytes): {sizes_text(facts['sections'])}"
        )


@dataclass(frozen=True)
class PictureDecoding:
    """How files are decoded; a `Decoding`.

    Attributes:
        bundle: Tried first; AMBI_BUNDLES follows.
        max_pixels: Refuse larger pictures.
        image_format: Pillow's name of the format to write.
    """

    bundle: SuperresBundle | None = field(repr=False)
    max_pixels: int
    image_format: str
    _found: dict[str, SuperresBundle] = field(default_factory=dict, repr=False)

    def prepare(self) -> None:
        """See `Decoding`; nothing has to be done."""

    def decode(self, data: bytes) -> Result:
        """See `Decoding`."""
        bundle_id = read_stream(data, max_pixels=self.max_pixels).bundle_id
        # Kept: loading one takes longer than decoding a small picture.
        bundle = self._found.get(bundle_id) or find_bundle(bundle_id, self.bundle)
        self._found[bundle_id] = bundle
        return written_picture(
            lambda: decode_picture(data, bundle, max_pixels=self.max_pixels), self.image_format
        )


def encode_command(request: Request) -> None:
    """Encode a picture, or many, and say how it went.

    Raises:
        AmbiError: The pictures, the bundle or the target cannot be used.
    """
    files = sort_out(request.inputs, request.output, (".ambi",))
    check_options(
        files,
        {
            "--full-names": request.full_names,
            "--dry-run": request.dry_run,
            "--manifest": request.manifest,
            "--ray": None,
        },
        needs_manifest={"--verify": request.verify},
        quiet=request.quiet,
        verbose=request.verbose,
    )

    def settings() -> PictureEncoding:
        assert request.bundle is not None
        return PictureEncoding(
            load_bundle(request.bundle),
            base=request.base or DEFAULT_BASE,
            quality=DEFAULT_QUALITY if request.quality is None else request.quality,
            strip=request.strip,
            # It runs the network, which takes many times what encoding does.
            measure=request.as_json or request.verbose,
        )

    if isinstance(files, OneFile):
        encode_file(
            *files,
            settings,
            overwrite=request.overwrite,
            threads=request.jobs,
            as_json=request.as_json,
            quiet=request.quiet,
            verbose=request.verbose,
        )
        return
    from ambi_rl.cli.folders import encode_folder

    encode_folder(
        files,
        settings,
        manner=Manner(
            jobs=request.jobs,
            overwrite=request.overwrite,
            manifest=request.manifest,
            verify=request.verify,
        ),
        bundle=request.bundle,
        full_names=request.full_names,
        dry_run=request.dry_run,
        as_json=request.as_json,
        quiet=request.quiet,
        verbose=request.verbose,
    )


def decode_command(request: Request) -> None:
    """Decode a file, or many, to pictures and say how it went.

    Raises:
        AmbiError: The files, the bundle or the target cannot be used.
    """
    files = sort_out(request.inputs, request.output, WRITTEN_SUFFIXES)
    of_folders = {"--format": request.suffix, "--dry-run": request.dry_run}
    check_options(files, of_folders, quiet=request.quiet, verbose=request.verbose)

    def settings(image_format: str) -> PictureDecoding:
        return PictureDecoding(
            None if request.bundle is None else load_bundle(request.bundle),
            max_pixels=MAX_PIXELS if request.max_pixels is None else request.max_pixels,
            image_format=image_format,
        )

    if isinstance(files, OneFile):
        decode_file(
            *files,
            settings,
            overwrite=request.overwrite,
            threads=request.jobs,
            as_json=request.as_json,
            quiet=request.quiet,
            verbose=request.verbose,
        )
        return
    from ambi_rl.cli.folders import decode_folder

    decode_folder(
        files,
        settings,
        suffix=request.suffix or "png",
        manner=Manner(jobs=request.jobs, overwrite=request.overwrite),
        dry_run=request.dry_run,
        as_json=request.as_json,
        quiet=request.quiet,
        verbose=request.verbose,
    )


def _stream_facts(data: bytes, stream: Stream) -> dict[str, Any]:
    chunks = {name: len(payload) for name, payload in stream.chunks().items()}
    return {
        "profile": "superres",
        "bytes": len(data),
        "width": stream.width,
        "height": stream.height,
        "bpp": round(8 * len(data) / (stream.width * stream.height), 4),
        "base": stream.base,
        "gray": stream.gray,
        "orientation": stream.metadata.orientation,
        "bundle_id": stream.bundle_id,
        "sections": {"base_layer": len(stream.base_layer)} | chunks,
    }


def _bundle_facts(data: bytes, bundle: SuperresBundle) -> dict[str, Any]:
    return {
        "kind": "bundle",
        "profile": "superres",
        "bytes": len(data),
        "bundle_id": bundle.id,
        "scale": bundle.scale,
        "radius": bundle.radius,
        "network_bytes": len(bundle.model),
        "manifest": bundle.manifest,
    }


def facts(data: bytes) -> dict[str, Any]:
    """What a file or a bundle says about itself; JSON types only.

    Raises:
        CorruptFileError: The file is truncated or damaged.
        BundleError: The bundle cannot be used.
        UnsupportedVersionError: It is of a newer version.
    """
    if is_stream(data):
        kind = {"kind": "file", "format_version": STREAM_VERSION}
        return kind | _stream_facts(data, read_stream(data))
    return _bundle_facts(data, parse_bundle(data))
