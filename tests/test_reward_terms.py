"""What the reward's terms move when their weights change: encodings chosen, and where errors matter."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.color import planes_to_rgb, rgb_to_planes
from ambi_rl.codec.frame import encode_frame
from ambi_rl.codec.strategists import for_search
from ambi_rl.data import PhotographSource, list_photographs
from ambi_rl.data.source import Patch
from ambi_rl.envs.episodes import Episodes
from ambi_rl.errors import ConfigError
from ambi_rl.metrics import ms_ssim, psnr
from ambi_rl.rewards import Reward
from ambi_rl.rewards.importance import fold, mirror
from ambi_rl.rewards.pictures import MsSsimTerm, SsimTerm
from ambi_rl.rewards.task import TaskTerm

SIZE = 64
STEP = 20 * 64
MEAN_COLOUR = "mean_colour"
"""A metric of the tests, in a module of its own."""


@pytest.fixture(scope="module")
def source() -> PhotographSource:
    return PhotographSource(list_photographs(None), SIZE, (30, 92))


@pytest.fixture(scope="module")
def patch(source: PhotographSource) -> Patch:
    return source.sample(np.random.default_rng(7), quality=70)


@pytest.fixture(scope="module")
def pair(patch: Patch, default_bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    frame = encode_frame(patch.planes, STEP, default_bundle, for_search(5))
    return planes_to_rgb(patch.planes), planes_to_rgb(frame.planes)


@pytest.fixture
def metrics_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of functions in the current folder, as a user may have one."""
    (tmp_path / "their_metrics.py").write_text(
        "import numpy as np\n"
        "def mean_colour(a, b, power=2.0):\n"
        "    return float((np.abs(a.mean((0, 1)) - b.mean((0, 1))) ** power).mean())\n"
        "def squared(a, b):\n"
        "    return np.mean((a.astype(float) - b) ** 2)\n"
        "def similarity(a, b):\n"
        "    return -1.0\n"
        "def broken(a, b):\n"
        "    raise ValueError('no luck\\nat all')\n"
        "def endless(a, b):\n"
        "    return float('nan')\n"
        "number = 3\n"
    )
    (tmp_path / "their_mistake.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("their_metrics", "their_mistake"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "their_metrics"


def encodings(patch: Patch, bundle: Bundle) -> list[tuple[float, np.ndarray]]:
    """Encodings of a patch from coarse to fine at one λ: bits and decoded planes."""
    found = []
    for offset in (4, 2, 0, -2, -4):
        frame = encode_frame(patch.planes, round(STEP * 2 ** (offset / 6)), bundle, for_search(5))
        found.append((frame.cost / 65536, frame.planes))
    return found


def best(
    settings: Mapping[str, Any], patch: Patch, tried: list[tuple[float, np.ndarray]], bundle: Bundle,
    source: PhotographSource,
) -> int:  # fmt: skip
    """Which of the encodings has the highest return under a reward."""
    reward = Reward(settings)
    reward.prepare(source, bundle)
    lagrangian = np.array([bundle.manifest["lambda_scale"] * (STEP / 64) ** 2])
    weights = np.array([1.0, 3.26 / 3, 2.475 / 3])
    original = planes_to_rgb(patch.planes)
    returns = []
    for bits, planes in tried:
        error = ((planes.astype(float) - patch.planes) ** 2).sum((1, 2)) * weights / 16
        sse, chroma = np.array([error.sum()]), np.array([error[1:].sum()])
        terms = reward.step_terms(np.array([bits]), sse, chroma, lagrangian, SIZE**2)
        late = reward.episode_terms(original, planes_to_rgb(planes), STEP)
        returns.append(float(reward.of_step(terms)[0]) + reward.of_episode(late))
    return int(np.argmax(returns))


DISTORTIONS: dict[str, dict[str, Any]] = {
    "sse": {},
    "chroma": {},
    "ssim": {},
    "ms_ssim": {},
    "metric": {"target": "their_metrics.squared"},
    "task": {},
}


@pytest.mark.parametrize("name", DISTORTIONS)
@pytest.mark.usefixtures("metrics_module")
def test_more_weight_on_a_distortion_buys_more_bits(
    name: str, patch: Patch, source: PhotographSource, default_bundle: Bundle, exported: Path
) -> None:
    tried = encodings(patch, default_bundle)
    extra = DISTORTIONS[name]
    if name == "task":
        extra = {"model": str(exported)}

    def settings(weight: float) -> dict[str, Any]:
        section = {"weight": weight, **extra} if name in ("metric", "task") else weight
        return {"rate": 1.0, name: section}

    chosen = [
        best(settings(weight), patch, tried, default_bundle, source) for weight in (0.02, 1.0, 50.0)
    ]
    assert chosen == sorted(chosen)
    assert chosen[0] == 0
    assert chosen[-1] == len(tried) - 1


def test_more_weight_on_the_rate_saves_bits(
    patch: Patch, source: PhotographSource, default_bundle: Bundle
) -> None:
    tried = encodings(patch, default_bundle)
    chosen = [
        best({"rate": rate, "sse": 1.0}, patch, tried, default_bundle, source)
        for rate in (0.1, 1.0, 10.0)
    ]
    assert chosen[0] > chosen[1] > chosen[2]


def test_chroma_weight_prefers_the_encoding_with_better_colour(
    patch: Patch, source: PhotographSource, default_bundle: Bundle
) -> None:
    gray, colour = patch.planes.copy(), patch.planes.copy()
    gray[1:] += np.int16(8)
    colour[0] += np.int16(12)
    tried = [(100.0, gray), (100.0, colour)]
    assert best({"sse": 1.0}, patch, tried, default_bundle, source) == 0
    assert best({"sse": 1.0, "chroma": 5.0}, patch, tried, default_bundle, source) == 1


@pytest.mark.parametrize(("term", "scales"), [(SsimTerm(), 1), (MsSsimTerm(), 4)])
def test_structural_slope_is_the_derivative_of_the_term(
    term: MsSsimTerm, scales: int, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    original, decoded = pair
    slope = term.slope(original, decoded, STEP)
    assert slope.shape == original.shape
    # Samples are whole numbers, so the derivative is compared over a small change of many of them.
    change = np.random.default_rng(0).integers(-1, 2, decoded.shape)
    change[(decoded < 2) | (decoded > 253)] = 0
    up, down = ((decoded + sign * change).astype(np.uint8) for sign in (1, -1))
    difference = (term.cost(original, up, STEP) - term.cost(original, down, STEP)) / 2
    assert (slope * change).sum() == pytest.approx(difference, rel=0.05, abs=1e-4)
    place = mirror(SIZE, SIZE)
    wide = ms_ssim(original[place], decoded[place], scales=scales)
    assert term.loss(original, decoded) == pytest.approx(1 - wide)


def test_folding_gives_back_what_mirroring_repeats() -> None:
    place = mirror(8, 12)
    counts = fold(np.ones((*np.broadcast_shapes(*(i.shape for i in place)), 3)), place)
    assert counts.shape == (8, 12, 3)
    assert counts.sum() == 3 * place[0].size * place[1].size
    # The outermost samples are where it is continued from; they are not repeated.
    assert counts[0, 0, 0] < counts[1, 1, 0]


def test_a_teacher_follows_the_weights(
    patch: Patch, source: PhotographSource, default_bundle: Bundle
) -> None:
    assert not Reward({"rate": 2.0, "sse": 2.0}).steers_teacher
    bits = []
    for rate in (0.5, 1.0, 2.0):
        reward = Reward({"rate": rate, "sse": 1.0})
        importance = reward.uniform_importance(SIZE, SIZE)
        np.testing.assert_allclose(importance, 1 / rate)
        frame = encode_frame(
            patch.planes, STEP, default_bundle, for_search(5), importance=importance
        )
        bits.append(frame.cost)
    assert bits[0] > 1.1 * bits[1] > 1.1 * 1.1 * bits[2]


def test_importance_lies_where_a_structural_term_sees_errors(default_bundle: Bundle) -> None:
    rng = np.random.default_rng(3)
    # Strong texture on the left, almost none on the right; equal errors everywhere.
    strength = np.where(np.arange(SIZE) < SIZE // 2, 40.0, 2.0)[None, :, None]
    texture = np.clip(128 + rng.normal(0, 1, (SIZE, SIZE, 1)) * strength, 0, 255)
    original = np.repeat(texture, 3, axis=2).round().astype(np.uint8)
    decoded = np.clip(original + rng.normal(0, 4, original.shape), 0, 255).round().astype(np.uint8)
    lagrangian = default_bundle.manifest["lambda_scale"] * (STEP / 64) ** 2
    plain = Reward({"rate": 1, "sse": 1, "ms_ssim": 0.5})
    importance: Any = plain.importance(original, decoded, STEP, lagrangian)
    assert importance.shape == (SIZE // 4, SIZE // 4)
    assert importance.dtype == np.float32
    # Squared error's share of 1 is the same everywhere.
    assert importance[:, 10:].mean() - 1 > 3 * (importance[:, :6].mean() - 1)
    more = Reward({"rate": 1, "sse": 1, "ms_ssim": 1.0})
    np.testing.assert_allclose(
        more.importance(original, decoded, STEP, lagrangian) - 1, 2 * (importance - 1), rtol=1e-3
    )
    dearer = Reward({"rate": 2, "sse": 1, "ms_ssim": 0.5})
    np.testing.assert_allclose(
        dearer.importance(original, decoded, STEP, lagrangian), importance / 2, rtol=1e-3
    )


def test_importance_of_chroma_lies_where_colour_is_wrong(default_bundle: Bundle) -> None:
    rng = np.random.default_rng(4)
    original = rng.integers(60, 180, (SIZE, SIZE, 3), np.uint8)
    planes = rgb_to_planes(original)
    planes[0, :, : SIZE // 2] += rng.integers(-24, 25, (SIZE, SIZE // 2)).astype(np.int16)
    planes[1:, :, SIZE // 2 :] += rng.integers(-24, 25, (2, SIZE, SIZE // 2)).astype(np.int16)
    importance = Reward({"rate": 1, "sse": 1, "chroma": 2.0}).importance(
        original, planes_to_rgb(planes), STEP, 30.0
    )
    assert importance[:, :5].mean() < 1.4
    assert importance[:, 11:].mean() > 2.4


@pytest.mark.usefixtures("metrics_module")
def test_a_metric_gets_its_arguments_and_its_scale(
    source: PhotographSource, default_bundle: Bundle, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    def made(**settings: Any) -> Reward:
        reward = Reward({"rate": 1, "metric": {"weight": 1.0, **settings}})
        reward.prepare(source, default_bundle)
        return reward

    target = "their_metrics.mean_colour"
    constant = made(target=target, scale=3.0, arguments={"power": 1.0})
    original, decoded = pair
    expected = np.abs(original.mean((0, 1)) - decoded.mean((0, 1))).mean()
    terms = constant.episode_terms(original, decoded, STEP)
    assert terms == {"metric": pytest.approx(3 * expected)}
    assert constant.of_episode(terms) == pytest.approx(-3 * expected)

    # What is squared error itself comes out as the term `sse` does.
    measured = made(target="their_metrics.squared")
    cost = measured.episode_terms(original, decoded, STEP)["metric"]
    lagrangian = default_bundle.manifest["lambda_scale"] * (STEP / 64) ** 2
    mse = 255**2 / 10 ** (psnr(original, decoded) / 10)
    assert cost == pytest.approx(mse / lagrangian, rel=0.05)
    assert len(measured.facts()["scales"]["metric"]) == 8


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("cost", "give the path of a function"),
        ("their_metrics.nothing", "was imported, but nothing is not in it"),
        ("their_metrics.number", "was imported, but number is not a function"),
        ("no_such_module.cost", "importing no_such_module failed: ModuleNotFoundError"),
        ("their_mistake.cost", "importing their_mistake failed: ModuleNotFoundError: No module named 'a_"),
        ("their_metrics.broken", r"failed on a picture of 64x64 pixels: ValueError: no luck$"),
        ("their_metrics.endless", "returned nan for a picture of 64x64 pixels"),
        ("their_metrics.similarity", "is not over 0 for pictures with strong errors"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("metrics_module")
def test_mistakes_in_a_metric_are_named_in_one_line(
    target: str, message: str, source: PhotographSource, default_bundle: Bundle
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Reward({"rate": 1, "metric": {"weight": 1, "target": target}}).prepare(
            source, default_bundle
        )
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("reward.metric")


class TinyModel(nn.Module):
    """Logits of three classes at places that the picture is looked at."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 4, 5, stride=4)
        self.second = nn.Conv2d(4, 3, 1)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(batch)))


EXAMPLE = torch.zeros(1, 3, SIZE, SIZE)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in torch.export's format, for patches of `SIZE`."""
    path = tmp_path_factory.mktemp("models") / "model.pt2"
    torch.export.save(torch.export.export(TinyModel().eval(), (EXAMPLE,)), str(path))
    return path


def save_script(path: Path) -> Path:
    with torch.no_grad():
        torch.jit.trace(TinyModel().eval(), EXAMPLE).save(str(path))
    return path


def save_onnx(path: Path) -> Path:
    """The same numbers as an ONNX graph."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, numbers = onnx.helper, onnx.numpy_helper
    weights = {name: p.detach().numpy() for name, p in TinyModel().named_parameters()}
    nodes = [
        helper.make_node("Conv", ["batch", "first.weight", "first.bias"], ["c"], strides=[4, 4]),
        helper.make_node("Tanh", ["c"], ["t"]),
        helper.make_node("Conv", ["t", "second.weight", "second.bias"], ["logits"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "tiny",
        [value("batch", onnx.TensorProto.FLOAT, [1, 3, None, None])],
        [value("logits", onnx.TensorProto.FLOAT, [1, 3, None, None])],
        [numbers.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


def task(path: Path, distance: str = "features") -> TaskTerm:
    return TaskTerm(path, distance, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 1.0)


def test_all_formats_of_a_model_say_the_same(
    exported: Path, tmp_path: Path, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    original, decoded = pair
    for distance in ("features", "logits"):
        losses = [
            task(path, distance).loss(original, decoded)
            for path in (
                exported,
                save_script(tmp_path / "b.pt"),
                save_onnx(tmp_path / "c.onnx"),
            )
        ]
        assert losses[0] > 0
        np.testing.assert_allclose(losses, losses[0], rtol=1e-3)
        assert task(exported, distance).loss(original, original) == pytest.approx(0)


def test_task_follows_the_model_and_not_the_error(
    tmp_path: Path, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    original, _ = pair
    term = task(save_script(tmp_path / "model.pt"))
    # Columns that the strided convolution never looks at may change as they like.
    unseen, seen = original.copy(), original.copy()
    unseen[:, -1] = 255 - unseen[:, -1]
    seen[:, 8:12] = 255 - seen[:, 8:12]
    assert term.loss(original, unseen) == pytest.approx(0, abs=1e-9)
    assert term.loss(original, seen) > 1e-6


def test_task_slope_is_its_derivative(
    exported: Path, tmp_path: Path, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    original, decoded = pair
    term = task(exported)
    slope = term.slope(original, decoded, STEP)
    assert slope is not None
    change = np.sign(slope).astype(int) * ((decoded > 1) & (decoded < 254))
    up, down = ((decoded + sign * change).astype(np.uint8) for sign in (1, -1))
    difference = (term.cost(original, up, STEP) - term.cost(original, down, STEP)) / 2
    assert (slope * change).sum() == pytest.approx(difference, rel=0.05)
    assert task(save_onnx(tmp_path / "m.onnx")).slope(original, decoded, STEP) is None


def test_models_that_cannot_be_used_are_refused(
    exported: Path, tmp_path: Path, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    whole = tmp_path / "whole.pt"
    torch.save(TinyModel().state_dict(), whole)
    noise = tmp_path / "noise.pt2"
    noise.write_bytes(b"noise")
    wide = tmp_path / "wide.pt"
    with zipfile.ZipFile(wide, "w") as archive:
        archive.writestr("wide/code/x.py", "nonsense")
    for path, message in (
        (tmp_path / "none.pt2", "does not exist"),
        (whole, "is a pickle of torch.save, which may run any code"),
        (noise, "cannot be read as a .pt2 model"),
        (wide, "cannot be read as a .pt model"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            task(path).loss(*pair)
        assert "\n" not in str(caught.value)
    other = tmp_path / "model.bin"
    other.write_bytes(b"")
    with pytest.raises(ConfigError, match="none of the suffixes"):
        task(other)
    with pytest.raises(ConfigError, match="failed on a picture of 48x64 pixels"):
        task(exported).loss(pair[0][:, :48], pair[1][:, :48])


def test_episodes_report_every_term(default_bundle: Bundle, source: PhotographSource) -> None:
    episodes = Episodes(
        1, source, default_bundle, {"rate": 1, "sse": 1, "chroma": 1}, threads=1, rate="estimate"
    )
    episodes.begin(0, source.sample(np.random.default_rng(0), quality=60))
    episodes.observe()
    total = 0.0
    while True:
        result = episodes.step(np.array([[1, 2]]))
        total += float(result.rewards[0])
        assert 0 <= result.terms.chroma[0] <= result.terms.sse[0]
        if result.done[0]:
            break
        episodes.observe()
    extra, summary = episodes.finish(0)
    planes = episodes.process.reconstruction(0).astype(float) - episodes.process.source(0)
    weights = np.array([3.26 / 3, 2.475 / 3])
    chroma = ((planes[1:] ** 2).sum((1, 2)) * weights).sum() / 16
    unit = episodes.process.lagrangian(0) * SIZE**2
    assert summary["terms"]["chroma"] == pytest.approx(chroma / unit)
    assert summary["return"] == pytest.approx(total + extra)
    episodes.close()
