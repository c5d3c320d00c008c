"""Prints a table of variants of ambi on held-out photographs, each against JPEG and against the first one.

    python scripts/ablate.py PHOTOS --row 'effort 5: effort=5' --row 'effort 9: effort=9'
    python scripts/ablate.py PHOTOS --effort 0 --bundle a.ambic --bundle b.ambic

Photographs are those that training holds out of the same folder (`split_held_out`), cut to their centre;
sizes are of whole files. Curves are means over the photographs at fixed qualities, and each pair is compared
over all of the RGB-PSNR that it has in common.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from ambi_rl.bench.codecs import AmbiCodec, Codec, ambi_codec, jpeg
from ambi_rl.bench.curves import Curve, mean_curve, measure_curve, warm_up
from ambi_rl.bench.report import Rows, markdown
from ambi_rl.cli.guard import run_script
from ambi_rl.codec.strategists import SEARCHES, for_search
from ambi_rl.codec.warmup import ensure_compiled
from ambi_rl.data.source import list_photographs, read_photograph, split_held_out
from ambi_rl.errors import UsageError

CROP = (384, 256)
"""Width and height of what is cut out of the middle of a photograph."""
QUALITIES = (20, 32, 48, 64, 77, 86, 91)
"""Their mean PSNR on photographs spans about 29…42 dB."""


def _flag(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError(text)
    return text == "yes"


CODEC_KEYS: dict[str, Callable[[str], Any]] = {
    "effort": int,
    "strategist": str,
    "bundle": Path,
    "restoration": _flag,
}
"""What a row can set, arguments of `ambi_codec`, and how its text becomes a value."""
SEARCH_KEYS: dict[str, Callable[[str], Any]] = {
    "candidates": int,
    "transformed": int,
    "offset_span": int,
    "exact_chroma": _flag,
    "stop_empty": _flag,
    "fine": _flag,
}
"""Likewise fields of `Strategist`: they change the one that the row's effort stands for."""
KEYS = CODEC_KEYS | SEARCH_KEYS


def parse_row(text: str, effort: int) -> AmbiCodec:
    """The codec that `NAME: KEY=VALUE, …` describes.

    Args:
        text: Name and settings; there may be none.
        effort: Where the row names none.

    Raises:
        UsageError: There is no name, a setting is unknown or its value is not of its type.
    """
    name, _, listed = text.partition(":")
    name = name.strip()
    if not name:
        raise UsageError(f"--row {text!r} has no name; write 'NAME: KEY=VALUE, …'")
    options: dict[str, Any] = {"effort": effort}
    for setting in filter(None, map(str.strip, listed.split(","))):
        key, equals, value = (part.strip() for part in setting.partition("="))
        if key not in KEYS or not equals:
            raise UsageError(
                f"--row {name!r}: {setting!r} is not KEY=VALUE with a key of {', '.join(KEYS)}"
            )
        try:
            options[key] = KEYS[key](value)
        except ValueError:
            raise UsageError(f"--row {name!r}: {key} is {value!r}") from None
    changes = {key: options.pop(key) for key in list(options) if key in SEARCH_KEYS}
    codec = replace(ambi_codec(**options, qualities=QUALITIES), name=name)
    searches = codec.strategist is None and codec.effort in SEARCHES
    if changes and not searches:
        raise UsageError(f"--row {name!r}: {', '.join(changes)} change a search, effort 5…9")
    if not searches:
        return codec
    return replace(codec, strategist=replace(for_search(codec.effort), **changes))


def held_out_crops(folder: Path, every: int) -> list[Image.Image]:
    """The middle of each photograph that training with this folder holds out; smaller ones whole."""
    _, paths = split_held_out(list_photographs(folder), every)
    crops = []
    for path in paths:
        image = Image.fromarray(read_photograph(path))
        width, height = (min(side, limit) for side, limit in zip(image.size, CROP, strict=True))
        left, top = (image.width - width) // 2, (image.height - height) // 2
        crops.append(image.crop((left, top, left + width, top + height)))
    return crops


def measure_all(codecs: Sequence[Codec], crops: Sequence[Image.Image]) -> list[Curve]:
    """The mean curve of each codec; the codecs take turns, so that a busy machine slows all of them alike."""
    curves: list[list[Curve]] = [[] for _ in codecs]
    console = Console(stderr=True)
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("measuring", total=len(codecs) * len(crops))
        for codec in codecs:
            warm_up(codec)
        for crop in crops:
            for codec, measured in zip(codecs, curves, strict=True):
                measured.append(measure_curve(codec, crop, structural=False))
                bar.update(task, advance=1, description=codec.name)
    return [mean_curve(measured) for measured in curves]


def table(curves: Sequence[Curve]) -> Rows:
    """BD-rates and relative times.

    Args:
        curves: JPEG's, then the rows'.
    """
    anchor, first, *_ = curves
    headings = ["", f"BD-rate vs {anchor.name}", f"vs {first.name}", "encode time", "decode time"]
    encode, decode = first.mean_seconds()
    cells = []
    for curve in curves[1:]:
        seconds = curve.mean_seconds()
        cells.append(
            [
                curve.name,
                f"{curve.bd_rate(anchor):+.2f} %",
                "–" if curve is first else f"{curve.bd_rate(first):+.2f} %",
                f"{seconds[0] / encode:.2f}",
                f"{seconds[1] / decode:.2f}",
            ]
        )
    note = f"{first.name} takes {encode:.3f} s to encode and {decode:.3f} s to decode a photograph"
    return Rows(headings, cells, note)


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of photographs.")],
    row: Annotated[
        list[str] | None,
        typer.Option(
            "--row", help=f"'NAME: KEY=VALUE, …' with {', '.join(KEYS)}; may be repeated."
        ),
    ] = None,
    bundle: Annotated[
        list[Path] | None,
        typer.Option("--bundle", "-b", help="A row for this bundle; may be repeated."),
    ] = None,
    effort: Annotated[
        int, typer.Option("--effort", "-e", min=0, max=9, help="Where a row names none.")
    ] = 5,
    every: Annotated[
        int, typer.Option(min=2, help="Every n-th photograph is held out, as in training.")
    ] = 10,
) -> None:
    """Print a Markdown table of variants on held-out photographs.

    Rows for --bundle come first, then those of --row; without either there is one for the default bundle.
    """
    codecs = [
        replace(ambi_codec(effort=effort, bundle=path, qualities=QUALITIES), name=path.stem)
        for path in bundle or []
    ]
    codecs += [parse_row(text, effort) for text in row or []]
    if not codecs:
        codecs = [ambi_codec(effort=effort, qualities=QUALITIES)]
    names = [codec.name for codec in codecs]
    if len(set(names)) < len(names):
        raise UsageError(f"two rows have the same name: {', '.join(names)}; use --row to name them")
    crops = held_out_crops(folder, every)
    ensure_compiled("encode", lambda line: print(line, file=sys.stderr))
    curves = measure_all([jpeg(), *codecs], crops)
    print(
        markdown(
            table(curves),
            title=f"{len(crops)} held-out photographs, the middle {CROP[0]}x{CROP[1]}; mean curves, RGB-PSNR",
        )
    )


if __name__ == "__main__":
    run_script(main, "ablate")
