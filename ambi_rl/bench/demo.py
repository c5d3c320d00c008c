"""The parts of `make demo` after training: measuring, comparing and drawing held-out photographs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ambi_rl.bench.codecs import AmbiCodec, Codec, jpeg, webp
from ambi_rl.bench.curves import Curve, mean_curve, measure, warm_up
from ambi_rl.bench.draw import Panel, draw_decisions, figure
from ambi_rl.codec.bundle import load_bundle
from ambi_rl.codec.frame import Decision
from ambi_rl.errors import AmbiError
from ambi_rl.metrics import psnr

QUALITIES = (25.0, 40.0, 60.0, 75.0, 85.0, 92.0)
"""What the demonstration encodes at."""
SHOWN_QUALITY = 40.0
"""What the figure shows: low enough for blocks to be large and differences to be visible."""

FIXED, POLICY, SEARCH = "fixed", "policy (-e 0)", "search (-e 9)"


@dataclass(frozen=True)
class Photograph:
    """A picture to compare codecs on."""

    name: str
    image: Image.Image


@dataclass(frozen=True)
class Summary:
    """Who saves how much on a set of photographs.

    Attributes:
        policy_vs_fixed: BD-rate of the policy against `fixed`, in percent; negative is less.
        search_vs_fixed: The same of exhaustive search.
        policy_vs_jpeg: BD-rate of the policy against optimized 4:2:0 JPEG.
        search_vs_jpeg: The same of exhaustive search.
        policy_seconds: Mean time to encode with the policy.
        search_seconds: Mean time to encode with search.
    """

    policy_vs_fixed: float
    search_vs_fixed: float
    policy_vs_jpeg: float
    search_vs_jpeg: float
    policy_seconds: float
    search_seconds: float

    @property
    def share(self) -> float:
        """Part of the distance from `fixed` to search that the policy covers, in percent."""
        return 100 * self.policy_vs_fixed / self.search_vs_fixed


def open_photographs(folder: Path, pattern: str = "held-out-*.webp") -> list[Photograph]:
    """The photographs of a folder whose names match, as RGB."""
    found = []
    for path in sorted(folder.glob(pattern)):
        with Image.open(path) as image:
            found.append(Photograph(path.stem, image.convert("RGB")))
    return found


def demo_codecs(bundle: Path) -> tuple[list[AmbiCodec], list[Codec]]:
    """What the demonstration compares: a bundle's three strategists, and the peers."""
    ours = [
        AmbiCodec(FIXED, "one block size, DC", QUALITIES, "fixed", 0, bundle),
        AmbiCodec(POLICY, "the policy alone", QUALITIES, None, 0, bundle),
        AmbiCodec(SEARCH, "search over everything", QUALITIES, None, 9, bundle),
    ]
    return ours, [jpeg(), webp()]


def compare(
    codecs: Sequence[Codec],
    photographs: Sequence[Photograph],
    *,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, list[Curve]]:
    """Measure codecs on photographs, one call at a time.

    Args:
        codecs: With distinct names.
        photographs: What to code.
        progress: Told what comes next, before each file.

    Returns:
        By codec name, one curve for each photograph.
    """
    results: dict[str, list[Curve]] = {}
    for codec in codecs:
        warm_up(codec)
        results[codec.name] = []
        for photo in photographs:
            points = []
            for setting in codec.settings:
                progress(f"{codec.name}, {photo.name}, quality {setting:g}")
                points.append(measure(codec, photo.image, setting))
            results[codec.name].append(Curve(codec.name, codec.description, tuple(points)))
    return results


def summarise(measured: Mapping[str, Sequence[Curve]], jpeg_name: str) -> Summary:
    """Compare the mean curves of what `compare` measured, over the PSNR range they have in common.

    Raises:
        UsageError: Two curves have no range in common.
    """
    mean = {name: mean_curve(curves) for name, curves in measured.items()}
    return Summary(
        policy_vs_fixed=mean[POLICY].bd_rate(mean[FIXED]),
        search_vs_fixed=mean[SEARCH].bd_rate(mean[FIXED]),
        policy_vs_jpeg=mean[POLICY].bd_rate(mean[jpeg_name]),
        search_vs_jpeg=mean[SEARCH].bd_rate(mean[jpeg_name]),
        policy_seconds=mean[POLICY].mean_seconds()[0],
        search_seconds=mean[SEARCH].mean_seconds()[0],
    )


def verify_elsewhere(codec: AmbiCodec, photo: Photograph, folder: Path) -> str:
    """Decode a file with `ambi decode` in another process, on one thread, and compare every sample.

    Args:
        codec: With a bundle.
        photo: What to encode, at the quality that the figure shows.
        folder: Where the two files are written and stay.

    Returns:
        A sentence that says what was done.

    Raises:
        AmbiError: The other process fails, or decodes something else.
    """
    encoded = codec.encode_verbosely(photo.image, SHOWN_QUALITY)
    source, target = folder / f"{photo.name}.ambi", folder / f"{photo.name}.png"
    source.write_bytes(encoded.data)
    target.unlink(missing_ok=True)
    command = [sys.executable, "-m", "ambi_rl.cli", "decode", str(source), str(target)]
    if codec.bundle is not None:
        command += ["-b", str(codec.bundle)]
    start = time.perf_counter()
    done = subprocess.run(
        command,
        env={**os.environ, "NUMBA_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise AmbiError(f"{source} does not decode in another process: {done.stderr.strip()}")
    with Image.open(target) as image:
        if not np.array_equal(np.asarray(image), np.asarray(encoded.decoded())):
            raise AmbiError(f"{target} is not what the encoder reconstructed; please report it")
    return (
        f"`ambi decode` in a fresh process returned the encoder's own {photo.image.width}x"
        f"{photo.image.height} pixels, all equal, in {seconds:.1f} s"
    )


def decision_figure(ours: Sequence[AmbiCodec], photo: Photograph) -> Image.Image:
    """Original, the policy's decode, and the block decisions of policy and search, in a grid.

    Args:
        ours: Codecs over one bundle; those named `POLICY` and `SEARCH` are drawn.
        photo: What to encode.
    """
    by_name = {codec.name: codec for codec in ours}
    panels = [Panel(f"{photo.name}: original", np.asarray(photo.image))]
    drawings = []
    for name in (POLICY, SEARCH):
        codec = by_name[name]
        encoded = codec.encode_verbosely(photo.image, SHOWN_QUALITY)
        decoded = np.asarray(codec.decode(encoded.data))
        bpp = len(encoded.data) * 8 / (photo.image.width * photo.image.height)
        told = f"{bpp:.3f} bit/pixel, {psnr(panels[0].pixels, decoded):.2f} dB"
        if name == POLICY:
            panels.append(Panel(f"decoded, {name}, quality {SHOWN_QUALITY:g}: {told}", decoded))
        drawings.append(_drawing(codec, decoded, encoded.frame.decisions, f"{name}: {told}"))
    return figure([*panels, *drawings], columns=2)


def _drawing(
    codec: AmbiCodec, decoded: np.ndarray, decisions: Sequence[Decision], told: str
) -> Panel:
    if codec.bundle is None:
        raise AmbiError("the figure needs a codec with a bundle file")
    bundle = load_bundle(codec.bundle)
    pixels = draw_decisions(decoded, decisions, bundle.strategies, bundle.offsets)
    return Panel(f"decisions, {told}, {len(decisions)} blocks", pixels)
