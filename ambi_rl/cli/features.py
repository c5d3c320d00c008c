"""`ambi encode`, `decode` and `info` for the profile "features": frames of a game as one stream."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import typer

from ambi_rl.cli.frames import (
    WRITTEN_SUFFIXES,
    Picture,
    check_folder,
    frames_to_bytes,
    is_folder,
    read_frames,
    write_folder,
)
from ambi_rl.cli.profiles import Request
from ambi_rl.cli.streams import STANDARD, check_output, print_result, read_input, write_output
from ambi_rl.codec.container import MAX_PIXELS
from ambi_rl.corpus.plan import PICTURE_SUFFIXES
from ambi_rl.errors import UsageError
from ambi_rl.neural.bundle import FeatureBundle, find_bundle, load_bundle, parse_bundle
from ambi_rl.neural.feature_codec import FeatureCodec
from ambi_rl.neural.networks import FRAME_SIDE
from ambi_rl.neural.stream import STREAM_VERSION, StreamReader, is_stream

ENCODE_OPTIONS: tuple[str, ...] = ()
DECODE_OPTIONS = ("max_pixels",)


class _Counter(Protocol):
    def __call__(self, done: int) -> None: ...


@contextmanager
def _counting(what: str, total: int | None, *, quiet: bool) -> Iterator[_Counter]:
    """Counts frames on a terminal, elsewhere nothing."""
    if quiet or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


def _shown(name: str, standard: str) -> str:
    return standard if name == STANDARD else name


def _sources_and_target(request: Request, *, most: int | None) -> tuple[list[str], str]:
    """What is read and what is written.

    Args:
        request: Of the command line.
        most: Sources that there may be.

    Raises:
        BadParameter: Something is missing; Typer shows the usage.
    """
    names = request.inputs
    if request.output is not None:
        sources, target = names, request.output
    else:
        sources, target = names[:-1], names[-1]
    if not sources:
        raise typer.BadParameter(f"{target} has no target; name one (IN OUT, or IN -o OUT)")
    if len(sources) > (1 if request.output is None else most or len(sources)):
        hint = "; to code several as one stream, name the target with -o" if most is None else ""
        raise typer.BadParameter(f"{len(sources)} names before the target{hint}")
    return sources, target


def _check_encode_target(sources: list[str], target: str, *, overwrite: bool) -> None:
    """Refuse a target before any work is done.

    Raises:
        UsageError: It cannot be written, or is most likely a frame.
    """
    if target == STANDARD:
        return
    for source in sources:
        check_output(source, target, overwrite=overwrite)
    if Path(target).suffix.lower() in PICTURE_SUFFIXES and Path(target).is_file():
        raise UsageError(
            f"{target} is a picture and would be overwritten; to encode several pictures, name the "
            "target with -o"
        )


def encode_command(request: Request) -> None:
    """Encode frames to a stream and say how it went.

    Raises:
        AmbiError: The frames, the bundle or the target cannot be used.
    """
    sources, target = _sources_and_target(request, most=None)
    if STANDARD in sources:
        raise UsageError("frames are not read from stdin; name a folder, pictures, .npy or .npz")
    _check_encode_target(sources, target, overwrite=request.overwrite)
    assert request.bundle is not None
    codec = FeatureCodec(load_bundle(request.bundle))
    with _counting("reading", None, quiet=request.quiet) as count:
        frames = read_frames(sources, FRAME_SIDE, count)
    with _counting("encoding", len(frames), quiet=request.quiet) as count:
        data = codec.encode(frames, progress=count)
    write_output(target, data, overwrite=request.overwrite)
    if request.quiet and not request.as_json:
        return
    values = {"input": sources[0] if len(sources) == 1 else sources}
    values |= {"output": _shown(target, "stdout")} | _stream_facts(data)
    if request.verbose or request.as_json:
        values |= _coding_facts(codec, data, frames)
    shown = sources[0] if len(sources) == 1 else f"{len(sources)} files"
    text = (
        f"{shown} -> {values['output']}: {len(frames)} frames, {len(data):,} bytes, "
        f"{values['bits_per_frame']:.1f} bits a frame, {values['bits_per_latent']:.3f} a latent"
    )
    if request.verbose:
        text += "\n" + _details(values)
    print_result(target, text, values, as_json=request.as_json)


def _coding_facts(codec: FeatureCodec, data: bytes, frames: Picture) -> dict[str, Any]:
    """What the tables would ideally take, and how near a decoder comes to the frames."""
    reader = StreamReader(io.BytesIO(data))
    ideal, error, done = 0.0, 0.0, 0
    for latents in reader.latents(codec.bundle.tables):
        ideal += float(codec.bundle.tables.bits(latents).sum()) / 8
        part = frames[done : done + len(latents)].astype(np.float64)
        error += float(((part - codec.reconstruct(latents)) ** 2).sum())
        done += len(latents)
    return {
        "ideal_bytes": round(ideal, 1),
        "overhead": round(len(data) / ideal - 1, 4) if ideal else None,
        "mse": round(error / frames.size, 2),
    }


def _details(values: dict[str, Any]) -> str:
    over = values["overhead"]
    return (
        f"  {values['packets']} packets, {values['payload_bytes']:,} bytes of payload; the tables' ideal "
        f"is {values['ideal_bytes']:,} bytes" + ("" if over is None else f" ({over:+.2%})") + "\n"
        f"  mean squared error of the decoded frames {values['mse']}, bundle {values['bundle_id']}"
    )


def _codec_of(data: bytes, bundle: Path | None) -> FeatureCodec:
    explicit = None if bundle is None else load_bundle(bundle)
    header = StreamReader(io.BytesIO(data)).header
    return FeatureCodec(find_bundle(header.bundle_id, explicit))


def _check_decode_target(source: str, target: str, request: Request) -> None:
    if target == STANDARD:
        return
    if not is_folder(target):
        check_output(source, target, overwrite=request.overwrite)
    elif request.output is None:
        raise UsageError(
            f"{target} is no file that frames are written to; end it in one of "
            f"{' '.join(WRITTEN_SUFFIXES)}, or name a folder with -o"
        )
    else:
        check_folder(Path(target), overwrite=request.overwrite)


def decode_command(request: Request) -> None:
    """Decode a stream to frames and say how it went.

    Raises:
        AmbiError: The stream, the bundle or the target cannot be used.
    """
    (source,), target = _sources_and_target(request, most=1)
    _check_decode_target(source, target, request)
    data = read_input(source)
    codec = _codec_of(data, request.bundle)
    limit = MAX_PIXELS if request.max_pixels is None else request.max_pixels
    total = StreamReader(io.BytesIO(data)).header.frames
    with _counting("decoding", total, quiet=request.quiet) as count:
        frames = codec.decode(data, max_pixels=limit, progress=count)
    if target != STANDARD and is_folder(target):
        with _counting("writing", len(frames), quiet=request.quiet) as count:
            write_folder(Path(target), frames, count)
    else:
        suffix = ".npy" if target == STANDARD else Path(target).suffix.lower()
        write_output(target, frames_to_bytes(frames, suffix), overwrite=request.overwrite)
    if request.quiet and not request.as_json:
        return
    values = {"input": _shown(source, "stdin"), "output": _shown(target, "stdout")}
    values |= _stream_facts(data)
    text = f"{values['input']} -> {values['output']}: {len(frames)} frames of {FRAME_SIDE}x{FRAME_SIDE}"
    if request.verbose:
        text += f"\n  {values['packets']} packets, bundle {values['bundle_id']}"
    print_result(target, text, values, as_json=request.as_json)


def _stream_facts(data: bytes) -> dict[str, Any]:
    reader = StreamReader(io.BytesIO(data))
    packets = list(reader.packets())
    reader.check_end()
    frames = sum(packet.frames for packet in packets)
    header = reader.header
    bits = 8 * len(data) / max(frames, 1)
    return {
        "kind": "stream",
        "profile": "features",
        "format_version": STREAM_VERSION,
        "bytes": len(data),
        "frames": frames,
        "width": header.frame_shape[1],
        "height": header.frame_shape[0],
        "latent": list(header.latent_shape),
        "packets": len(packets),
        "header_bytes": reader.header_size,
        "payload_bytes": sum(len(packet.payload) for packet in packets),
        "bits_per_frame": round(bits, 2),
        "bits_per_latent": round(bits / header.frame_values, 4),
        "bundle_id": header.bundle_id,
    }


def _bundle_facts(data: bytes, bundle: FeatureBundle) -> dict[str, Any]:
    return {
        "kind": "bundle",
        "profile": "features",
        "bytes": len(data),
        "bundle_id": bundle.id,
        "latent": list(bundle.latent_shape),
        "symbols": int(bundle.tables.lengths.sum()),
        "tensors": {
            name: [str(tensor.dtype), *tensor.shape]
            for name, tensor in sorted(bundle.named_tensors().items())
        },
        "manifest": bundle.manifest,
    }


def facts(data: bytes) -> dict[str, Any]:
    """What a stream or a bundle says about itself; JSON types only.

    Raises:
        CorruptFileError: The stream is truncated or damaged.
        BundleError: The bundle cannot be used.
        UnsupportedVersionError: It is of a newer version.
    """
    return _stream_facts(data) if is_stream(data) else _bundle_facts(data, parse_bundle(data))
