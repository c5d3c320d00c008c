"""Hydra launcher that runs each run of a sweep as a task of a Ray cluster.

hydra-ray-launcher is not used: it pins cloudpickle below 3, needs boto3 and Ray's dashboard, and gives up
the whole sweep when one worker dies.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from omegaconf import open_dict

from ambi_rl.errors import AmbiError, UsageError

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

_STOP_SECONDS = 60.0
"""That runs have to save a checkpoint after an interruption."""


def execute(
    number: int,
    overrides: list[str],
    context: HydraContext,
    config: DictConfig,
    task: TaskFunction,
    singletons: dict[Any, Any],
    cwd: str,
) -> JobReturn:
    """Run one job in a worker process.

    Args:
        number: Of the job.
        overrides: Of the job.
        context: Hydra's.
        config: Composed for the sweep.
        task: Called with the job's configuration.
        singletons: Hydra's state in the process that launches.
        cwd: Its working directory; run folders are relative to it.
    """
    if not Path(cwd).is_dir():
        raise UsageError(f"{cwd} does not exist on {os.uname().nodename}; runs need shared folders")
    os.chdir(cwd)
    setup_globals()
    Singleton.set_state(singletons)
    composed = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(composed):
        composed.hydra.job.id = str(number)
        composed.hydra.job.num = number
    return run_job(
        hydra_context=context,
        task_function=task,
        config=composed,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


class RayLauncher(Launcher):
    """Options are explained in conf/hydra/launcher/ray.yaml.

    Args:
        address: Of a running cluster; None to start Ray on this machine and stop it afterwards.
        cpus_per_run: Cores that a run reserves.
        cpus: Cores of a Ray that is started here; None for all.
        object_store_mb: Its shared memory.
        runtime_env: Ray's runtime environment of the runs.
    """

    def __init__(
        self,
        address: str | None,
        cpus_per_run: float,
        cpus: int | None,
        object_store_mb: int,
        runtime_env: dict[str, Any],
    ) -> None:
        self._address = address
        self._cpus_per_run = cpus_per_run
        self._runtime_env = runtime_env
        self._local = {
            "num_cpus": cpus,
            "object_store_memory": object_store_mb << 20,
            "include_dashboard": False,
        }

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra gives every launcher.

        Args:
            hydra_context: Loads configurations.
            task_function: Called for each job.
            config: Composed for the sweep.
        """
        self._context = hydra_context
        self._task = task_function
        self._config = config

    @contextmanager
    def _connected(self) -> Iterator[None]:
        import ray

        if ray.is_initialized():
            # By the caller, who will end it too.
            yield
            return
        local = self._local if self._address is None else {"address": self._address}
        try:
            ray.init(log_to_driver=False, logging_level=logging.WARNING, **local)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"no Ray cluster can be reached at {self._address or 'this machine'}: "
                f"{str(error).splitlines()[0]}; check hydra.launcher.address"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run jobs and wait for all of them.

        Args:
            job_overrides: Of each job.
            initial_job_idx: Number of the first.

        Returns:
            Of each job; a job whose worker died has failed, the others go on.

        Raises:
            UsageError: There is no such cluster.
            KeyboardInterrupt: After the runs were interrupted too.
        """
        import ray

        with self._connected():
            # A process for each run: what a run leaves in memory ends with it. Never tried again by Ray,
            # for whoever repeats the sweep goes on from the checkpoint.
            remote = ray.remote(
                num_cpus=self._cpus_per_run,
                max_calls=1,
                max_retries=0,
                runtime_env=self._runtime_env,
            )(execute)
            state = Singleton.get_state()
            references = [
                remote.remote(
                    initial_job_idx + index,
                    list(overrides),
                    self._context,
                    self._config,
                    self._task,
                    state,
                    str(Path.cwd()),
                )
                for index, overrides in enumerate(job_overrides)
            ]
            try:
                return [self._result(reference) for reference in references]
            except KeyboardInterrupt:
                for reference in references:
                    ray.cancel(reference)
                ray.wait(references, num_returns=len(references), timeout=_STOP_SECONDS)
                raise

    @staticmethod
    def _result(reference: Any) -> JobReturn:
        import ray

        try:
            result: JobReturn = ray.get(reference)
        except ray.exceptions.RayError as error:
            result = JobReturn()
            result.status = JobStatus.FAILED
            result.return_value = AmbiError(f"Ray: {' '.join(str(error).split())[:300]}")
        return result
