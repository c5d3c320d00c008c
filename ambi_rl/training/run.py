"""A training run of the block codec from beginning to end."""

from __future__ import annotations

import math
import time
from collections import deque
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import OmegaConf
from stable_baselines3.common.logger import configure
from torch.distributions import Distribution

from ambi_rl import __version__
from ambi_rl.agents.algorithms import build_agent
from ambi_rl.agents.export import policy_tensors
from ambi_rl.agents.imitation import (
    CloneResult,
    Demonstrations,
    clone,
    collect_demonstrations,
    collect_visited,
)
from ambi_rl.codec.api import resolve_bundle
from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.entropy.fit import fit_entropy
from ambi_rl.codec.process import Rate
from ambi_rl.codec.strategists import by_name, for_search
from ambi_rl.codec.warmup import ensure_compiled
from ambi_rl.data import Skipped, open_collection
from ambi_rl.data.source import Patch
from ambi_rl.envs import BlockCodingVectorEnv
from ambi_rl.envs.sb3 import BlockCodingVecEnv
from ambi_rl.errors import AmbiError, ConfigError, UsageError
from ambi_rl.rewards import Reward
from ambi_rl.training.callback import RECENT, Every, TrainingCallback, policy_picture
from ambi_rl.training.checkpoint import (
    Progress,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from ambi_rl.training.config import PPOConfig, TrainConfig
from ambi_rl.training.data_config import data_settings
from ambi_rl.training.display import Display
from ambi_rl.training.evaluation import BD_RATES, HeldOut, best_evaluation, measure_baselines
from ambi_rl.training.finite import FiniteGuard
from ambi_rl.training.run_folder import RunFolder, write_json
from ambi_rl.training.status import EvaluationHook
from ambi_rl.training.stopping import Stopping
from ambi_rl.training.trajectory import capture, put_back

_ENTROPY_PATCH = 128
"""Pixels a side of what the entropy model is fitted to: long enough to adapt, short enough to vary."""
_OFFSET_SMOOTHING = 0.2
"""Share of the offsets that a teacher does not use, after imitation for a structural reward."""
_RANDOM_STEPS = 30
"""Steps of random actions that observations are normalised from, without imitation."""


class Run:
    """A training run in progress.

    Args:
        config: Validated.
        folder: The run folder, prepared.
        display: For progress.
        resume: Whether to go on from the folder's last checkpoint.
        on_evaluation: Called with the node decisions and the result after every evaluation.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        display: Display,
        *,
        resume: bool,
        on_evaluation: EvaluationHook | None = None,
    ) -> None:
        self.config = config
        self.folder = folder
        self.display = display
        self._on_evaluation = on_evaluation
        self._started = time.monotonic()
        start = resolve_bundle(config.bundle)
        # Baselines and policy share the bundle the run started from, whatever is learned later.
        self.start_bundle = replace(start, policy={})
        self.progress = Progress()
        restored = (
            newest_checkpoint(folder, load_checkpoint, display, "decisions") if resume else None
        )
        if restored is not None:
            self.progress = restored.progress
            self.progress.best = self._best_so_far()
        self.recent: deque[dict[str, Any]] = deque(maxlen=RECENT)
        self.guard = FiniteGuard(folder)
        self._saved = self.progress.steps
        """Decisions at the newest checkpoint."""
        self.stopping = Stopping(display)
        self._told = 0
        """Photographs that cannot be used, of those that were named."""
        self._seconds_before = self.progress.seconds
        self.entropy = start.entropy if restored is None else restored.bundle.entropy
        self.collection = open_collection(data_settings(config.data))
        self.skipped_held_out = Skipped()
        held = self.collection.held_out(config.evaluation.images, self.skipped_held_out)
        self.held_out = HeldOut(held, config.evaluation.qualities, config.env.threads)
        self.env = BlockCodingVecEnv(self._environment(start))
        # Episodes that begin anew in a run that goes on must not repeat those of its beginning.
        self.env.seed(config.seed * 1_000_003 + self.progress.steps)
        self.agent = self._agent()
        if restored is not None:
            self._restore(restored.policy, restored.optimizer)
        self.env.set_bundle(self.bundle())
        if restored is not None:
            self._go_on(restored.trajectory)
        self.reward.restore(self.progress.extra.get("reward", {}))

    @property
    def steps(self) -> int:
        """Decisions so far, those of the rollout in progress included."""
        return int(self.agent.num_timesteps)

    def close(self) -> None:
        """Let go of the environments."""
        self.env.close()

    @property
    def reward(self) -> Reward:
        """What is learned from."""
        return self.env.vector.episodes.reward

    def _best_so_far(self) -> float | None:
        """The best evaluation of the run, which may be later than its last checkpoint."""
        known = [self.progress.best]
        if self.folder.best.is_file():
            try:
                known.append(load_checkpoint(self.folder.best).progress.best)
            except AmbiError as error:
                self.display.line(f"{error}; the next best policy replaces it")
                return None
        return min((value for value in known if value is not None), default=None)

    def _go_on(self, trajectory: dict[str, Any] | None) -> None:
        """Put episodes and chance back, so that what follows is what would have followed."""
        reason = "it is of an older version"
        if trajectory is not None:
            try:
                put_back(self.agent, self.env, trajectory)
            except UsageError as error:
                reason = str(error)
            else:
                self.recent.extend(trajectory["recent"])
                return
        self.display.line(
            f"the checkpoint's episodes cannot go on ({reason}): others begin, and the run will differ from "
            "one without interruption"
        )
        self._begin_episodes()

    def _environment(self, bundle: Bundle) -> BlockCodingVectorEnv:
        env = self.config.env
        return BlockCodingVectorEnv(
            env.num_envs,
            threads=env.threads,
            source=self.collection.source(
                env.patch_size, texture=self.config.data.texture, seed=self.config.seed
            ),
            weights=self.config.weights,
            bundle=bundle,
            rate=cast(Rate, env.rate),
        )

    def _agent(self) -> Any:
        agent = self.config.agent
        extra: dict[str, Any] = {}
        if isinstance(agent, PPOConfig):
            extra = {
                "batch_size": min(agent.batch_size, agent.n_steps * self.config.env.num_envs),
                "n_epochs": agent.n_epochs,
                "clip_range": agent.clip_range,
                "target_kl": agent.target_kl,
            }
        model = build_agent(
            agent.algorithm,
            self.env,
            pixels=self.config.env.patch_size**2,
            tree_credit=self.config.tree_credit,
            hidden=agent.hidden,
            learning_rate=agent.learning_rate,
            final_learning_rate=agent.final_learning_rate,
            n_steps=agent.n_steps,
            gamma=agent.gamma,
            gae_lambda=agent.gae_lambda,
            entropy_coefficient=agent.entropy_coefficient,
            value_coefficient=agent.value_coefficient,
            max_grad_norm=agent.max_grad_norm,
            seed=self.config.seed + self.progress.steps,
            **extra,
        )
        model.set_logger(configure(str(self.folder.tensorboard), ["tensorboard"]))
        return model

    def _restore(self, policy: dict[str, Any], optimizer: dict[str, Any]) -> None:
        try:
            self.agent.policy.load_state_dict(policy)
            self.agent.policy.optimizer.load_state_dict(optimizer)
        except (RuntimeError, ValueError, KeyError) as error:
            raise ConfigError(
                f"the checkpoint {self.folder.last} is of another agent or network than the configuration "
                "asks for; go on with the agent group it was started with"
            ) from error
        self.agent.num_timesteps = self.progress.steps

    def _begin_episodes(self) -> None:
        self.agent._last_obs = self.env.reset()
        self.agent._last_episode_starts = np.ones(self.env.num_envs, dtype=bool)

    def bundle(self) -> Bundle:
        """What would be exported now."""
        # Whether a run was interrupted makes no difference to what it gives.
        config = OmegaConf.to_container(
            OmegaConf.structured(replace(self.config, resume=None)), resolve=True
        )
        latest = self.progress.evaluations[-1] if self.progress.evaluations else {}
        manifest = self.start_bundle.manifest | {
            "training": {"ambi_rl": __version__, "steps": self.progress.steps, "config": config},
            "data": self.collection.names(),
            # JSON has no nan: a curve may not overlap at first.
            "metrics": {
                k: latest[k] for k in (*BD_RATES, "steps") if math.isfinite(latest.get(k, math.nan))
            },
            "policy": {
                "algorithm": self.config.agent.algorithm,
                "hidden": self.config.agent.hidden,
            },
        }
        policy = policy_tensors(self.agent.policy)
        return replace(
            self.start_bundle, manifest=manifest, entropy=dict(self.entropy), policy=policy
        )

    def warm_start(self) -> None:
        """Imitate the search, or at least see what observations are like."""
        config, agent = self.config, self.config.agent
        extractor = self.agent.policy.features_extractor
        if agent.warm_start == "none":
            extractor.fit(self._random_observations())
            return
        imitation = agent.imitation
        with self.display.phase(f"teacher: search, effort {imitation.effort}") as report:
            data = collect_demonstrations(
                self.env.vector.episodes.source,
                replace(self.start_bundle, entropy=dict(self.entropy)),
                for_search(imitation.effort),
                self.reward,
                count=imitation.patches,
                seed=config.seed,
                tree_credit=config.tree_credit,
                gamma=agent.gamma,
                threads=config.env.threads,
                report=report,
            )
        result = self._clone(data, further=False)
        for number in range(1, imitation.rounds + 1):
            with self.display.phase(f"teacher: advice to the policy, round {number}") as report:
                visited = collect_visited(
                    self.agent.policy,
                    self.env.vector.episodes.source,
                    replace(self.start_bundle, entropy=dict(self.entropy)),
                    for_search(imitation.effort),
                    self.reward,
                    masked=agent.algorithm == "maskable_ppo",
                    count=imitation.visited,
                    first=int(data.patches.max()) + 1,
                    seed=config.seed + number,
                    tree_credit=config.tree_credit,
                    gamma=agent.gamma,
                    threads=config.env.threads,
                    report=report,
                )
            data = Demonstrations.join([data, visited])
            result = self._clone(data, further=True)
        self.progress.imitation = asdict(result)
        self.display.line(
            f"imitation, on patches not trained with: {result.decision_accuracy:.1%} of decisions as the "
            f"teacher, {result.split_accuracy:.1%} of splits; value correlation "
            f"{result.value_correlation:.2f}"
        )

    def _clone(self, data: Demonstrations, *, further: bool) -> CloneResult:
        agent = self.config.agent
        imitation = agent.imitation
        with self.display.phase(f"imitation: {len(data.decisions):,} decisions") as report:
            return clone(
                self.agent.policy,
                data,
                num_decisions=self.env.vector.episodes.num_decisions,
                masked=agent.algorithm == "maskable_ppo",
                epochs=imitation.epochs,
                batch_size=imitation.batch_size,
                learning_rate=imitation.learning_rate,
                seed=self.config.seed,
                offset_smoothing=self._offset_smoothing(),
                further=further,
                report=report,
            )

    def _offset_smoothing(self) -> float:
        # A teacher that heeds only the codec's own cost never uses offsets; for other metrics they may pay.
        return _OFFSET_SMOOTHING if self.reward.needs_picture else 0.0

    def _random_observations(self) -> np.ndarray:
        rng = np.random.default_rng(self.config.seed)
        seen = [self.env.reset()]
        high = np.array(
            [self.env.vector.episodes.num_decisions, self.env.vector.episodes.num_offsets]
        )
        for _ in range(_RANDOM_STEPS):
            actions = rng.integers(0, high, (self.env.num_envs, 2))
            # Half of them split, so that small blocks are seen too.
            actions[rng.random(self.env.num_envs) < 0.5, 0] = 0
            observations, *_ = self.env.step(actions)
            seen.append(observations)
        return np.concatenate(seen)

    def refit(self, steps: int) -> None:
        """Fit the entropy model to what the policy does now; later episodes and exports use it."""
        config = self.config
        patches = self._refit_patches(config.seed + steps)
        # Only the policy of this bundle matters, and the starting model, so that refits do not drift.
        bundle = replace(self.bundle(), entropy=dict(self.start_bundle.entropy))
        with self.display.phase("refitting the entropy model") as report:
            self.entropy = fit_entropy(
                [(patch.planes, patch.step) for patch in patches],
                bundle,
                by_name("policy"),
                report=report,
            )
        self.progress.refits += 1
        self.env.set_bundle(self.bundle())

    def _refit_patches(self, seed: int) -> list[Patch]:
        for size in (_ENTROPY_PATCH, self.config.env.patch_size):
            rng = np.random.default_rng(seed)
            try:
                # Few of each photograph, for there are not many in all.
                source = self.collection.source(size, texture=0.0, seed=seed, patches_per_picture=2)
                with closing(source):
                    return [source.sample(rng) for _ in range(self.config.entropy.patches)]
            except ConfigError:
                # Photographs smaller than that: what an episode shows will do.
                if size == self.config.env.patch_size:
                    raise
        raise AssertionError("the last size returns or raises")

    def _tell_skipped(self) -> None:
        """Name what the data has that cannot be used, if there is more of it than was said."""
        source = self.env.vector.episodes.source
        count = source.skipped.count + self.skipped_held_out.count
        if count > self._told:
            self._told = count
            for side, skipped in (
                ("training", source.skipped),
                ("held-out", self.skipped_held_out),
            ):
                if skipped.count:
                    self.display.line(f"{side}: {skipped}")

    def evaluate(self, steps: int) -> None:
        """Measure on held-out photographs, log, draw, and keep the policy if it is the best."""
        self._tell_skipped()
        config = self.config
        bundle = self.bundle()
        started = time.monotonic()
        with self.display.phase("evaluating") as report:
            baselines = measure_baselines(
                self.held_out,
                self.start_bundle,
                config.evaluation.search_effort,
                self.folder.baselines,
                report=report,
            )
            curve = self.held_out.curve(bundle, by_name("policy"), report=report)
        found = baselines.compare(curve, config.metric)
        record = found | {
            "steps": float(steps),
            "seconds": round(self._seconds(), 1),
            "evaluation_seconds": round(time.monotonic() - started, 1),
            "curve": asdict(curve),
        }
        self.progress.evaluations.append(record)
        write_json(
            self.folder.evaluations,
            {"metric": config.metric, "evaluations": self.progress.evaluations},
        )
        for key, value in found.items():
            self.agent.logger.record(f"held_out/{key}", value)
        for number, (picture, name) in enumerate(
            zip(self.held_out.pictures, self.held_out.names, strict=True)
        ):
            if number < 2:
                quality = self.held_out.qualities[len(self.held_out.qualities) // 2]
                image = policy_picture(picture, quality, bundle)
                self.agent.logger.record(f"held_out/{Path(name).stem}", image)
        self.agent.logger.dump(steps)
        objective = found["bd_rate_vs_fixed"]
        self.display.line(
            f"{steps:,} decisions: held-out BD-rate ({config.metric}) {objective:+.2f} % against fixed, "
            f"{found['bd_rate_vs_search']:+.2f} % against search "
            f"(search against fixed {found['search_vs_fixed']:+.2f} %)"
        )
        best = self.progress.best
        # What meets a target is not what saves most, so with one the latest policy is the best.
        better = best is None or objective < best or self.reward.constraint is not None
        if math.isfinite(objective) and better:
            self.progress.best = objective
            self._save(self.folder.best)
        if self._on_evaluation is not None:
            self._on_evaluation(steps, found)

    def _seconds(self) -> float:
        """Time spent on the run so far, over all its starts."""
        return self._seconds_before + time.monotonic() - self._started

    def _save(self, path: Path, trajectory: dict[str, Any] | None = None) -> None:
        self.progress.steps = int(self.agent.num_timesteps)
        self.progress.extra["reward"] = self.reward.state()
        self.progress.seconds = self._seconds()
        save_checkpoint(path, self.agent.policy, self.bundle(), self.progress, trajectory)

    def checkpoint(self, steps: int) -> None:
        """Save what is needed to go on exactly; only between an update and the next rollout."""
        trajectory = capture(self.agent, self.env) | {"recent": list(self.recent)}
        if steps != self._saved:
            self.folder.make_room(self._saved, self.config.checkpoint_keep)
        self._save(self.folder.last, trajectory)
        self._saved = steps

    def learn(self) -> None:
        """Train until the configured number of decisions."""
        config, start = self.config, self.progress.steps
        # Checkpoints of older versions do not say that they are past the warm start.
        if not (self.progress.warm_started or start):
            self.warm_start()
            self.guard.check_update(self.agent)
            self.progress.warm_started = True
            self._begin_episodes()
            # Minutes of work that a later interruption need not repeat.
            self.checkpoint(0)
        if not self.progress.evaluations:
            self.evaluate(0)
        if config.total_steps <= start:
            return
        self.progress.finished = False
        callback = TrainingCallback(
            self.display.training(config.total_steps, start),
            [
                (Every(config.entropy.refit_every, start), self.refit),
                (Every(config.evaluation.every, start), self.evaluate),
                # After the others, for going on does not repeat them.
                (Every(config.checkpoint_every, start), self.checkpoint),
                (Every(1, start), self._stop_if_asked),
            ],
            self.guard,
            self.recent,
        )
        with self.stopping.between_updates():
            self.agent.learn(
                config.total_steps - start,
                callback=callback,
                log_interval=1,
                reset_num_timesteps=False,
            )
        # After the last update no rollout begins that would look.
        self._stop_if_asked(int(self.agent.num_timesteps))

    def _stop_if_asked(self, steps: int) -> None:
        self.stopping.stop_if_asked(lambda: self.checkpoint(steps))

    def finish(self) -> dict[str, Any]:
        """Last refit, evaluation and checkpoint; what the run reached."""
        steps = int(self.agent.num_timesteps)
        if not self.progress.finished:
            if self.config.entropy.refit_every:
                self.refit(steps)
            self.evaluate(steps)
            self.progress.finished = True
            self.checkpoint(steps)
        seconds = self.progress.seconds
        metrics = self.progress.evaluations[-1] | {
            "objective": math.inf if self.progress.best is None else self.progress.best,
            "seconds": round(seconds, 1),
            "metric": self.config.metric,
            "refits": self.progress.refits,
            "imitation": self.progress.imitation,
            "reward": self.reward.facts(),
            "best": best_evaluation(self.progress.evaluations),
            "skipped": {
                "training": self.env.vector.episodes.source.skipped.facts(),
                "held_out": self.skipped_held_out.facts(),
            },
        }
        write_json(self.folder.metrics, metrics)
        return metrics


def begin_block(
    config: TrainConfig,
    place: RunFolder,
    display: Display,
    on_evaluation: EvaluationHook | None,
) -> Run:
    """A run in a prepared folder; see `ambi_rl.training.start.train`."""
    Distribution.set_default_validate_args(False)
    # The networks are so small that torch's threads only wait for each other: imitation was ten times
    # slower with two of them on a busy machine. The compiled environment has its own.
    torch.set_num_threads(1)
    ensure_compiled("train", report=display.line)
    resume = config.resume is not None
    return Run(config, place, display, resume=resume, on_evaluation=on_evaluation)
