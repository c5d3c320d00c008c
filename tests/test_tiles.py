"""Large pictures in tiles: the grid, exact round trips on any number of threads, and damaged sections."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import ambi_rl
from ambi_rl.codec import tiles
from ambi_rl.codec.api import EncodedImage, encode_prepared, prepare_image
from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.container import MAX_SIDE, Section, read_container, varint, write_container
from ambi_rl.codec.frame import encode_frame
from ambi_rl.codec.strategists import for_search
from ambi_rl.codec.threads import THREADS_VARIABLE, in_threads, thread_count
from ambi_rl.codec.tiles import MIN_SIDE, TILED_PIXELS, TileGrid, encode_tiles, grid_for
from ambi_rl.errors import AmbiError, CorruptFileError, UsageError
from tests.conftest import PHOTOGRAPHS

FIXED = for_search(5)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """A photograph of odd sides, which is cut into two rows of two tiles."""
    with Image.open(PHOTOGRAPHS / "train-otters.webp") as image:
        return image.convert("RGB").crop((7, 9, 300, 272))


def encode(image: Image.Image, bundle: Bundle, quality: float = 20) -> EncodedImage:
    """Encode in the smallest tiles that there are."""
    prepared = prepare_image(image)
    grid = TileGrid(image.height, image.width, MIN_SIDE, MIN_SIDE)
    return encode_prepared(prepared, quality=quality, bundle=bundle, strategist=FIXED, grid=grid)


@given(st.integers(1, MAX_SIDE), st.integers(1, MAX_SIDE))
def test_tiles_cover_every_pixel_once(height: int, width: int) -> None:
    grid = grid_for(height, width)
    if grid is None:
        # A strip of 16384 pixels is divided from 245 rows on.
        assert height * width < TILED_PIXELS
        return
    parts = grid.tiles()
    assert len(parts) > 1
    assert sum(tile.height * tile.width for tile in parts) == height * width
    assert min(grid.tile_height, grid.tile_width) >= MIN_SIDE
    assert parts[-1].rows.stop == height
    assert parts[-1].columns.stop == width
    # In each direction a tile begins where the one before ends, on a superblock's border.
    for tile in parts:
        assert tile.top % grid.tile_height == tile.left % grid.tile_width == 0
        assert tile.top % 32 == tile.left % 32 == 0


def test_small_pictures_are_coded_in_one_piece(
    photograph: Image.Image, default_bundle: Bundle
) -> None:
    assert grid_for(1999, 2000) is None
    assert grid_for(2000, 2000) is not None
    assert Section.TILES not in read_container(ambi_rl.encode(photograph, effort=0)).sections


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_round_trip_is_exact_on_any_number_of_threads(
    picture: Image.Image, default_bundle: Bundle, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = picture.convert(mode)
    files, decoded = set(), []
    for threads in ("1", "5"):
        monkeypatch.setenv(THREADS_VARIABLE, threads)
        monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8))
        encoded = encode(image, default_bundle)
        files.add(encoded.data)
        decoded += [ambi_rl.decode(encoded.data), encoded.decoded()]
    assert len(files) == 1
    assert Section.TILES in read_container(files.pop()).sections
    assert all(other.tobytes() == decoded[0].tobytes() for other in decoded)
    assert (decoded[0].mode, decoded[0].size) == (mode, picture.size)


def test_tiles_are_pictures_of_their_own(picture: Image.Image, default_bundle: Bundle) -> None:
    planes = prepare_image(picture).raster.planes
    _, height, width = planes.shape
    grid = TileGrid(height, width, MIN_SIDE, MIN_SIDE)
    importance = np.ones((66, 74), np.float32)
    importance[:, 40:] = 3
    whole = encode_tiles(planes, 900, default_bundle, FIXED, grid, importance=importance)
    parts = [
        encode_frame(
            np.ascontiguousarray(planes[:, tile.rows, tile.columns]),
            900,
            default_bundle,
            FIXED,
            importance=importance[
                tile.top // 4 : -(-tile.rows.stop // 4), tile.left // 4 : -(-tile.columns.stop // 4)
            ],
        )
        for tile in grid.tiles()
    ]
    assert whole.payload.endswith(b"".join(part.payload for part in parts))
    assert whole.cost == sum(part.cost for part in parts)
    assert whole.error == pytest.approx(sum(part.error for part in parts))
    area = np.zeros(planes.shape[1:], int)
    for leaf in whole.decisions:
        area[leaf.y : leaf.y + leaf.size, leaf.x : leaf.x + leaf.size] += 1
    assert (area == 1).all()


def test_dividing_a_picture_is_up_to_the_caller(
    picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILED_PIXELS", 1000)
    monkeypatch.setattr(tiles, "TYPICAL_SIDE", MIN_SIDE // 2)
    for options in ({}, {"quality": 20.0}, {"target_bpp": 0.3}):
        kinds = [
            Section.TILES in read_container(data).sections
            for data in (
                ambi_rl.encode(picture, effort=0, **options),  # type: ignore[arg-type]
                ambi_rl.encode(picture, effort=0, tiles=False, **options),  # type: ignore[arg-type]
            )
        ]
        assert kinds == [True, False]


def damaged(encoded: EncodedImage, change: dict[Section, bytes | None]) -> bytes:
    """A file with other sections, whose checksums are right."""
    sections = dict(encoded.container.sections)
    for kind, payload in change.items():
        if payload is None:
            del sections[kind]
        else:
            sections[kind] = payload
    return write_container(replace(encoded.container, sections=sections))


def test_impossible_tiles_are_refused(picture: Image.Image, default_bundle: Bundle) -> None:
    encoded = encode(picture, default_bundle)
    payload = encoded.container.sections[Section.TILES]
    assert payload[:2] == bytes([8, 8])
    wrong = {
        "tiles of": [varint(w) + varint(h) + payload[2:] for w, h in ((7, 8), (0, 8), (10, 9))],
        "add up": [payload + b"\0", payload[:-1], payload[:2] + b"\0" + payload[3:]],
        "truncated": [b"", payload[:1], payload[:2], payload[:3]],
        "not a number": [b"\xff" * 9],
    }
    for words, payloads in wrong.items():
        for other in payloads:
            with pytest.raises(CorruptFileError, match=words):
                ambi_rl.decode(damaged(encoded, {Section.TILES: other}))


def test_a_file_has_one_picture(picture: Image.Image, default_bundle: Bundle) -> None:
    encoded = encode(picture, default_bundle)
    for change, count in (({Section.PICTURE: b"x"}, "two"), ({Section.TILES: None}, "none")):
        with pytest.raises(CorruptFileError, match=count):
            ambi_rl.decode(damaged(encoded, change))  # type: ignore[arg-type]


def test_damage_in_any_tile_is_noticed(picture: Image.Image, default_bundle: Bundle) -> None:
    encoded = encode(picture, default_bundle)
    payload = encoded.container.sections[Section.TILES]
    for at in range(8, len(payload), max(1, len(payload) // 16)):
        other = bytearray(payload)
        other[at] ^= 0x55
        with pytest.raises(AmbiError):
            ambi_rl.decode(damaged(encoded, {Section.TILES: bytes(other)}))


def test_a_nonsensical_number_of_threads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, "1")
    assert thread_count() == 1
    for text in ("0", "-2", "two", "1.5", "²"):
        monkeypatch.setenv(THREADS_VARIABLE, text)
        with pytest.raises(UsageError, match="AMBI_THREADS"):
            thread_count()


def test_threads_give_results_in_order_and_errors() -> None:
    assert in_threads(lambda x: x * x, range(20)) == [x * x for x in range(20)]
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda x: 1 // (x - 3), range(20))
