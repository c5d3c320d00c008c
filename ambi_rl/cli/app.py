"""The commands of `ambi`: their names, options and help; the work is imported when one runs."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ambi_rl import __version__
from ambi_rl.cli.guard import EXIT_CODES, DefaultGroup, GuardedGroup
from ambi_rl.errors import UsageError

app = typer.Typer(
    name="ambi",
    cls=GuardedGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain help and errors: quick to start, and readable in a pipe.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES,
)

_TRAIN_MODULES = (
    "gymnasium",
    "hydra",
    "omegaconf",
    "rich",
    "sb3_contrib",
    "stable_baselines3",
    "tensorboard",
    "torch",
)


class StrategistName(enum.StrEnum):
    """What --strategist accepts."""

    FIXED = "fixed"
    SEARCH = "search"
    POLICY = "policy"
    GUIDED = "guided"
    LOOKAHEAD = "lookahead"


class BaseName(enum.StrEnum):
    """What --base accepts; `BASES` of ambi_rl.superres.base_layer, which would take a while to import."""

    JPEG = "jpeg"
    WEBP = "webp"
    AVIF = "avif"
    AMBI = "ambi"


class CurveMetric(enum.StrEnum):
    """What `plot --metric` accepts."""

    PSNR = "psnr"
    PSNR_LUMA = "psnr-luma"
    SSIM = "ssim"
    MS_SSIM = "ms-ssim"


class SuffixName(enum.StrEnum):
    """What `decode --format` accepts."""

    PNG = "png"
    TIF = "tif"
    WEBP = "webp"
    BMP = "bmp"
    PPM = "ppm"
    JPG = "jpg"


class MetricName(enum.StrEnum):
    """What `runs plot --metric` accepts."""

    PSNR = "psnr"
    SSIM = "ssim"
    MS_SSIM = "ms_ssim"


BundleOption = Annotated[
    Path | None,
    typer.Option("-b", "--bundle", metavar="FILE", help="Codec bundle (default: the one shipped)."),
]
OutputOption = Annotated[
    str | None,
    typer.Option("-o", "--output", metavar="DIR|FILE", help="Folder for several files, or file."),
]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "-j",
        "--jobs",
        min=1,
        metavar="N",
        show_default="cores",
        help="Files at a time; threads, if there is one file.",
    ),
]
NoOverwriteOption = Annotated[
    bool,
    typer.Option(
        "--no-overwrite", help="Fail if OUT exists instead of replacing it; with -o DIR, skip it."
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="With -o DIR: only say what would be written.")
]
JsonLinesOption = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON, one line for each file.")
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", help="Print nothing but errors (and --json).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
ReportImagesOption = Annotated[
    int | None,
    typer.Option(
        "--report-images",
        min=0,
        metavar="N",
        help="At most N pictures in the report's viewer, spread evenly.",
        show_default="24",
    ),
]
ReportSizeOption = Annotated[
    float | None,
    typer.Option(
        "--report-size",
        min=0,
        metavar="MB",
        help="Size of the report. What does not fit is left out: first JPEG 2000, JPEG XL, HEIC and other "
        "efforts of ambi, then low and high rates, then pictures. Of 768x512 pixels, 24 at one rate or 12 "
        "at three take 40 MB.",
        show_default="40",
    ),
]


VerboseOption = Annotated[bool, typer.Option("-v", "--verbose", help="Print more.")]


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"ambi-rl {__version__}")
        raise typer.Exit


@app.callback()
def _ambi(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """An image codec whose decisions are taken by a reinforcement-learning policy.

    \b
    ambi encode photo.png photo.ambi -q 75
    ambi decode photo.ambi photo.png
    ambi encode photos/ -o coded/ -j 4
    ambi info photo.ambi
    """  # noqa: D301 - the control character tells Typer to keep the lines


@app.command(epilog=EXIT_CODES)
def encode(
    ctx: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE",
            help="IN OUT: a picture (PNG, JPEG, WebP, TIFF…) and the file to write, - for stdin and "
            "stdout; or with -o DIR any number of pictures, folders and patterns.",
        ),
    ],
    output: OutputOption = None,
    quality: Annotated[
        float | None,
        typer.Option(
            "-q",
            "--quality",
            min=1,
            max=100,
            show_default="75",
            help="1 (smallest) to 100 (best); 75 is usual.",
        ),
    ] = None,
    target_size: Annotated[
        str | None,
        typer.Option(
            "--target-size",
            metavar="BYTES",
            help="Instead of -q: the best quality whose file is not larger; 98304, 100kB, 96KiB, 1.5MB.",
        ),
    ] = None,
    target_bpp: Annotated[
        float | None,
        typer.Option(
            "--target-bpp",
            metavar="X",
            help="Likewise in bits of the whole file per pixel of the picture.",
        ),
    ] = None,
    target_psnr: Annotated[
        float | None,
        typer.Option(
            "--target-psnr",
            metavar="DB",
            help="Instead of -q: the smallest file whose PSNR is not lower.",
        ),
    ] = None,
    effort: Annotated[
        int,
        typer.Option(
            "-e",
            "--effort",
            min=0,
            max=9,
            help="0 (the policy alone, fastest) to 9 (search over everything).",
        ),
    ] = 5,
    bundle: BundleOption = None,
    strategist: Annotated[
        StrategistName | None,
        typer.Option(help="Who decides, instead of the one that the effort stands for."),
    ] = None,
    base: Annotated[
        BaseName | None,
        typer.Option(
            help="With a bundle that super-resolves: format of the small picture that is stored.",
            show_default="jpeg",
        ),
    ] = None,
    jobs: JobsOption = None,
    no_overwrite: NoOverwriteOption = False,
    strip: Annotated[
        bool,
        typer.Option(
            "--strip/--keep-metadata",
            help="Leave ICC, EXIF and XMP out, or keep them; orientation stays.",
        ),
    ] = False,
    no_restoration: Annotated[
        bool,
        typer.Option(
            "--no-restoration", help="Decoders shall not filter the picture, though the bundle can."
        ),
    ] = False,
    no_tiles: Annotated[
        bool,
        typer.Option(
            "--no-tiles",
            help="Code a picture of 4 Mpixel or more in one piece: a little smaller, on one core.",
        ),
    ] = False,
    full_names: Annotated[
        bool, typer.Option("--full-names", help="With -o DIR: a.png becomes a.png.ambi.")
    ] = False,
    dry_run: DryRunOption = False,
    manifest: Annotated[
        bool,
        typer.Option(
            "--manifest",
            help="With -o DIR: keep DIR/manifest.jsonl, and do only what it lacks or what has changed.",
        ),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="With a manifest: compare hashes, not only size and time."),
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="ADDRESS",
            help="With -o DIR: work on a Ray cluster, with a manifest; "
            "local starts one, auto joins this machine's.",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, metavar="N", help="With --ray: of each worker; 1."),
    ] = None,
    as_json: JsonLinesOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Encode a picture, or many.

    \b
    ambi encode photo.png photo.ambi
    ambi encode photo.png - -q 90 > photo.ambi
    ambi encode *.png -o coded/
    ambi encode photos/ -o coded/ -j 4         the whole tree; what is no picture is skipped
    ambi encode 'photos/**/*.jpg' -o coded/
    ambi encode photos/ -o coded/ --ray auto   on a Ray cluster with shared storage

    Gray, RGB and palette pictures with or without transparency, up to 16384 x 16384. Transparency is
    coded without loss. Pixels are never rotated; ICC profile, EXIF and XMP are kept. 16-bit, CMYK and
    animated pictures are refused. The first run after installation compiles the codec (about a minute).
    A target is met by a search over quality, which takes about six times as long as one encode.

    With a bundle of an agent (ambi train experiment=breakout_…), the frames of a game become one stream:

    \b
    ambi encode frames/ game.ambi -b breakout.ambic    pictures by their names, a GIF, .npy

    With a bundle that super-resolves, a picture is shrunk and stored in a standard format, whose quality
    -q is, and decoding enlarges it by the bundle's network:

    \b
    ambi encode photo.png photo.ambi -b sr.ambic --base webp -q 60
    """  # noqa: D301 - the control character tells Typer to keep the lines
    with _extras(_FEATURE_EXTRAS):
        from ambi_rl.cli import profiles

        if profiles.encode(ctx):
            return
    if base is not None:
        raise UsageError(
            "--base has no meaning for the block codec; name a bundle that super-resolves with -b"
        )
    from functools import partial

    from ambi_rl.cli.arguments import OneFile, check_options, sort_out
    from ambi_rl.cli.coding import encode_settings

    files = sort_out(inputs, output, (".ambi",))
    check_options(
        files,
        {"--full-names": full_names, "--dry-run": dry_run, "--manifest": manifest, "--ray": ray},
        needs_ray={"--threads": threads},
        needs_manifest={"--verify": verify},
        quiet=quiet,
        verbose=verbose,
    )
    is_one = isinstance(files, OneFile)
    settings = partial(
        encode_settings,
        quality=quality,
        target_size=target_size,
        target_bpp=target_bpp,
        target_psnr=target_psnr,
        effort=effort,
        bundle=bundle,
        strategist=None if strategist is None else strategist.value,
        strip=strip,
        restoration=not no_restoration,
        tiles=not no_tiles,
        measure=as_json or not quiet or manifest or ray is not None,
        quiet=quiet or not is_one,
    )
    if isinstance(files, OneFile):
        from ambi_rl.cli.one_file import encode_file

        encode_file(
            *files,
            settings,
            overwrite=not no_overwrite,
            threads=jobs,
            as_json=as_json,
            quiet=quiet,
            verbose=verbose,
        )
        return
    from ambi_rl.cli.folders import encode_folder
    from ambi_rl.corpus.run import Manner

    encode_folder(
        files,
        settings,
        manner=Manner(
            jobs=jobs,
            overwrite=not no_overwrite,
            manifest=manifest or ray is not None,
            verify=verify,
            ray=ray,
            threads=threads or 1,
        ),
        bundle=bundle,
        full_names=full_names,
        dry_run=dry_run,
        as_json=as_json,
        quiet=quiet,
        verbose=verbose,
    )


@app.command(epilog=EXIT_CODES)
def decode(
    ctx: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE",
            help="IN OUT: an ambi file and the picture to write, .png .tif .webp (all lossless) .bmp "
            ".ppm .pgm or .jpg (quality 95), - for stdin, and for PNG on stdout; or with -o DIR any "
            "number of files, folders and patterns.",
        ),
    ],
    output: OutputOption = None,
    bundle: BundleOption = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Refuse pictures of more pixels than this."),
    ] = None,
    suffix: Annotated[
        SuffixName | None,
        typer.Option("--format", help="With -o DIR: what pictures to write.", show_default="png"),
    ] = None,
    jobs: JobsOption = None,
    no_overwrite: NoOverwriteOption = False,
    no_restoration: Annotated[
        bool,
        typer.Option("--no-restoration", help="Leave out the filter after decoding."),
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonLinesOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Decode a file to a picture, or many.

    \b
    ambi decode photo.ambi photo.png
    ambi decode coded/ -o decoded/ --format webp

    The decoded planes are checked against the encoder's checksum. If the file was coded with another
    bundle than the default one, name it with -b or put it in a folder named by AMBI_BUNDLES.

    A stream of frames becomes an animation (.gif .png .webp), an array (.npy) or, with -o DIR, pictures:

    \b
    ambi decode game.ambi game.gif -b breakout.ambic

    A picture that super-resolves needs pip install "ambi-rl[superres]"; to decode a folder of such, name
    their bundle with -b.
    """  # noqa: D301 - the control character tells Typer to keep the lines
    with _extras(_FEATURE_EXTRAS):
        from ambi_rl.cli import profiles

        if profiles.decode(ctx):
            return
    from functools import partial

    from ambi_rl.cli.arguments import WRITTEN_SUFFIXES, OneFile, check_options, sort_out
    from ambi_rl.cli.coding import decode_settings

    files = sort_out(inputs, output, WRITTEN_SUFFIXES)
    check_options(files, {"--format": suffix, "--dry-run": dry_run}, quiet=quiet, verbose=verbose)
    settings = partial(
        decode_settings, bundle=bundle, max_pixels=max_pixels, restoration=not no_restoration
    )
    if isinstance(files, OneFile):
        from ambi_rl.cli.one_file import decode_file

        decode_file(
            *files,
            lambda image_format: settings(image_format=image_format),
            overwrite=not no_overwrite,
            threads=jobs,
            as_json=as_json,
            quiet=quiet,
            verbose=verbose,
        )
        return
    from ambi_rl.cli.folders import decode_folder
    from ambi_rl.corpus.run import Manner

    decode_folder(
        files,
        lambda image_format: settings(image_format=image_format),
        suffix="png" if suffix is None else suffix.value,
        manner=Manner(jobs=jobs, overwrite=not no_overwrite),
        dry_run=dry_run,
        as_json=as_json,
        quiet=quiet,
        verbose=verbose,
    )


@app.command(epilog=EXIT_CODES)
def info(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help="ambi files or bundles (.ambic); - for stdin."),
    ],
    as_json: JsonLinesOption = False,
) -> None:
    """Print what files or bundles say about themselves; nothing is decoded."""
    from ambi_rl.cli.info import info_command

    with _extras(_FEATURE_EXTRAS):
        info_command(sources, as_json=as_json)


_FEATURE_EXTRAS = dict.fromkeys(("constriction", "torch"), "neural") | {"gymnasium": "atari"}
_EXTRAS = dict.fromkeys(_TRAIN_MODULES, "train") | {"matplotlib": "study", "optuna": "study"}
_BENCH_EXTRAS = dict.fromkeys(
    ("imagecodecs", "matplotlib", "pillow_heif", "plotly", "rich"), "bench"
)


@contextmanager
def _extras(extras: Mapping[str, str] = _EXTRAS) -> Iterator[None]:
    """Name the extra to install if a module is missing.

    Args:
        extras: By module, the extra that brings it.

    Raises:
        UsageError: One is.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        extra = extras.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise UsageError(
            f"this command needs {error.name}, which is not installed: "
            f'pip install "ambi-rl[{extra}]"'
        ) from error


@app.command(
    # Everything is Hydra's: overrides, -m, --cfg job…
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog=EXIT_CODES,
)
def train(ctx: typer.Context) -> None:
    """Train a codec, of photographs (system=block) or of an agent's features (system=features).

    \b
    ambi train experiment=demo                    a small run, minutes
    ambi train agent=a2c reward=ms_ssim           other parts of the configuration
    ambi train experiment=breakout                a game's agent, whose features are the code
    ambi train --cfg job                          show the configuration and exit
    ambi train -m name=X reward=psnr,ssim seed=1,2  several runs, in runs/X/0, 1…; the same command
                                                  again goes on where it stopped
    ambi train -m … hydra/launcher=parallel       side by side; also ray, slurm, local

    The run is written to runs/NAME. Needs pip install "ambi-rl[train]", for games "ambi-rl[atari]", for
    launchers "ambi-rl[cluster]".
    """  # noqa: D301 - the control character tells Typer to keep the lines
    with _extras():
        from ambi_rl.cli.train import train_command

        train_command(ctx.args)


@app.command(epilog=EXIT_CODES)
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, runs/NAME.")],
    target: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="Bundle to write (.ambic).")
    ],
) -> None:
    """Export a training run as one codec bundle.

    Needs pip install "ambi-rl[train]"; using the bundle does not.
    """
    with _extras():
        from ambi_rl.cli.train import export_command

        export_command(run, target)


@app.command(epilog=EXIT_CODES)
def study(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STUDY] [KEY=VALUE]...",
            help="YAML file or name in conf/study (default), study.KEY=VALUE for what it says, "
            "KEY=VALUE for every trial.",
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option("-j", "--jobs", min=1, help="Trials side by side on this machine.")
    ] = 1,
    is_worker: Annotated[bool, typer.Option("--worker", hidden=True)] = False,
    threads: Annotated[int | None, typer.Option("--threads", min=1, hidden=True)] = None,
) -> None:
    """Search for the best configuration with Optuna.

    \b
    ambi study name=lr -j 2                        search conf/study/default.yaml
    ambi study mine.yaml name=mine agent=ppo       search what the file says
    ambi study name=lr study.trials=80             go on with a study, here to more trials

    Each trial is a run in runs/NAME/TRIAL. The same command, or its name alone, goes on where a study
    stopped; several at once, also on several machines that share the folder, work on the same study.
    The objective is the held-out BD-rate. Needs pip install "ambi-rl[study]".
    """  # noqa: D301 - the control character tells Typer to keep the lines
    with _extras():
        from ambi_rl.cli.study import study_command

        study_command(words or [], jobs=jobs, is_worker=is_worker, threads=threads)


runs_app = typer.Typer(
    cls=DefaultGroup,
    no_args_is_help=False,
    rich_markup_mode=None,
    help="List runs and sweeps, compare and plot them: ambi runs [FOLDER].",
)
app.add_typer(runs_app, name="runs")

RunsArgument = Annotated[
    list[Path], typer.Argument(metavar="RUN...", help="Run folders; a sweep stands for its runs.")
]


@runs_app.command("list", epilog=EXIT_CODES)
def runs_list(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where to look, folders below too.")
    ] = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """List runs: status, steps, seconds, agent, reward, best and last held-out BD-rate.

    A run is running, finished, failed, interrupted, pruned, or killed: it says that it runs, but its
    process is gone. "list" may be left out.
    """
    with _extras():
        from ambi_rl.cli.runs import list_command

        list_command(folder, as_json=as_json)


@runs_app.command("compare", epilog=EXIT_CODES)
def runs_compare(runs: RunsArgument, as_json: JsonOption = False) -> None:
    """Show where configurations differ, and metrics, side by side."""
    with _extras():
        from ambi_rl.cli.runs import compare_command

        compare_command(runs, as_json=as_json)


@runs_app.command("plot", epilog=EXIT_CODES)
def runs_plot(
    runs: RunsArgument,
    target: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE", help=".png, .svg, .pdf or .html to write."),
    ],
    metric: Annotated[
        MetricName | None,
        typer.Option(help="Of the rate-distortion curves.", show_default="the objective's"),
    ] = None,
    over: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Draw the mean and the range over this key, as seed."),
    ] = None,
) -> None:
    """Plot rate-distortion curves and learning curves of held-out photographs.

    Each run's best evaluation is drawn, with the baselines fixed and search. With --over seed, runs
    that differ in nothing but their seed are one line. Needs pip install "ambi-rl[study]".
    """
    with _extras():
        from ambi_rl.cli.runs import plot_command

        plot_command(runs, target, None if metric is None else metric.value, over)


@app.command(epilog=EXIT_CODES)
def bench(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="IMAGES...", help="Pictures, folders of them, or patterns."),
    ],
    folder: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for all that is measured.")
    ],
    codecs: Annotated[
        list[str] | None,
        typer.Option(
            "--codec",
            metavar="NAME",
            help="Codec to measure, with options: jpeg, avif:tune=psnr,speed=6; may be repeated. "
            "peers is all peers.",
            show_default="peers, and ambi at effort 5",
        ),
    ] = None,
    efforts: Annotated[
        str | None, typer.Option(metavar="LIST", help="Efforts of ambi to measure: 0,5,9.")
    ] = None,
    strategists: Annotated[
        list[StrategistName] | None,
        typer.Option("--strategist", help="Who decides instead; may be repeated."),
    ] = None,
    bundles: Annotated[
        list[str] | None,
        typer.Option(
            "-b",
            "--bundle",
            metavar="FILE",
            help="Codec bundle for ambi, or default for the one shipped; may be repeated.",
        ),
    ] = None,
    curves: Annotated[
        list[Path] | None,
        typer.Option(
            "--curve",
            metavar="FILE",
            help="Another curve, measured elsewhere: a file in CompressAI's JSON schema; may be repeated.",
        ),
    ] = None,
    anchor: Annotated[
        str, typer.Option(metavar="NAME", help="What BD-rates are against: a codec or a curve.")
    ] = "jpeg",
    low: Annotated[float, typer.Option(help="Lower end of the RGB-PSNR range, dB.")] = 29,
    high: Annotated[float, typer.Option(help="Upper end of it, dB.")] = 40,
    every: Annotated[int, typer.Option(min=1, metavar="N", help="Take every n-th picture.")] = 1,
    crop: Annotated[
        int | None,
        typer.Option(min=1, metavar="SIDE", help="Take the centre, at most so many pixels a side."),
    ] = None,
    jobs: Annotated[
        int, typer.Option("-j", "--jobs", min=1, help="Processes; seconds are truest with 1.")
    ] = 1,
    as_json: JsonOption = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table as Markdown.")
    ] = False,
    report: Annotated[
        bool,
        typer.Option("--report", help="Write DIR/report.html as well: tables, curves, pictures."),
    ] = False,
    report_images: ReportImagesOption = None,
    report_size: ReportSizeOption = None,
) -> None:
    """Compare rate and distortion of ambi, JPEG, JPEG 2000, WebP, AVIF, JPEG XL and HEIC.

    \b
    ambi bench photos -o out                                 all peers, and ambi at effort 5
    ambi bench photos -o out --efforts 0,5,9 -j 2            with these efforts
    ambi bench photos -o out --codec jpeg --bundle my.ambic  ambi with a bundle against JPEG
    ambi bench kodak -o out --codec peers --curve vtm.json   with a published curve

    Codecs and their options: ambi (effort, strategist, bundle, restoration), jpeg (chroma), jpeg2000,
    webp (method), avif (chroma, tune, speed), jxl (effort), heic (chroma, tune), superres (bundle, base)
    and resampled (scale, filter, base): a shrunk picture that a network or Pillow enlarges. Every file is
    really written and decoded. BD-rates are of mean curves over the pictures.

    DIR gets results.json, points.csv, deltas.csv (BD-rate and BD-PSNR for each picture and the mean),
    table.md and curves/*.json in CompressAI's schema, with --report a page to look at. An interrupted
    benchmark goes on with the same command; what DIR holds is not measured again. Needs
    pip install "ambi-rl[bench]".
    """  # noqa: D301 - the control character tells Typer to keep the lines
    with _extras(_BENCH_EXTRAS):
        from ambi_rl.cli.bench import bench_command

        bench_command(
            sources,
            folder,
            codecs=codecs or [],
            efforts=efforts,
            strategists=[name.value for name in strategists or []],
            bundles=bundles or [],
            curves=curves or [],
            anchor=anchor,
            low=low,
            high=high,
            every=every,
            crop=crop,
            jobs=jobs,
            as_json=as_json,
            as_markdown=as_markdown,
            report=report,
            report_images=report_images,
            report_size=report_size,
        )


@app.command(epilog=EXIT_CODES)
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What ambi bench -o wrote.")],
    target: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="The page.", show_default="DIR/report.html"
        ),
    ] = None,
    images: ReportImagesOption = None,
    size: ReportSizeOption = None,
    jobs: Annotated[
        int, typer.Option("-j", "--jobs", min=1, help="Processes that code the viewer's pictures.")
    ] = 1,
) -> None:
    """Make the HTML report of a benchmark again, without measuring.

    One file that needs no network: tables to sort, curves to zoom, and pictures side by side at equal rate
    with the encoder's decisions. The pictures must lie where they were measured, seen from this folder.
    """
    with _extras(_BENCH_EXTRAS):
        from ambi_rl.cli.report import report_command

        report_command(folder, target=target, images=images, megabytes=size, jobs=jobs)


@app.command(epilog=EXIT_CODES)
def find_close(
    codec: Annotated[
        str,
        typer.Argument(metavar="CODEC", help="As for bench: ambi:effort=9, webp, avif:speed=6."),
    ],
    source: Annotated[Path, typer.Argument(metavar="IMAGE", help="Picture to code.")],
    psnr: Annotated[
        float | None, typer.Option("--psnr", metavar="DB", help="RGB-PSNR to come close to.")
    ] = None,
    bpp: Annotated[
        float | None, typer.Option("--bpp", metavar="X", help="Bits per pixel to come close to.")
    ] = None,
    ms_ssim: Annotated[
        float | None, typer.Option("--ms-ssim", metavar="X", help="MS-SSIM to come close to.")
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write the codec's file, as it is."),
    ] = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Find the setting at which a codec comes closest to a bit rate or a quality.

    Pictures are coded without metadata, as in bench. For files to keep use encode --target-….
    Needs pip install "ambi-rl[bench]".
    """
    with _extras(_BENCH_EXTRAS):
        from ambi_rl.cli.bench import find_close_command

        find_close_command(
            codec,
            source,
            psnr=psnr,
            bpp=bpp,
            ms_ssim=ms_ssim,
            target=target,
            as_json=as_json,
            verbose=verbose,
        )


@app.command(epilog=EXIT_CODES)
def plot(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES...", help="results.json of bench, or curves in CompressAI's JSON schema."
        ),
    ],
    target: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE", help=".png, .svg, .pdf or .html to write."),
    ],
    metric: Annotated[CurveMetric, typer.Option(help="On the vertical axis.")] = CurveMetric.PSNR,
    image: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Curves of this picture instead of the mean's."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Above the plot.")] = None,
    axes: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(metavar="X0 X1 Y0 Y1", help="Range of bits per pixel, and of the metric."),
    ] = None,
) -> None:
    """Plot rate-distortion curves. Needs pip install "ambi-rl[bench]"."""
    with _extras(_BENCH_EXTRAS):
        from ambi_rl.cli.bench import plot_command

        plot_command(sources, target, metric=metric.value, image=image, title=title, axes=axes)
