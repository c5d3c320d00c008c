"""A plan carried out: what is done already is left, the rest goes to threads or to a cluster."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ambi_rl.codec.threads import available_cores, limit_threads
from ambi_rl.corpus.manifest import NAME, Known, Manifest, read_made
from ambi_rl.corpus.plan import Job, Plan
from ambi_rl.corpus.pool import run_threads
from ambi_rl.corpus.settings import Decoding, Encoding
from ambi_rl.corpus.work import Outcome, Status, Work, Writer, decode_job, encode_job

if TYPE_CHECKING:
    from ambi_rl.corpus.coding import EncodeSettings


@dataclass(frozen=True)
class Manner:
    """How a plan is carried out.

    Attributes:
        jobs: Files at a time; None for as many as there are cores.
        overwrite: Whether existing targets are replaced.
        manifest: Keep `manifest.jsonl` in the output folder, and leave what it says is done.
        verify: Compare hashes with the manifest's.
        ray: Address of a cluster; None for threads of this process.
        threads: Of each worker of a cluster.
    """

    jobs: int | None = None
    overwrite: bool = True
    manifest: bool = False
    verify: bool = False
    ray: str | None = None
    threads: int = 1


def standing(
    job: Job, known: Known | None, settings: dict[str, Any], *, overwrite: bool
) -> Status | None:
    """Why a job need not be done, or None."""
    if known is not None and known.holds(job, settings):
        return Status.UNCHANGED
    return Status.EXISTS if not overwrite and Path(job.target).exists() else None


def known_outputs(plan: Plan, manner: Manner) -> Known | None:
    """What the output folder's manifest says, without a claim on it; None where none is kept."""
    if not manner.manifest:
        return None
    return Known(read_made(plan.folder / NAME), verify=manner.verify)


def encode_corpus(
    plan: Plan, settings: Encoding, manner: Manner, *, bundle: Path | None
) -> Generator[Outcome]:
    """Encode the files of a plan.

    When the iterator is closed, also by an interruption, no more files are written; those that were stay.

    Args:
        plan: What to where.
        settings: How to encode.
        manner: How to go about it.
        bundle: Where the settings' bundle is, for a cluster's workers; None for the default bundle.

    Yields:
        Outcomes, as they come: first of what need not be done.

    Raises:
        UsageError: The manifest is another command's or no manifest, or the cluster cannot be reached.
    """
    with ExitStack() as stack:
        manifest = stack.enter_context(Manifest(plan.folder)) if manner.manifest else None
        known = None if manifest is None else Known(manifest.made, verify=manner.verify)
        if manifest is not None:
            # Only one command at a time has the manifest: what is there was left by a killed one.
            remove_leftovers(plan.jobs)
        facts = settings.facts()
        left = []
        for job in plan.jobs:
            status = standing(job, known, facts, overwrite=manner.overwrite)
            if status is None:
                left.append(job)
            else:
                yield Outcome(job, status)
        if manifest is not None and known is not None and known.touched:
            # Else their sources would be read again every time.
            manifest.touch(known.touched)
        if not left:
            return
        if manner.ray is None:
            writer = Writer(overwrite=manner.overwrite)
            outcomes = _on_threads(
                left, lambda job: encode_job(job, settings, writer), writer, manner, settings
            )
        else:
            # Only the block codec's command has an option for it.
            outcomes = _on_cluster(
                left, cast("EncodeSettings", settings), bundle, manner, manner.ray
            )
        with closing(outcomes):
            for outcome in outcomes:
                if manifest is not None:
                    manifest.add(outcome)
                yield outcome


def decode_corpus(plan: Plan, settings: Decoding, manner: Manner) -> Generator[Outcome]:
    """Decode the files of a plan, on threads; otherwise as `encode_corpus`."""
    left = []
    for job in plan.jobs:
        if not manner.overwrite and Path(job.target).exists():
            yield Outcome(job, Status.EXISTS)
        else:
            left.append(job)
    writer = Writer(overwrite=manner.overwrite)
    yield from _on_threads(
        left, lambda job: decode_job(job, settings, writer), writer, manner, settings
    )


def _on_threads(
    jobs: list[Job], work: Work, writer: Writer, manner: Manner, settings: Encoding | Decoding
) -> Generator[Outcome]:
    # Once, before the threads would all do it.
    settings.prepare()
    cores = available_cores()
    workers = max(1, min(manner.jobs or cores, len(jobs)))
    limit_threads(cores // workers)
    try:
        yield from run_threads(jobs, work, workers)
    finally:
        writer.close()
        limit_threads(None)


def _on_cluster(
    jobs: list[Job], settings: EncodeSettings, bundle: Path | None, manner: Manner, address: str
) -> Generator[Outcome]:
    from ambi_rl.corpus.ray_pool import Cluster, connected, encode_on_cluster

    # Workers have other working folders.
    absolute = [
        job._replace(
            source=str(Path(job.source).absolute()), target=str(Path(job.target).absolute())
        )
        for job in jobs
    ]
    own = {job.output: job for job in jobs}
    cluster = Cluster(address, manner.jobs, manner.threads)
    settings.prepare()
    try:
        with connected(cluster):
            path = None if bundle is None else bundle.absolute()
            outcomes = encode_on_cluster(absolute, settings, path, cluster)
            with closing(outcomes):
                for outcome in outcomes:
                    yield replace(outcome, job=own[outcome.job.output])
    finally:
        remove_leftovers(jobs)


def remove_leftovers(jobs: Iterable[Job]) -> None:
    """Remove the temporary files that killed processes left beside targets."""
    names: dict[str, set[str]] = {}
    for job in jobs:
        folder, name = os.path.split(job.target)
        names.setdefault(folder, set()).add(name)
    for folder, targets in names.items():
        if not Path(folder).is_dir():
            continue
        for path in Path(folder).glob(".*.part"):
            # .NAME.RANDOM.part, see ambi_rl.codec.files
            if path.name[1:].rsplit(".", 2)[0] in targets:
                path.unlink(missing_ok=True)
