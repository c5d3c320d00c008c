"""What a file's bits went into, block by block."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ambi_rl.codec.anatomy import leaves_of
from ambi_rl.codec.api import EncodedImage, encode_image, encode_prepared, prepare_image
from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.container import Section, read_container
from ambi_rl.codec.frame import COST_UNIT
from ambi_rl.codec.strategists import for_effort
from ambi_rl.codec.tiles import TileGrid
from ambi_rl.errors import CorruptFileError


def check(encoded: EncodedImage) -> None:
    leaves = leaves_of(read_container(encoded.data), encoded.bundle)
    # The transform of a block without levels is not in the file.
    decided = sorted(d._replace(transform=0) for d in encoded.frame.decisions)
    assert sorted(leaf.decision._replace(transform=0) for leaf in leaves) == decided
    assert all(leaf.bits > 0 for leaf in leaves)
    assert sum(leaf.bits for leaf in leaves) == encoded.frame.cost / COST_UNIT


@pytest.mark.parametrize("effort", [0, 5, 9])
def test_bits_of_all_blocks_are_the_bits_of_the_picture(
    photograph: Image.Image, effort: int
) -> None:
    check(encode_image(photograph.crop((0, 0, 75, 50)), quality=70, effort=effort))


def test_a_gray_picture_smaller_than_a_block(photograph: Image.Image) -> None:
    check(encode_image(photograph.convert("L").crop((0, 0, 3, 2)), quality=70, effort=5))


def test_it_does_not_matter_who_decided(photograph: Image.Image) -> None:
    # With another λ an encoder that replays the decisions would choose other levels.
    odd = replace(for_effort(5), lambda_factor=0.5)
    check(encode_image(photograph.crop((0, 0, 64, 48)), quality=60, strategist=odd))


def test_tiles(photograph: Image.Image, default_bundle: Bundle) -> None:
    large = photograph.resize((288, 272))
    encoded = encode_prepared(
        prepare_image(large),
        quality=40,
        bundle=default_bundle,
        strategist=for_effort(0),
        grid=TileGrid(272, 288, 256, 256),
    )
    check(encoded)


def test_bits_are_where_the_picture_is_not_flat(default_bundle: Bundle) -> None:
    pixels = np.full((64, 64), 128, np.uint8)
    pixels[:32, 32:] = np.random.default_rng(1).integers(0, 256, (32, 32))
    encoded = encode_image(Image.fromarray(pixels), quality=80, effort=5)
    leaves = leaves_of(read_container(encoded.data), default_bundle)
    noisy = sum(leaf.bits for leaf in leaves if leaf.decision.y < 32 <= leaf.decision.x)
    assert noisy > 0.95 * sum(leaf.bits for leaf in leaves)


def test_damage_is_refused(photograph: Image.Image, default_bundle: Bundle) -> None:
    container = read_container(encode_image(photograph, quality=50, effort=0).data)
    sections = {**container.sections, Section.PICTURE: container.sections[Section.PICTURE][:40]}
    with pytest.raises(CorruptFileError, match="cut short"):
        leaves_of(replace(container, sections=sections), default_bundle)
