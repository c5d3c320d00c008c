"""Priors of latents: closed forms, tails, gradients, what they learn, what a stray latent does to them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ambi_rl.neural.priors import (
    KINDS,
    FactorizedPrior,
    NormalPrior,
    Prior,
    build_prior,
)
from ambi_rl.neural.quantization import QUANTIZATIONS, add_noise, quantize, to_integers
from ambi_rl.neural.tables import tables_from_prior


def normal_bits(value: float, deviation: float) -> float:
    """−log₂ of a Normal's mass within ±½ of a value, in the tail where it is exact."""
    near, far = abs(value) - 0.5, abs(value) + 0.5
    scale = deviation * math.sqrt(2)
    if near < 0:
        mass = 0.5 * (math.erf(far / scale) - math.erf(near / scale))
    else:
        mass = 0.5 * (math.erfc(near / scale) - math.erfc(far / scale))
    return -math.log2(mass)


def perturbed(prior: Prior, seed: int) -> Prior:
    """The prior with random parameters: what holds shall hold wherever training leads."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in prior.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator)
    for buffer in prior.buffers():
        buffer += torch.randn(buffer.shape, generator=generator)
    return prior


def source(shares: dict[int, float], count: int, seed: int = 0) -> Tensor:
    """Latents [count, 1, 1, 1] that take whole values with given probabilities."""
    rng = np.random.default_rng(seed)
    values = rng.choice(list(shares), count, p=list(shares.values()))
    return torch.as_tensor(values, dtype=torch.float32).reshape(-1, 1, 1, 1)


def entropy_of(shares: dict[int, float]) -> float:
    return -sum(p * math.log2(p) for p in shares.values())


BIMODAL = {-9: 0.1, -8: 0.3, -7: 0.1, 6: 0.1, 7: 0.3, 8: 0.1}


@settings(max_examples=60, deadline=None)
@given(value=st.floats(-40, 40), deviation=st.floats(0.2, 50))
def test_normal_bits_are_those_of_the_closed_form(value: float, deviation: float) -> None:
    assume(abs(value) < 30 * deviation)  # Beyond, the test's own numbers end.
    prior = NormalPrior(1, deviation)
    expected = normal_bits(value, deviation)
    found = prior.bits(torch.full((1, 1, 1, 1), value)).item()
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_the_normal_takes_the_variance_of_each_channel_about_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    deviations = torch.tensor([0.5, 3.0, 20.0])
    latents = torch.randn((4000, 3, 2, 2), generator=generator) * deviations[:, None, None]
    prior = NormalPrior(3)
    prior.fit(latents)
    np.testing.assert_allclose(prior.log_deviation.exp(), deviations, rtol=0.03)
    # Its mean is zero, whatever the latents' is (Bader and von Bachmann 2021, 3.2.1).
    prior.fit(torch.full((10, 3, 1, 1), 7.0))
    np.testing.assert_allclose(prior.log_deviation.exp(), 7.0, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_probabilities_of_all_whole_numbers_sum_to_one(kind: str, seed: int) -> None:
    prior = perturbed(build_prior(kind, 3), seed)
    values = torch.arange(-3000.0, 3001.0)[:, None, None, None].expand(-1, 3, 1, 1)
    shares = prior.probability(values).double().sum(dim=(0, 2, 3))
    np.testing.assert_allclose(shares, 1.0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_distribution_functions_are_monotone_from_both_ends(kind: str) -> None:
    for seed in range(5):
        prior = perturbed(build_prior(kind, 4), seed)
        values = torch.linspace(-200, 200, 3001).expand(4, -1)
        below, above = prior.cumulative(values)
        assert (below.diff(dim=1) >= 0).all()
        assert (above.diff(dim=1) <= 0).all()
        np.testing.assert_allclose(below + above, 1.0, atol=1e-6)
        assert (below[:, 0] < below[:, -1]).all()


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(KINDS), value=st.floats(-1e9, 1e9), seed=st.integers(0, 20))
def test_no_latent_has_bits_or_gradients_that_are_not_finite(
    kind: str, value: float, seed: int
) -> None:
    prior = perturbed(build_prior(kind, 2), seed)
    latents = torch.full((1, 2, 1, 1), value, requires_grad=True)
    bits = prior.bits(latents)
    assert ((bits >= 0) & torch.isfinite(bits)).all()
    bits.sum().backward()
    assert latents.grad is not None
    assert torch.isfinite(latents.grad).all()


@pytest.mark.parametrize("distance", [30.0, 150.0, 2_000.0, 100_000.0])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_pull_latents_back_however_far_they_strayed(kind: str, distance: float) -> None:
    prior = build_prior(kind, 1)
    latents = torch.tensor([-distance, distance]).reshape(2, 1, 1, 1).requires_grad_()
    bits = prior.bits(latents)
    bits.sum().backward()
    assert latents.grad is not None
    pull = latents.grad.flatten()
    if kind == "normal":
        # That of z²/2σ².
        expected = distance / 4**2 / math.log(2)
        np.testing.assert_allclose(pull, [-expected, expected], rtol=0.02)
    else:
        # Its tails are those of the logistic function: the same pull from everywhere.
        assert pull[0].item() == pytest.approx(-pull[1].item(), rel=0.3)
        assert pull[1] > 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_differences(kind: str) -> None:
    prior = perturbed(build_prior(kind, 2), 3).double()
    latents = torch.linspace(-4, 5, 12, dtype=torch.float64).reshape(6, 2, 1, 1).requires_grad_()
    assert torch.autograd.gradcheck(prior.bits, latents)


def test_the_factorized_prior_learns_a_source_that_is_no_normal() -> None:
    torch.manual_seed(0)
    entropy = entropy_of(BIMODAL)
    training, held_out = source(BIMODAL, 600), source(BIMODAL, 2000, seed=1)
    bits = {}
    for kind in KINDS:
        prior = build_prior(kind, 1)
        prior.fit(training, steps=500)
        bits[kind] = float(prior.bits(held_out).mean())
    assert entropy * 0.96 < bits["factorized"] < entropy * 1.1
    assert bits["normal"] > bits["factorized"] + 1.5


def test_fits_go_on_where_the_last_ended() -> None:
    training = source(BIMODAL, 1000)
    torch.manual_seed(0)
    prior = FactorizedPrior(1)
    found = []
    for _ in range(4):
        prior.fit(training, steps=100)
        found.append(float(prior.bits(training).mean()))
    assert found == sorted(found, reverse=True)
    assert found[-1] < found[0] - 0.3


def test_a_fitted_prior_has_no_gradient_left_for_whoever_clips_them() -> None:
    prior = FactorizedPrior(2)
    prior.fit(torch.randn(8, 2, 1, 1), steps=2)
    assert all(p.grad is None and not p.requires_grad for p in prior.parameters())


def test_noise_of_a_generator_leaves_torchs_own_alone() -> None:
    latents = torch.randn(100, 2, 1, 1)
    prior = perturbed(build_prior("factorized", 2), 0)
    state = torch.get_rng_state()
    noisy = [add_noise(latents, torch.Generator().manual_seed(5)) for _ in range(2)]
    prior.fit(latents, steps=2, generator=torch.Generator().manual_seed(1))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(*noisy)
    shift = noisy[0] - latents
    assert shift.min() >= -0.5
    assert shift.max() <= 0.5
    assert shift.std() == pytest.approx(math.sqrt(1 / 12), rel=0.1)


def test_one_stray_latent_ruins_the_normal_only() -> None:
    """The paper's test cross-entropy, a thousand times the entropy, and what bounds it."""
    generator = torch.Generator().manual_seed(2)
    training = 0.4 * torch.randn((2000, 1, 1, 1), generator=generator)
    rounded = torch.round(training)
    test = rounded.clone()
    test[0] = 100.0
    share = (rounded == 0).float().mean().item()
    entropy = -share * math.log2(share) - (1 - share) * math.log2((1 - share) / 2)
    normal, factorized = NormalPrior(1), FactorizedPrior(1)
    normal.fit(training)
    factorized.fit(training[:500], steps=400)
    tables = tables_from_prior(factorized, rounded.to(torch.int32).numpy())

    # One latent in 2,000, and the mean is many times what it was.
    usual = normal.bits(rounded).mean().item()
    strayed = normal.bits(test).mean().item()
    assert usual < 1.2 * entropy
    assert strayed > 10 * entropy
    assert normal.bits(test)[0].item() > 20_000
    assert factorized.bits(test).mean().item() < 1.2 * entropy
    coded = tables.bits(test.to(torch.int32).numpy())
    assert coded.max() < 64
    assert coded.mean() < 1.2 * entropy


@pytest.mark.parametrize("how", QUANTIZATIONS)
def test_quantizers_round_where_there_is_no_gradient_to_take(how: str) -> None:
    latents = torch.tensor([[-1.7, -0.4, 0.2, 2.6]], requires_grad=True)
    torch.manual_seed(0)
    seen, coded = (quantize(latents, how, training=training) for training in (True, False))
    rounded = torch.tensor([[-2.0, 0.0, 0.0, 3.0]])
    if how == "none":
        assert torch.equal(seen, latents)
        assert torch.equal(coded, latents)
    else:
        assert torch.allclose(coded, rounded)
    if how == "noise":
        assert not torch.equal(seen, seen.round())
        assert (seen - latents).abs().max() <= 0.5
    if how == "round":
        assert torch.allclose(seen, rounded)
    seen.sum().backward()
    assert torch.equal(latents.grad, torch.ones_like(latents))  # type: ignore[arg-type]


def test_every_latent_is_coded_as_some_integer() -> None:
    latent = torch.tensor([0.4, -1.6, 3e9, -torch.inf, torch.inf, torch.nan])
    most = 2**31 - 128
    assert to_integers(latent).tolist() == [0, -2, most, -most, most, 0]
