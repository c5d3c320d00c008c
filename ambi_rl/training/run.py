"""A training run from beginning to end: `train(config)` returns what it reached."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
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
from ambi_rl.codec.strategists import by_name, for_effort
from ambi_rl.codec.warmup import ensure_compiled
from ambi_rl.data import PhotographSource, list_photographs, split_held_out
from ambi_rl.envs import BlockCodingVectorEnv
from ambi_rl.envs.sb3 import BlockCodingVecEnv
from ambi_rl.errors import ConfigError
from ambi_rl.rewards import Reward
from ambi_rl.training.callback import Every, TrainingCallback, policy_picture
from ambi_rl.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from ambi_rl.training.config import PPOConfig, TrainConfig
from ambi_rl.training.display import Display
from ambi_rl.training.evaluation import HeldOut, measure_baselines
from ambi_rl.training.run_folder import RunFolder, write_json

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
    """

    def __init__(
        self, config: TrainConfig, folder: RunFolder, display: Display, *, resume: bool
    ) -> None:
        self.config = config
        self.folder = folder
        self.display = display
        self._started = time.monotonic()
        start = resolve_bundle(config.bundle)
        # Baselines and policy share the bundle the run started from, whatever is learned later.
        self.start_bundle = replace(start, policy={})
        self.progress = Progress()
        restored = load_checkpoint(folder.last) if resume else None
        if restored is not None:
            self.progress = restored.progress
            self.progress.best = self._best_so_far()
        self._seconds_before = self.progress.seconds
        self.entropy = start.entropy if restored is None else restored.bundle.entropy
        paths = list_photographs(config.data.folder)
        self.train_paths, held = split_held_out(paths, config.data.held_out_every)
        self.held_out = HeldOut(
            held[: config.evaluation.images], config.evaluation.qualities, config.env.threads
        )
        self.env = BlockCodingVecEnv(self._environment(start))
        # Going on must not repeat the patches of the beginning.
        self.env.seed(config.seed * 1_000_003 + self.progress.steps)
        self.agent = self._agent()
        if restored is not None:
            self._restore(restored.policy, restored.optimizer)
        self.env.set_bundle(self.bundle())
        self.reward.restore(self.progress.reward)

    @property
    def reward(self) -> Reward:
        """What is learned from."""
        return self.env.vector.episodes.reward

    def _best_so_far(self) -> float | None:
        """The best evaluation of the run, which may be later than its last checkpoint."""
        known = [self.progress.best]
        if self.folder.best.is_file():
            known.append(load_checkpoint(self.folder.best).progress.best)
        return min((value for value in known if value is not None), default=None)

    def _environment(self, bundle: Bundle) -> BlockCodingVectorEnv:
        env, data = self.config.env, self.config.data
        return BlockCodingVectorEnv(
            env.num_envs,
            threads=env.threads,
            photographs=data.folder,
            held_out_every=data.held_out_every,
            patch_size=env.patch_size,
            qualities=(data.min_quality, data.max_quality),
            texture=data.texture,
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

    def bundle(self) -> Bundle:
        """What would be exported now."""
        config = OmegaConf.to_container(OmegaConf.structured(self.config), resolve=True)
        latest = self.progress.evaluations[-1] if self.progress.evaluations else {}
        manifest = self.start_bundle.manifest | {
            "training": {"ambi_rl": __version__, "steps": self.progress.steps, "config": config},
            "data": [path.name for path in self.train_paths],
            # JSON has no nan: a curve may not overlap at first.
            "metrics": {k: v for k, v in latest.items() if math.isfinite(v)},
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
                for_effort(imitation.effort),
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
                    for_effort(imitation.effort),
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
        source = self._refit_source()
        rng = np.random.default_rng(config.seed + steps)
        patches = [source.sample(rng) for _ in range(config.entropy.patches)]
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

    def _refit_source(self) -> PhotographSource:
        qualities = (self.config.data.min_quality, self.config.data.max_quality)
        try:
            return PhotographSource(self.train_paths, _ENTROPY_PATCH, qualities, texture=0.0)
        except ConfigError:
            # Photographs smaller than that: what an episode shows will do.
            size = self.config.env.patch_size
            return PhotographSource(self.train_paths, size, qualities, texture=0.0)

    def evaluate(self, steps: int) -> None:
        """Measure on held-out photographs, log, draw, and keep the policy if it is the best."""
        config = self.config
        bundle = self.bundle()
        with self.display.phase("evaluating") as report:
            baselines = measure_baselines(
                self.held_out,
                self.start_bundle,
                config.evaluation.search_effort,
                self.folder.baselines,
                report=report,
            )
            curve = self.held_out.curve(bundle, by_name("policy"), report=report)
        found = baselines.compare(curve, config.metric) | {"steps": float(steps)}
        self.progress.evaluations.append(found)
        for key, value in found.items():
            if key != "steps":
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

    def _save(self, path: Path) -> None:
        self.progress.steps = int(self.agent.num_timesteps)
        self.progress.reward = self.reward.state()
        self.progress.seconds = self._seconds_before + time.monotonic() - self._started
        save_checkpoint(path, self.agent.policy, self.bundle(), self.progress)

    def checkpoint(self, steps: int) -> None:
        """Save what is needed to go on."""
        self._save(self.folder.last)

    def learn(self) -> None:
        """Train until the configured number of decisions."""
        config, start = self.config, self.progress.steps
        if start == 0:
            self.warm_start()
            self.evaluate(0)
        if config.total_steps <= start:
            return
        bar = self.display.training(config.total_steps, start)
        callback = TrainingCallback(
            bar,
            [
                (Every(config.entropy.refit_every, start), self.refit),
                (Every(config.evaluation.every, start), self.evaluate),
                (Every(config.checkpoint_every, start), self.checkpoint),
            ],
        )
        self.agent.learn(
            config.total_steps - start, callback=callback, log_interval=1, reset_num_timesteps=False
        )

    def finish(self) -> dict[str, Any]:
        """Last refit, evaluation and checkpoint; what the run reached."""
        steps = int(self.agent.num_timesteps)
        if self.config.entropy.refit_every:
            self.refit(steps)
        self.evaluate(steps)
        self.checkpoint(steps)
        seconds = self.progress.seconds
        metrics = self.progress.evaluations[-1] | {
            "objective": math.inf if self.progress.best is None else self.progress.best,
            "seconds": round(seconds, 1),
            "metric": self.config.metric,
            "refits": self.progress.refits,
            "imitation": self.progress.imitation,
            "reward_scales": self.reward.scales,
        }
        write_json(self.folder.metrics, metrics)
        return metrics


def train(
    config: TrainConfig,
    *,
    folder: Path | None = None,
    overrides: Sequence[str] = (),
    display: Display | None = None,
) -> dict[str, Any]:
    """Train as configured.

    Args:
        config: Validated, see `ambi_rl.training.config.to_config`.
        folder: The run folder; `config.runs`/`config.name` if None.
        overrides: What the configuration was composed from, kept for `resume`.
        display: For progress; standard error if None.

    Returns:
        What `metrics.json` holds; its `objective` is the best BD-rate against `fixed` on held-out
        photographs in percent, lower is better.

    Raises:
        ConfigError: The run exists already, or there is nothing to resume, or data is not usable.
        KeyboardInterrupt: After a checkpoint was saved.
    """
    display = display or Display()
    resume = config.resume is not None
    place = RunFolder(folder or Path(config.runs) / config.name)
    place.prepare(config, overrides, resume=resume)
    Distribution.set_default_validate_args(False)
    # The networks are so small that torch's threads only wait for each other: imitation was ten times
    # slower with two of them on a busy machine. The compiled environment has its own.
    torch.set_num_threads(1)
    ensure_compiled("train", report=display.line)
    run = Run(config, place, display, resume=resume)
    try:
        with display.running():
            run.learn()
            metrics = run.finish()
    except KeyboardInterrupt:
        run.checkpoint(int(run.agent.num_timesteps))
        display.line(f"interrupted; go on with: ambi train resume={place.path}")
        raise
    finally:
        run.env.close()
    display.line(f"the run is in {place.path}; export it: ambi export {place.path} -o my.ambic")
    return metrics
