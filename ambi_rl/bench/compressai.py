"""Rate-distortion curves in CompressAI's JSON schema, in which published results are given."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ambi_rl.bench.results import CurveEntry
from ambi_rl.codec.files import read_file
from ambi_rl.errors import UsageError

# The first of each is what CompressAI writes today; the others are of its older files.
_KEYS = {
    "psnr": ("psnr-rgb", "psnr"),
    "psnr_luma": ("psnr-y",),
    "ssim": ("ssim-rgb", "ssim"),
    "ms_ssim": ("ms-ssim-rgb", "ms-ssim", "msssim"),
    "encode_seconds": ("encoding_time",),
    "decode_seconds": ("decoding_time",),
    "setting": ("setting",),
}


def read_curve(path: Path) -> CurveEntry:
    """Read a curve, `{"name": …, "description": …, "results": {"bpp": […], "psnr-rgb": […], …}}`.

    Similarities over 1 are taken for dB, −10·log10(1 − x), and turned back.

    Raises:
        UsageError: The file is missing or is none of the schema.
    """
    try:
        document = json.loads(read_file(path))
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    results = document.get("results") if isinstance(document, dict) else None
    if not isinstance(results, dict) or "bpp" not in results:
        raise UsageError(
            f"{path} is not in CompressAI's schema, "
            '{"name": …, "results": {"bpp": […], "psnr-rgb": […]}}'
        )
    rates = _numbers(path, "bpp", results["bpp"])
    if len(rates) < 2 or min(rates) <= 0:
        raise UsageError(f"{path}: a curve needs two rates or more, all positive")
    order = sorted(range(len(rates)), key=rates.__getitem__)
    columns = {
        field: tuple(values[i] for i in order)
        for field in _KEYS
        if (values := _column(path, field, results, len(rates)))
    }
    if not columns.keys() & {"psnr", "psnr_luma", "ssim", "ms_ssim"}:
        has = ", ".join(results)
        raise UsageError(f"{path} has no metric that is known here, such as psnr-rgb; it has {has}")
    return CurveEntry(
        str(document.get("name") or path.stem),
        str(document.get("description") or ""),
        str(path),
        tuple(rates[i] for i in order),
        **columns,
    )


def curve_document(curve: CurveEntry) -> dict[str, Any]:
    """A curve in the schema.

    Left out are values that were not measured, and points at which one is infinite, as of equal pictures.
    """
    named = {keys[0]: getattr(curve, field) for field, keys in _KEYS.items()}
    kept = [
        i
        for i in range(len(curve.bpp))
        if all(math.isfinite(values[i]) for values in named.values() if values)
    ]
    columns = {key: [values[i] for i in kept] if values else [] for key, values in named.items()}
    results = {"bpp": [curve.bpp[i] for i in kept], **{key: v for key, v in columns.items() if v}}
    return {"name": curve.name, "description": curve.description, "results": results}


def _column(path: Path, field: str, results: Mapping[str, Any], count: int) -> list[float]:
    """The values of a field, or none."""
    key = next((key for key in _KEYS[field] if key in results), None)
    if key is None or not results[key]:
        return []
    values = _numbers(path, key, results[key])
    if len(values) != count:
        raise UsageError(f"{path}: {key} has {len(values)} values, bpp has {count}")
    if field in ("ssim", "ms_ssim") and max(values) > 1:
        return [1 - 10 ** (-value / 10) for value in values]
    return values


def _numbers(path: Path, key: str, values: Any) -> list[float]:
    is_list = isinstance(values, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )
    if not is_list:
        raise UsageError(f"{path}: {key} is not a list of numbers")
    return [float(v) for v in values]
