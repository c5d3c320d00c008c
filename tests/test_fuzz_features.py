"""A deterministic slice of scripts/fuzz_features.py, and that it notices what it is there for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("constriction")

from ambi_rl.neural.tables import LatentTables
from scripts import fuzz, fuzz_features
from scripts.fuzz_features import FeatureCorpus

SEED = 20_000
CASES = {"decode": 900, "info": 500, "bundle": 500}

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


@pytest.fixture(scope="module")
def corpus() -> FeatureCorpus:
    return FeatureCorpus()


@pytest.fixture(autouse=True)
def no_bundles_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMBI_BUNDLES", raising=False)


@pytest.mark.parametrize("target", CASES)
def test_mutated_files_end_well_or_with_an_error_of_ours(
    target: str, corpus: FeatureCorpus
) -> None:
    totals = fuzz.run_cases(corpus, SEED, range(CASES[target]), target=target)
    assert totals.findings == []
    assert totals.counts.total() == CASES[target]
    ended_well = {mutation for _, mutation, name in totals.counts if name == "ok"}
    mutations = {mutation for _, mutation, _ in totals.counts}
    expected = {change.__name__ for change in fuzz.BLIND}
    # The slice is worth something only if it gets past the checksums and the validation.
    if target != "bundle":
        expected |= {change.__name__ for change in fuzz_features.STRUCTURED}
        assert {"extreme_latents", "forged_excess", "random_payload"} <= ended_well
    if target != "decode":
        expected |= {change.__name__ for change in fuzz_features.BUNDLE_CHANGES}
        assert {"bundle_tables", "bundle_tensors"} <= ended_well
    assert expected <= mutations


def test_cases_depend_on_seed_and_number_alone(corpus: FeatureCorpus) -> None:
    first = [corpus.make_case(SEED, number).data for number in range(30)]
    again = [corpus.make_case(SEED, number).data for number in reversed(range(30))][::-1]
    assert first == again
    assert first != [corpus.make_case(SEED + 1, number).data for number in range(30)]


def test_streams_are_put_together_as_they_were(corpus: FeatureCorpus) -> None:
    for seed in corpus.streams:
        assert fuzz_features.put_together(fuzz_features.take_apart(seed)) == seed.data


def test_a_decoder_that_finds_other_latents_is_a_finding(
    corpus: FeatureCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = corpus.streams[2]
    case = fuzz.Case("decode", "none", seed.data, corpus.bundles[seed.bundle], 1 << 20)
    assert fuzz.run_case(case, corpus).name == "ok"
    values = LatentTables.values

    def off_by_one(self: LatentTables, symbols: Any, excess: Any) -> Any:
        return values(self, symbols, excess) - np.int64(1)

    monkeypatch.setattr(LatentTables, "values", off_by_one)
    assert "other latents" in (fuzz.run_case(case, corpus).finding or "")


@pytest.mark.parametrize("target", sorted(fuzz_features._RUN))
def test_every_target_reports_wrong_exceptions(
    target: str, corpus: FeatureCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object) -> None:
        raise IndexError("out of bounds")

    monkeypatch.setitem(fuzz_features._RUN, target, wrong)
    assert fuzz.run_cases(corpus, SEED, range(1), target=target).findings
