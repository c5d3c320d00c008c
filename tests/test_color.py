"""Colour conversion is exact integer arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from ambi_rl.codec.color import gray_to_planes, planes_to_gray, planes_to_rgb, rgb_to_planes


def test_every_colour_comes_back_exactly() -> None:
    green, blue = np.mgrid[:256, :256].astype(np.uint8)
    for red in range(256):
        rgb = np.stack([np.full_like(green, red), green, blue], axis=-1)
        planes = rgb_to_planes(rgb)
        assert planes.min() >= 0
        assert planes.max() <= 1023
        assert np.array_equal(planes_to_rgb(planes), rgb)


def test_planes_are_bt601_in_quarters_of_a_code_value() -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    red, green, blue = np.moveaxis(rgb.astype(np.float64), -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    expected = [4 * luma, 512 + 4 * (blue - luma) / 1.772, 512 + 4 * (red - luma) / 1.402]
    planes = rgb_to_planes(rgb)
    assert planes.dtype == np.int16
    assert planes.shape == (3, 40, 50)
    assert np.abs(planes - np.stack(expected)).max() < 0.51


def test_gray_has_neutral_chroma() -> None:
    gray = np.arange(256, dtype=np.uint8)[np.newaxis]
    planes = rgb_to_planes(np.dstack([gray, gray, gray]))
    assert np.array_equal(planes[0], gray.astype(int) * 4)
    assert np.all(planes[1:] == 512)


def test_values_outside_the_cube_are_clipped() -> None:
    corners = np.array(np.meshgrid([0, 1023], [0, 1023], [0, 1023])).reshape(3, 1, 8)
    rgb = planes_to_rgb(corners.astype(np.int16))
    assert rgb.dtype == np.uint8
    assert {0, 255} <= set(rgb.ravel().tolist())


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (3, 200000)])
def test_any_shape(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert np.array_equal(planes_to_rgb(rgb_to_planes(rgb)), rgb)


def test_conversion_does_not_depend_on_the_memory_layout() -> None:
    rng = np.random.default_rng(2)
    rgba = rng.integers(0, 256, (30, 20, 4), dtype=np.uint8)
    assert np.array_equal(rgb_to_planes(rgba[..., :3]), rgb_to_planes(rgba[..., :3].copy()))


def test_gray_round_trip_and_rounding() -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    planes = gray_to_planes(gray)
    assert planes.shape == (1, 16, 16)
    assert planes.max() == 1020
    assert np.array_equal(planes_to_gray(planes), gray)
    assert planes_to_gray(np.array([[[0, 1, 2, 3, 1021, 1023]]], np.int16)).tolist() == [
        [0, 0, 1, 1, 255, 255]
    ]
