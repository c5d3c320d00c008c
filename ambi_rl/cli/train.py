"""`ambi train` and `ambi export`: Hydra's command line around `ambi_rl.training`."""

from __future__ import annotations

import json
import math
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from ambi_rl.codec.bundle import save_bundle
from ambi_rl.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from ambi_rl.training.run_config import RunConfig
    from ambi_rl.training.run_folder import RunFolder

_PACKAGE = "ambi_rl.conf"
_CONFIG = "config"
_VERSION_BASE = "1.3"


def _split(arguments: list[str]) -> tuple[list[str], Any]:
    """Overrides and Hydra's own flags of a command line."""
    import argparse

    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.exit_on_error = False

    def refuse(message: str) -> NoReturn:
        raise UsageError(f"ambi train: {message}; see `ambi train --help`")

    parser.error = refuse  # type: ignore[method-assign]
    try:
        # Intermixed, so that flags may stand anywhere; Hydra itself wants them first.
        parsed = parser.parse_intermixed_args(arguments)
    except argparse.ArgumentError as error:
        refuse(str(error))
    return list(parsed.overrides), parsed


def _value_of(overrides: list[str], key: str) -> str | None:
    values = [o.split("=", 1)[1] for o in overrides if o.startswith(f"{key}=")]
    return values[-1] if values else None


def _with_resumed(overrides: list[str], *, multirun: bool) -> list[str]:
    """Put the overrides a run or a sweep was started with before those that are to change it.

    Raises:
        ConfigError: It is not said which, or there is none.
    """
    resume = _value_of(overrides, "resume")
    if resume is None or resume.lower() in ("null", "false"):
        return [o for o in overrides if not o.startswith("resume=")]
    if resume.lower() == "true":
        name = _value_of(overrides, "name")
        if name is None and _value_of(overrides, "experiment") == "demo":
            name = "demo"
        if name is None:
            raise ConfigError(
                "resume=true needs the name of the run to go on with: name=… resume=true"
            )
        folder = Path(_value_of(overrides, "runs") or "runs") / name
    else:
        folder = Path(resume)
    try:
        if multirun:
            before = json.loads((folder / "sweep.json").read_text())["overrides"]
        else:
            before = json.loads((folder / "overrides.json").read_text())
    except (OSError, ValueError, KeyError, TypeError):
        what = "sweep" if multirun else "run"
        raise ConfigError(
            f"{folder} is not the folder of a {what}; check name, runs or resume"
        ) from None
    own = [o for o in overrides if o.partition("=")[0] not in ("name", "runs", "resume")]
    changed = {o.partition("=")[0] for o in own} | {"name", "runs", "resume"}
    kept = [o for o in before if o.partition("=")[0] not in changed]
    # Each run of a sweep finds out by itself whether there is something to go on with.
    end = [] if multirun else ["resume=true"]
    return [*kept, *own, f"name={folder.name}", f"runs={folder.parent}", *end]


def check_overrides(overrides: list[str], *, multirun: bool) -> None:
    """Compose what was asked for, to report a mistake in one line before Hydra takes over.

    Raises:
        ConfigError: A key, group or value is wrong.
    """
    from hydra import compose, initialize_config_module
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from ambi_rl.sweeps.sweep import swept_values
    from ambi_rl.training.config import explain, register, to_config

    register()

    def composed(some: list[str]) -> DictConfig:
        return compose(_CONFIG, some)

    with initialize_config_module(_PACKAGE, version_base=_VERSION_BASE):
        # The name is drawn from the clock by Hydra's own configuration, which is not composed here.
        named = [] if _value_of(overrides, "name") else ["name=check"]
        try:
            choices: list[list[str]] = [[]]
            for parsed in OverridesParser.create().parse_overrides(overrides):
                if parsed.key_or_group.startswith("hydra"):
                    continue
                text = [parsed.input_line or ""]
                if multirun and parsed.is_sweep_override():
                    text = swept_values(parsed)
                # Each choice once, the others at their first: mistakes do not depend on combinations.
                first = [*choices[0], text[0]]
                choices = [
                    first,
                    *([*choice, text[0]] for choice in choices[1:]),
                    *([*choices[0], other] for other in text[1:]),
                ]
            experiment = _value_of(overrides, "experiment")
            has_name = experiment is not None and experiment != "default"
            for choice in choices:
                to_config(composed([*choice, *([] if has_name else named)]))
        except (HydraException, OmegaConfBaseException) as error:
            _check_experiment(overrides, named)
            raise explain(error, _without_mistake(overrides, named)) from error


def _check_experiment(overrides: list[str], named: list[str]) -> None:
    """Refuse an experiment of another system than the one that is asked for beside it.

    Raises:
        ConfigError: It is one.
    """
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    experiment, system = (_value_of(overrides, key) for key in ("experiment", "system"))
    if experiment is None or system is None:
        return
    with suppress(HydraException, OmegaConfBaseException):
        own = compose(_CONFIG, [f"experiment={experiment}", *named]).system
        if own != system and experiment != "default":
            raise ConfigError(
                f"experiment={experiment} is of system={own}; leave system={system} out, or take another "
                "experiment"
            )


def _without_mistake(overrides: list[str], named: list[str]) -> DictConfig | None:
    """As much of a configuration as can be composed: with its groups, or with what is trained."""
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    whole = [o for o in overrides if "." not in o.partition("=")[0] and "," not in o]
    trained = [o for o in whole if o.partition("=")[0] in ("system", "experiment")]
    system = [o for o in trained if o.startswith("system=")]
    for some in (whole, trained, system, []):
        with suppress(HydraException, OmegaConfBaseException):
            return compose(_CONFIG, [*some, *named])
    return None


def compose_config(overrides: list[str]) -> RunConfig:
    """A checked configuration, without running anything.

    Raises:
        ConfigError: A key, group or value is wrong.
    """
    from hydra import compose, initialize_config_module
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from ambi_rl.training.config import explain, register, to_config

    register()
    try:
        with initialize_config_module(_PACKAGE, version_base=_VERSION_BASE):
            return to_config(compose(_CONFIG, overrides))
    except (HydraException, OmegaConfBaseException) as error:
        # Composes again, slowly, to find out what was meant.
        check_overrides(overrides, multirun=False)
        raise explain(error) from error


def train_command(arguments: list[str]) -> None:
    """Train; everything on the command line is Hydra's, but for -m, which goes on where it stopped.

    Args:
        arguments: Overrides and Hydra's flags, for example experiment=demo, -m or --cfg job.

    Raises:
        ConfigError: A key, group or value is wrong, or the run exists already.
        SweepError: Some runs of a sweep did not finish.
    """
    overrides, flags = _split(arguments)
    multirun = flags.multirun or _value_of(overrides, "hydra.mode") == "MULTIRUN"
    if not (flags.hydra_help or flags.shell_completion or flags.info):
        resumed = _with_resumed(overrides, multirun=multirun)
        arguments = [a for a in arguments if a not in overrides] + resumed
        if multirun:
            from ambi_rl.sweeps.sweep import check_launcher, run_sweep

            if flags.config_dir or flags.config_path or flags.config_name:
                raise UsageError("--config-dir, --config-path and --config-name do not go with -m")
            check_launcher(resumed)
        check_overrides(resumed, multirun=multirun)
        overrides = resumed
        if multirun and not flags.cfg:
            run_sweep(overrides, package=_PACKAGE, config_name=_CONFIG, version=_VERSION_BASE)
            return

    import hydra
    from hydra.core.hydra_config import HydraConfig

    from ambi_rl.training.config import register, to_config
    from ambi_rl.training.start import train

    register()
    failure: list[Exception] = []

    def task(composed: DictConfig) -> float:
        settings = HydraConfig.get()
        try:
            metrics = train(
                to_config(composed),
                folder=Path(settings.runtime.output_dir),
                overrides=list(settings.overrides.task),
            )
        except Exception as error:
            # Hydra would print a traceback; the command line has a line and an exit code for it.
            failure.append(error)
            return math.nan
        return float(metrics["objective"])

    original = sys.argv
    # Hydra reads the process's arguments; run.command has the real ones.
    sys.argv = ["ambi train", *arguments]
    try:
        hydra.main(
            config_path=f"pkg://{_PACKAGE}", config_name=_CONFIG, version_base=_VERSION_BASE
        )(task)()
    finally:
        sys.argv = original
    if failure:
        raise failure[0]


def export_command(run: Path, target: Path) -> None:
    """Export a training run as one codec bundle.

    Args:
        run: The run folder. Of the block codec its best policy on held-out photographs is taken, the last one
            if none was evaluated.
        target: The .ambic file to write.

    Raises:
        UsageError: The folder is not one of a run, or has no checkpoint.
        ConfigError: Its configuration cannot be read.
        AmbiError: Its checkpoint cannot be read.
    """
    from ambi_rl.training.run_folder import RunFolder

    folder = RunFolder(run)
    if not run.is_dir():
        raise UsageError(f"{run} is not the folder of a run; train first: ambi train")
    system = folder.system()
    if system == "features":
        _export_features(run, target)
    elif system == "superres":
        _export_superres(run, target)
    else:
        # Without a configuration too: checkpoints of the block codec, alone in a folder, are enough.
        _export_block(folder, target)


def _export_features(run: Path, target: Path) -> None:
    from ambi_rl.neural.bundle import save_bundle as save
    from ambi_rl.training.feature_export import export_features

    bundle, checkpoint = export_features(run)
    save(bundle, target)
    metrics = bundle.manifest["metrics"]
    played, coded = metrics["play"]["features"], metrics["test"]["bits_per_frame"]
    typer.echo(
        f"{target}: bundle {bundle.id}, {checkpoint.progress.steps:,} moves, {coded:.0f} bits a frame, score "
        f"{played['score']:.1f} on reconstructions"
    )


def _export_superres(run: Path, target: Path) -> None:
    from ambi_rl.superres.bundle import save_bundle as save
    from ambi_rl.training.superres_export import export_superres

    bundle, checkpoint = export_superres(run)
    save(bundle, target)
    evaluations = checkpoint.progress.evaluations
    said = ""
    if evaluations:
        psnr = {name: evaluations[-1][name]["psnr"] for name in ("network", "bicubic")}
        said = f", held-out PSNR {psnr['network']:.2f} dB (bicubic {psnr['bicubic']:.2f})"
        if evaluations[-1]["steps"] != checkpoint.progress.steps:
            said += f" at step {evaluations[-1]['steps']:,}"
    typer.echo(f"{target}: bundle {bundle.id}, {checkpoint.progress.steps:,} steps{said}")


def _export_block(folder: RunFolder, target: Path) -> None:
    from ambi_rl.training.checkpoint import load_checkpoint

    run = folder.path
    sources = [folder.best] if folder.best.is_file() else folder.checkpoints
    if not sources:
        raise UsageError(f"{run} has no checkpoint yet; let `ambi train` run for longer")
    checkpoint = load_checkpoint(sources[0])
    save_bundle(checkpoint.bundle, target)
    metrics = checkpoint.bundle.manifest["metrics"]
    gain = metrics.get("bd_rate_vs_fixed")
    said = "" if gain is None else f", held-out BD-rate {gain:+.2f} % against fixed"
    typer.echo(
        f"{target}: bundle {checkpoint.bundle.id}, {checkpoint.progress.steps:,} decisions{said}"
    )
