"""`ambi encode` and `ambi decode` of several files to a folder."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

import typer

from ambi_rl.cli.arguments import ManyFiles
from ambi_rl.cli.guard import INTERRUPTED, SOME_FAILED
from ambi_rl.cli.progress import Reporter
from ambi_rl.codec.image_io import format_of_suffix
from ambi_rl.corpus.plan import AMBI_SUFFIX, PICTURE_SUFFIXES, Job, Naming, Plan, make_plan
from ambi_rl.corpus.run import Manner, decode_corpus, encode_corpus, known_outputs, standing
from ambi_rl.corpus.settings import Decoding, Encoding, decode_details, decode_text
from ambi_rl.corpus.work import Outcome, Status, failed
from ambi_rl.errors import UsageError


def encode_folder(
    files: ManyFiles,
    settings: Callable[[], Encoding],
    *,
    manner: Manner,
    bundle: Path | None,
    full_names: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Encode several pictures.

    Args:
        files: What to where.
        settings: Makes them.
        manner: How to go about it.
        bundle: Where the settings' bundle is, for a cluster's workers; None for the default bundle.
        full_names: Call a.png's file a.png.ambi.
        dry_run: Only say what would be done.
        as_json: Print a JSON object for each file.
        quiet: Print errors only.
        verbose: Print more.

    Raises:
        Exit: With 9 if a file failed, with 130 if the command was interrupted.
        UsageError: Nothing can be done; see `make_plan`, too.
    """
    if manner.ray is not None:
        _check_ray()
    how = settings()
    plan = make_plan(
        files.inputs,
        files.folder,
        suffixes=PICTURE_SUFFIXES,
        naming=Naming(AMBI_SUFFIX, keep=full_names),
    )
    _check_found(plan, "pictures")
    if dry_run:
        known = known_outputs(plan, manner)
        facts = how.facts()
        _rehearse(
            plan,
            {job: standing(job, known, facts, overwrite=manner.overwrite) for job in plan.jobs},
            as_json=as_json,
            quiet=quiet,
            verbose=verbose,
        )
        return

    def describe(outcome: Outcome) -> str:
        facts = outcome.facts
        text = f"{facts['width']}x{facts['height']} -> {outcome.job.target}: {how.text(facts)}"
        return f"{text}\n{how.details(facts)}" if verbose else text

    reporter = Reporter(
        len(plan.jobs), "encoded", describe, as_json=as_json, quiet=quiet, verbose=verbose
    )
    _carry_out(plan, encode_corpus(plan, how, manner, bundle=bundle), reporter)


def decode_folder(
    files: ManyFiles,
    settings: Callable[[str], Decoding],
    *,
    suffix: str,
    manner: Manner,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Decode several files.

    Args:
        files: What to where.
        settings: Makes them from Pillow's name of the format to write.
        suffix: Ending of the pictures to write, without its dot.
        manner: How to go about it.
        dry_run: Only say what would be done.
        as_json: Print a JSON object for each file.
        quiet: Print errors only.
        verbose: Print more.

    Raises:
        Exit: With 9 if a file failed, with 130 if the command was interrupted.
        UsageError: Nothing can be done; see `make_plan`, too.
    """
    how = settings(format_of_suffix(f".{suffix}"))
    plan = make_plan(
        files.inputs, files.folder, suffixes=(AMBI_SUFFIX,), naming=Naming(f".{suffix}")
    )
    _check_found(plan, f"{AMBI_SUFFIX} files")
    if manner.overwrite:
        _check_originals(plan)
    if dry_run:
        _rehearse(
            plan,
            {job: standing(job, None, {}, overwrite=manner.overwrite) for job in plan.jobs},
            as_json=as_json,
            quiet=quiet,
            verbose=verbose,
        )
        return

    def describe(outcome: Outcome) -> str:
        text = f"-> {outcome.job.target}: {decode_text(outcome.facts)}"
        return f"{text}\n{decode_details(outcome.facts)}" if verbose else text

    reporter = Reporter(
        len(plan.jobs), "decoded", describe, as_json=as_json, quiet=quiet, verbose=verbose
    )
    _carry_out(plan, decode_corpus(plan, how, manner), reporter)


def _check_ray() -> None:
    for module in ("ray", "pyarrow", "pandas"):
        if importlib.util.find_spec(module) is None:
            raise UsageError(
                f'--ray needs {module}, which is not installed: pip install "ambi-rl[cluster]"'
            )


def _check_found(plan: Plan, what: str) -> None:
    if not plan.jobs and not plan.faults:
        skipped = f" ({len(plan.skipped)} others)" if plan.skipped else ""
        raise UsageError(f"the inputs hold no {what}{skipped}; name files to code them anyway")


def _check_originals(plan: Plan) -> None:
    """Refuse to put decoded pictures over those beside their files, which they may have been made of."""
    for job in plan.jobs:
        target, source = Path(job.target), Path(job.source)
        if target.exists() and target.parent.samefile(source.parent):
            raise UsageError(
                f"{target} lies beside {source.name} and may be its original; decode to another "
                "folder, or with --no-overwrite"
            )


def _rehearse(
    plan: Plan,
    standings: dict[Job, Status | None],
    *,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Print what would be done."""
    would = [job for job, status in standings.items() if status is None]
    for job, status in standings.items():
        replaces = status is None and Path(job.target).exists()
        if as_json:
            word = "would replace" if replaces else "would write"
            values = {"input": job.source, "output": job.target}
            typer.echo(json.dumps(values | {"status": word if status is None else status.value}))
        elif quiet:
            continue
        elif status is None:
            typer.echo(f"{job.source} -> {job.target}{' (replaces it)' if replaces else ''}")
        else:
            why = "exists" if status is Status.EXISTS else "is up to date"
            typer.echo(f"{job.target} {why}, left as it is")
    if verbose and not as_json:
        for path, why in plan.skipped:
            typer.echo(f"{path} skipped: {why}")
    for path, error in plan.faults:
        typer.echo(f"ambi: {path}: {error.strerror or error}", err=True)
    if not quiet:
        typer.echo(
            f"would write {len(would)} files to {plan.folder}, leave "
            f"{len(standings) - len(would)}, skip {len(plan.skipped)}",
            err=as_json,
        )
    if plan.faults:
        raise typer.Exit(SOME_FAILED)


def _carry_out(plan: Plan, outcomes: Generator[Outcome], reporter: Reporter) -> None:
    """Show outcomes until there are no more.

    Raises:
        Exit: Something failed, or the command was interrupted.
    """
    for path, error in plan.faults:
        reporter.add(failed(Job(path, path, path, path), error))
    interrupted = False
    with reporter:
        try:
            # Closed before the bar is: closing waits for the file that is being written.
            with closing(outcomes):
                for outcome in outcomes:
                    reporter.add(outcome)
        except KeyboardInterrupt:
            interrupted = True
    reporter.finish(len(plan.skipped), interrupted=interrupted)
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    if reporter.failures:
        raise typer.Exit(SOME_FAILED)
