"""Photographs: listing, division, patches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ambi_rl.codec.color import planes_to_rgb
from ambi_rl.data import (
    PhotographSource,
    list_photographs,
    read_photograph,
    split_held_out,
)
from ambi_rl.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for index in range(12):
        size = (96, 80) if index else (40, 40)
        pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
        pixels[:, : size[0] // 2] = 128
        Image.fromarray(pixels).save(tmp_path / f"photo-{index:02}.png")
    (tmp_path / "notes.txt").write_text("not a photograph")
    return tmp_path


def test_lists_pictures_by_name(folder: Path) -> None:
    paths = list_photographs(folder)
    assert [p.name for p in paths] == [f"photo-{i:02}.png" for i in range(12)]
    assert list_photographs([folder / "photo-03.png"]) == [folder / "photo-03.png"]


def test_every_nth_is_held_out(folder: Path) -> None:
    train, held = split_held_out(list_photographs(folder), 5)
    assert [p.name for p in held] == ["photo-04.png", "photo-09.png"]
    assert len(train) == 10


def test_few_photographs_still_leave_one_out(folder: Path) -> None:
    train, held = split_held_out(list_photographs(folder)[:3], 10)
    assert len(train) == 2
    assert [p.name for p in held] == ["photo-02.png"]


def test_names_say_what_is_held_out(folder: Path) -> None:
    (folder / "photo-07.png").rename(folder / "held-out-seven.png")
    train, held = split_held_out(list_photographs(folder), 5)
    assert [p.name for p in held] == ["held-out-seven.png"]
    assert len(train) == 11


def test_shipped_photographs_are_divided() -> None:
    train, held = split_held_out(list_photographs(None), 10)
    assert len(train) >= 8
    assert all(p.name.startswith("held-out-") for p in held)
    assert held


def test_same_seed_same_patches(folder: Path) -> None:
    def draw(seed: int) -> list[object]:
        source = PhotographSource(list_photographs(folder), 32, (20, 90))
        rng = np.random.default_rng(seed)
        patches = [source.sample(rng) for _ in range(5)]
        return [(p.name, p.y, p.x, p.quality, p.step, p.planes.sum()) for p in patches]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_patch_is_the_photograph_at_its_place(folder: Path) -> None:
    source = PhotographSource(list_photographs(folder), 32, (20, 90))
    patch = source.sample(np.random.default_rng(3))
    whole = read_photograph(folder / patch.name)
    expected = whole[patch.y : patch.y + 32, patch.x : patch.x + 32]
    np.testing.assert_array_equal(planes_to_rgb(patch.planes), expected)
    assert 20 <= patch.quality <= 90


def test_texture_attracts(folder: Path) -> None:
    columns = {}
    for texture in (0.0, 1.0):
        source = PhotographSource(list_photographs(folder), 32, (50, 50), texture=texture)
        rng = np.random.default_rng(0)
        columns[texture] = np.mean([source.sample(rng).x for _ in range(200)])
    # The left half of every test picture is flat.
    assert columns[1.0] > columns[0.0] + 4


def test_small_photographs_are_left_out(folder: Path) -> None:
    source = PhotographSource(list_photographs(folder), 64, (50, 50))
    assert "photo-00.png" not in [p.name for p in source.paths]
    with pytest.raises(ConfigError, match="none of the 12 photographs has 512 pixels"):
        PhotographSource(list_photographs(folder), 512, (50, 50))


def test_cache_stays_within_its_bound(folder: Path) -> None:
    source = PhotographSource(list_photographs(folder), 32, (50, 50), cache_bytes=60_000)
    rng = np.random.default_rng(0)
    for _ in range(30):
        source.sample(rng)
    assert source._used <= 60_000


def test_given_place_and_quality(folder: Path) -> None:
    source = PhotographSource(list_photographs(folder), 32, (20, 90))
    rng = np.random.default_rng(0)
    patch = source.sample(rng, path=folder / "photo-05.png", quality=75, position=(7, 9))
    assert (patch.name, patch.quality, patch.y, patch.x) == ("photo-05.png", 75, 7, 9)
    with pytest.raises(ConfigError, match="does not lie within"):
        source.sample(rng, path=folder / "photo-05.png", position=(60, 0))


def test_errors_name_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        list_photographs(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="holds no photographs"):
        list_photographs(tmp_path)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not a picture")
    with pytest.raises(ConfigError, match=r"none of the 1 photographs can be used.*bad\.png"):
        PhotographSource([bad], 32, (50, 50))
    with pytest.raises(ConfigError, match=r"bad\.png cannot be"):
        read_photograph(bad)
