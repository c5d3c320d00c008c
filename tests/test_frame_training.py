"""The decoder's losses, its training, and the networks' shapes wherever the latent is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ambi_rl.neural.frame_training import (
    DecoderTrainer,
    FrameLoss,
    Frames,
    as_input,
    begin_background,
    joint_loss,
    moved,
)
from ambi_rl.neural.networks import (
    FRAME_SIDE,
    LATENT_SCALE,
    LAYERS,
    LEAST_DEVIATION,
    FeatureEncoder,
    FrameDecoder,
)
from ambi_rl.neural.quantization import round_latent

SHAPES = {"features": (6, 1, 1), "conv3": (6, 7, 7), "conv2": (6, 9, 9)}
CPU = torch.device("cpu")


def networks(layer: str = "features", seed: int = 0) -> tuple[FeatureEncoder, FrameDecoder]:
    torch.manual_seed(seed)
    encoder = FeatureEncoder(frames=4, width=4, layer=layer, channels=6, features=12)
    return encoder, FrameDecoder(encoder.latent_shape, width=4)


def toy_frames(count: int, seed: int = 0) -> Frames:
    """Stacks of a still picture with a bright block that is in another place in each frame."""
    rng = np.random.default_rng(seed)
    frames = np.full((count, 4, FRAME_SIDE, FRAME_SIDE), 30, np.uint8)
    frames[:, :, 10:20] = 120
    for number, (row, column) in enumerate(rng.integers((30, 10), (50, 50), (count, 2))):
        for age in range(4):
            place = slice(row + 5 * age, row + 5 * age + 14), slice(column, column + 14)
            frames[number, age][place] = 220
    return frames


def error(encoder: FeatureEncoder, decoder: FrameDecoder, frames: Frames) -> float:
    """Mean squared error of reconstructions, values 0…1."""
    with torch.no_grad():
        stacks = as_input(frames, CPU)
        found = decoder(round_latent(encoder.latent(stacks)))
        return float((found - stacks[:, -1:]).square().mean())


def gradient(module: torch.nn.Module) -> float:
    return sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None)


@pytest.mark.parametrize("layer", LAYERS)
def test_shapes_for_every_layer(layer: str) -> None:
    encoder, decoder = networks(layer)
    assert encoder.latent_shape == SHAPES[layer]
    stacks = as_input(toy_frames(3), CPU)
    latent = encoder.latent(stacks)
    assert latent.shape == (3, *SHAPES[layer])
    assert encoder.features(latent).shape == (3, 12)
    assert decoder(latent).shape == (3, 1, FRAME_SIDE, FRAME_SIDE)


def test_untrained_latents_are_wide_enough_to_be_rounded() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 4, 84, 84)).astype(np.uint8)
    for layer in LAYERS:
        encoder, _ = networks(layer)
        spread = float(encoder.latent(as_input(noise, CPU)).detach().std())
        assert LATENT_SCALE / 8 < spread < 8 * LATENT_SCALE


def test_inputs_are_the_bytes_from_zero_to_one() -> None:
    frames = toy_frames(2)
    np.testing.assert_allclose(as_input(frames, CPU), frames / 255, rtol=1e-6)


def test_motion_weights_mark_what_moved_and_nothing_else() -> None:
    stacks = np.full((1, 4, 84, 84), 100, np.uint8)
    for age, column in enumerate((20, 30, 40, 50)):
        stacks[0, age, 60:62, column : column + 2] = 200
    # Too little to be a move: noise of a few gray levels.
    stacks[0, 0, 5, 5] = 104
    expected = np.zeros((84, 84), bool)
    # Where the ball is, where it was, and a pixel around each.
    for column in (20, 30, 40, 50):
        expected[59:63, column - 1 : column + 3] = True
    found = moved(as_input(stacks, CPU))
    assert found.shape == (1, 1, 84, 84)
    np.testing.assert_array_equal(found[0, 0].numpy(), expected)
    still = moved(as_input(np.repeat(stacks[:, -1:], 4, axis=1), CPU))
    assert not still.any()
    assert not moved(as_input(stacks[:, -1:], CPU)).any()


def test_losses_are_what_they_are_called() -> None:
    encoder, _ = networks()
    frames = toy_frames(4)
    stacks = as_input(frames, CPU)
    guess = stacks[:, -1:] + 0.1
    pixel = FrameLoss(pixel=2.0, motion=0.0, latent=0.0)(encoder, stacks, guess)
    assert pixel.item() == pytest.approx(2 * 0.01, rel=1e-4)
    motion = FrameLoss(pixel=0.0, motion=3.0, latent=0.0)(encoder, stacks, guess)
    share = moved(stacks).mean().item()
    assert 0.01 < share < 0.5
    assert motion.item() == pytest.approx(3 * 0.01 * share, rel=1e-4)
    seen = torch.cat([stacks[:, :-1], guess.clamp(0, 1)], dim=1)
    wanted = ((encoder.latent(seen) - encoder.latent(stacks)) / LATENT_SCALE).square().mean()
    latent = FrameLoss(pixel=0.0, motion=0.0, latent=0.5)(encoder, stacks, guess)
    assert latent.item() == pytest.approx(0.5 * wanted.item(), rel=1e-4)
    exact = FrameLoss(pixel=1.0, motion=1.0, latent=1.0)(encoder, stacks, stacks[:, -1:])
    assert exact.item() == pytest.approx(0, abs=1e-9)


def background() -> Frames:
    """`ball` without one."""
    stack = np.full((1, 4, FRAME_SIDE, FRAME_SIDE), 30, np.uint8)
    stack[:, :, 10:20] = 120
    return stack


def ball(row: int, column: int) -> Frames:
    """A stack that shows a dim ball."""
    stack = background()
    stack[:, :, row : row + 2, column : column + 2] += 40
    return stack


def test_at_more_scales_a_ball_that_is_near_is_better_than_none() -> None:
    encoder, _ = networks()
    rng = np.random.default_rng(0)
    loss = FrameLoss(multiscale=1.0)
    loss.fit(np.concatenate([ball(*place) for place in rng.integers(22, 80, (400, 2))]))
    stacks = as_input(ball(40, 40), CPU)
    none, near, far, there = (
        loss(encoder, stacks, as_input(frames, CPU)[:, -1:]).item()
        for frames in (background(), ball(42, 41), ball(70, 25), ball(40, 40))
    )
    assert there == 0
    assert near < none < far
    pixels = FrameLoss(pixel=1.0)
    alone = [
        pixels(encoder, stacks, as_input(frames, CPU)[:, -1:]).item()
        for frames in (background(), ball(42, 41))
    ]
    assert alone[0] < alone[1]


def test_the_mean_frame_costs_the_share_of_what_changes_at_any_contrast() -> None:
    encoder, _ = networks()
    rng = np.random.default_rng(0)
    for contrast in (40, 200):
        frames = rng.integers(0, contrast, (1000, 1, FRAME_SIDE, FRAME_SIDE)).astype(np.uint8)
        # Rows that never change: half of all pixels, at every scale.
        frames[:, :, : FRAME_SIDE // 2] = 50
        stacks = as_input(frames, CPU)
        loss = FrameLoss(multiscale=1.0)
        loss.fit(frames)
        mean = stacks.mean(0, keepdim=True).expand_as(stacks)
        assert loss(encoder, stacks, mean).item() == pytest.approx(0.5, rel=0.1)


def test_standardized_pixels_have_mean_0_and_deviation_1_where_they_change() -> None:
    encoder, _ = networks()
    frames = as_input(toy_frames(300), CPU)
    untouched = encoder.standardize(frames)
    torch.testing.assert_close(untouched, frames)
    encoder.standardize.fit(frames[:, -1:])
    found = encoder.standardize(frames)[:, -1]
    changes = frames[:, -1].std(0, correction=0) > LEAST_DEVIATION
    assert 0.05 < changes.float().mean() < 0.9
    torch.testing.assert_close(found.mean(0), torch.zeros(84, 84), atol=1e-3, rtol=0)
    deviations = found.std(0, correction=0)
    torch.testing.assert_close(
        deviations[changes], torch.ones(int(changes.sum())), atol=1e-3, rtol=0
    )
    # What hardly changes is not blown up.
    assert deviations.max() < 1.001


def test_the_latent_loss_moves_the_decoder_and_not_the_encoder() -> None:
    encoder, decoder = networks()
    stacks = as_input(toy_frames(4), CPU)
    latents = torch.round(encoder.latent(stacks)).detach()
    loss = FrameLoss(pixel=0.0, motion=0.0, latent=1.0)
    # A picture in the middle of the range: beyond its ends there is nothing to be seen.
    loss(encoder, stacks, decoder(latents) + 0.5).backward()
    assert gradient(encoder) == 0
    assert gradient(decoder) > 0
    assert all(p.requires_grad for p in encoder.parameters())


def test_the_joint_loss_reaches_the_encoder_through_the_code() -> None:
    encoder, decoder = networks()
    stacks = as_input(toy_frames(4), CPU)
    losses = {}
    for weight in (1.0, 10.0):
        encoder.zero_grad()
        further = joint_loss(encoder, decoder, FrameLoss(pixel=1.0), weight)
        further(stacks, round_latent(encoder.latent(stacks))).backward()
        losses[weight] = gradient(encoder)
    assert losses[1.0] > 0
    assert losses[10.0] == pytest.approx(10 * losses[1.0], rel=1e-3)


def train(seed: int, frames: Frames, loss: FrameLoss, steps: int = 100) -> FrameDecoder:
    encoder, decoder = networks()
    begin_background(decoder, frames)
    trainer = DecoderTrainer(
        encoder,
        decoder,
        loss,
        frames,
        steps=steps,
        batch_size=16,
        learning_rate=5e-3,
        seed=seed,
    )
    fractions: list[float] = []
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    assert np.isfinite(trainer.run(fractions.append))
    assert fractions == [(step + 1) / steps for step in range(steps)]
    assert all(torch.equal(before[n], t) for n, t in encoder.state_dict().items())
    return decoder


@pytest.mark.parametrize(
    "loss",
    [
        FrameLoss(pixel=1.0),
        FrameLoss(pixel=1.0, motion=0.5),
        FrameLoss(pixel=1.0, latent=0.05),
        FrameLoss(multiscale=0.02),
    ],
)
def test_training_lowers_the_error_on_frames_it_has_not_seen(loss: FrameLoss) -> None:
    encoder, untrained = networks()
    training, held_out = toy_frames(200), toy_frames(40, seed=1)
    begin_background(untrained, training)
    background = np.median(training[:, -1], axis=0)
    constant = float(np.mean(((held_out[:, -1] - background) / 255) ** 2))
    found = error(encoder, train(0, training, loss), held_out)
    assert found < 0.75 * constant
    assert found < 0.75 * error(encoder, untrained, held_out)


def test_training_is_the_same_again_and_another_with_another_seed() -> None:
    frames, loss = toy_frames(40), FrameLoss(pixel=1.0, motion=1.0, latent=0.1)
    one, same, other = (train(seed, frames, loss, steps=4).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_the_background_is_the_median_of_newest_frames() -> None:
    _, decoder = networks()
    frames = toy_frames(101)
    begin_background(decoder, frames)
    drawn = decoder.background[0, 0].detach().numpy() * 255
    np.testing.assert_allclose(drawn, np.median(frames[:, -1], axis=0), atol=1e-3)
