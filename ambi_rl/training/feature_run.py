"""A training run of the feature codec: test frames, agent, decoder, prior, and what the code is worth."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from omegaconf import OmegaConf
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Image, configure
from stable_baselines3.common.vec_env import VecEnv

from ambi_rl.agents.algorithms import linear_schedule
from ambi_rl.agents.play_imitation import imitate
from ambi_rl.agents.rate_control import build_control
from ambi_rl.agents.rate_ppo import LatentFeatures, RatePolicy, RatePPO, RateRolloutBuffer
from ambi_rl.envs.atari import ImageEnvSettings, check_packages, game_of, make_vec_env
from ambi_rl.envs.breakout import ScriptedPlayer
from ambi_rl.envs.players import Excluded, Play, collect_play
from ambi_rl.errors import ConfigError, UsageError
from ambi_rl.neural.frame_training import (
    DecoderTrainer,
    FrameLoss,
    begin_background,
    joint_loss,
    sample_newest,
)
from ambi_rl.neural.networks import FRAME_SIDE, FrameDecoder
from ambi_rl.training.callback import RECENT, Every
from ambi_rl.training.checkpoint import (
    FeatureCheckpoint,
    Progress,
    load_feature_checkpoint,
    newest_checkpoint,
    save_feature_checkpoint,
)
from ambi_rl.training.display import Display, TrainingBar
from ambi_rl.training.feature_config import FeatureConfig, GameConfig
from ambi_rl.training.feature_evaluation import FeatureEvaluation
from ambi_rl.training.finite import FiniteGuard
from ambi_rl.training.memory import keep_freed_memory
from ambi_rl.training.run_folder import RunFolder, write_json
from ambi_rl.training.status import EvaluationHook
from ambi_rl.training.stopping import Stopping

Frames = npt.NDArray[np.uint8]

_EVERY = 4
"""Moves between frames that the decoder is trained with: more variety for the same memory."""
_NOISE = 0.1
"""Share of random moves while they are played, which leads to places where the agent would not go."""
_FIRST_FRAMES = 512
_MEASURED = ("decoder", "prior", "test_set", "evaluation")
"""Parts of the configuration that what follows the agent's training depends on."""
_CURVE_POINTS = 40
"""Of the decoder's loss in TensorBoard."""
_REFRESH_SECONDS = 0.5


def env_settings(game: GameConfig) -> ImageEnvSettings:
    """The environment of a configuration."""
    return ImageEnvSettings(**{item.name: getattr(game, item.name) for item in fields(game)})


def build_agent(
    config: FeatureConfig, env: VecEnv, exclude: Excluded | None = None, *, seed: int
) -> RatePPO:
    """The agent of a configuration, untrained.

    Args:
        config: Validated.
        env: Made for training; it is seeded too.
        exclude: See `RateRolloutBuffer`.
        seed: Of weights and of what the agent draws.
    """
    agent = config.agent
    model = RatePPO(
        RatePolicy,
        env,
        learning_rate=linear_schedule(agent.learning_rate, agent.final_learning_rate),
        n_steps=agent.n_steps,
        batch_size=min(agent.batch_size, agent.n_steps * config.env.num_envs),
        n_epochs=agent.n_epochs,
        clip_range=agent.clip_range,
        target_kl=agent.target_kl,
        gamma=agent.gamma,
        gae_lambda=agent.gae_lambda,
        ent_coef=agent.entropy_coefficient,
        vf_coef=agent.value_coefficient,
        max_grad_norm=agent.max_grad_norm,
        rollout_buffer_class=RateRolloutBuffer,
        rollout_buffer_kwargs={"exclude": exclude},
        policy_kwargs={
            "features_extractor_class": LatentFeatures,
            "features_extractor_kwargs": {
                "width": agent.width,
                "layer": config.latent.layer,
                "channels": config.latent.channels,
                "features": agent.features,
                "quantization": config.latent.quantization,
            },
            "net_arch": [],
            "prior": config.prior.kind,
        },
        seed=seed,
    )
    model.prior_steps = config.prior.steps
    return model


class FeatureRun:
    """A training run in progress.

    Args:
        config: Validated.
        folder: The run folder, prepared.
        display: For progress.
        resume: Whether to go on from the folder's last checkpoint. Games begin anew then, as do the moments
            of the factorized prior's optimizer.
        on_evaluation: Called with the moves and the result after every evaluation.
    """

    def __init__(
        self,
        config: FeatureConfig,
        folder: RunFolder,
        display: Display,
        *,
        resume: bool,
        on_evaluation: EvaluationHook | None = None,
    ) -> None:
        self.config, self.folder, self.display = config, folder, display
        self._on_evaluation = on_evaluation
        self._started = time.monotonic()
        self.progress = Progress()
        restored = (
            newest_checkpoint(folder, load_feature_checkpoint, display, "moves") if resume else None
        )
        if restored is not None:
            self.progress = restored.progress
        self._saved = self.progress.steps
        self._seconds_before = self.progress.seconds
        self.settings = env_settings(config.env)
        # What is missing or cannot be is said before minutes are spent on a test set.
        check_packages(self.settings)
        if not self.progress.warm_started:
            self._check_warm_start()
        self.stopping = Stopping(display)
        self.guard = FiniteGuard(folder)
        self.tables: dict[str, Any] = {}
        self.evaluation = FeatureEvaluation(config, self.settings, display)
        self.env = make_vec_env(self.settings, seed=self._seed(), training=True)
        self._check_space()
        self.agent = build_agent(
            config,
            self.env,
            self.evaluation.test_set.contains,
            seed=config.seed + self.progress.steps,
        )
        # The agent has seeded them like itself.
        self.env.seed(self._seed())
        self.agent.set_logger(configure(str(folder.tensorboard), ["tensorboard"]))
        policy = self.agent.policy
        self.decoder = self._new_decoder()
        # That of joint training: its statistics stay those of the beginning.
        self.loss = self._new_loss()
        if self._is_joint:
            # Not part of the policy: its gradients are not clipped with the agent's.
            policy.optimizer.add_param_group({"params": list(self.decoder.parameters())})
        self.control = build_control(
            config.rate.schedule,
            alpha=config.rate.alpha,
            target_bits=config.rate.target_bits,
            latents=math.prod(policy.encoder.latent_shape),
            speed=config.rate.speed,
            ratio=config.rate.ratio,
        )
        self.episodes: deque[dict[str, Any]] = deque(maxlen=RECENT)
        if restored is not None:
            self._restore(restored)

    @property
    def steps(self) -> int:
        """Decisions so far, those of the rollout in progress included."""
        return int(self.agent.num_timesteps)

    def close(self) -> None:
        """Let go of the environments."""
        self.env.close()

    def _new_decoder(self) -> FrameDecoder:
        shape = self.agent.policy.encoder.latent_shape
        return FrameDecoder(shape, self.config.decoder.width).to(self.agent.device)

    def _new_loss(self) -> FrameLoss:
        decoder = self.config.decoder
        loss = FrameLoss(
            pixel=decoder.pixel,
            motion=decoder.motion,
            multiscale=decoder.multiscale,
            latent=decoder.latent,
        )
        return loss.to(self.agent.device)

    def _seed(self) -> int:
        # Games that begin anew in a run that goes on must not repeat those of its beginning.
        return self.config.seed * 1_000_003 + self.progress.steps

    def _check_space(self) -> None:
        shape = self.env.observation_space.shape or ()
        if shape[1:] != (FRAME_SIDE, FRAME_SIDE):
            raise ConfigError(f"frames are {shape[1:]}; the networks are made for {FRAME_SIDE}")

    def _check_warm_start(self) -> None:
        agent, game = self.config.agent, self.config.env.id
        if self.config.decoder.scripted and game_of(game) != "breakout":
            raise ConfigError(
                f"decoder.scripted has a player for Breakout only, not for {game}; leave it at 0"
            )
        if agent.warm_start == "imitation" and game_of(game) != "breakout":
            raise ConfigError(
                f"agent.warm_start=imitation has a scripted player for Breakout only, not for {game}; take "
                "agent.warm_start=none"
            )
        if agent.warm_start == "run":
            run = RunFolder(Path(str(agent.pretrained)))
            if not run.last.is_file() or run.system() != "features":
                raise ConfigError(
                    f"agent.pretrained={run.path} is no folder of a feature codec's run with a checkpoint; "
                    "give one: runs/NAME"
                )

    def _restore(self, checkpoint: FeatureCheckpoint) -> None:
        self._check_standardize(checkpoint, str(self.folder.path))
        try:
            self.agent.policy.load_state_dict(checkpoint.policy)
            self.agent.policy.optimizer.load_state_dict(checkpoint.optimizer)
            self.decoder.load_state_dict(checkpoint.decoder)
            self.loss.load_state_dict(checkpoint.loss)
        except (RuntimeError, ValueError, KeyError) as error:
            raise ConfigError(
                f"the checkpoint {self.folder.last} is of other networks than the configuration asks for; "
                "go on with the configuration it was started with"
            ) from error
        self.tables = checkpoint.tables
        if any(checkpoint.config[part] != self._plain_config()[part] for part in _MEASURED):
            # What was found is of another configuration: decoder, tables and evaluation are made again.
            self.progress.finished = False
        self.control.restore(self.progress.extra["control"])
        self.agent.num_timesteps = self.progress.steps

    def warm_start(self) -> None:
        """Begin as a scripted player or another run's agent, with statistics of what is to be seen."""
        agent = self.config.agent
        if agent.warm_start == "run":
            has_decoder = self._take_over(Path(str(agent.pretrained)))
            if self._is_joint and not has_decoder:
                self._begin_decoder(self._first_frames())
            return
        play = self._scripted_play() if agent.warm_start == "imitation" else None
        frames = self._first_frames() if play is None else play.observations
        if agent.standardize:
            self.agent.policy.encoder.standardize.fit(sample_newest(frames, self.agent.device))
        if self._is_joint:
            self._begin_decoder(frames)
        if play is not None:
            self._imitate(play)

    def _begin_decoder(self, frames: Frames) -> None:
        """What a decoder that learns with the agent begins with: a background, and pixels' variances."""
        begin_background(self.decoder, frames)
        self.loss.fit(frames)

    def _first_frames(self) -> Frames:
        """Play of the agent as it is."""
        frames = np.empty((_FIRST_FRAMES, *self._stack_shape), np.uint8)
        self._collect(self._act, self.env, frames, lambda fraction: None)
        return frames

    def _take_over(self, run: Path) -> bool:
        """Begin as another run's agent; returns whether its decoder was taken over too."""
        source = load_feature_checkpoint(RunFolder(run).last)
        self._check_standardize(source, str(run))
        has_decoder = self._is_joint and source.config["decoder"]["training"] == "joint"
        try:
            state = source.policy
            if source.config["prior"]["kind"] != self.config.prior.kind:
                # Priors are fitted anew as training goes on.
                state = {k: v for k, v in state.items() if not k.startswith("prior.")}
                state |= {f"prior.{k}": v for k, v in self.agent.policy.prior.state_dict().items()}
            self.agent.policy.load_state_dict(state)
            if has_decoder:
                self.decoder.load_state_dict(source.decoder)
                self.loss.load_state_dict(source.loss)
        except RuntimeError as error:
            raise ConfigError(
                f"the agent of {run} has other networks than this configuration asks for; take over its "
                "latent and agent groups, and its decoder.width where decoders learn jointly"
            ) from error
        return has_decoder

    def _check_standardize(self, source: FeatureCheckpoint, where: str) -> None:
        """Weights of the one kind of input are worth nothing with the other, and nobody would notice."""
        known, wanted = source.config["agent"]["standardize"], self.config.agent.standardize
        if known != wanted:
            raise ConfigError(
                f"agent.standardize is {str(wanted).lower()}, but the agent of {where} was trained with "
                f"{str(known).lower()}; give agent.standardize={str(known).lower()}"
            )

    def _scripted_play(self) -> Play:
        """Moves of the scripted player, none on a frame of the test set."""
        imitation = self.config.agent.imitation
        with self.display.phase(f"scripted player: {imitation.steps:,} moves"):
            # It meets the ball with the middle of its paddle: where it aims cannot be seen, nor imitated.
            player = ScriptedPlayer(self.env, aim=0.0, seed=self.config.seed)
            play = collect_play(
                self.env,
                player,
                imitation.steps,
                gamma=self.config.agent.gamma,
                noise=imitation.noise,
                seed=self.config.seed,
                exclude=self.evaluation.test_set.contains,
            )
        if not len(play.actions):
            raise UsageError(
                "all moves of the scripted player show frames of the test set; raise agent.imitation.steps"
            )
        return play

    def _imitate(self, play: Play) -> None:
        imitation = self.config.agent.imitation
        self._learn_jointly(imitation.joint_weight)
        with self.display.phase("imitation") as report:
            result = imitate(
                self.agent.policy,
                play,
                others=list(self.decoder.parameters()) if self._is_joint else [],
                epochs=imitation.epochs,
                batch_size=imitation.batch_size,
                learning_rate=imitation.learning_rate,
                alpha=imitation.alpha,
                seed=self.config.seed,
                report=report,
            )
        self.progress.imitation = asdict(result)
        self.display.line(
            f"imitation, on moves not trained with: {result.accuracy:.1%} as the player, value correlation "
            f"{result.value_correlation:.2f}; {result.excluded} moves left out for the test set"
        )

    @property
    def _is_joint(self) -> bool:
        return self.config.decoder.training == "joint"

    def learn(self) -> None:
        """Train the agent until the configured number of moves."""
        config, start = self.config, self.progress.steps
        policy = self.agent.policy
        if not self.progress.warm_started:
            self.warm_start()
            self.guard.check_update(self.agent)
            self.progress.warm_started = True
            self.checkpoint(0)
        self._learn_jointly(config.decoder.joint_weight)
        policy.alpha = self.control.alpha
        self.agent.next_alpha = self._next_alpha
        if config.total_steps <= start:
            return
        # Decoder and tables of a finished run that goes on are made again.
        self.progress.finished = False
        callback = FeatureCallback(self, self.display.training(config.total_steps, start), start)
        with self.stopping.between_updates():
            self.agent.learn(
                config.total_steps - start,
                callback=callback,
                log_interval=1,
                reset_num_timesteps=False,
            )
        # After the last update no rollout begins that would look.
        self.stopping.stop_if_asked(lambda: self.checkpoint(int(self.agent.num_timesteps)))

    def _learn_jointly(self, weight: float) -> None:
        """Let the decoder's loss move the agent with a weight, if that is asked for."""
        policy = self.agent.policy
        if self._is_joint:
            policy.further_loss = joint_loss(policy.encoder, self.decoder, self.loss, weight)

    def _next_alpha(self, bits: float) -> float:
        return self.control.update(bits, self.mean_score())

    def mean_score(self) -> float:
        """Mean score of the latest games; nan if none has ended."""
        return float(np.mean([e["r"] for e in self.episodes])) if self.episodes else math.nan

    def evaluate(self, steps: int) -> None:
        """Score the agent on what it sees itself, and log it."""
        score = self.evaluation.score(self.agent)
        found = {
            "steps": float(steps),
            "score": score.mean,
            "score_error": score.standard_error,
            "objective": -score.mean,
        }
        self.progress.evaluations.append(found)
        write_json(self.folder.evaluations, {"evaluations": self.progress.evaluations})
        for key, value in found.items():
            self.agent.logger.record(f"held_out/{key}", value)
        self.agent.logger.dump(steps)
        self.display.line(f"{steps:,} moves: score {score.mean:.1f} ± {score.standard_error:.1f}")
        if self._on_evaluation is not None:
            self._on_evaluation(steps, found)

    def checkpoint(self, steps: int) -> None:
        """Save what is needed to go on, or to export."""
        if steps != self._saved:
            self.folder.make_room(self._saved, self.config.checkpoint_keep)
        self.progress.steps = int(self.agent.num_timesteps)
        self.progress.seconds = self._seconds_before + time.monotonic() - self._started
        self.progress.extra |= {
            "control": self.control.state(),
            "excluded": self._excluded(),
        }
        checkpoint = FeatureCheckpoint(
            self.agent.policy.state_dict(),
            self.agent.policy.optimizer.state_dict(),
            self.decoder.state_dict(),
            self.loss.state_dict(),
            self.tables,
            self._plain_config(),
            self.progress,
        )
        save_feature_checkpoint(self.folder.last, checkpoint)
        self._saved = steps

    def _plain_config(self) -> dict[str, Any]:
        plain = OmegaConf.to_container(OmegaConf.structured(self.config), resolve=True)
        return cast(dict[str, Any], plain)

    def _excluded(self) -> int:
        """Moves left out of the agent's training because their frame is one of the test set."""
        buffer = cast(RateRolloutBuffer, self.agent.rollout_buffer)
        before = int(self.progress.extra.get("excluded", 0))
        count, buffer.excluded = before + buffer.excluded, 0
        return count

    @property
    def _stack_shape(self) -> tuple[int, ...]:
        return self.env.observation_space.shape or ()

    def _act(self, seen: Frames) -> Any:
        return self.agent.predict(seen, deterministic=False)[0]

    def _collect(self, act: Callable[[Frames], Any], env: VecEnv, out: Frames, report: Any) -> int:
        exclude = self.evaluation.test_set.contains
        return collect_frames(act, env, out, exclude, seed=self.config.seed, report=report)

    def _collect_scripted(self, out: Frames, report: Any) -> int:
        """Play of the scripted player, in whole games: it comes to states that the agent does not."""
        env = make_vec_env(self.settings, seed=self._seed() + 1, training=False)
        try:
            player = ScriptedPlayer(env, seed=self.config.seed)
            return self._collect(lambda seen: player.act(), env, out, report)
        finally:
            env.close()

    def fit_decoder(self) -> Frames:
        """Train the decoder on play of the agent and perhaps others; returns the stacks of it."""
        config = self.config.decoder
        frames = np.empty((config.frames, *self._stack_shape), np.uint8)
        scripted = round(config.scripted * config.frames)
        with self.display.phase(f"playing {config.frames:,} frames for the decoder") as report:
            excluded = self._collect(self._act, self.env, frames[scripted:], report)
            if scripted:
                excluded += self._collect_scripted(frames[:scripted], report)
        self.progress.extra["excluded_for_decoder"] = excluded
        encoder = self.agent.policy.encoder
        if config.training == "after":
            # A finished run that goes on has had one for other codes.
            self.decoder = self._new_decoder()
            begin_background(self.decoder, frames)
        loss = self._new_loss()
        loss.fit(frames)
        trainer = DecoderTrainer(
            encoder,
            self.decoder,
            loss,
            frames,
            steps=config.steps,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            seed=self.config.seed,
        )
        with self.display.phase(f"training the decoder, {config.steps:,} steps") as report:
            reached = trainer.run(report)
        self._draw_losses(trainer.losses)
        if not math.isfinite(reached):
            raise ConfigError("the decoder's loss is not finite; lower decoder.learning_rate")
        self.progress.extra["decoder_loss"] = reached
        return frames

    def _draw_losses(self, losses: list[float]) -> None:
        """Means of the decoder's losses over pieces of its training, by its gradient steps."""
        length = -(-len(losses) // _CURVE_POINTS)
        for start in range(0, len(losses), length):
            piece = losses[start : start + length]
            self.agent.logger.record("decoder/loss", float(np.mean(piece)))
            self.agent.logger.dump(start + len(piece))

    def finish(self) -> dict[str, Any]:
        """Decoder, prior, evaluation and checkpoint; what the run reached."""
        if self.progress.finished:
            known: dict[str, Any] = self.progress.extra["metrics"]
            # A killed process may have saved the checkpoint only.
            write_json(self.folder.metrics, known)
            return known
        self.checkpoint(int(self.agent.num_timesteps))
        self.agent.policy.set_training_mode(False)
        frames = self.fit_decoder()
        found, tables = self.evaluation.measure(self.agent, self.decoder, frames)
        self.tables = tables.tensors()
        picture = self.evaluation.picture(self.agent.policy, self.decoder)
        self.agent.logger.record("held_out/original_and_reconstruction", Image(picture, "HW"))
        self.agent.logger.dump(int(self.agent.num_timesteps))
        metrics = found | {
            "steps": int(self.agent.num_timesteps),
            "objective": -found["play"]["features"]["score"],
            "alpha": self.agent.policy.alpha,
            "imitation": self.progress.imitation,
            "seconds": round(self._seconds_before + time.monotonic() - self._started, 1),
        }
        metrics["test_set"] = self.evaluation.test_set.facts | {
            "excluded_moves_of_the_agent": self._excluded(),
            "excluded_moves_of_imitation": self.progress.imitation.get("excluded", 0),
            "excluded_frames_of_the_decoder": self.progress.extra["excluded_for_decoder"],
        }
        self.progress.extra["metrics"] = metrics
        self.progress.finished = True
        self.checkpoint(int(self.agent.num_timesteps))
        write_json(self.folder.metrics, metrics)
        return metrics


class FeatureCallback(BaseCallback):
    """Watches games as they end, and evaluates and saves between updates.

    Args:
        run: Whose agent it is.
        bar: Progress on the terminal.
        start: Moves taken before.
    """

    def __init__(self, run: FeatureRun, bar: TrainingBar, start: int) -> None:
        super().__init__()
        self._run, self._bar = run, bar
        self._evaluate = Every(run.config.evaluation.every, start)
        self._checkpoint = Every(run.config.checkpoint_every, start)
        self._shown = 0.0
        self._began = (time.monotonic(), start)

    def _on_rollout_start(self) -> None:
        run = self._run
        run.guard.check_update(self.model)
        if self._evaluate.due(self.num_timesteps):
            run.evaluate(self.num_timesteps)
        if self._checkpoint.due(self.num_timesteps):
            run.checkpoint(self.num_timesteps)
        run.stopping.stop_if_asked(lambda: run.checkpoint(self.num_timesteps))

    def _on_training_end(self) -> None:
        self._run.guard.check_update(self.model)

    def _on_step(self) -> bool:
        run = self._run
        run.guard.check_step(self.model, self.locals)
        run.episodes.extend(info["episode"] for info in self.locals["infos"] if "episode" in info)
        now = time.monotonic()
        if now - self._shown > _REFRESH_SECONDS:
            self._shown = now
            speed = (self.num_timesteps - self._began[1]) / max(now - self._began[0], 1e-9)
            bits = self.logger.name_to_value.get("rate/bits_per_latent", math.nan)
            note = f"{speed:,.0f}/s  score {run.mean_score():.1f}"
            if math.isfinite(bits):
                note += f"  {bits:.2f} bits/latent"
            self._bar.update(self.num_timesteps, note)
        return True

    def _on_rollout_end(self) -> None:
        self._run.guard.keep(self.model)
        if self._run.episodes:
            self.logger.record("episode/score", self._run.mean_score())


def collect_frames(
    act: Callable[[Frames], Any],
    env: VecEnv,
    out: Frames,
    exclude: Excluded,
    *,
    seed: int,
    report: Any = lambda fraction: None,
) -> int:
    """Fill an array with stacks of play, with some random moves, none with a frame of the test set.

    Args:
        act: Actions for the environments' observations.
        env: Games, which are begun.
        out: uint8 [N, k, 84, 84], to be filled.
        exclude: Which frames uint8 [N, 84, 84] must not be among them, bool [N].
        seed: Of the random moves.
        report: Called with the fraction done.

    Returns:
        How many stacks were left out.

    Raises:
        UsageError: Hardly a frame is not one of the test set.
    """
    rng = np.random.default_rng(seed)
    have = left_out = step = 0
    seen = cast(Frames, env.reset())
    while have < len(out):
        if step % _EVERY == 0:
            known = exclude(seen[:, -1])
            some = seen[~known][: len(out) - have]
            out[have : have + len(some)] = some
            have += len(some)
            left_out += int(known.sum())
            report(have / len(out))
            if left_out > 20 * len(out):
                raise UsageError(
                    "hardly a frame that is played is not one of the test set; take fewer "
                    "test_set.frames"
                )
        actions = act(seen)
        _randomise(actions, env.action_space, rng)
        seen = cast(Frames, env.step(actions)[0])
        step += 1
    return left_out


def _randomise(actions: Any, space: spaces.Space[Any], rng: np.random.Generator) -> None:
    for index in np.flatnonzero(rng.random(len(actions)) < _NOISE):
        actions[index] = space.sample()


def begin_features(
    config: FeatureConfig,
    place: RunFolder,
    display: Display,
    on_evaluation: EvaluationHook | None,
) -> FeatureRun:
    """A run in a prepared folder; see `ambi_rl.training.start.train`."""
    keep_freed_memory()
    torch.set_num_threads(config.agent.threads)
    resume = config.resume is not None
    return FeatureRun(config, place, display, resume=resume, on_evaluation=on_evaluation)
