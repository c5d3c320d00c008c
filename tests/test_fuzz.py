"""A deterministic slice of scripts/fuzz.py, and that the fuzzer notices what it is there for."""

from __future__ import annotations

import faulthandler
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ambi_rl.codec.container import HEADER_FIELDS, Section
from ambi_rl.errors import AmbiError

SCRIPT = Path(__file__).parent.parent / "scripts" / "fuzz.py"
SEED = 20_000
CASES = {"decode": 1200, "pillow": 700, "info": 400, "bundle": 500}

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


@pytest.fixture(scope="module")
def fuzz() -> Any:
    """The script as a module, under a name by which processes can send its classes to each other."""
    spec = importlib.util.spec_from_file_location("fuzz", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def corpus(fuzz: Any) -> Any:
    return fuzz.Corpus()


@pytest.fixture(autouse=True)
def no_bundles_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMBI_BUNDLES", raising=False)
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", None)


@pytest.mark.parametrize("target", CASES)
def test_mutated_files_end_well_or_with_an_error_of_ours(
    target: str, fuzz: Any, corpus: Any
) -> None:
    totals = fuzz.run_cases(corpus, SEED, range(CASES[target]), target=target)
    assert totals.findings == []
    assert totals.counts.total() == CASES[target]
    # The slice is worth something only if it gets past the checksums.
    outcomes = {name for _, _, name in totals.counts}
    assert "ok" in outcomes
    assert len(outcomes) >= 3
    mutations = {mutation for _, mutation, _ in totals.counts}
    assert {change.__name__ for change in fuzz.BLIND} <= mutations
    if target != "bundle":
        assert {change.__name__ for change in fuzz.STRUCTURED} <= mutations


def test_cases_depend_on_seed_and_number_alone(fuzz: Any, corpus: Any) -> None:
    first = [corpus.make_case(SEED, number) for number in range(30)]
    again = [corpus.make_case(SEED, number) for number in reversed(range(30))][::-1]
    assert [case.data for case in first] == [case.data for case in again]
    others = [corpus.make_case(SEED + 1, number) for number in range(30)]
    assert [case.data for case in first] != [case.data for case in others]


def test_files_are_put_together_as_they_were(fuzz: Any, corpus: Any) -> None:
    for seed in corpus.files:
        assert fuzz.put_together(fuzz.take_apart(seed.data)) == seed.data


def test_wrong_exceptions_are_findings(
    fuzz: Any, corpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object) -> None:
        raise IndexError("out of bounds")

    def long_winded(*_: object) -> None:
        raise AmbiError("one line\nand another")

    for mistake in (wrong, long_winded):
        monkeypatch.setitem(fuzz._RUN, "info", mistake)
        totals = fuzz.run_cases(corpus, SEED, range(3), target="info")
        assert [number for number, _ in totals.findings] == [0, 1, 2]


def kill(*_: object) -> None:
    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(*_: object) -> None:
    time.sleep(600)


@pytest.mark.parametrize(("end", "code"), [(kill, "-11"), (hang, "-9")])
def test_crashes_and_hangs_are_findings_and_the_rest_is_run(
    end: Callable[..., None],
    code: str,
    fuzz: Any,
    corpus: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fatal = corpus.make_case(SEED, 3)
    original = fuzz._RUN[fatal.target]

    def run(case: Any, corpus: Any) -> None:
        (end if case.data == fatal.data else original)(case, corpus)

    monkeypatch.setitem(fuzz._RUN, fatal.target, run)
    monkeypatch.setattr(fuzz, "SILENCE", 1.0)
    totals = fuzz.run_guarded(corpus, SEED, range(8))
    assert [number for number, _ in totals.findings] == [3]
    assert code in totals.findings[0][1]
    assert totals.counts.total() == 7


HEADERS = st.fixed_dictionaries(
    {},
    optional={
        f.name: st.integers(0, (1 << f.bits) - 1)
        for f in HEADER_FIELDS
        if f.name not in ("version", "bundle_id", "sections")
    },
)
SECTIONS = st.lists(
    st.tuples(st.sampled_from([*map(int, Section), 0, 7, 255]), st.binary(max_size=80)), max_size=5
)


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(HEADERS, SECTIONS, st.booleans())
def test_any_header_over_any_sections(
    fuzz: Any,
    corpus: Any,
    header: dict[str, int],
    sections: list[tuple[int, bytes]],
    keep: bool,
) -> None:
    seed = corpus.plain[0]
    parts = fuzz.take_apart(seed.data)
    data = fuzz.put_together(
        parts._replace(
            header=parts.header | header,
            sections=[*(parts.sections if keep else []), *sections],
        )
    )
    case = fuzz.Case("decode", "any", data, seed.bundle, 1 << 16)
    assert fuzz.run_case(case, corpus).finding is None


def test_bundles_of_a_mutated_kind_do_not_pass_for_the_default_one(corpus: Any) -> None:
    """The seeds differ in what decoding depends on, so that none hides behind another."""
    assert len({bundle.id for bundle in corpus.bundles}) == len(corpus.bundles)
    assert replace(corpus.bundles[0], policy={}).id == corpus.bundles[0].id
