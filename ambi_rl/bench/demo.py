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
from rich import box
from rich.table import Table

from ambi_rl.bench.codecs import AmbiCodec, Codec, jpeg, webp
from ambi_rl.bench.curves import Curve, mean_curve, measure, warm_up
from ambi_rl.bench.draw import Panel, draw_decisions, figure
from ambi_rl.codec.bundle import load_bundle
from ambi_rl.codec.frame import Decision
from ambi_rl.errors import AmbiError, UsageError
from ambi_rl.metrics import psnr

QUALITIES = (25.0, 40.0, 60.0, 75.0, 85.0, 92.0)
"""What the demonstration encodes at."""
SHOWN_QUALITY = 40.0
"""What the figure shows: low enough for blocks to be large and differences to be visible."""

FIXED, POLICY, SEARCH = "fixed", "policy", "search"
"""Names of the curves: one block size; the policy alone; search over everything."""


@dataclass(frozen=True)
class Photograph:
    """A picture to compare codecs on."""

    name: str
    image: Image.Image


@dataclass(frozen=True)
class Summary:
    """Who saves how much on a set of photographs.

    Attributes:
        bd_rates: For `FIXED`, `POLICY` and `SEARCH`, the BD-rate in percent against each other curve by name;
            negative is less, None where the curves have no PSNR in common.
        encode_seconds: For the same three, the mean time to encode a photograph.
    """

    bd_rates: Mapping[str, Mapping[str, float | None]]
    encode_seconds: Mapping[str, float]

    @property
    def share(self) -> float | None:
        """Part of the distance from `fixed` to search that the policy covers, in percent, if it is known."""
        policy, search = (self.bd_rates[name][FIXED] for name in (POLICY, SEARCH))
        return None if policy is None or not search else 100 * policy / search

    @property
    def speed_up(self) -> float:
        """How many times as fast as search the policy encodes."""
        return self.encode_seconds[SEARCH] / self.encode_seconds[POLICY]

    def table(self, title: str) -> Table:
        """The summary for a terminal of 80 columns."""
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("")
        anchors = list(self.bd_rates[POLICY])
        for anchor in anchors:
            table.add_column(f"vs {anchor}", justify="right")
        table.add_column("encode s", justify="right")
        for name, deltas in self.bd_rates.items():
            cells = [
                "–" if deltas[anchor] is None else f"{deltas[anchor]:+.1f} %" for anchor in anchors
            ]
            table.add_row(name, *cells, f"{self.encode_seconds[name]:.3f}")
        return table


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
                points.append(measure(codec, photo.image, setting, structural=False))
            results[codec.name].append(Curve(codec.name, codec.description, tuple(points)))
    return results


def summarise(measured: Mapping[str, Sequence[Curve]]) -> Summary:
    """Compare mean curves, each pair over all of the PSNR range that it has in common.

    Args:
        measured: What `compare` returned for `demo_codecs`.
    """
    mean = {name: mean_curve(curves) for name, curves in measured.items()}
    ours = (FIXED, POLICY, SEARCH)
    anchors = [name for name in mean if name not in (POLICY, SEARCH)]
    return Summary(
        bd_rates={name: {a: _bd_rate(mean[name], mean[a]) for a in anchors} for name in ours},
        encode_seconds={name: mean[name].mean_seconds()[0] for name in ours},
    )


def _bd_rate(curve: Curve, anchor: Curve) -> float | None:
    try:
        return curve.bd_rate(anchor)
    except UsageError:
        # On a picture of saturated colours, formats with halved chroma never reach a high PSNR.
        return None


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
        env={**os.environ, "AMBI_THREADS": "1"},
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
    return Panel(f"decisions of {told}, {len(decisions)} blocks", pixels)
