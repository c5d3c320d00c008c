"""Evaluation of generators: values, baselines, tiles, and the mode that a network is left in."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ambi_rl import metrics
from ambi_rl.data import Photograph
from ambi_rl.errors import UsageError
from ambi_rl.superres.base_layer import Pixels, decode_base, encode_base, shrink
from ambi_rl.superres.resample import FILTERS, enlarge
from ambi_rl.superres.scores import make_score
from ambi_rl.training.superres_evaluation import SuperresEvaluation, network_upscale


@pytest.fixture(scope="module")
def pictures(photograph: Image.Image) -> list[Photograph]:
    rgb = np.asarray(photograph)
    return [Photograph("a", rgb[:61, :70]), Photograph("b", rgb[:, 20:])]


def evaluation(
    pictures: list[Photograph], score: str = "psnr", max_side: int = 80
) -> SuperresEvaluation:
    return SuperresEvaluation(
        pictures,
        scale=2,
        base="jpeg",
        qualities=[80, 30],
        score=make_score(score),
        max_side=max_side,
    )


def bicubic(base: Pixels) -> Pixels:
    return enlarge(base, 2, "bicubic")


def test_values_are_those_of_the_metrics(pictures: list[Photograph]) -> None:
    found = evaluation(pictures[:1], "ssim").measure(bicubic)
    rgb = np.ascontiguousarray(pictures[0].rgb)
    data = encode_base(shrink(rgb, 2), "jpeg", 30)
    image = bicubic(decode_base(data, "jpeg", 31, 35))[:61, :70]
    assert found["qualities"]["30"] == {
        "bytes": len(data),
        "bpp": 8 * len(data) / (61 * 70),
        "psnr": metrics.psnr(rgb, image),
        "ssim": metrics.ssim(rgb, image),
        "ms_ssim": metrics.ms_ssim(rgb, image),
        "score": pytest.approx(metrics.ssim(rgb, image)),
    }


def test_means_are_over_pictures_and_qualities(pictures: list[Photograph]) -> None:
    both = evaluation(pictures).measure(bicubic)
    single = [evaluation([picture]).measure(bicubic) for picture in pictures]
    assert list(both["qualities"]) == ["30", "80"]
    for quality in both["qualities"]:
        for name, value in both["qualities"][quality].items():
            expected = np.mean([one["qualities"][quality][name] for one in single])
            assert value == pytest.approx(expected)
    mean = np.mean([both["qualities"][quality]["psnr"] for quality in ("30", "80")])
    assert both["mean"]["psnr"] == pytest.approx(mean)
    assert both["objective"] == -both["mean"]["score"]
    assert json.loads(json.dumps(both)) == both


def test_more_bytes_are_better(pictures: list[Photograph]) -> None:
    found = evaluation(pictures).measure(bicubic)["qualities"]
    for name in ("bytes", "bpp", "psnr", "ssim", "ms_ssim", "score"):
        assert found["30"][name] < found["80"][name]


def test_baselines_are_measured_once(
    pictures: list[Photograph], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = evaluation(pictures)
    first = measured.baselines()
    assert tuple(first) == FILTERS
    assert first["bicubic"] == measured.measure(bicubic)
    assert first["lanczos"] != first["bicubic"]
    monkeypatch.setattr(measured, "measure", None)
    assert measured.baselines() is first


def test_of_large_pictures_the_middle_is_taken(pictures: list[Photograph]) -> None:
    small = Photograph("middle", pictures[1].rgb[12:76, 14:78])
    assert pictures[1].rgb.shape == (88, 92, 3)
    assert evaluation(pictures[1:], max_side=64).measure(bicubic) == evaluation([small]).measure(
        bicubic
    )


def test_what_cannot_be_evaluated(pictures: list[Photograph]) -> None:
    tiny = Photograph("tiny", np.zeros((10, 40, 3), np.uint8))
    with pytest.raises(UsageError, match="tiny has 40x10 pixels"):
        evaluation([tiny])
    with pytest.raises(UsageError, match="at least one picture"):
        evaluation([])
    with pytest.raises(UsageError, match=r"must be uint8 \(62, 70, 3\), not uint8 \(31, 35, 3\)"):
        evaluation(pictures).measure(lambda base: base)


class Net(nn.Module):
    """Reaches 3 pixels far, and does otherwise in training."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 5, padding=2)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 12, 3, padding=1)
        self.seen: list[torch.Size] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From [1, 3, h, w] to [1, 3, 2 h, 2 w]."""
        self.seen.append(x.shape)
        nearest = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return nearest + nn.functional.pixel_shuffle(self.last(self.norm(self.first(x)).relu()), 2)


def net() -> Net:
    torch.manual_seed(0)
    made = Net()
    nn.init.normal_(made.norm.weight)
    made.norm.running_mean.fill_(0.3)  # type: ignore[union-attr]
    return made


@pytest.mark.parametrize("size", [(40, 33), (16, 16), (5, 70), (1, 1)])
def test_tiles_change_nothing(size: tuple[int, int]) -> None:
    base = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    network = net()
    whole = network_upscale(network, scale=2, radius=3, tile=100)(base)
    network.seen.clear()
    tiled = network_upscale(network, scale=2, radius=3, tile=16)(base)
    assert whole.shape == (2 * size[0], 2 * size[1], 3)
    assert max(max(shape) for shape in network.seen) <= 16 + 2 * 3
    # Float rounding may go over a half.
    assert np.abs(whole.astype(int) - tiled).max() <= 1
    assert (whole != tiled).mean() < 0.01


def test_tiles_need_the_radius() -> None:
    base = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    whole, tiled = (network_upscale(net(), scale=2, radius=0, tile=tile)(base) for tile in (40, 16))
    assert np.abs(whole.astype(int) - tiled).max() > 1


def test_pixels_are_rounded_and_clipped() -> None:
    class Brighter(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 1.5 * x.repeat_interleave(2, 2).repeat_interleave(2, 3) - 0.2

    base = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    found = network_upscale(Brighter(), scale=2, radius=0)(base)
    expected = np.clip(np.round(1.5 * base.astype(float) - 0.2 * 255), 0, 255)
    # 1.5 times an odd value less 51 is a half.
    assert np.abs(found[::2, ::2] - expected).max() <= 1
    assert (found[::2, ::2] == expected).mean() > 0.7
    assert found.min() == 0
    assert found.max() == 255


def test_a_network_runs_in_evaluation_mode_and_keeps_its_own(pictures: list[Photograph]) -> None:
    network = net()
    network.train()
    network.first.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = evaluation(pictures).measure(network_upscale(network, scale=2, radius=3))
    modes = (network.training, network.first.training, network.norm.training, network.last.training)
    assert modes == (True, False, True, True)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    network.eval()
    assert evaluation(pictures).measure(network_upscale(network, scale=2, radius=3)) == found


def test_the_mode_comes_back_after_an_error() -> None:
    network = net()
    with pytest.raises(RuntimeError):
        network_upscale(network, scale=3, radius=3)(np.zeros((8, 8, 2), np.uint8))
    assert network.training
