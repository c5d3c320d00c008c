"""Scores without a gradient: values by other definitions, tiles, and a user's functions that fail."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ambi_rl import metrics
from ambi_rl.errors import ConfigError, UsageError
from ambi_rl.superres.scores import SCORES, Score, make_score

Pixels = NDArray[np.uint8]


def pair(count: int, height: int, width: int) -> tuple[Pixels, Pixels]:
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:height, :width]
    smooth = 128 + 60 * np.sin(rows / 9)[..., None] + 40 * np.cos(columns / 7)[..., None]
    original = np.clip(smooth + rng.normal(0, 6, (count, height, width, 3)), 0, 255)
    # Errors grow to the right and downwards, so that tiles differ.
    noise = (
        rng.normal(0, 1, original.shape) * (2 + 10 * (rows + columns) / (height + width))[..., None]
    )
    return original.astype(np.uint8), np.clip(original + noise, 0, 255).astype(np.uint8)


def mean_absolute(original: Pixels, image: Pixels, offset: float = 0) -> float:
    return offset - float(np.abs(original.astype(float) - image).mean())


def of_name(name: str, quality: int = 60) -> Score:
    return make_score(
        name, quality=quality, function=f"{__name__}.mean_absolute", arguments={"offset": 9.0}
    )


def as_jpeg(image: Pixels, quality: int) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(buffer))


@pytest.mark.parametrize("name", SCORES)
def test_a_whole_picture(name: str) -> None:
    original, image = (pictures[0] for pictures in pair(1, 40, 53))
    expected = {
        "psnr": metrics.psnr(original, image),
        "ssim": metrics.ssim(original, image),
        "recompressed_psnr": metrics.psnr(original, as_jpeg(image, 60)),
        "function": mean_absolute(original, image, 9.0),
    }
    score = of_name(name)
    assert score.name == name
    assert score.mean(original, image) == pytest.approx(expected[name], rel=1e-9)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize(("tile", "shape"), [(0, (1, 1)), (16, (3, 4)), (40, (1, 2)), (64, (1, 1))])
def test_shapes(name: str, tile: int, shape: tuple[int, int]) -> None:
    original, image = pair(2, 40, 53)
    values = of_name(name).tiles(original, image, tile)
    assert values.shape == (2, *shape)
    assert values.dtype == np.float64
    assert np.isfinite(values).all()


@pytest.mark.parametrize("name", SCORES)
def test_more_noise_scores_less(name: str) -> None:
    original, image = pair(1, 64, 64)
    values = of_name(name).tiles(original, image, 32)[0]
    assert values[0, 0] > values[1, 0] > values[1, 1]
    assert values[0, 0] > values[0, 1] > values[1, 1]


@pytest.mark.parametrize("name", SCORES)
def test_pictures_of_a_batch_are_scored_alone(name: str) -> None:
    original, image = pair(3, 40, 53)
    score = of_name(name)
    together = score.tiles(original, image, 16)
    alone = [score.tiles(a[None], b[None], 16)[0] for a, b in zip(original, image, strict=True)]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("name", ["psnr", "function"])
def test_a_tile_is_scored_as_a_crop(name: str) -> None:
    original, image = pair(1, 40, 53)
    score = of_name(name)
    values = score.tiles(original, image, 16)[0]
    for row, column in np.ndindex(values.shape):
        place = np.s_[0, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        assert values[row, column] == pytest.approx(score.mean(original[place], image[place]))


def test_ssim_of_a_tile_is_the_mean_of_its_windows() -> None:
    original, image = pair(1, 64, 64)
    values = make_score("ssim").tiles(original, image, 16)[0]
    # Windows around pixels of an inner tile reach 5 pixels beyond it.
    around = np.s_[0, 16 - 5 : 32 + 5, 32 - 5 : 48 + 5]
    assert values[1, 2] == pytest.approx(metrics.ssim(original[around], image[around]), rel=1e-9)


def test_a_small_last_tile_has_an_ssim() -> None:
    original, image = pair(1, 34, 50)
    values = make_score("ssim").tiles(original, image, 16)[0]
    nearest = metrics.ssim_map(original[0], image[0]).mean(axis=0)[-1, -1]
    assert values[2, 3] == pytest.approx(nearest)


def test_the_map_has_the_windows_in_their_places() -> None:
    original, image = (pictures[0] for pictures in pair(1, 20, 31))
    found = metrics.ssim_map(original, image)
    assert found.shape == (3, 10, 21)
    window = np.s_[4 : 4 + 11, 17 : 17 + 11]
    assert found[:, 4, 17].mean() == pytest.approx(metrics.ssim(original[window], image[window]))


def test_recompression_is_of_the_whole_picture() -> None:
    # Tiles that are no multiples of JPEG's 16 pixels would come out otherwise each on its own.
    original, image = pair(1, 40, 48)
    values = of_name("recompressed_psnr", 30).tiles(original, image, 20)[0]
    again = as_jpeg(image[0], 30)
    expected = metrics.psnr(original[0, :20, 20:40], again[:20, 20:40])
    assert values[0, 1] == pytest.approx(expected)


def test_a_lower_quality_scores_less() -> None:
    original, image = (pictures[0] for pictures in pair(1, 40, 48))
    low, high = (of_name("recompressed_psnr", quality).mean(original, image) for quality in (5, 90))
    assert low < high


@pytest.mark.parametrize("name", ["psnr", "recompressed_psnr"])
def test_equal_pictures_have_a_finite_psnr(name: str) -> None:
    gray = np.full((1, 32, 32, 3), 128, np.uint8)
    assert of_name(name).tiles(gray, gray, 16) == pytest.approx(
        np.full((1, 2, 2), 10 * np.log10(255**2 / 0.01))
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "psrn"}, "reward.score.score is 'psrn'; choose among psnr, ssim"),
        (
            {"name": "recompressed_psnr", "quality": 0},
            "reward.score.quality is 0; give a JPEG quality",
        ),
        ({"name": "function"}, "reward.score.function names no function"),
        (
            {"name": "function", "function": "mine"},
            "reward.score.function is 'mine'; give the path",
        ),
        (
            {"name": "function", "function": "no_such_module.f"},
            "reward.score.function no_such_module.f: importing no_such_module failed",
        ),
        ({"name": "function", "function": "math.no"}, "math was imported, but no is not in it"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_score(**settings, key="reward.score")  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def fails(original: Pixels, image: Pixels) -> float:
    raise RuntimeError("out of cheese\nand of wine")


def is_nan(original: Pixels, image: Pixels) -> float:
    return float("nan")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (fails, "failed on a picture of 20x20 pixels: RuntimeError: out of cheese"),
        (is_nan, "returned nan for a picture of 20x20 pixels; it must return a finite number"),
    ],
)
def test_functions_that_fail(function: object, message: str) -> None:
    name = f"{__name__}.{function.__name__}"  # type: ignore[attr-defined]
    original, image = pair(1, 20, 32)
    with pytest.raises(ConfigError) as caught:
        make_score("function", function=name).tiles(original, image, 20)
    assert str(caught.value) == f"score.function {name} {message}"


@pytest.mark.parametrize("name", SCORES)
def test_pictures_that_cannot_be_scored(name: str) -> None:
    original, image = pair(1, 40, 53)
    score = of_name(name)
    cases: tuple[tuple[Pixels, NDArray[Any], int], ...] = (
        (original, image[:, :-1], 16),
        (original[0], image[0], 16),
        (original, image.astype(np.int16), 16),
        (original[:, :0], image[:, :0], 16),
        (original, image, -1),
    )
    for a, b, tile in cases:
        with pytest.raises(UsageError):
            score.tiles(a, b, tile)


def test_ssim_needs_room_for_its_window() -> None:
    original, image = pair(1, 10, 40)
    with pytest.raises(UsageError, match="at least 11 pixels a side"):
        make_score("ssim").tiles(original, image, 0)


def test_scores_load_neither_torch_nor_the_kernels() -> None:
    code = (
        "import sys, ambi_rl.superres.scores;"
        "print([m for m in ('torch', 'numba', 'gymnasium', 'hydra') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_gains_of_tiles_add_up_to_that_of_the_picture() -> None:
    """To the first order; of PSNR too, although decibels of tiles do not."""
    rng = np.random.default_rng(4)
    original = rng.integers(60, 200, (2, 32, 48, 3), dtype=np.uint8)
    # A quarter is much worse than the others: there is most to be gained.
    noise = rng.normal(0, 3, original.shape)
    noise[:, :16, :24] *= 8
    worse = np.clip(np.round(original + noise), 0, 255).astype(np.uint8)
    better = np.clip(np.round(original + 0.97 * noise), 0, 255).astype(np.uint8)
    for score in (make_score("psnr"), make_score("ssim")):
        gains = score.gains(score.tiles(original, better, 8), score.tiles(original, worse, 8))
        whole = score.tiles(original, better, 0) - score.tiles(original, worse, 0)
        assert gains.mean((1, 2)) == pytest.approx(whole[:, 0, 0], rel=0.1)
    psnr = make_score("psnr")
    gains = psnr.gains(psnr.tiles(original, better, 8), psnr.tiles(original, worse, 8))
    assert gains[:, :2, :3].sum() > 0.8 * gains.sum()
