"""What a bundle trained for MS-SSIM saves against flat quantization and AVIF, and a crop where one sees it.

    python scripts/compare_structural.py PICTURES --tuned my.ambic
    python scripts/compare_structural.py PICTURES --tuned my.ambic --held-out --crop docs/images/ms_ssim.png

Flat is the default bundle at the same effort with every quantization offset neutral. Files are real, with
restoration; BD-rates are of dataset-mean curves, similarities in dB, and beside them the mean over pictures.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ambi_rl.bench.codecs import AmbiCodec, Codec, Tune, avif
from ambi_rl.bench.curves import Curve
from ambi_rl.bench.dataset import PointStore, dataset_curves, mean_curves, pictures
from ambi_rl.bench.results import Metric
from ambi_rl.codec.bundle import Bundle, default_bundle, save_bundle
from ambi_rl.codec.warmup import ensure_compiled
from ambi_rl.data import split_held_out
from ambi_rl.errors import AmbiError, UsageError
from ambi_rl.metrics import ssim_map
from ambi_rl.metrics.fidelity import Pixels

QUALITIES = (26.0, 38.0, 52.0, 66.0, 78.0, 88.0)
METRICS: tuple[Metric, ...] = ("ms_ssim", "ssim", "psnr")
CROP = (120, 200)
"""Rows and columns of the crop, which is shown at twice the size."""
CROP_QUALITY = 30.0
CAPTION = 22
_TUNES: tuple[Tune, ...] = ("ssim", "psnr")


def flat(bundle: Bundle) -> Bundle:
    """A bundle whose policy never chooses another than the neutral offset."""
    bias = bundle.policy["b2"].copy()
    offsets = bias[1 + len(bundle.strategies) :]
    offsets[np.arange(len(bundle.offsets)) != bundle.offsets.index(0)] = -1e6
    return replace(bundle, policy=bundle.policy | {"b2": bias})


def table(measured: Mapping[str, Sequence[Curve]], anchor: str) -> str:
    """BD-rates against one codec as Markdown: of mean curves, and in brackets the mean over pictures."""
    means = mean_curves(dict(measured))  # type: ignore[arg-type]
    lines = [f"| against {anchor} | " + " | ".join(METRICS) + " |", "|---" * 4 + "|"]
    for name, curves in measured.items():
        if name == anchor:
            continue
        cells = []
        for metric in METRICS:
            single = [
                curve.bd_rate(base, metric=metric)
                for curve, base in zip(curves, measured[anchor], strict=True)
            ]
            whole = means[name].bd_rate(means[anchor], metric=metric)
            error = np.std(single, ddof=1) / np.sqrt(len(single)) if len(single) > 1 else 0.0
            cells.append(f"{whole:+.1f} % ({np.mean(single):+.1f} ± {error:.1f} %)")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def of_equal_size(codec: AmbiCodec, image: Image.Image, size: int) -> tuple[bytes, float]:
    """The largest file of a codec that has at most `size` bytes, and its quality."""
    low, high = 1.0, 100.0
    best = codec.encode(image, low), low
    while high - low > 0.05:
        middle = (low + high) / 2
        data = codec.encode(image, middle)
        if len(data) <= size:
            low, best = middle, (data, middle)
        else:
            high = middle
    return best


def crop_figure(
    flat_codec: AmbiCodec, tuned: AmbiCodec, paths: Sequence[Path]
) -> tuple[Image.Image, str]:
    """Original, flat and tuned at equal bytes where SSIM gained most, and what they are."""
    best: tuple[float, list[Pixels], list[str], str] | None = None
    rows, cols = CROP
    for path in paths:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        if image.height < rows or image.width < cols:
            continue
        data = flat_codec.encode(image, CROP_QUALITY)
        other, quality = of_equal_size(tuned, image, len(data))
        original = np.asarray(image)
        decoded = [np.asarray(c.decode(d)) for c, d in ((flat_codec, data), (tuned, other))]
        before, after = (ssim_map(original, d).mean(axis=0) for d in decoded)
        gain = (after - before).cumsum(axis=0).cumsum(axis=1)
        inner = (rows - 10, cols - 10)
        sums = gain[inner[0] :, inner[1] :] + gain[: -inner[0], : -inner[1]]
        sums = sums - gain[inner[0] :, : -inner[1]] - gain[: -inner[0], inner[1] :]
        y, x = np.unravel_index(int(sums.argmax()), sums.shape)
        if best is None or sums.max() > best[0]:
            place = (slice(int(y), int(y) + rows), slice(int(x), int(x) + cols))
            crops = [pixels[place] for pixels in (original, *decoded)]
            captions = ["original", f"flat, {len(data):,} bytes", f"ms_ssim, {len(other):,} bytes"]
            means = before[place].mean(), after[place].mean()
            best = float(sums.max()), crops, captions, (
                f"{path.name}, row {y}, column {x}; qualities {CROP_QUALITY:g} and {quality:.2f}; "
                f"SSIM of the crop {means[0]:.3f} and {means[1]:.3f}"
            )  # fmt: skip
    if best is None:
        raise UsageError("no picture is large enough for a crop")
    _, crops, captions, said = best
    canvas = Image.new("RGB", (3 * 2 * cols + 16, 2 * rows + CAPTION), "white")
    draw = ImageDraw.Draw(canvas)
    for k, (pixels, caption) in enumerate(zip(crops, captions, strict=True)):
        tile = Image.fromarray(np.ascontiguousarray(pixels)).resize(
            (2 * cols, 2 * rows), Image.Resampling.NEAREST
        )
        left = k * (2 * cols + 8)
        canvas.paste(tile, (left, CAPTION))
        draw.text((left + 4, 4), caption, fill="black")
    return canvas, said


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of pictures")
    parser.add_argument("--tuned", type=Path, required=True, help="bundle trained for MS-SSIM")
    parser.add_argument("--effort", type=int, default=0)
    parser.add_argument("--held-out", action="store_true", help="only those never trained on")
    parser.add_argument("--every", type=int, default=1, help="take every n-th picture")
    parser.add_argument("--no-avif", action="store_true", help="leave AVIF out")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--cache", type=Path, help="file of JSON lines that remembers points")
    parser.add_argument("--crop", type=Path, help="write a crop here, as PNG")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    paths = pictures(arguments.folder)
    if arguments.held_out:
        _, paths = split_held_out(paths, 10)
    paths = paths[:: arguments.every]
    ensure_compiled("encode", lambda line: print(line, flush=True))
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "flat.ambic"
        save_bundle(flat(default_bundle()), bundle)
        ours = [
            AmbiCodec(name, name, QUALITIES, None, arguments.effort, path)
            for name, path in (("flat", bundle), ("tuned", arguments.tuned))
        ]
        codecs: list[Codec] = [*ours]
        if not arguments.no_avif:
            codecs += [replace(avif(tune=t), name=f"AVIF tune={t}") for t in _TUNES]
        measured = dataset_curves(
            codecs, paths, workers=arguments.jobs, store=PointStore(arguments.cache)
        )
        print(f"{len(paths)} pictures, effort {arguments.effort}\n")
        for anchor in ("flat", "AVIF tune=ssim") if not arguments.no_avif else ("flat",):
            print(table(measured, anchor), end="\n\n")
        if arguments.crop is not None:
            image, said = crop_figure(ours[0], ours[1], paths)
            image.save(arguments.crop, optimize=True)
            print(f"{arguments.crop}: {said}")


if __name__ == "__main__":
    try:
        main()
    except AmbiError as error:
        print(f"compare_structural: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
