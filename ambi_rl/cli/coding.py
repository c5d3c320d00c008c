"""`ambi encode` and `ambi decode` of one file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ambi_rl.cli.streams import (
    STANDARD,
    check_output,
    print_result,
    read_input,
    write_output,
)
from ambi_rl.codec.api import DEFAULT_QUALITY, resolve_bundle
from ambi_rl.codec.container import MAX_PIXELS
from ambi_rl.codec.image_io import format_of_suffix
from ambi_rl.codec.target import Attempt, Target, make_target, parse_size
from ambi_rl.codec.threads import limit_threads
from ambi_rl.codec.warmup import announce
from ambi_rl.corpus.coding import (
    DecodeSettings,
    EncodeSettings,
    decode_bytes,
    decode_details,
    decode_text,
    encode_bytes,
    encode_details,
    encode_text,
)
from ambi_rl.corpus.plan import PICTURE_SUFFIXES
from ambi_rl.errors import UsageError


def _shown(name: str, standard: str) -> str:
    return standard if name == STANDARD else name


def _progress(target: Target) -> Callable[[Attempt], None]:
    """Tells on a terminal how the search for a target comes on."""
    count = 0

    def report(attempt: Attempt) -> None:
        nonlocal count
        count += 1
        psnr = "" if attempt.psnr is None else f", {attempt.psnr:.2f} dB"
        if sys.stderr.isatty():
            announce(
                f"target {target}, encode {count}: quality {attempt.quality:g}: "
                f"{attempt.size:,} bytes{psnr}"
            )

    return report


def encode_settings(
    *,
    quality: float | None,
    target_size: str | None,
    target_bpp: float | None,
    target_psnr: float | None,
    effort: int,
    bundle: Path | None,
    strategist: str | None,
    strip: bool,
    restoration: bool,
    tiles: bool,
) -> EncodeSettings:
    """What the options of `ambi encode` ask for.

    Args:
        quality: 1…100; the default quality if None and there is no target.
        target_size: Bytes that a file may have, with or without a unit.
        target_bpp: Bits per pixel that a file may have.
        target_psnr: PSNR in dB that a decoded picture should reach.
        effort: 0…9.
        bundle: Bundle file; the default bundle if None.
        strategist: Name of a strategist; the effort's if None.
        strip: Leave out ICC, EXIF and XMP.
        restoration: Have the picture filtered after decoding if the bundle can.
        tiles: Divide a large picture.

    Raises:
        UsageError: Options exclude each other or are out of range.
        BundleError: The bundle cannot be used.
    """
    target = make_target(
        quality=quality,
        size=None if target_size is None else parse_size(target_size),
        bpp=target_bpp,
        psnr=target_psnr,
    )
    return EncodeSettings(
        bundle=resolve_bundle(bundle),
        quality=DEFAULT_QUALITY if quality is None else quality,
        target=target,
        effort=effort,
        strategist=strategist,
        strip=strip,
        restoration=restoration,
        tiles=tiles,
    )


def _check_no_picture(target: str) -> None:
    """Refuse to encode over a picture: a pattern that the shell made two names of looks like IN OUT.

    Raises:
        UsageError: There is a picture of that name.
    """
    path = Path(target)
    if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file():
        raise UsageError(
            f"{target} is a picture and would be overwritten; to encode several pictures, name a "
            "folder with -o"
        )


def encode_command(
    source: str,
    target: str,
    *,
    options: dict[str, Any],
    overwrite: bool,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Encode a picture file to an ambi file and say how it went.

    Args:
        source: Picture file, or `-`.
        target: File to write, or `-`.
        options: Arguments of `encode_settings`.
        overwrite: Replace an existing target.
        threads: That may work on the picture; None for as many as there are cores.
        as_json: Print the result as JSON.
        quiet: Print nothing else.
        verbose: Print what the file consists of.
    """
    if target != STANDARD:
        check_output(source, target, overwrite=overwrite)
        _check_no_picture(target)
    settings = replace(encode_settings(**options), measure=as_json or not quiet)
    data = read_input(source)
    limit_threads(threads)
    aim = settings.target
    report = (lambda attempt: None) if aim is None or quiet else _progress(aim)
    result = encode_bytes(data, _shown(source, "stdin"), settings, report)
    write_output(target, result.data, overwrite=overwrite)
    names = {"input": _shown(source, "stdin"), "output": _shown(target, "stdout")}
    facts = result.facts
    text = (
        f"{names['input']} {facts['width']}x{facts['height']} -> {names['output']}: "
        f"{encode_text(facts, to_target=aim is not None)}"
    )
    if verbose:
        text += f"\n{encode_details(facts)}"
    if as_json or not quiet:
        print_result(target, text, names | facts, as_json=as_json)


def decode_command(
    source: str,
    target: str,
    *,
    bundle: Path | None,
    max_pixels: int | None,
    restoration: bool,
    overwrite: bool,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Decode an ambi file to a picture file and say how it went.

    Args:
        source: ambi file, or `-`.
        target: Picture to write, its format by its ending, or `-` for PNG on stdout.
        bundle: Bundle file to try first.
        max_pixels: Refuse larger pictures; the format's limit if None.
        restoration: Filter the picture where the file asks for it.
        overwrite: Replace an existing target.
        threads: That may work on the picture; None for as many as there are cores.
        as_json: Print the result as JSON.
        quiet: Print nothing else.
        verbose: Print the picture's mode and metadata.
    """
    image_format = "PNG" if target == STANDARD else format_of_suffix(Path(target).suffix)
    check_output(source, target, overwrite=overwrite)
    settings = DecodeSettings(
        bundle=None if bundle is None else resolve_bundle(bundle),
        max_pixels=MAX_PIXELS if max_pixels is None else max_pixels,
        restoration=restoration,
        image_format=image_format,
    )
    data = read_input(source)
    limit_threads(threads)
    result = decode_bytes(data, settings)
    write_output(target, result.data, overwrite=overwrite)
    names = {"input": _shown(source, "stdin"), "output": _shown(target, "stdout")}
    text = f"{names['input']} -> {names['output']}: {decode_text(result.facts)}"
    if verbose:
        text += f"\n{decode_details(result.facts)}"
    if as_json or not quiet:
        print_result(target, text, names | result.facts, as_json=as_json)
