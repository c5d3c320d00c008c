"""What a feature codec is worth on test frames and for its task: bits, errors, objects, scores."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ambi_rl.agents.rate_ppo import RatePolicy, RatePPO
from ambi_rl.bench.frame_codecs import FrameCodec, LatentFrames, OriginalFrames
from ambi_rl.bench.task import TaskScore, play
from ambi_rl.envs.atari import ImageEnvSettings, game_of, make_vec_env
from ambi_rl.envs.breakout_frames import object_errors
from ambi_rl.neural.frame_training import as_input
from ambi_rl.neural.networks import FrameDecoder
from ambi_rl.neural.priors import KINDS, NormalPrior, Prior, build_prior
from ambi_rl.neural.quantization import to_integers
from ambi_rl.neural.tables import LatentTables, tables_from_prior
from ambi_rl.training.display import Display
from ambi_rl.training.feature_config import FeatureConfig
from ambi_rl.training.test_set import TestSet, default_policies, shared_test_set

Frames = npt.NDArray[np.uint8]
Latents = npt.NDArray[np.int32]

_BATCH = 256
_PRIOR_BATCH = 1024
"""Frames of a gradient step of the prior, after training."""
SCORE_SEED = 7_000_003
"""Of the games that scores are of, whatever the seed of the run: runs can be compared."""
_PICTURES = 8


def test_set_path(config: FeatureConfig, settings: ImageEnvSettings) -> Path:
    """Where the test set of a configuration is kept; another one has another name."""
    request = asdict(settings) | {"frames": config.test_set.frames, "seed": config.test_set.seed}
    request["policies"] = _chosen_policies(config) or None
    for name in ("num_envs", "episodic_life", "clip_reward"):
        del request[name]
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:8]
    slug = "".join(c if c.isalnum() else "-" for c in settings.id)
    return Path(config.test_set.folder) / f"{slug}-{digest}.npz"


def _chosen_policies(config: FeatureConfig) -> dict[str, float]:
    return {name: share for name, share in (config.test_set.policies or {}).items() if share}


class FeatureEvaluation:
    """The test set of a run, made before anything is trained, and what is measured on it.

    Args:
        config: Of the run.
        settings: Of its environment.
        display: For progress.

    Attributes:
        test_set: Frames that nothing is trained with.
    """

    def __init__(self, config: FeatureConfig, settings: ImageEnvSettings, display: Display) -> None:
        self._config, self._settings, self._display = config, settings, display
        wanted = config.test_set
        path = test_set_path(config, settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        with display.phase(f"test set: {wanted.frames:,} frames"):
            self.test_set: TestSet = shared_test_set(
                path,
                settings,
                frames=wanted.frames,
                seed=wanted.seed,
                policies=_chosen_policies(config) or default_policies(settings),
            )

    def score(self, agent: RatePPO, coder: FrameCodec | None = None) -> TaskScore:
        """What the agent scores on what a codec makes of its frames; on the frames themselves without one."""
        wanted = self._config.evaluation
        env = make_vec_env(
            replace(self._settings, num_envs=wanted.episodes), seed=SCORE_SEED, training=False
        )
        coder = coder or OriginalFrames()
        try:
            with (
                self._display.phase(f"{wanted.episodes} games on {coder.name} frames") as report,
                _own_randomness(),
            ):
                return play(
                    agent,
                    env,
                    coder,
                    deterministic=False,
                    max_steps=wanted.max_steps,
                    seed=SCORE_SEED,
                    report=lambda step, over, all_: report(
                        max(step / wanted.max_steps, over / all_)
                    ),
                )
        finally:
            env.close()

    def measure(
        self, agent: RatePPO, decoder: FrameDecoder, frames: Frames
    ) -> tuple[dict[str, Any], LatentTables]:
        """Fit the prior to training frames, make tables of it, and measure everything.

        Args:
            agent: Trained.
            decoder: Trained.
            frames: Stacks of training, uint8 [N, k, 84, 84].

        Returns:
            What was found, by name; and the tables that files are coded with.
        """
        policy = agent.policy
        coder = NetworkCoder(policy, decoder)
        fitted = self._fitted_priors(policy.prior, coder.raw_latents(frames))
        tables = tables_from_prior(fitted[self._config.prior.kind], coder.latents(frames))
        test = self._measured_frames(coder, fitted, tables)
        features = LatentFrames(coder, lambda latents: (tables.bits(latents) / 8,) * 2)
        scores = {"original": self.score(agent), "features": self.score(agent, features)}
        found = {
            "latents": int(np.prod(policy.encoder.latent_shape)),
            "test": test,
            "play": {
                name: {
                    "score": score.mean,
                    "standard_error": score.standard_error,
                    "bits_per_frame": 8 * score.bare,
                    **score.to_json(),
                }
                for name, score in scores.items()
            },
        }
        return found, tables

    def _measured_frames(
        self, coder: NetworkCoder, priors: dict[str, Prior], tables: LatentTables
    ) -> dict[str, Any]:
        """Bits and errors on the test set."""
        stacks, originals = self.test_set.observations, self.test_set.frames
        latents = coder.latents(stacks)
        reconstructions = coder.reconstruct(latents)
        errors = (originals.astype(np.float64) - reconstructions) ** 2
        count = latents[0].size
        found: dict[str, Any] = {
            "entropy_per_latent": entropy(latents),
            **{f"{kind}_bits_per_latent": coded_bits(p, latents) for kind, p in priors.items()},
            "table_bits_per_latent": float(tables.bits(latents).mean()) / count,
            "bits_per_frame": float(tables.bits(latents).mean()),
            "mse": float(errors.mean()),
            "squared_error_per_frame": float(errors.sum(axis=(1, 2)).mean()),
        }
        if game_of(self._config.env.id) == "breakout":
            found["objects"] = object_errors(originals, reconstructions)
        return found

    def _fitted_priors(self, own: Prior, latents: torch.Tensor) -> dict[str, Prior]:
        """Both kinds of prior on the CPU, fitted to latents of training frames; one begins as the agent's."""
        priors = {kind: build_prior(kind, own.channels) for kind in KINDS}
        priors[self._config.prior.kind].load_state_dict(own.state_dict())
        for prior in priors.values():
            self._fit(prior, latents)
        return priors

    def _fit(self, prior: Prior, latents: torch.Tensor) -> None:
        if isinstance(prior, NormalPrior):
            prior.fit(latents)
            return
        rng = np.random.default_rng(self._config.seed)
        steps = self._config.prior.final_steps
        with self._display.phase("fitting the factorized prior") as report:
            for step in range(steps):
                rows = rng.integers(len(latents), size=min(_PRIOR_BATCH, len(latents)))
                prior.fit(latents[rows])
                report((step + 1) / steps)

    def picture(self, policy: RatePolicy, decoder: FrameDecoder) -> Frames:
        """Test frames above their reconstructions, uint8 [168, 84·n]."""
        coder = NetworkCoder(policy, decoder)
        some = self.test_set.observations[:: max(len(self.test_set) // _PICTURES, 1)][:_PICTURES]
        rows = [some[:, -1], coder.reconstruct(coder.latents(some))]
        return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Put the random numbers of training back at the end: it draws the same however often it is evaluated."""
    python, numpy_ = random.getstate(), np.random.get_state()  # noqa: NPY002 - Stable-Baselines3's
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_)  # noqa: NPY002


class NetworkCoder:
    """Latents and frames straight from the networks that are trained.

    Args:
        policy: Makes latents.
        decoder: Makes frames of them.
    """

    def __init__(self, policy: RatePolicy, decoder: FrameDecoder) -> None:
        self._policy, self._decoder = policy, decoder

    @torch.no_grad()
    def raw_latents(self, stacks: Frames) -> torch.Tensor:
        """Latents that are not rounded, float [N, C, h, w] on the CPU, of stacks uint8 [N, k, 84, 84]."""
        encoder, device = self._policy.encoder, self._policy.device
        parts = [
            encoder.latent(as_input(stacks[start : start + _BATCH], device)).cpu()
            for start in range(0, len(stacks), _BATCH)
        ]
        return torch.cat(parts)

    def latents(self, stacks: Frames) -> Latents:
        """Rounded latents, int32 [N, C, h, w], of stacks uint8 [N, k, 84, 84]."""
        rounded: Latents = to_integers(self.raw_latents(stacks)).numpy()
        return rounded

    @torch.no_grad()
    def reconstruct(self, latents: Latents) -> Frames:
        """Frames, uint8 [N, 84, 84], of rounded latents."""
        device = self._policy.device
        parts = []
        for start in range(0, len(latents), _BATCH):
            some = torch.as_tensor(latents[start : start + _BATCH], device=device).float()
            pixels = (self._decoder(some)[:, 0] * 255).round().clamp(0, 255)
            parts.append(pixels.to(torch.uint8).cpu().numpy())
        return np.concatenate(parts)


def coded_bits(prior: Prior, latents: Latents) -> float:
    """Mean bits of a rounded latent dimension under a prior, however unlikely it is there."""
    with torch.no_grad():
        return float(prior.bits(torch.as_tensor(latents).float()).double().mean())


def entropy(latents: Latents) -> float:
    """Empirical entropy of rounded latents in bits: mean over channels, each over frames and places.

    Args:
        latents: int32 [N, C, h, w].
    """
    total = 0.0
    for channel in range(latents.shape[1]):
        _, counts = np.unique(latents[:, channel], return_counts=True)
        shares = counts / counts.sum()
        total -= float((shares * np.log2(shares)).sum())
    return total / latents.shape[1]
