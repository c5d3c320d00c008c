r"""Draw crops of pictures at equal bytes: original, Lanczos, each method, and formats beside them.

    python scripts/superres_sheet.py photo.webp other.webp@200,80 --out sheet.png \
        --method SRResNet a.ambic --method SRGAN b.ambic --method RL-SRGAN c.ambic

A picture is shown in its middle, or from the corner x,y that follows its name after an @. Bytes and PSNR are
of the whole picture; a format that says "at least" cannot make so small files.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ambi_rl.bench.dataset import open_picture
from ambi_rl.bench.selector import make_codec, runs_kernels
from ambi_rl.bench.superres_sheet import Box, draw_sheet, make_panels, middle
from ambi_rl.bench.superres_table import FORMATS, make_methods
from ambi_rl.codec.files import check_target, write_file
from ambi_rl.codec.warmup import ensure_compiled
from ambi_rl.errors import AmbiError, UsageError, explain
from ambi_rl.superres.base_layer import BASES


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("pictures", nargs="+", metavar="PICTURE[@X,Y]")
    add("--method", nargs=2, action="append", required=True, metavar=("NAME", "BUNDLE"))
    add("--out", type=Path, required=True, help="PNG to write")
    add("--base", choices=BASES, default="jpeg", help="format of the base layer")
    add("--quality", type=float, default=50.0, help="of the base layer")
    add("--format", action="append", metavar="SELECTOR",
        help=f"as ambi bench has them (default {', '.join(FORMATS)})")  # fmt: skip
    add("--side", type=int, default=128, help="of a crop, in pixels")
    add("--zoom", type=int, default=2, help="pixels of the sheet for each of a picture")
    add("--columns", type=int, default=5, help="crops in a row")
    return parser.parse_args()


def parse_place(text: str) -> tuple[Path, tuple[int, int] | None]:
    """A picture, and the corner if one is named.

    Raises:
        UsageError: What follows the @ is no corner.
    """
    name, at, corner = text.rpartition("@")
    if not at:
        return Path(text), None
    numbers = corner.split(",")
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        raise UsageError(f"{text}: give the corner as x,y in pixels, such as photo.png@200,80")
    return Path(name), (int(numbers[0]), int(numbers[1]))


def main() -> None:
    """Draw the sheet."""
    arguments = _arguments()
    for option in ("side", "zoom", "columns"):
        if getattr(arguments, option) < 1:
            raise UsageError(f"--{option} is {getattr(arguments, option)}; give 1 or more")
    check_target(arguments.out)
    bundles = {name: [Path(path)] for name, path in arguments.method}
    if len(bundles) < len(arguments.method):
        raise UsageError("two methods have the same name; rename one of them")
    methods = make_methods(bundles, arguments.base)
    formats = [make_codec(selector) for selector in arguments.format or FORMATS]
    if any(runs_kernels(codec.selector) for codec in (*formats, methods[0].codecs[0])):
        ensure_compiled("encode", lambda line: print(line, file=sys.stderr, flush=True))
    rows = []
    for path, corner in map(parse_place, arguments.pictures):
        image = open_picture(path)
        side = arguments.side
        box = middle(image, side) if corner is None else Box(*corner, side)
        rows.append(list(make_panels(image, box, methods, formats, arguments.quality)))
    write_file(arguments.out, draw_sheet(rows, columns=arguments.columns, zoom=arguments.zoom))


if __name__ == "__main__":
    try:
        main()
    except (AmbiError, OSError) as error:
        message, code = explain(error)
        print(f"superres_sheet: {message}", file=sys.stderr)
        sys.exit(code)
