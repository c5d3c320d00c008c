"""The networks of RL-SRGAN have the paper's shape, begin as bicubic interpolation, and export exactly."""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ambi_rl.superres.networks import (
    SKIPS,
    BicubicEnlargement,
    Decoder,
    Discriminator,
    Encoder,
    Generator,
    ScoreHead,
    SubPixelStage,
)
from ambi_rl.superres.onnx_export import OPSET, export_onnx
from tests.conftest import PHOTOGRAPHS

SIZES = ((1, 1), (5, 7), (33, 20))
PHOTOGRAPH = PHOTOGRAPHS / "held-out-budgie.webp"


@pytest.fixture(autouse=True)
def seed() -> None:
    """Weights are drawn the same at every run."""
    torch.manual_seed(0)


def to_tensor(pixels: npt.NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]


def to_codes(image: Tensor) -> npt.NDArray[np.float32]:
    """A picture's code values, [H, W, 3], neither rounded nor clipped."""
    codes: npt.NDArray[np.float32] = (image[0].detach().permute(1, 2, 0) * 255).numpy()
    return codes


def make(scale: int, batch_norm: bool, skip: str) -> Generator:
    """A small generator; batch normalisation adds so much to variances that a mistake would be seen."""
    generator = Generator(scale, 8, 2, batch_norm, skip)
    for layer in generator.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 0.1
    return generator


def trained(scale: int, batch_norm: bool, skip: str) -> Generator:
    """A generator none of whose parts is left as it began."""
    generator = make(scale, batch_norm, skip)
    nn.init.normal_(generator.decoder.tail.weight, std=0.03)
    with torch.no_grad():
        for layer in generator.modules():
            if isinstance(layer, nn.PReLU):
                layer.weight.uniform_(-0.2, 0.5)
            elif isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_(std=0.1)
        for _ in range(3):
            generator(torch.rand(2, 3, 12, 12))
    return generator


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (2, 3), (19, 30)])
def test_enlargement_is_pillows_bicubic_also_at_the_border(
    scale: int, size: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    wanted = [
        # In mode F Pillow neither rounds nor clips between rows and columns.
        np.asarray(
            Image.fromarray(plane.astype(np.float32)).resize(
                (scale * size[1], scale * size[0]), Image.Resampling.BICUBIC
            )
        )
        for plane in np.moveaxis(pixels, 2, 0)
    ]
    found = to_codes(BicubicEnlargement(scale)(to_tensor(pixels)))
    np.testing.assert_allclose(found, np.stack(wanted, 2), atol=1e-3)


@pytest.mark.parametrize("scale", [2, 4])
def test_untrained_generator_is_bicubic(scale: int) -> None:
    """Within a code value of what Pillow makes of the same 8-bit picture.

    The photograph's contrast is halved: between columns and rows Pillow rounds and clips to 8 bits. The
    rounding is within that code value, but clipped overshoot changes a few pixels near black and white more.
    """
    photograph = Image.open(PHOTOGRAPH).convert("RGB").resize((61, 43), Image.Resampling.BOX)
    photograph = photograph.point([64 + value // 2 for value in range(256)] * 3)
    generator = Generator(scale, 8, 1, True, "bicubic").eval()
    found = to_codes(generator(to_tensor(np.asarray(photograph)))).round()
    size = (scale * 61, scale * 43)
    wanted = np.asarray(photograph.resize(size, Image.Resampling.BICUBIC), np.float32)
    assert np.abs(found - wanted).max() <= 1
    plain = Generator(scale, 8, 1, True, "none").eval()
    assert np.abs(to_codes(plain(to_tensor(np.asarray(photograph)))) - wanted).max() > 10


@pytest.mark.parametrize("skip", SKIPS)
def test_untrained_generator_learns(skip: str) -> None:
    generator = Generator(2, 4, 1, True, skip)
    optimizer = torch.optim.Adam(generator.parameters(), 1e-2)
    base, target = torch.rand(2, 3, 6, 6), torch.rand(2, 3, 12, 12)
    before = [parameter.clone() for parameter in generator.parameters()]
    losses = []
    for _ in range(3):
        loss = nn.functional.mse_loss(generator(base), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    # A last convolution that begins at 0 must not keep what is before it from learning.
    for old, new in zip(before, generator.parameters(), strict=True):
        assert not torch.equal(old, new)


@pytest.mark.parametrize(("scale", "blocks"), [(2, 0), (2, 2), (4, 0), (4, 1), (8, 1)])
def test_radius_is_what_gradients_reach(scale: int, blocks: int) -> None:
    generator = Generator(scale, 4, blocks, False, "bicubic")
    nn.init.normal_(generator.decoder.tail.weight)
    middle = 16
    base = torch.rand(1, 3, 33, 33, requires_grad=True)
    square = slice(middle * scale, (middle + 1) * scale)
    generator(base)[:, :, square, square].abs().sum().backward()
    assert base.grad is not None
    reached = base.grad.abs().sum((0, 1)).nonzero()
    radius = generator.radius
    assert reached.min(0).values.tolist() == [middle - radius] * 2
    assert reached.max(0).values.tolist() == [middle + radius] * 2


@pytest.mark.parametrize("scale", [2, 4])
def test_tiles_that_overlap_by_the_radius_change_nothing(scale: int) -> None:
    generator = trained(scale, True, "bicubic").eval()
    base, radius = torch.rand(1, 3, 11, 60), generator.radius
    with torch.no_grad():
        whole = generator(base)
        left = generator(base[..., : 30 + radius])[..., : 30 * scale]
        right = generator(base[..., 30 - radius :])[..., radius * scale :]
    torch.testing.assert_close(torch.cat([left, right], 3), whole, atol=1e-6, rtol=0)


def test_untrained_decoder_has_no_checkerboard() -> None:
    stage = SubPixelStage(5)
    squares = nn.functional.pixel_unshuffle(stage(torch.rand(1, 5, 6, 7))[0], 2)
    squares = squares.reshape(5, 4, 6, 7)
    assert squares[:, 0].std() > 0
    torch.testing.assert_close(squares, squares[:, :1].expand_as(squares))


@pytest.mark.parametrize("scale", [0, 1, 3, 6])
def test_impossible_scales_are_refused(scale: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        Decoder(scale, 4)


def test_unknown_skip_is_refused() -> None:
    with pytest.raises(ValueError, match="bicubic, none"):
        Generator(2, 4, 1, True, "lanczos")


def test_the_papers_generator() -> None:
    """Counted by hand from section 2.1 with SRGAN's 64 maps and kernels of 9 and 3."""
    inner = 64 * 64 * 9 + 64
    head = 3 * 64 * 81 + 64 + 1
    block = 2 * (inner + 2 * 64) + 1
    stage = 64 * 256 * 9 + 256 + 1
    generator = Generator(4, 64, 5, True, "none")
    counted = head + 5 * block + inner + 2 * 64 + 2 * stage + 64 * 3 * 81 + 3
    assert sum(parameter.numel() for parameter in generator.parameters()) == counted
    assert generator(torch.rand(2, 3, 6, 5)).shape == (2, 3, 24, 20)
    assert Encoder(64, 5, True)(torch.rand(2, 3, 6, 5)).shape == (2, 64, 6, 5)


def test_the_papers_discriminator() -> None:
    """SRGAN's eight convolutions and two dense layers; batch normalisation behind all but the first."""
    discriminator = Discriminator(8)
    layers = list(discriminator.stages.modules())
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [8, 8, 16, 16, 32, 32, 64, 64]
    assert [layer.stride for layer in convolutions] == [(1, 1), (2, 2)] * 4
    norms = [layer.num_features for layer in layers if isinstance(layer, nn.BatchNorm2d)]
    assert norms == [8, 16, 16, 32, 32, 64, 64]
    rectifiers = [layer for layer in discriminator.modules() if isinstance(layer, nn.LeakyReLU)]
    assert [layer.negative_slope for layer in rectifiers] == [0.2] * 9
    dense = [layer.out_features for layer in discriminator.dense if isinstance(layer, nn.Linear)]
    assert dense == [128, 1]


def test_estimates_are_finite_and_one_per_picture() -> None:
    estimate = ScoreHead(6)(torch.rand(3, 6, 4, 5))
    assert [part.shape for part in estimate] == [(3,)] * 3
    sum(part.sum() for part in estimate).backward()
    head = ScoreHead(6)
    head(torch.rand(3, 6, 4, 5)).log_std.sum().backward()
    assert head.log_std.grad is not None
    assert head.log_std.grad.item() == 3


def test_half_precision_leaves_pictures_and_estimates_exact() -> None:
    generator, head = Generator(2, 4, 1, True, "bicubic").eval(), ScoreHead(4)
    base, features = torch.rand(1, 3, 6, 6), torch.rand(2, 4, 6, 6)
    wanted, estimate = generator(base), head(features)
    with torch.autocast("cpu", torch.bfloat16):
        assert generator.encoder(base).dtype == torch.bfloat16
        torch.testing.assert_close(generator(base), wanted, atol=0, rtol=0)
        torch.testing.assert_close(head(features), estimate, atol=0, rtol=0)
    assert {part.dtype for part in (wanted, *estimate)} == {torch.float32}


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (40, 23)])
def test_discriminator_takes_any_size(size: tuple[int, int]) -> None:
    discriminator = Discriminator(2)
    image = torch.rand(2, 3, *size)
    assert discriminator(image).shape == (2,)
    maps = discriminator.features(image)
    height, width = size
    for number, part in enumerate(maps):
        if number % 2:
            height, width = -(-height // 2), -(-width // 2)
        assert part.shape == (2, 2 * 2 ** (number // 2), height, width)
    assert len(maps) == 8


@pytest.mark.parametrize(
    ("scale", "batch_norm", "skip"), list(product((2, 4), (False, True), SKIPS))
)
def test_exported_model_is_the_generator(scale: int, batch_norm: bool, skip: str) -> None:
    generator = trained(scale, batch_norm, skip)
    session = onnxruntime.InferenceSession(
        export_onnx(generator), providers=["CPUExecutionProvider"]
    )
    assert generator.training
    generator.eval()
    for height, width in SIZES:
        base = torch.rand(1, 3, height, width)
        (found,) = session.run(["image"], {"base": base.numpy()})
        assert found.shape == (1, 3, scale * height, scale * width)
        np.testing.assert_allclose(found, generator(base).detach().numpy(), atol=1e-5, rtol=0)


def test_exported_model_is_always_the_same_file() -> None:
    generator = trained(2, True, "bicubic")
    state = {name: value.clone() for name, value in generator.state_dict().items()}
    data = export_onnx(generator)
    assert export_onnx(generator.eval()) == data
    assert not generator.training
    for name, value in generator.state_dict().items():
        torch.testing.assert_close(value, state[name], atol=0, rtol=0)
    again = make(2, True, "bicubic")
    again.load_state_dict(state)
    assert export_onnx(again) == data


def test_exported_model_declares_its_interface() -> None:
    import onnx

    model = onnx.load_from_string(export_onnx(Generator(2, 4, 1, True, "bicubic")))
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    for value, name in ((model.graph.input, "base"), (model.graph.output, "image")):
        assert [entry.name for entry in value] == [name]
        dimensions = value[0].type.tensor_type.shape.dim
        assert [size.dim_value for size in dimensions] == [1, 3, 0, 0]
