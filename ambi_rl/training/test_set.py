"""Frames to test on, made before anything is trained, and the means to keep them out of training.

An agent trains on what it happens to see, so that no division of a data set keeps test frames from it. They
are generated in advance instead, with seeds and players of their own, and every training frame that equals
one of them is left out and counted. Frames are told apart by a hash of an observation's newest frame.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv

from ambi_rl.codec.files import check_target, read_file, write_file
from ambi_rl.envs.atari import ImageEnvSettings, game_of, make_vec_env
from ambi_rl.envs.players import BREAKOUT_PLAYERS, PLAYERS, make_player
from ambi_rl.errors import AmbiError, ConfigError, CorruptFileError, UsageError

MAX_FRAMES = 100_000
GAP = 16
"""Mean steps of an environment from one frame that is taken to the next; 1…2·GAP-1 are equally likely."""

_VERSION = 1
_DIGEST = 16
"""Bytes of a frame's hash."""
_ENVS = 4
"""Environments that play side by side, whatever the settings say, so that all runs get the same frames."""
_PATIENCE = 40
"""Times the usual number of steps that are played until enough different frames have been seen."""
_SHARES_TOLERANCE = 1e-6
_WITHOUT_EFFECT = ("num_envs", "episodic_life", "clip_reward")
"""Settings that do not change what a test set contains."""

Frames = npt.NDArray[np.uint8]


def default_policies(settings: ImageEnvSettings) -> dict[str, float]:
    """A mix of players that shows much of a game: in Breakout good and bad ones, else random ones."""
    if settings.preprocessing == "atari" and game_of(settings.id) == "breakout":
        return {"random": 0.1, "sticky": 0.1, "noisy": 0.4, "scripted": 0.4}
    return {"random": 0.5, "sticky": 0.5}


def frame_hashes(frames: Frames) -> list[bytes]:
    """BLAKE2b of each frame's pixels, 16 bytes.

    Args:
        frames: uint8 [N, H, W].
    """
    return [hashlib.blake2b(frame.tobytes(), digest_size=_DIGEST).digest() for frame in frames]


@dataclass(frozen=True)
class TestSet:
    """Observations to test on; their newest frames are all different.

    Attributes:
        observations: uint8 [N, stack, H, W].
        hashes: `frame_hashes` of the newest frames.
        players: Name of the player of each observation.
        facts: What it was made with (`request`) and how that went, for reports.
    """

    __test__ = False  # Not a test of pytest's.

    observations: Frames
    hashes: list[bytes]
    players: list[str]
    facts: dict[str, Any]
    _known: frozenset[bytes] = field(init=False, repr=False, compare=False)
    _keys: npt.NDArray[np.uint64] = field(init=False, repr=False, compare=False)
    _fingerprints: frozenset[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        words = -(-math.prod(self.observations.shape[2:]) // 8)
        keys = np.random.default_rng(0).integers(0, 2**64, words, np.uint64)
        object.__setattr__(self, "_known", frozenset(self.hashes))
        object.__setattr__(self, "_keys", keys)
        fingerprints = self._fingerprint(self.frames).tolist()
        object.__setattr__(self, "_fingerprints", frozenset(fingerprints))

    def __len__(self) -> int:
        return len(self.observations)

    @property
    def frames(self) -> Frames:
        """The newest frames, uint8 [N, H, W]."""
        return self.observations[:, -1]

    def contains(self, frames: Frames) -> npt.NDArray[np.bool_]:
        """Which frames are frames of the test set; 16 of 84x84 take less than a tenth of a millisecond.

        Args:
            frames: uint8 [N, H, W], newest frames of observations.

        Returns:
            bool [N].

        Raises:
            UsageError: The frames have another size or type.
        """
        if frames.dtype != np.uint8 or frames.shape[1:] != self.observations.shape[2:]:
            raise UsageError(
                f"frames of the test set are uint8 {list(self.observations.shape[2:])}, not {frames.dtype} "
                f"{list(frames.shape[1:])}"
            )
        # The real hash is slow, and needed only for the few frames whose fingerprint is known.
        fingerprints = self._fingerprint(frames).tolist()
        return np.array(
            [
                fingerprint in self._fingerprints and frame_hashes(frame[None])[0] in self._known
                for fingerprint, frame in zip(fingerprints, frames, strict=True)
            ],
            dtype=bool,
        )

    def _fingerprint(self, frames: Frames) -> npt.NDArray[np.uint64]:
        """A quick hash, uint64 [N]: a random linear combination of the frame's words."""
        pixels = frames.reshape(len(frames), math.prod(frames.shape[1:]))
        surplus = -pixels.shape[1] % 8
        if surplus:
            pixels = np.pad(pixels, ((0, 0), (0, surplus)))
        words = np.ascontiguousarray(pixels).view(np.uint64)
        combined: npt.NDArray[np.uint64] = words @ self._keys
        return combined

    def save(self, path: Path) -> None:
        """Write it as a compressed .npz file, whole or not at all.

        Raises:
            AmbiError: It cannot be written.
        """
        stream = io.BytesIO()
        facts = {**self.facts, "digest": _digest(self.observations)}
        np.savez_compressed(
            stream,
            observations=self.observations,
            players=np.array(self.players),
            facts=np.array(json.dumps(facts)),
        )
        write_file(path, stream.getvalue())


def make_test_set(
    settings: ImageEnvSettings,
    *,
    frames: int,
    seed: int,
    policies: Mapping[str, float],
    gap: int = GAP,
) -> TestSet:
    """Let players play whole games and keep frames of them, far from each other and all different.

    The same arguments give the same test set. Its environments are seeded from `seed` in another way than
    those that train, so that even equal numbers do not play the same games.

    Args:
        settings: Of the environments; what is for training only, and their number, has no effect.
        frames: Number of observations.
        seed: Of games and players.
        policies: Share of each player's frames, name (of `PLAYERS`) to share; they add up to 1.
        gap: Mean steps between the frames that are taken of a game.

    Raises:
        ConfigError: The arguments are wrong, see `make_vec_env`, or a player does not play this game.
        AmbiError: The players see too few different frames.
    """
    request = _request(settings, frames, seed, policies, gap)
    counts = _apportion(frames, policies)
    seen: set[bytes] = set()
    parts: list[Frames] = []
    facts: dict[str, Any] = {"request": request, "players": {}}
    for name, count in counts.items():
        index = PLAYERS.index(name)
        env_seed, player_seed, gap_seed = np.random.SeedSequence([seed, index]).generate_state(3)
        env = make_vec_env(
            replace(settings, num_envs=_ENVS), seed=int(env_seed) >> 1, training=False
        )
        try:
            player = make_player(name, env, seed=int(player_seed))
            sampler = _Sampler(env, count, gap, np.random.default_rng(int(gap_seed)), seen)
            while len(sampler.taken) < count:
                sampler.step(player.act())
        finally:
            env.close()
        parts.append(np.array(sampler.taken))
        facts["players"][name] = sampler.facts()
    observations = np.concatenate(parts)
    return TestSet(
        observations,
        frame_hashes(observations[:, -1]),
        [name for name, count in counts.items() for _ in range(count)],
        facts,
    )


def load_test_set(path: Path) -> TestSet:
    """Read a test set that `TestSet.save` wrote.

    Raises:
        UsageError: There is no such file.
        CorruptFileError: It is damaged or no test set.
    """
    data = read_file(path)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as content:
            observations = content["observations"]
            players = content["players"].tolist()
            facts = json.loads(str(content["facts"]))
        is_whole = facts.pop("digest") == _digest(observations) and len(players) == len(
            observations
        )
    except Exception:
        # Damaged files end in many kinds of exception, from zlib.error to MemoryError for a false shape.
        raise _damaged(path) from None
    if not is_whole:
        raise _damaged(path)
    return TestSet(observations, frame_hashes(observations[:, -1]), players, facts)


def shared_test_set(
    path: Path | None,
    settings: ImageEnvSettings,
    *,
    frames: int,
    seed: int,
    policies: Mapping[str, float],
    gap: int = GAP,
) -> TestSet:
    """The test set of a file, which is made and written if there is none, so that several runs share it.

    Args:
        path: Of the file; None for a test set that is not kept.
        settings: As for `make_test_set`, like what follows.
        frames: Likewise.
        seed: Likewise.
        policies: Likewise.
        gap: Likewise.

    Raises:
        ConfigError: As `make_test_set`; or the file was made with other arguments.
        CorruptFileError: The file is damaged.
        AmbiError: As `make_test_set`; or the file cannot be written.
    """
    request = _request(settings, frames, seed, policies, gap)
    if path is not None and path.exists():
        found = load_test_set(path)
        _compare(path, found.facts.get("request", {}), request)
        return found
    if path is not None:
        check_target(path)
    made = make_test_set(settings, frames=frames, seed=seed, policies=policies, gap=gap)
    if path is not None:
        made.save(path)
    return made


def _damaged(path: Path) -> CorruptFileError:
    return CorruptFileError(f"{path} is damaged or no test set; remove it, and it is made again")


def _compare(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse a test set that was made from other arguments.

    Raises:
        ConfigError: Names the first that differs.
    """
    for key in sorted({*found, *wanted}):
        if found.get(key) != wanted.get(key):
            raise ConfigError(
                f"test set {path} was made with {key}={found.get(key)}, not {wanted.get(key)}; name another "
                "file, or remove it and it is made again"
            )


def _digest(observations: npt.NDArray[Any]) -> str:
    head = f"{observations.dtype} {observations.shape}".encode()
    content = np.ascontiguousarray(observations).tobytes()
    return hashlib.blake2b(head + content, digest_size=_DIGEST).hexdigest()


def _request(
    settings: ImageEnvSettings, frames: int, seed: int, policies: Mapping[str, float], gap: int
) -> dict[str, Any]:
    """What a test set is made from, as it is compared and saved.

    Raises:
        ConfigError: Something of it is wrong.
    """
    if not 1 <= frames <= MAX_FRAMES:
        raise ConfigError(f"a test set of {frames} frames is out of range; give 1 to {MAX_FRAMES}")
    if seed < 0 or gap < 1:
        raise ConfigError(
            f"seed={seed} and gap={gap} of a test set have to be at least 0 and at least 1"
        )
    _check_policies(settings, policies)
    kept = {key: value for key, value in asdict(settings).items() if key not in _WITHOUT_EFFECT}
    shares = {name: float(policies[name]) for name in PLAYERS if policies.get(name)}
    return {
        **kept,
        "version": _VERSION,
        "frames": frames,
        "seed": seed,
        "gap": gap,
        "policies": shares,
    }


def _check_policies(settings: ImageEnvSettings, policies: Mapping[str, float]) -> None:
    for name, share in policies.items():
        if name not in PLAYERS:
            raise ConfigError(
                f"policies: there is no player {name!r}; take some of {', '.join(PLAYERS)}"
            )
        if not 0 <= share <= 1:
            raise ConfigError(f"policies: the share {share} of {name!r} is not between 0 and 1")
    total = sum(policies.values())
    if abs(total - 1) > _SHARES_TOLERANCE:
        raise ConfigError(f"policies: the shares add up to {total:g}, not to 1")
    scripted = [name for name in BREAKOUT_PLAYERS if policies.get(name)]
    if scripted and (settings.preprocessing != "atari" or game_of(settings.id) != "breakout"):
        raise ConfigError(
            f"policies: the player {scripted[0]!r} plays Breakout only, not {settings.id}; give its share "
            "to random or sticky"
        )


def _apportion(frames: int, policies: Mapping[str, float]) -> dict[str, int]:
    """Frames of each player, largest remainders rounded up, in the order of `PLAYERS`."""
    names = [name for name in PLAYERS if policies.get(name)]
    exact = {name: frames * policies[name] for name in names}
    counts = {name: int(exact[name]) for name in names}
    by_remainder = sorted(names, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: frames - sum(counts.values())]:
        counts[name] += 1
    return {name: count for name, count in counts.items() if count}


class _Sampler:
    """Takes observations at random times from environments while they are played.

    Args:
        env: They begin anew.
        count: Observations to take.
        gap: Mean steps from one to the next of the same environment.
        rng: Of the gaps.
        seen: Hashes of the frames that are taken already; those taken here are added.

    Attributes:
        taken: Observations, uint8 [stack, H, W] each; stays below or at `count`.
    """

    def __init__(
        self, env: VecEnv, count: int, gap: int, rng: np.random.Generator, seen: set[bytes]
    ) -> None:
        self.taken: list[Frames] = []
        self._env, self._count, self._gap, self._rng, self._seen = env, count, gap, rng, seen
        self._limit = _PATIENCE * (count * gap // env.num_envs + 1)
        self._steps = self._duplicates = 0
        self._scores: list[float] = []
        env.reset()
        self._wait = self._gaps(env.num_envs)

    def _gaps(self, count: int) -> npt.NDArray[np.int64]:
        return self._rng.integers(1, 2 * self._gap, count)

    def step(self, actions: npt.NDArray[np.int64]) -> None:
        """Play a step in all environments and take the observations that are due.

        Raises:
            AmbiError: Far too few different frames have been seen.
        """
        if self._steps == self._limit:
            raise AmbiError(
                f"only {len(self.taken)} different frames in {self._steps * self._env.num_envs} steps, "
                f"{self._count} were asked for; ask for fewer, or for another mix of players"
            )
        observations, _, _, infos = self._env.step(actions)
        assert isinstance(observations, np.ndarray)
        self._steps += 1
        self._scores += [info["episode"]["r"] for info in infos if "episode" in info]
        self._wait -= 1
        for index in np.flatnonzero(self._wait == 0):
            if len(self.taken) < self._count:
                self._take(observations[index])
        due = self._wait == 0
        self._wait[due] = self._gaps(int(due.sum()))

    def _take(self, observation: Frames) -> None:
        (key,) = frame_hashes(observation[-1:])
        if key in self._seen:
            self._duplicates += 1
            return
        self._seen.add(key)
        self.taken.append(observation.copy())

    def facts(self) -> dict[str, Any]:
        """How it went: frames, steps played, duplicates left out, scores of the games that ended."""
        scores = self._scores
        return {
            "frames": len(self.taken),
            "steps": self._steps * self._env.num_envs,
            "duplicates": self._duplicates,
            "games": len(scores),
            "mean_score": float(np.mean(scores)) if scores else None,
        }
