"""Prints BD-rates of ambi and its peers over a folder of photographs, such as the Kodak suite."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from ambi_rl.bench.codecs import PEERS, ambi_codec, peer
from ambi_rl.bench.curves import Curve
from ambi_rl.bench.dataset import Job, PeerCache, dataset_curves, mean_curves, pictures
from ambi_rl.bench.report import bd_rate_rows, bd_rate_table, markdown
from ambi_rl.codec.warmup import ensure_compiled
from ambi_rl.errors import AmbiError, UsageError

ANCHOR = "jpeg"


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of photographs (PNG, WebP, …).")],
    effort: Annotated[
        list[int] | None, typer.Option("--effort", "-e", help="Effort 0…9; may be repeated.")
    ] = None,
    strategist: Annotated[
        list[str] | None,
        typer.Option(
            "--strategist", "-s", help="fixed, search, policy, guided, lookahead; may be repeated."
        ),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", "-b", help="Bundle; the package's own by default.")
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Measure ambi without restoration, too.")
    ] = False,
    peers: Annotated[
        str, typer.Option(help=f"Comma-separated, of {', '.join(PEERS)}; JPEG 4:2:0 is always in.")
    ] = "jpeg,jpeg444,webp,avif",
    peers_only: Annotated[bool, typer.Option("--peers-only", help="Leave ambi out.")] = False,
    every: Annotated[int, typer.Option(help="Take every n-th picture.")] = 1,
    against: Annotated[
        str | None, typer.Option(help="Codec to compare with, as the table names it: 'ambi fixed'.")
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Processes; seconds are truest with 1.")
    ] = 2,
    low: Annotated[float, typer.Option(help="Lower end of the RGB-PSNR range, dB.")] = 29,
    high: Annotated[float, typer.Option(help="Upper end of the RGB-PSNR range, dB.")] = 40,
    output: Annotated[
        Path | None, typer.Option("--json", help="Write the curves here, in CompressAI's schema.")
    ] = None,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table as Markdown.")
    ] = False,
    cache: Annotated[
        Path | None, typer.Option(help="JSON file that remembers the peers' points.")
    ] = None,
) -> None:
    """Measure real files on every picture and compare dataset-mean curves over RGB-PSNR, SSIM and MS-SSIM.

    The similarities are compared in dB, -10*log10(1 - x), over the range that the codec compared with has
    between the ends of the PSNR range.

    Effort 9 is measured unless an effort, a strategist or --peers-only says otherwise.
    """
    efforts, strategists = effort or [], strategist or []
    if not efforts and not strategists and not peers_only:
        efforts = [9]
    if peers_only and (efforts or strategists):
        raise UsageError("--peers-only leaves no use for --effort and --strategist")
    names = [name.strip() for name in peers.split(",") if name.strip()]
    codecs = [peer(name) for name in dict.fromkeys([ANCHOR, *names])]
    anchor = codecs[0].name
    for restoration in (True, False) if plain else (True,):
        codecs += [
            ambi_codec(effort=value, bundle=bundle, restoration=restoration) for value in efforts
        ]
        codecs += [
            ambi_codec(strategist=value, bundle=bundle, restoration=restoration)
            for value in strategists
        ]
    if against is not None:
        if against not in (known := [codec.name for codec in codecs]):
            raise UsageError(
                f"--against: {against!r} is not measured; there are {', '.join(known)}"
            )
        anchor = against
    paths = pictures(folder, every=every)

    console = Console()
    if not peers_only:
        # Here and once, rather than in every process at the same time.
        ensure_compiled("encode", console.print)
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("measuring", total=len(codecs) * len(paths))

        def advance(job: Job, curve: Curve) -> None:
            bar.update(task, advance=1, description=f"{job.codec.name} {job.path.stem}")

        measured = dataset_curves(
            codecs, paths, jobs=jobs, cache=PeerCache(cache), progress=advance
        )
        bar.update(task, completed=len(codecs) * len(paths), description="measured")
    means = mean_curves(measured)
    if output is not None:
        document = {
            "dataset": [path.name for path in paths],
            "mean": [curve.as_json() for curve in means.values()],
            "pictures": {
                path.name: [curves[i].as_json() for curves in measured.values()]
                for i, path in enumerate(paths)
            },
        }
        output.write_text(json.dumps(document, indent=1))
        console.print(f"curves written to {output}")
    title = (
        f"{len(paths)} pictures of {folder.name}, dataset-mean curves, "
        f"RGB-PSNR {low:g}…{high:g} dB, {jobs} processes"
    )
    if as_markdown:
        print(markdown(bd_rate_rows(means, anchor, low, high), title=title))
    else:
        console.print(bd_rate_table(means, anchor, low, high, title=title))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(main)
    try:
        app()
    except AmbiError as error:
        print(f"bench_kodak: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
