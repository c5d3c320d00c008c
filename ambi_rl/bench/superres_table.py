"""Generators compared with interpolation, with each other over seeds, and with formats at the same bytes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ambi_rl.bench.codecs import Codec
from ambi_rl.bench.dataset import file_hash, open_picture
from ambi_rl.bench.find_close import find_close
from ambi_rl.bench.superres_codecs import SuperresCodec, resampled, superres, superres_bundle
from ambi_rl.errors import UsageError
from ambi_rl.metrics import ms_ssim, ssim
from ambi_rl.metrics.fidelity import MS_SSIM_SIDE
from ambi_rl.superres.resample import FILTERS
from ambi_rl.superres.scores import PsnrScore, Score

METRICS = ("psnr", "ms_ssim", "ssim", "score")
"""What rows have, in the order of the tables."""
_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""97.5 % quantiles of Student's t with 1, 2, … degrees of freedom; for more, the last one is a bit wide."""
FORMATS = ("jpeg", "webp", "avif:chroma=420", "ambi:effort=5")
"""Selectors of what the same bytes are spent by."""
_PSNR = PsnrScore()


@dataclass(frozen=True)
class Row:
    """One picture coded once.

    Attributes:
        setting: Of the codec.
        bytes: Of the whole file.
        psnr: In dB, at most 68.1.
        ms_ssim: With all five scales; None below 176 pixels a side.
        ssim: At most 1.
        score: What was asked for.
        is_within: Whether the codec can make files as small as was asked for.
    """

    setting: float
    bytes: int
    psnr: float
    ms_ssim: float | None
    ssim: float
    score: float
    is_within: bool = True


class Method(NamedTuple):
    """A way of training, and what came of it with each seed."""

    name: str
    codecs: tuple[SuperresCodec, ...]


@dataclass(frozen=True)
class Request:
    """What is compared.

    Attributes:
        sets: Pictures by the name of their set.
        methods: With as many seeds each; those at one place are paired.
        formats: That spend the same bytes.
        qualities: Of the base layer.
        score: What the last column is.
        score_text: What it is in words, with all that it depends on.
        crop: Take the centre of each picture, at most so many pixels a side; None for whole ones.
    """

    sets: Mapping[str, Sequence[Path]]
    methods: Sequence[Method]
    formats: Sequence[Codec]
    qualities: Sequence[float]
    score: Score
    score_text: str
    crop: int | None = None


def make_methods(given: Mapping[str, Sequence[Path]], base: str) -> tuple[Method, ...]:
    """Methods of bundles, by name.

    Args:
        given: Files by the name of the method, those of the same seed at the same place.
        base: Format of the base layer.

    Raises:
        UsageError: There is none, or they differ in number or scale.
        AmbiError: A bundle cannot be used.
    """
    if not given or not all(given.values()):
        raise UsageError("name at least one method with at least one bundle")
    counts = {name: len(paths) for name, paths in given.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise UsageError(f"methods are paired by seed, but {told} bundles; give as many of each")
    methods = tuple(
        Method(name, tuple(superres(path, base=base) for path in paths))
        for name, paths in given.items()
    )
    scale_of(methods)
    return methods


def scale_of(methods: Sequence[Method]) -> int:
    """The scale that all bundles have.

    Raises:
        UsageError: They differ.
    """
    scales = {superres_bundle(codec.bundle).scale for method in methods for codec in method.codecs}
    if len(scales) > 1:
        raise UsageError(
            f"bundles enlarge by {' and '.join(map(str, sorted(scales)))}; compare those of one scale"
        )
    return scales.pop()


class RowStore:
    """Rows that were measured, one a line in a file, so that an interruption loses none.

    Args:
        path: Of JSON lines, made with the first row; None to remember nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._rows: dict[str, Row] = {}
        text = path.read_text() if path is not None and path.exists() else ""
        # A last line that was cut off is measured again.
        self._is_cut = bool(text) and not text.endswith("\n")
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                self._rows[entry["key"]] = Row(**entry["row"])
            except (ValueError, TypeError, KeyError):
                continue

    def once(self, facts: Sequence[object], measure: Callable[[], Row]) -> Row:
        """The row that is known for these facts, or what `measure` returns, which is then kept."""
        key = hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
        if key not in self._rows:
            row = self._rows[key] = measure()
            if self._path is not None:
                line = json.dumps({"key": key, "row": asdict(row)})
                with self._path.open("a") as file:
                    file.write("\n" * self._is_cut + line + "\n")
                self._is_cut = False
        return self._rows[key]


def measure_row(
    codec: Codec, image: Image.Image, setting: float, score: Score, *, is_within: bool = True
) -> Row:
    """Code an RGB picture and compare.

    Args:
        codec: What codes.
        image: RGB, at least 11 pixels a side.
        setting: Of the codec.
        score: What is the row's score.
        is_within: What the row says of it.
    """
    data = codec.encode(image, setting)
    original = np.asarray(image)
    copy = np.asarray(codec.decode(data))
    return Row(
        setting,
        len(data),
        _PSNR.mean(original, copy),
        ms_ssim(original, copy) if min(image.size) >= MS_SSIM_SIDE else None,
        ssim(original, copy),
        score.mean(original, copy),
        is_within,
    )


def row_at_bytes(codec: Codec, image: Image.Image, size: int, score: Score) -> Row:
    """The row of the setting whose file is closest to a size; see `measure_row`."""
    close = find_close(codec, image, "bpp", 8 * size / (image.width * image.height))
    return measure_row(codec, image, close.best.setting, score, is_within=close.is_within)


Rows = dict[str, list[list[Row]]]
"""By the name of a column: for each seed (one, if it has none) a row for each picture."""


def measure_all(
    request: Request, store: RowStore, report: Callable[[str], None] = lambda text: None
) -> dict[tuple[str, float], Rows]:
    """Measure everything that is asked for.

    Args:
        request: What.
        store: What is known of it.
        report: Called with a line before each picture.

    Returns:
        By set and quality.

    Raises:
        UsageError: Two columns have the same name.
        AmbiError: A picture, a bundle or a format cannot be used.
    """
    columns = [name.capitalize() for name in FILTERS]
    columns += [method.name for method in request.methods]
    columns += [codec.name for codec in request.formats]
    for name in columns:
        if columns.count(name) > 1:
            raise UsageError(f"two columns of the table are called {name!r}; rename one of them")
    found: dict[tuple[str, float], Rows] = {}
    for name, paths in request.sets.items():
        for number, path in enumerate(paths):
            report(f"{name} {number + 1}/{len(paths)}: {path.name}")
            image = open_picture(path, request.crop)
            for quality in request.qualities:
                rows = found.setdefault((name, quality), {})
                for column, seed, row in _picture_rows(request, store, path, image, quality):
                    seeds = rows.setdefault(column, [])
                    if seed == len(seeds):
                        seeds.append([])
                    seeds[seed].append(row)
    return found


def _picture_rows(
    request: Request, store: RowStore, path: Path, image: Image.Image, quality: float
) -> Iterator[tuple[str, int, Row]]:
    """Columns, seeds and rows of a picture."""
    known = (file_hash(path), request.crop, request.score_text)
    score = request.score

    def at(codec: Codec, setting: float) -> Row:
        facts = ("setting", *known, codec.identity(), setting)
        return store.once(facts, lambda: measure_row(codec, image, setting, score))

    def close(codec: Codec, size: int) -> Row:
        facts = ("bytes", *known, codec.identity(), size)
        return store.once(facts, lambda: row_at_bytes(codec, image, size, score))

    first = request.methods[0].codecs[0]
    for name in FILTERS:
        plain = resampled(scale=scale_of(request.methods), method=name, base=first.base)
        yield name.capitalize(), 0, at(plain, quality)
    for method in request.methods:
        for seed, network in enumerate(method.codecs):
            yield method.name, seed, at(network, quality)
    # All of them write files of one size.
    size = at(first, quality).bytes
    for codec in request.formats:
        yield codec.name, 0, close(codec, size)


class Estimate(NamedTuple):
    """A mean over seeds with half the width of its 95 % interval by Student's t; None of a single seed."""

    mean: float
    half_width: float | None


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and interval of what seeds have, at least one."""
    count = len(values)
    mean = float(np.mean(values))
    if count < 2:
        return Estimate(mean, None)
    quantile = _T_975[min(count - 1, len(_T_975)) - 1]
    return Estimate(mean, quantile * float(np.std(values, ddof=1)) / math.sqrt(count))


def _seed_means(seeds: Sequence[Sequence[Row]], metric: str) -> list[float] | None:
    """The mean over pictures, for each seed; None where a picture has no such value."""
    table = [[getattr(row, metric) for row in rows] for rows in seeds]
    if any(value is None for values in table for value in values):
        return None
    return [float(np.mean(values)) for values in table]


def summarize(request: Request, measured: Mapping[tuple[str, float], Rows]) -> dict[str, Any]:
    """Means, intervals and paired differences, and all they are made of; JSON types only.

    Returns:
        `request`, and `tables`, each with `set`, `quality`, `pictures` (names), `bpp` of the methods' files,
        `columns` and `differences`. A column has `name`, `kind` (interpolation, method or format), `rows`
        (by seed and picture), `bytes`, `out_of_reach` (pictures of which it cannot make so small files), and
        for each metric `mean`, `half_width` and `seeds`, or null. A difference has `name`, `minus` and
        the same of each metric, of differences between paired seeds.
    """
    first = request.methods[0].codecs[0]
    return {
        "request": {
            "methods": {m.name: [codec.description for codec in m.codecs] for m in request.methods},
            "formats": {codec.name: codec.description for codec in request.formats},
            "scale": scale_of(request.methods),
            "base": first.base,
            "score": request.score_text,
            "crop": request.crop,
        },
        "tables": [
            _table(request, name, quality, rows) for (name, quality), rows in measured.items()
        ],
    }


def _table(request: Request, name: str, quality: float, rows: Rows) -> dict[str, Any]:
    methods = [method.name for method in request.methods]
    kinds = dict.fromkeys(rows, "format")
    kinds |= dict.fromkeys([name.capitalize() for name in FILTERS], "interpolation")
    kinds |= dict.fromkeys(methods, "method")
    means = {
        column: {metric: _seed_means(seeds, metric) for metric in METRICS}
        for column, seeds in rows.items()
    }
    pixels = [math.prod(open_picture(path, request.crop).size) for path in request.sets[name]]
    sizes = [row.bytes for row in rows[methods[0]][0]]
    return {
        "set": name,
        "quality": quality,
        "pictures": [path.name for path in request.sets[name]],
        "bpp": float(
            np.mean([8 * size / count for size, count in zip(sizes, pixels, strict=True)])
        ),
        "columns": [
            {
                "name": column,
                "kind": kinds[column],
                "bytes": float(np.mean([row.bytes for row in seeds[0]])),
                "out_of_reach": sum(not row.is_within for row in seeds[0]),
                **{metric: _record(values) for metric, values in means[column].items()},
                "rows": [[asdict(row) for row in rows] for rows in seeds],
            }
            for column, seeds in rows.items()
        ],
        "differences": [
            {"name": b, "minus": a, **_differences(means[b], means[a])}
            for a, b in combinations(methods, 2)
        ],
    }


def _record(values: Sequence[float] | None) -> dict[str, Any] | None:
    return None if values is None else {**estimate(values)._asdict(), "seeds": list(values)}


def _differences(
    more: Mapping[str, list[float] | None], less: Mapping[str, list[float] | None]
) -> dict[str, Any]:
    found = {}
    for metric in METRICS:
        a, b = more[metric], less[metric]
        both = None if a is None or b is None else np.subtract(a, b).tolist()
        found[metric] = _record(both)
    return found


_TITLES = {"psnr": "PSNR, dB", "ms_ssim": "MS-SSIM", "ssim": "SSIM"}
_DIGITS = {"psnr": 2, "ms_ssim": 4, "ssim": 4}


def markdown_tables(summary: Mapping[str, Any]) -> str:
    """What `summarize` returned, as Markdown."""
    request = summary["request"]
    parts = []
    for table in summary["tables"]:
        count = len(table["pictures"])
        parts.append(
            f"### {table['set']}: {count} picture{'s' * (count > 1)} shrunk by {request['scale']}, "
            f"{request['base']} of quality {table['quality']:g}, {table['bpp']:.4f} bit/pixel\n"
        )
        parts.append(_columns_table(table, request["score"]))
        if table["differences"]:
            parts.append(_differences_table(table, request["score"]))
    parts.append(
        "Means over pictures. ± is half the width of the 95 % interval of the mean over seeds (Student's t)."
    )
    return "\n".join(parts) + "\n"


def _titles(score: str) -> list[str]:
    # PSNR and SSIM have their columns anyway.
    metrics = [metric for metric in METRICS if metric != "score"]
    return metrics if score in metrics else [*metrics, "score"]


def _head(first: Sequence[str], metrics: Sequence[str], score: str) -> list[str]:
    titles = [*first, *(_TITLES.get(metric, score) for metric in metrics)]
    return [f"| {' | '.join(titles)} |", "|---" + "|---:" * (len(titles) - 1) + "|"]


def _columns_table(table: Mapping[str, Any], score: str) -> str:
    metrics = _titles(score)
    lines = _head(["", "bytes"], metrics, score)
    for column in table["columns"]:
        beyond = column["out_of_reach"]
        note = f" ({beyond} out of reach)" if beyond else ""
        cells = [_cell(column[metric], metric) for metric in metrics]
        lines.append(f"| {column['name']} | {column['bytes']:,.0f}{note} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _differences_table(table: Mapping[str, Any], score: str) -> str:
    metrics = _titles(score)
    lines = _head(["difference"], metrics, score)
    for row in table["differences"]:
        cells = [_cell(row[metric], metric, "+") for metric in metrics]
        lines.append(f"| {row['name']} − {row['minus']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(record: Mapping[str, Any] | None, metric: str, sign: str = "") -> str:
    if record is None:
        return "—"
    digits = _DIGITS.get(metric, 4)
    text = f"{record['mean']:{sign}.{digits}f}".replace("-", "−")
    width = record["half_width"]
    return text if width is None else f"{text} ± {width:.{digits}f}"
