"""The generated tables of docs/ are up to date, complete and true."""

from __future__ import annotations

import math
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from ambi_rl.codec.strategists.features import GENERAL
from ambi_rl.envs import BlockCodingEnv, BlockCodingVectorEnv
from ambi_rl.errors import ConfigError
from ambi_rl.training.config import RULES, Above, AtLeast, OneOf, Within, register, to_config

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "make_reference.py"
ENVIRONMENT = ROOT / "docs" / "environment.md"


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    """What the script defines."""
    return runpy.run_path(str(SCRIPT))


def test_the_tables_are_up_to_date() -> None:
    command = [sys.executable, str(SCRIPT), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stale_table_is_noticed(reference: dict[str, Any]) -> None:
    page = ENVIRONMENT.read_text()
    stale = page.replace(GENERAL[7].meaning, "something else")
    assert stale != page
    assert reference["filled_in"](stale) == page
    with pytest.raises(SystemExit, match="there is no table 'nothing'"):
        reference["filled_in"]("<!-- table: nothing -->\n<!-- end -->")


def test_every_key_of_a_run_is_listed(reference: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    register()
    with initialize_config_module("ambi_rl.conf", version_base="1.3"):
        composed = compose("config", ["name=test"])
    flat = reference["_flat"](OmegaConf.to_container(composed, resolve=False))
    assert len(flat) > 60
    for key in flat:
        assert f"| `{key}` |" in page, key


def test_every_rule_is_of_a_key(reference: dict[str, Any]) -> None:
    schema = reference["_schema"]()
    assert set(RULES) <= set(schema)
    # Numbers without a rule would be taken whatever they are.
    numbers = {key for key, known in schema.items() if known.type.startswith(("integer", "number"))}
    assert numbers <= set(RULES)


def outside(rule: object) -> list[str]:
    """Values that a rule forbids, as the command line has them."""
    if isinstance(rule, Within):
        return [f"{rule.low - 1:g}", f"{rule.high + (0 if rule.excluded else 1):g}"]
    if isinstance(rule, AtLeast):
        return [f"{rule.low - 1:g}"]
    if isinstance(rule, Above):
        return [f"{rule.low:g}"] + ([] if math.isinf(rule.high) else [f"{rule.high:g}"])
    if isinstance(rule, OneOf):
        return ["nonsense"]
    return {"PatchSize": ["18", "12"], "Qualities": ["[50]", "[50,50]", "[0,50]"]}.get(
        type(rule).__name__, ["a/b"]
    )


@pytest.mark.parametrize("key", RULES)
def test_values_out_of_a_documented_range_are_refused(key: str) -> None:
    register()
    extra = ["agent=ppo"] if key.startswith("agent.") else []
    with initialize_config_module("ambi_rl.conf", version_base="1.3"):
        names = [] if key == "name" else ["name=test"]
        for value in outside(RULES[key]):
            with pytest.raises(ConfigError, match=f"^{key} is "):
                to_config(compose("config", [*extra, *names, f"{key}={value}"]))


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
