"""The generated tables of docs/ are up to date, complete and true."""

from __future__ import annotations

import math
import re
import runpy
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from ambi_rl.codec.strategists.features import GENERAL
from ambi_rl.envs import BlockCodingEnv, BlockCodingVectorEnv
from ambi_rl.errors import ConfigError
from ambi_rl.training.config import RULES, register, to_config
from ambi_rl.training.feature_config import FEATURE_RULES
from ambi_rl.training.rules import Above, AtLeast, OneOf, Rule, Within

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "make_reference.py"
ENVIRONMENT = ROOT / "docs" / "environment.md"
RULES_OF: dict[str, dict[str, Rule]] = {"block": RULES, "features": FEATURE_RULES}
"""By system."""


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    """What the script defines."""
    return runpy.run_path(str(SCRIPT))


def test_the_tables_are_up_to_date(
    reference: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--check"])
    with pytest.raises(SystemExit) as ended:
        reference["main"]()
    assert ended.value.code == 0, capsys.readouterr().out


def test_a_stale_table_is_noticed(reference: dict[str, Any]) -> None:
    page = ENVIRONMENT.read_text()
    stale = page.replace(GENERAL[7].meaning, "something else")
    assert stale != page
    assert reference["filled_in"](stale) == page
    with pytest.raises(SystemExit, match="there is no table 'nothing'"):
        reference["filled_in"]("<!-- table: nothing -->\n<!-- end -->")


TABLES_OF = {
    "block": ["run", "system=block", "env", "data", "reward", "agent"],
    "features": ["run", "system=features"],
}
"""By system, the tables that together list its keys."""


@pytest.mark.parametrize("system", RULES_OF)
def test_every_key_of_a_run_is_listed_once(reference: dict[str, Any], system: str) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    tables = {match[2]: match[0] for match in reference["_TABLE"].finditer(page)}
    listed = [
        key
        for name in TABLES_OF[system]
        for key in re.findall(r"^\| `([\w.]+)` \|", tables[name], re.M)
    ]
    assert len(listed) == len(set(listed))
    register()
    with initialize_config_module("ambi_rl.conf", version_base="1.3"):
        composed = compose("config", ["name=test", f"system={system}"])
    flat = reference["_flat"](OmegaConf.to_container(composed, resolve=False))
    assert len(flat) > 60
    # The group itself has a list of its choices.
    assert set(flat) - set(listed) == {"system"}
    assert all(f"**`system={name}`**" in tables["system"] for name in RULES_OF)


@pytest.mark.parametrize("system", RULES_OF)
def test_every_rule_is_of_a_key(reference: dict[str, Any], system: str) -> None:
    schema = reference["SCHEMAS"][system]()
    rules = RULES_OF[system]
    assert set(rules) <= set(schema)
    # Numbers without a rule would be taken whatever they are.
    numbers = {key for key, known in schema.items() if known.type.startswith(("integer", "number"))}
    assert numbers <= set(rules)


def test_experiments_stand_with_their_system(reference: dict[str, Any]) -> None:
    block, features = (reference["experiment_table"](system) for system in RULES_OF)
    assert "**`experiment=demo`**" in block
    assert "**`experiment=demo`**" not in features
    assert "**`experiment=breakout`**" in features
    assert "breakout" not in block


def outside(rule: object) -> list[str]:
    """Values that a rule forbids, as the command line has them."""
    if isinstance(rule, Within):
        # Not in exponents, which no whole number of a configuration is.
        beyond = rule.low - 1, rule.high + (0 if rule.excluded else 1)
        return [str(int(value) if value == int(value) else value) for value in beyond]
    if isinstance(rule, AtLeast):
        return [f"{rule.low - 1:g}"]
    if isinstance(rule, Above):
        return [f"{rule.low:g}"] + ([] if math.isinf(rule.high) else [f"{rule.high:g}"])
    if isinstance(rule, OneOf):
        return ["nonsense"]
    return {
        "PatchSize": ["18", "12"],
        "Qualities": ["[50]", "[50,50]", "[0,50]"],
        "Shares": ["0.5", "[0.5]", "{random: 2}", "{random: nobody}"],
        "FolderName": ["a/b"],
    }[type(rule).__name__]


@pytest.mark.parametrize(
    ("system", "key"),
    # Another system is another configuration, not a value out of range.
    [(system, key) for system, rules in RULES_OF.items() for key in rules if key != "system"],
)
def test_values_out_of_a_documented_range_are_refused(system: str, key: str) -> None:
    for value in outside(RULES_OF[system][key]):
        changed = default_of(system).copy()
        OmegaConf.update(changed, key, OmegaConf.create(f"value: {value}").value)
        with pytest.raises(ConfigError, match=f"^{key} is "):
            to_config(changed)


@cache
def default_of(system: str) -> DictConfig:
    """The configuration of a system without overrides; of the block codec, with the agent of most keys."""
    register()
    agent = ["agent=ppo"] if system == "block" else []
    with initialize_config_module("ambi_rl.conf", version_base="1.3"):
        return compose("config", ["name=test", f"system={system}", *agent])


def test_info_is_described() -> None:
    page = ENVIRONMENT.read_text()
    section = page.partition("## Ends of episodes, and info")[2].partition("\n## ")[0]
    weights = {"rate": 1.0, "sse": 1.0, "ssim": 0.5}
    env = BlockCodingEnv(patch_size=32, weights=weights)
    _, begun = env.reset(seed=1)
    done, last = False, dict[str, Any]()
    while not done:
        _, _, done, _, last = env.step(np.array([3, 2]))
    constrained = {"constraint": {"target_bpp": 1.0}, "competition": {"kind": "sign"}}
    other = BlockCodingEnv(patch_size=32, weights=weights | constrained)
    other.reset(seed=1)
    _, _, _, _, info = other.step(np.array([3, 2]))
    found = {*begun, *last, *last["episode_summary"], *info["episode_summary"]}
    named = found - {"constrained_bpp"} | {"constrained_…"}
    assert {key for key in named if f"`{key}`" not in section} == set()
    vector = BlockCodingVectorEnv(2, patch_size=32, weights=weights)
    vector.reset(seed=1)
    _, _, _, _, infos = vector.step(np.full((2, 2), 1))
    assert set(last) <= {*infos, *infos["final_info"]}
