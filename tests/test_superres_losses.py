"""The losses of SRGAN are their formulas, and their gradients reach the generator alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ambi_rl.errors import ConfigError
from ambi_rl.superres.losses import (
    VGG_FILE,
    VGG_LAYERS,
    VggLoss,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
    frozen_logits,
    load_vgg_loss,
    make_perceptual_loss,
    mean_squared_error,
)
from ambi_rl.superres.networks import Discriminator

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def seed() -> None:
    """Weights are drawn the same at every run."""
    torch.manual_seed(0)


def fake_weights(scale: float = 0.05) -> dict[str, Tensor]:
    """Of the first two convolutions, and one of the classifier, which must not matter."""
    draw = torch.Generator().manual_seed(1)
    shapes = {
        "features.0.weight": (64, 3, 3, 3),
        "features.0.bias": (64,),
        "features.2.weight": (64, 64, 3, 3),
        "features.2.bias": (64,),
        "classifier.6.bias": (10,),
    }
    return {name: scale * torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def pictures() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(2)
    image, target = torch.rand(2, 2, 3, 20, 17, generator=draw).unbind()
    return image.requires_grad_(), target


def test_mean_squared_error() -> None:
    image, target = torch.tensor([[[[0.5, 0.25]]]]), torch.tensor([[[[0.0, 0.5]]]])
    assert mean_squared_error(image, target).item() == pytest.approx((0.25 + 0.0625) / 2)


def test_adversarial_losses_by_hand() -> None:
    """Logits log 3 and −log 3 are probabilities 3/4 and 1/4."""
    logits = torch.tensor([math.log(3), -math.log(3)])
    both = -(math.log(3 / 4) + math.log(1 / 4)) / 2
    assert adversarial_loss(logits).item() == pytest.approx(both)
    real, fake = torch.tensor([math.log(3)]), torch.tensor([-math.log(3)])
    assert discriminator_loss(real, fake).item() == pytest.approx(-2 * math.log(3 / 4))
    assert discriminator_loss(fake, real).item() == pytest.approx(-2 * math.log(1 / 4))


def test_adversarial_losses_are_finite_for_extreme_logits() -> None:
    sure = torch.tensor([1e4, -1e4], requires_grad=True)
    loss = adversarial_loss(sure) + discriminator_loss(-sure, sure)
    loss.backward()
    assert sure.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(sure.grad).all()
    # A generator that is wholly recognised still has a gradient.
    lost = torch.tensor([-1e4], requires_grad=True)
    adversarial_loss(lost).backward()
    assert lost.grad is not None
    assert lost.grad.item() == -1


def test_feature_matching_by_hand() -> None:
    discriminator = Discriminator(2).eval()
    image, target = pictures()
    wanted = []
    for made, right in zip(
        discriminator.features(image), discriminator.features(target), strict=True
    ):
        a, b = made.detach().double().numpy(), right.detach().double().numpy()
        wanted.append(np.mean((a - b) ** 2) / np.mean(b**2))
    found = feature_matching_loss(discriminator, image, target)
    assert found.item() == pytest.approx(np.mean(wanted), rel=1e-5)
    assert feature_matching_loss(discriminator, target, target).item() == 0


def test_feature_matching_normalises_both_pictures_alike() -> None:
    """In training, normalised each for itself, a brighter picture would be less different than it is."""
    discriminator = Discriminator(2).train()
    target = 0.5 * pictures()[1]
    image = target + 0.4
    both = [part.chunk(2) for part in discriminator.features(torch.cat([image, target]))]
    apart = list(zip(discriminator.features(image), discriminator.features(target), strict=True))

    def compare(pairs: Iterable[Sequence[Tensor]]) -> float:
        parts = [(a - b).square().mean() / b.square().mean() for a, b in pairs]
        return torch.stack(parts).mean().item()

    found = feature_matching_loss(discriminator, image, target).item()
    assert found == pytest.approx(compare(both), rel=1e-5)
    assert found > compare(apart)


@pytest.mark.parametrize("training", [True, False])
def test_generators_step_teaches_the_discriminator_nothing(training: bool) -> None:
    discriminator = Discriminator(2).train(training)
    before = {name: value.clone() for name, value in discriminator.state_dict().items()}
    image, target = pictures()
    target.requires_grad_()
    matching = feature_matching_loss(discriminator, image, target)
    (matching + adversarial_loss(frozen_logits(discriminator, image))).backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    assert target.grad is None
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    for name, value in discriminator.state_dict().items():
        assert torch.equal(value, before[name]), name
    # And afterwards it can learn again.
    discriminator_loss(discriminator(target), discriminator(image)).backward()
    assert all(parameter.grad is not None for parameter in discriminator.parameters())


def test_frozen_logits_are_the_logits() -> None:
    discriminator = Discriminator(2).train()
    image = pictures()[0]
    found = frozen_logits(discriminator, image)
    torch.testing.assert_close(found, discriminator(image))


def test_vgg_loss_by_hand() -> None:
    image, target = pictures()
    weights = fake_weights()

    def features(picture: Tensor) -> Tensor:
        mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        maps = (picture - mean) / deviation
        for index in (0, 2):
            weight, bias = (weights[f"features.{index}.{name}"] for name in ("weight", "bias"))
            maps = nn.functional.conv2d(maps, weight, bias, padding=1).relu()
        return maps

    loss = VggLoss("1_2", weights)
    found = loss(image, target)
    wanted = (features(image) - features(target)).square().mean() / 12.75**2
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    found.backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in loss.parameters())


def test_vgg_is_built_as_torchvision_counts() -> None:
    """Names and places of all sixteen convolutions, from torchvision's configuration E."""
    places = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
    widths = (3, 64, 64, 128, 128, *[256] * 4, *[512] * 8)
    assert len(places) + 1 == len(widths)
    weights = {}
    for place, inputs, outputs in zip(places, widths[:-1], widths[1:], strict=True):
        weights[f"features.{place}.weight"] = torch.zeros(1).expand(outputs, inputs, 3, 3)
        weights[f"features.{place}.bias"] = torch.ones(outputs)
    loss = VggLoss("5_4", weights)
    assert len(VGG_LAYERS) == 16
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in loss.layers) == 4
    assert loss(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)).item() == 0


def test_vgg_weights_are_read_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, target = pictures()
    wanted = VggLoss("1_2", fake_weights())(image, target).item()
    path = tmp_path / "mine.pth"
    # Torchvision's own file is of the older of torch's two formats.
    torch.save(fake_weights(), path, _use_new_zipfile_serialization=False)
    assert load_vgg_loss("1_2", path)(image, target).item() == wanted
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(fake_weights(), tmp_path / "hub" / "checkpoints" / VGG_FILE)
    perceptual = make_perceptual_loss("vgg19", None, "1_2", None, CPU)
    assert perceptual(image, target).item() == wanted


def test_perceptual_loss_without_a_download() -> None:
    discriminator = Discriminator(2)
    image, target = pictures()
    perceptual = make_perceptual_loss("discriminator", discriminator, "5_4", None, CPU)
    assert perceptual(image, target) == feature_matching_loss(discriminator, image, target)
    with pytest.raises(ValueError, match="discriminator=None"):
        make_perceptual_loss("discriminator", None, "5_4", None, CPU)


def test_missing_weights_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for path, place in ((None, tmp_path / "checkpoints" / VGG_FILE), (tmp_path / "no.pth",) * 2):
        with pytest.raises(ConfigError) as caught:
            make_perceptual_loss("vgg19", None, "5_4", path, CPU)
        message = str(caught.value)
        for part in (place, VGG_FILE, "loss.vgg_weights=", "loss.features=discriminator"):
            assert str(part) in message
        assert "\n" not in message
    assert not list(tmp_path.iterdir())


def test_damaged_weights_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "vgg.pth"
    torch.save(fake_weights(), path)
    whole = path.read_bytes()
    for data in (b"", b"no weights", whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(ConfigError, match=r"vgg\.pth cannot be read"):
            load_vgg_loss("1_2", path)


def test_code_in_a_file_of_weights_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "vgg.pth"
    torch.save(nn.Linear(1, 1), path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_vgg_loss("1_2", path)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "vgg.pth"
    missing = fake_weights()
    del missing["features.2.bias"]
    flat = fake_weights() | {"features.0.weight": torch.zeros(64, 27)}
    for content, message in (
        (missing, r"features\.2\.bias must have the shape \(64,\), found none"),
        (flat, r"features\.0\.weight must have the shape \(64, 3, 3, 3\), found \(64, 27\)"),
        ([1, 2], r"features\.0\.weight"),
    ):
        torch.save(content, path)
        with pytest.raises(ConfigError, match=message) as caught:
            load_vgg_loss("1_2", path)
        assert str(path) in str(caught.value)
    torch.save(fake_weights(), path)
    with pytest.raises(ConfigError, match="1_1, 1_2, 2_1"):
        load_vgg_loss("6_1", path)


def test_losses_are_float32_in_half_precision() -> None:
    discriminator = Discriminator(2)
    image, target = pictures()
    with torch.autocast("cpu", torch.bfloat16):
        logits = frozen_logits(discriminator, image)
        assert logits.dtype == torch.bfloat16
        losses = (
            mean_squared_error(image, target),
            adversarial_loss(logits),
            discriminator_loss(logits, logits),
            feature_matching_loss(discriminator, image, target),
            VggLoss("1_2", fake_weights())(image, target),
        )
    assert {loss.dtype for loss in losses} == {torch.float32}
