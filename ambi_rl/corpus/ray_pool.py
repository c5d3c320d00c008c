"""A corpus encoded by the workers of a Ray cluster, through Ray Data."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import ray
import ray.data
from ray.data import DataContext, TaskPoolStrategy

from ambi_rl.codec.api import resolve_bundle
from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.jit import cache_folder
from ambi_rl.codec.threads import available_cores, limit_threads
from ambi_rl.codec.warmup import ensure_compiled
from ambi_rl.corpus.coding import EncodeSettings
from ambi_rl.corpus.plan import Job
from ambi_rl.corpus.work import Outcome, Status, Writer, encode_job, failed
from ambi_rl.errors import AmbiError, UsageError

LOCAL = "local"
"""Address of a Ray that is started here and stopped afterwards."""

_TRIES = 4
"""How often a file is begun before it is taken for what kills its workers."""
_MOST_FILES = 8
"""Of a task: what is done again when its worker dies, against Ray's few milliseconds for each task."""
_MOST_ROWS = 20_000
"""Files of a Ray Data set; a corpus of more is done in several, so that the driver's memory is bounded."""
_OBJECT_STORE = 100 << 20
"""Bytes of shared memory of a Ray that is started here; only paths and results go through it."""
_PATIENCE = 10.0
"""Seconds for a cluster to answer."""
_BLOCK_BYTES = 1 << 20
"""What Ray Data reserves for a task's results."""


@dataclass(frozen=True)
class Cluster:
    """Where and how wide.

    Attributes:
        address: Of a running cluster, as Ray knows it ("auto": the one on this machine); or `LOCAL`.
        workers: Files at a time, at most; None for as many as the cluster has cores for.
        threads: Cores that a worker reserves and uses.
    """

    address: str
    workers: int | None = None
    threads: int = 1


@lru_cache(maxsize=1)
def _bundle(path: str | None, encoder_id: str) -> Bundle:
    """The bundle, once for a worker process.

    Raises:
        UsageError: It is another one than the command's.
    """
    bundle = resolve_bundle(path)
    if bundle.encoder_id != encoder_id:
        raise UsageError(
            f"a worker has bundle {bundle.encoder_id} where the command has {encoder_id}; install the same "
            "version on all nodes, and keep bundles on storage that they share"
        )
    return bundle


@lru_cache(maxsize=1)
def _begin(threads: int) -> None:
    """What a worker process does once: of a node's workers, one compiles and the others wait."""
    limit_threads(threads)
    with (cache_folder() / "corpus.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ensure_compiled("encode")


class _Tries:
    """Counts, in a process of its own, how often each file was begun and not ended.

    Ray repeats the task of a dead worker for as long as it takes. A file that kills its worker would hold up
    the corpus for ever.
    """

    def __init__(self) -> None:
        self._begun: dict[str, int] = {}

    def begin(self, output: str) -> int:
        """Count a try; returns how many there were with this one."""
        self._begun[output] = self._begun.get(output, 0) + 1
        return self._begun[output]

    def end(self, output: str) -> None:
        """Forget a file that is done."""
        self._begun.pop(output, None)


def _encode_row(
    row: dict[str, Any],
    *,
    settings: dict[str, Any],
    bundle: tuple[str | None, str],
    threads: int,
    tries: Any,
) -> dict[str, Any]:
    """Encode a file in a worker; a row is one text of JSON, for Arrow wants all rows of the same types."""
    job = Job(*json.loads(row["job"]))
    try:
        count = ray.get(tries.begin.remote(job.output))
        if count > _TRIES:
            raise AmbiError(f"the worker died over this file {_TRIES} times; is memory short?")
        _begin(threads)
        complete = EncodeSettings(bundle=_bundle(*bundle), **settings)
        outcome = replace(encode_job(job, complete, Writer(overwrite=True)), tries=count)
    except Exception as error:
        outcome = failed(job, error)
    tries.end.remote(job.output)
    return {"outcome": json.dumps(asdict(outcome))}


def _outcome(row: dict[str, Any]) -> Outcome:
    values = json.loads(row["outcome"])
    values |= {"job": Job(*values["job"]), "status": Status(values["status"])}
    return Outcome(**values)


def _unreachable(address: str, error: Exception) -> UsageError:
    reason = str(error).splitlines()[0].split(". ")[0].rstrip(".")
    return UsageError(
        f"no Ray cluster can be reached at {address}: {reason}; "
        "check --ray, or start one with: ray start --head"
    )


def _check_address(address: str) -> None:
    """Refuse HOST:PORT where nobody listens, to which Ray would try to connect for many minutes.

    Raises:
        UsageError: Nobody does.
    """
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, error) from error


@contextmanager
def connected(cluster: Cluster) -> Iterator[None]:
    """Be connected to a cluster; leave it, or stop it, at the end.

    Raises:
        UsageError: It cannot be reached.
    """
    if ray.is_initialized():
        # By the caller, who will end it too.
        yield
        return
    _check_address(cluster.address)
    options: dict[str, Any] = {"address": cluster.address}
    if cluster.address == LOCAL:
        workers = cluster.workers or max(1, available_cores() // cluster.threads)
        options |= {
            "num_cpus": workers * cluster.threads,
            "object_store_memory": _OBJECT_STORE,
            "include_dashboard": False,
        }
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _unreachable(cluster.address, error) from error
    try:
        # Ray prints there what becomes of workers, in the midst of results.
        with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing):
            yield
    finally:
        ray.shutdown()


def _configure() -> None:
    """Have Ray Data keep going without a lost task, and be silent: its log has its own files."""
    context = DataContext.get_current()
    context.max_errored_blocks = -1
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = _BLOCK_BYTES
    for handler in logging.getLogger("ray.data").handlers:
        # A handler of files is of another class.
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)


class _Faults(logging.Handler):
    """Keeps the first error that Ray Data ignores: its log alone tells why a task was lost."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._first: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Look at what Ray Data logs."""
        if self._first is None and record.exc_info is not None:
            self._first = record.exc_info[1]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Listen for a while."""
        logger = logging.getLogger("ray.data")
        logger.addHandler(self)
        try:
            yield
        finally:
            logger.removeHandler(self)

    def lost(self) -> AmbiError:
        """What to say of a file whose task is lost."""
        first = self._first
        while isinstance(cause := getattr(first, "cause", None), BaseException):
            # Of Ray's own errors the first line says where, not what.
            first = cause
        reason = "".join(f" ({line})" for line in str(first or "").strip().splitlines()[:1])
        return AmbiError(f"Ray lost its task{reason}; the same command tries it again")


def _check_threads(cluster: Cluster) -> None:
    """Refuse workers that no node has room for: Ray would wait for one to come.

    Raises:
        UsageError: Every node has fewer cores than a worker has threads.
    """
    cores = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    most = int(max(cores, default=0))
    if cluster.threads > most:
        raise UsageError(
            f"--threads {cluster.threads} is more than the {most} cores that the cluster's largest node has "
            "for Ray; choose fewer"
        )


def _tasks(files: int, cluster: Cluster) -> int:
    """Into how many tasks files are divided: enough to keep all workers busy up to the end."""
    workers = cluster.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    return -(-files // max(1, min(_MOST_FILES, files // (8 * workers))))


def encode_on_cluster(
    jobs: Sequence[Job],
    settings: EncodeSettings,
    bundle: Path | None,
    cluster: Cluster,
) -> Generator[Outcome]:
    """Encode files with the workers of a cluster to which this process is `connected`.

    Only paths and results travel: the workers read and write the files themselves. A worker holds one file at
    a time. What a dying worker leaves is done again by another one; a file over which four workers died has
    failed. Existing files are replaced, for a worker may have died just after writing one.

    Args:
        jobs: With absolute paths, valid on every node.
        settings: How.
        bundle: Path of the bundle, valid on every node; None for the default one.
        cluster: How many files at a time, and threads for each.

    Yields:
        Outcomes, as they come.

    Raises:
        UsageError: No node has cores enough for a worker.
    """
    _check_threads(cluster)
    _configure()
    # Where its node dies it begins anew on another one, and only counts are lost.
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Tries)
    tries = actor.remote()
    faults = _Faults()
    arguments: dict[str, Any] = {
        "settings": {
            f.name: getattr(settings, f.name) for f in fields(settings) if f.name != "bundle"
        },
        "bundle": (None if bundle is None else str(bundle), settings.bundle.encoder_id),
        "threads": cluster.threads,
        "tries": tries,
    }
    for start in range(0, len(jobs), _MOST_ROWS):
        left = {job.output: job for job in jobs[start : start + _MOST_ROWS]}
        rows = ray.data.from_items(
            [{"job": json.dumps(job)} for job in left.values()],
            override_num_blocks=_tasks(len(left), cluster),
        )
        results = rows.map(
            partial(_encode_row, **arguments),
            num_cpus=cluster.threads,
            compute=TaskPoolStrategy(cluster.workers),
        )
        with faults.attached():
            for row in results.iter_rows():
                outcome = _outcome(row)
                left.pop(outcome.job.output, None)
                yield outcome
        for job in left.values():
            yield failed(job, faults.lost())
