"""A deterministic slice of scripts/fuzz_superres.py, and that it notices what it is there for."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from scripts import fuzz, fuzz_superres
from scripts.fuzz_superres import SuperresCorpus

SEED = 20_000
CASES = {"decode": 250, "info": 120, "bundle": 60}


@pytest.fixture(scope="module")
def corpus() -> SuperresCorpus:
    return SuperresCorpus()


@pytest.fixture(autouse=True)
def no_bundles_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMBI_BUNDLES", raising=False)


@pytest.mark.parametrize("target", CASES)
def test_mutated_files_end_well_or_with_an_error_of_ours(
    target: str, corpus: SuperresCorpus
) -> None:
    totals = fuzz.run_cases(corpus, SEED, range(CASES[target]), target=target)
    assert totals.findings == []
    assert totals.counts.total() == CASES[target]
    ended_well = {mutation for _, mutation, name in totals.counts if name == "ok"}
    mutations = {mutation for _, mutation, _ in totals.counts}
    # The slice is worth something only if it gets past the checksums and the validation.
    if target != "bundle":
        assert {change.__name__ for change in fuzz_superres.STRUCTURED} <= mutations
        assert {"exact_base", "change_base", "change_field"} <= ended_well
    if target != "decode":
        assert {change.__name__ for change in fuzz_superres.NETWORK_CHANGES} <= mutations
    if target == "bundle":
        assert "network_weights" in ended_well


def test_cases_depend_on_seed_and_number_alone(corpus: SuperresCorpus) -> None:
    first = [corpus.make_case(SEED, number).data for number in range(30)]
    again = [corpus.make_case(SEED, number).data for number in reversed(range(30))][::-1]
    assert first == again
    assert first != [corpus.make_case(SEED + 1, number).data for number in range(30)]


def test_files_are_put_together_as_they_were(corpus: SuperresCorpus) -> None:
    for seed in corpus.files:
        assert fuzz_superres.put_together(fuzz_superres.take_apart(seed)) == seed.data


def test_a_reader_that_finds_something_else_is_a_finding(
    corpus: SuperresCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = corpus.files[0]
    case = fuzz.Case("decode", "none", seed.data, corpus.bundles[seed.bundle], 1 << 20)
    assert fuzz.run_case(case, corpus).name == "ok"
    read = corpus.reference["read"]

    def wider(data: bytes) -> dict[str, Any]:
        told: dict[str, Any] = read(data)
        return told | {"width": told["width"] + 1}

    monkeypatch.setitem(corpus.reference, "read", wider)
    assert "something else" in (fuzz.run_case(case, corpus).finding or "")


@pytest.mark.parametrize("target", sorted(fuzz_superres._RUN))
def test_every_target_reports_wrong_exceptions(
    target: str, corpus: SuperresCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object) -> None:
        raise IndexError("out of bounds")

    monkeypatch.setitem(fuzz_superres._RUN, target, wrong)
    assert fuzz.run_cases(corpus, SEED, range(1), target=target).findings
