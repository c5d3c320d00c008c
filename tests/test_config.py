"""The configuration: every part composes, and mistakes are explained in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.seeding import np_random
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from stable_baselines3.common.utils import set_random_seed

import ambi_rl.conf
from ambi_rl.cli.train import train_command
from ambi_rl.errors import ConfigError
from ambi_rl.rewards import TERMS
from ambi_rl.training.config import SYSTEM_GROUPS, TrainConfig, register, to_config
from ambi_rl.training.feature_config import FeatureConfig
from ambi_rl.training.run_config import MAX_SEED, MAX_STEPS, SYSTEMS, RunConfig
from ambi_rl.training.superres_config import SuperresConfig

CONF = Path(ambi_rl.conf.__file__).parent
GROUPS = {
    group: sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    for group in ("system", *SYSTEM_GROUPS["block"], "loss", "experiment")
}
FEATURE_EXPERIMENTS = [name for name in GROUPS["experiment"] if name.startswith("breakout")]
SUPERRES_EXPERIMENTS = [name for name in GROUPS["experiment"] if name.startswith("superres")]
BLOCK_EXPERIMENTS = sorted(
    set(GROUPS["experiment"]) - set(FEATURE_EXPERIMENTS) - set(SUPERRES_EXPERIMENTS)
)


@pytest.fixture
def composer() -> Iterator[None]:
    register()
    with initialize_config_module("ambi_rl.conf", version_base="1.3"):
        yield


def composed_run(*overrides: str) -> RunConfig:
    return to_config(compose("config", [*overrides, "name=test"]))


def composed(*overrides: str) -> TrainConfig:
    config = composed_run(*overrides)
    assert isinstance(config, TrainConfig)
    return config


def composed_features(*overrides: str) -> FeatureConfig:
    config = composed_run(*overrides)
    assert isinstance(config, FeatureConfig)
    return config


@pytest.mark.usefixtures("composer")
@pytest.mark.parametrize("choice", [(g, name) for g, names in GROUPS.items() for name in names])
def test_every_choice_composes(choice: tuple[str, str]) -> None:
    group, name = choice
    place = {"folder": "folder", "list": "list_file", "shards": "shards"}.get(name)
    extra = [f"data.{place}=somewhere"] if place else []
    if name == "task":
        with pytest.raises(ConfigError, match=r"model\.pt2 does not exist"):
            composed("reward=task", "reward.task.model=model.pt2")
        return
    if name in ("features", *FEATURE_EXPERIMENTS):
        assert composed_features(f"{group}={name}").system == "features"
        return
    if name in ("superres", *SUPERRES_EXPERIMENTS):
        assert isinstance(composed_run(f"{group}={name}"), SuperresConfig)
        return
    if group == "loss":
        assert isinstance(composed_run("system=superres", f"loss={name}"), SuperresConfig)
        return
    config = composed(f"{group}={name}", *extra)
    assert config.total_steps > 0
    if group == "agent":
        assert config.agent.algorithm == name
    if group == "reward":
        known = {"ssim": "ssim", "ms_ssim": "ms_ssim"}
        assert config.metric == known.get(name, "psnr")


@pytest.mark.usefixtures("composer")
@pytest.mark.parametrize("experiment", [*FEATURE_EXPERIMENTS, *SUPERRES_EXPERIMENTS])
def test_experiments_of_other_systems_compose(experiment: str) -> None:
    config = to_config(compose("config", [f"experiment={experiment}"]))
    is_features = experiment in FEATURE_EXPERIMENTS
    assert isinstance(config, FeatureConfig if is_features else SuperresConfig)
    assert config.system == ("features" if is_features else "superres")
    assert config.name.replace("-", "_") == experiment


@pytest.mark.usefixtures("composer")
@pytest.mark.parametrize("experiment", BLOCK_EXPERIMENTS)
@pytest.mark.parametrize("agent", GROUPS["agent"])
def test_every_experiment_takes_every_agent(experiment: str, agent: str) -> None:
    assert composed(f"experiment={experiment}", f"agent={agent}").agent.algorithm == agent


def test_groups_are_as_documented() -> None:
    assert GROUPS["system"] == sorted(SYSTEMS)
    assert GROUPS["agent"] == ["a2c", "maskable_ppo", "ppo"]
    assert GROUPS["reward"] == [
        "chroma",
        "metric",
        "ms_ssim",
        "psnr",
        "self_competition",
        "ssim",
        "target_rate",
        "task",
    ]
    assert GROUPS["loss"] == ["rl", "rl_srgan", "srgan", "srresnet"]
    assert BLOCK_EXPERIMENTS == ["curves", "default", "demo", "rates", "tiny"]
    assert "breakout" in FEATURE_EXPERIMENTS


@pytest.mark.usefixtures("composer")
def test_a_run_is_of_the_system_that_was_chosen() -> None:
    assert composed().system == "block"
    assert composed("experiment=tiny").system == "block"
    features = composed_features(
        "experiment=breakout", "rate.alpha=0.5", "agent.imitation.epochs=2"
    )
    assert (features.system, features.rate.alpha, features.agent.imitation.epochs) == (
        "features",
        0.5,
        2,
    )


@pytest.mark.usefixtures("composer")
def test_players_of_a_test_set_have_shares() -> None:
    assert composed_features("system=features").test_set.policies is None
    chosen = composed_features("system=features", "test_set.policies={random: 0.5, scripted: 0.5}")
    assert chosen.test_set.policies == {"random": 0.5, "scripted": 0.5}


@pytest.mark.usefixtures("composer")
def test_rewards_name_every_term() -> None:
    assert set(composed().weights) == {*TERMS, "constraint", "competition"}


@pytest.mark.usefixtures("composer")
def test_structural_rewards_get_credit_over_steps() -> None:
    assert composed("reward=psnr").tree_credit
    assert not composed("reward=ssim").tree_credit
    assert not composed("reward=self_competition").tree_credit
    with pytest.raises(ConfigError, match=r"agent\.credit=tree needs"):
        composed("reward=ms_ssim", "agent.credit=tree")


@pytest.mark.usefixtures("composer")
def test_photographs_come_from_one_place() -> None:
    with pytest.raises(ConfigError, match=r"data\.folder and data\.shards are both given"):
        composed("data=shards", "data.shards=x", "data.folder=y")
    with pytest.raises(ConfigError, match="shards are read from front to back"):
        composed("data=shards", "data.shards=x", "data.access=random")


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_key_has_a_comment(path: Path) -> None:
    lines = path.read_text().splitlines()
    inside_defaults = False
    for number, line in enumerate(lines):
        if not line.startswith((" ", "#", "-")):
            inside_defaults = line.startswith(("defaults:", "hydra:"))
        is_value = (
            ":" in line and not line.lstrip().startswith(("#", "-")) and not line.endswith(":")
        )
        if is_value and not inside_defaults:
            assert lines[number - 1].lstrip().startswith("#"), (
                f"{path.name}: {line!r} has no comment"
            )


MISTAKES = {
    "agent.learning_rte=1": r"no key 'agent.learning_rte'; did you mean agent.learning_rate\?",
    "seeed=1": r"no key 'seeed'; did you mean seed\?",
    "learning_rate=1": r"no key 'learning_rate'; did you mean agent.learning_rate\?",
    "+extra=1": "no key 'extra'; .*the configuration has system, name, runs, seed",
    "agent=pppo": r"agent is 'pppo'; it can be a2c, maskable_ppo, ppo; did you mean ppo\?",
    "experiment=demmo": r"is 'demmo'; it can be .*, curves, default, demo, .*; did you mean demo\?",
    "seed=many": "seed is 'many'; it must be a whole number",
    "seed=-1": "^seed is -1; it can be 0…2147483647$",
    "seed=2147483648": "^seed is 2147483648; it can be 0…2147483647$",
    f"seed=1{'0' * 400}": "^seed is 10*; it can be 0…2147483647$",
    "system=features seed=2147483648": "^seed is 2147483648; it can be 0…2147483647$",
    "total_steps=2000000001": "^total_steps is 2000000001; it can be 0…2000000000$",
    "agent.learning_rate=x": "agent.learning_rate is 'x'; it must be a number",
    "agent.learning_rate=0": "agent.learning_rate is 0; it must be over 0",
    "env.patch_size=30": "env.patch_size is 30; it must be a multiple of 4",
    "env.num_envs=0": "env.num_envs is 0; it must be 1 or more",
    "data.max_quality=101": "data.max_quality is 101",
    "reward.rate=-1": "reward.rate is -1",
    "reward.metric.wieght=1": r"no key 'reward.metric.wieght'; did you mean reward.metric.weight\?",
    "reward.metric.arguments.power=2": r"with a plus: \+reward\.metric\.arguments\.NAME=VALUE",
    "reward.metric.arguments={power: 2}": r"with a plus: \+reward\.metric\.arguments\.NAME=VALUE",
    "reward.constraint.target_bpp=-1": "target_bpp is -1; it must be over 0",
    "agent.credit=trees": r"agent.credit is 'trees'; it can be auto, tree, steps; did you mean tree\?",
    "agent.warm_start=imitate": r"did you mean imitation\?",
    "agent.imitation.effort=3": "effort is 3; it can be 5…9: the teacher is a search",
    "evaluation.metric=pnsr": r"did you mean psnr\?",
    "evaluation.qualities=[50]": "two or more",
    "data=folder": "data.folder has no value",
    "data=shards": "data.shards has no value",
    "data.access=sequential": "data.access is 'sequential'; it can be auto, random, stream",
    "data.workers=0": "data.workers is 0",
    "checkpoint_keep=0": "checkpoint_keep is 0",
    "name=a/b": "name is 'a/b'",
    "system=featurs": r"system is 'featurs'; it can be block, features, superres; did you mean features\?",
    "agent.width=8": "^agent.width is a key of system=features, and this is system=block$",
    "system=features agent=ppo": "^agent=… chooses a file of system=block, and this is system=features; "
    "its own keys are agent.width, agent.features, ",
    "system=features reward=ssim": "^reward=… chooses a file of system=block, and this is system=features$",
    "system=features +agent=ppo": "^agent=… chooses a file of system=block",
    "system=features agent.hidden=8": "^agent.hidden is a key of system=block, and this is system=features$",
    "system=features +extra=1": "no key 'extra'; .*the configuration has system, .*, test_set, evaluation",
    "system=features env.id=null": "env.id is null; it must have a value",
    "system=features test_set.policies=random": r"is 'random'; it must be null or shares by name, like \{",
    "system=features agent.warm_start=run": "not said which; give agent.pretrained=runs/NAME",
    "system=features agent.gamma=1": "agent.gamma is 1, with which returns of a player have no end",
    "system=features agent.pretrained=x": "agent.warm_start is imitation; give agent.warm_start=run too",
    "system=features decoder.pixel=0": "are all 0; give one of them a weight",
    "experiment=breakout agent.widht=8": r"did you mean agent.width\? agent has width, features",
    "experiment=breakout widht=8": r"did you mean (agent|decoder).width\?",
    "experiment=demo system=features": "^experiment=demo is of system=block; leave system=features out",
    "seed=[1": r"\S",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_mistakes_are_named_in_one_line(
    override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=MISTAKES[override]) as caught:
        train_command(override.split(" ") if "{" not in override else [override])
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_libraries_take_what_is_derived_from_the_largest_seed() -> None:
    space = spaces.Discrete(2)
    # The last rollout takes a run beyond its steps.
    steps = MAX_STEPS + 10**8
    set_random_seed(MAX_SEED + steps)
    space.seed(MAX_SEED + steps)
    torch.Generator().manual_seed(MAX_SEED + steps)
    np_random(MAX_SEED * 1_000_003 + steps)
    space.seed(MAX_SEED * 1_000_003 + steps)
    with pytest.raises(ValueError, match="between 0 and 2"):
        set_random_seed(2**32)


def test_mistakes_in_sweeps_are_found_before_any_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="agent is 'pppo'"):
        train_command(["-m", "agent=ppo,pppo", "seed=1,2"])
    assert list(tmp_path.iterdir()) == []


def test_shows_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train_command(["--cfg", "job", "experiment=demo", "agent=a2c"])
    shown = OmegaConf.create(capsys.readouterr().out)
    assert shown.name == "demo"
    assert shown.agent.algorithm == "a2c"
    train_command(["--cfg", "job", "system=features", "name=x"])
    shown = OmegaConf.create(capsys.readouterr().out)
    assert shown.name == "x"
    assert shown.latent.channels == 64
    assert list(tmp_path.iterdir()) == []
