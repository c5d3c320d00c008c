r"""Compare generators over seeds with interpolation, and with formats that spend the same bytes.

    python scripts/bench_superres.py -d OUT --held-out PHOTOGRAPHS --set Kodak KODAK \
        --method SRResNet a1.ambic a2.ambic a3.ambic --method SRGAN b1.ambic b2.ambic b3.ambic

The k-th bundles of all methods are of one seed, and differences are between them. Writes results.json (with
every measurement), tables.md, and rows.jsonl, from which an interrupted comparison goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ambi_rl.bench.dataset import expand, use_one_thread
from ambi_rl.bench.selector import make_codec, runs_kernels
from ambi_rl.bench.superres_table import (
    FORMATS,
    Request,
    RowStore,
    make_methods,
    markdown_tables,
    measure_all,
    summarize,
)
from ambi_rl.codec.files import write_file
from ambi_rl.codec.warmup import ensure_compiled
from ambi_rl.data import split_held_out
from ambi_rl.errors import AmbiError, UsageError, explain
from ambi_rl.superres.base_layer import BASES
from ambi_rl.superres.scores import SCORES, make_score

HELD_OUT_EVERY = 10
"""As `data.held_out_every` is unless a configuration says otherwise."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-d", "--folder", type=Path, required=True, help="where results go")
    add("--method", nargs="+", action="append", required=True, metavar=("NAME", "BUNDLE"),
        help="a way of training and its bundles, one for each seed")  # fmt: skip
    add("--held-out", type=Path, metavar="FOLDER",
        help="photographs; those that training holds out make a set")  # fmt: skip
    add("--held-out-every", type=int, default=HELD_OUT_EVERY, metavar="N",
        help="data.held_out_every of the training")  # fmt: skip
    add("--set", nargs="+", action="append", default=[], metavar=("NAME", "PATH"),
        help="pictures or folders of them, all of which make a set")  # fmt: skip
    add("--base", choices=BASES, default="jpeg", help="format of the base layer")
    add("--quality", type=float, action="append", metavar="Q",
        help="of the base layer; may be given several times (default 50)")  # fmt: skip
    add("--format", action="append", metavar="SELECTOR",
        help=f"as ambi bench has them, at the same bytes (default {', '.join(FORMATS)})")  # fmt: skip
    add("--score", choices=SCORES, default="psnr", help="a further column")
    add("--score-quality", type=int, default=75, help="JPEG quality of recompressed_psnr")
    add(
        "--score-function",
        help="dotted path, of function; rows.jsonl does not notice when its code changes",
    )
    add("--crop", type=int, metavar="SIDE", help="take the centre, at most so many pixels a side")
    return parser.parse_args()


def _named(groups: Sequence[Sequence[str]], option: str) -> dict[str, list[str]]:
    """What a repeated option says, by its first word.

    Raises:
        UsageError: A name is given twice, or nothing follows it.
    """
    found: dict[str, list[str]] = {}
    for name, *values in groups:
        if name in found:
            raise UsageError(f"{option} {name} is given twice")
        if not values:
            raise UsageError(f"{option} {name} names no files")
        found[name] = values
    return found


def _sets(arguments: argparse.Namespace) -> dict[str, list[Path]]:
    sets: dict[str, list[Path]] = {}
    if arguments.held_out is not None:
        paths = expand([str(arguments.held_out)])
        sets["held-out"] = split_held_out(paths, arguments.held_out_every)[1]
    for name, sources in _named(arguments.set, "--set").items():
        if name in sets:
            raise UsageError(f"--set {name} is the name of what --held-out gives; choose another")
        sets[name] = expand(sources)
    if not sets:
        raise UsageError("give --held-out or --set: there is nothing to measure")
    return sets


def _request(arguments: argparse.Namespace) -> Request:
    bundles = _named(arguments.method, "--method")
    score_text = arguments.score
    if arguments.score == "recompressed_psnr":
        score_text += f" (JPEG {arguments.score_quality})"
    if arguments.score == "function":
        score_text = str(arguments.score_function)
    return Request(
        sets=_sets(arguments),
        methods=make_methods(
            {name: [Path(path) for path in paths] for name, paths in bundles.items()},
            arguments.base,
        ),
        formats=[make_codec(selector) for selector in arguments.format or FORMATS],
        qualities=sorted(set(arguments.quality or [50.0])),
        score=make_score(
            arguments.score,
            quality=arguments.score_quality,
            function=arguments.score_function,
        ),
        score_text=score_text,
        crop=arguments.crop,
    )


def main() -> None:
    """Measure, and write what was found."""
    arguments = _arguments()
    request = _request(arguments)
    codecs = [*request.formats, *(codec for m in request.methods for codec in m.codecs)]
    if any(runs_kernels(codec.selector) for codec in codecs):
        ensure_compiled("encode", _say)
    use_one_thread()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    measured = measure_all(request, RowStore(arguments.folder / "rows.jsonl"), _say)
    summary = summarize(request, measured)
    write_file(arguments.folder / "results.json", json.dumps(summary, indent=1).encode())
    text = markdown_tables(summary)
    write_file(arguments.folder / "tables.md", text.encode())
    print(text, end="")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except (AmbiError, OSError) as error:
        message, code = explain(error)
        print(f"bench_superres: {message}", file=sys.stderr)
        sys.exit(code)
