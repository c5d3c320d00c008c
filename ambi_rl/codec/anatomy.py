"""What the bits of a coded picture went into: the decoder, stopped at every block."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.container import Container, Section
from ambi_rl.codec.context import context_of, load_entropy
from ambi_rl.codec.entropy.coder import start_decoding
from ambi_rl.codec.frame import COST_UNIT, Decision, decisions_of
from ambi_rl.codec.kernel.block import begin, code_node
from ambi_rl.codec.kernel.state import (
    BITS,
    FAULT,
    NODE_LOG2,
    NODE_X,
    NODE_Y,
    SIZE,
    allocate_picture,
)
from ambi_rl.codec.tiles import read_tiles
from ambi_rl.errors import CorruptFileError


class Leaf(NamedTuple):
    """A block and what it cost.

    Attributes:
        decision: Where it is and what was decided.
        bits: The entropy model's −log2 p of everything coded for it. What a split costs is with the first of
            the blocks that it leads to.
    """

    decision: Decision
    bits: float


def leaves_of(container: Container, bundle: Bundle) -> list[Leaf]:
    """The blocks of a file with their bits, in coding order, tile by tile where it has tiles.

    The bits add up to `EncodedFrame.cost`. It is the file that is asked, not the encoder, so it does not
    matter who decided.

    Args:
        container: The file.
        bundle: The one that its id names.

    Raises:
        CorruptFileError: The picture data says something impossible or ends early.
    """
    height, width = container.height, container.width
    if (payload := container.sections.get(Section.PICTURE)) is not None:
        return _leaves(payload, height, width, container, bundle)
    leaves = []
    for tile, part in read_tiles(container.sections[Section.TILES], height, width):
        for d, bits in _leaves(part, tile.height, tile.width, container, bundle):
            leaves.append(Leaf(d._replace(y=d.y + tile.top, x=d.x + tile.left), bits))
    return leaves


def _leaves(
    payload: bytes, height: int, width: int, container: Container, bundle: Bundle
) -> list[Leaf]:
    """The blocks of one arithmetic-coded payload."""
    context = context_of(bundle)
    size = (container.num_planes, -(-height // 4) * 4, -(-width // 4) * 4)
    picture = allocate_picture(*size, 1)._replace(stream=np.frombuffer(payload, np.uint8).copy())
    load_entropy(picture, bundle)
    begin(picture, *size, container.step)
    registers, control = picture.state.registers, picture.state.control
    start_decoding(registers, picture.stream)
    work, spent = context.work(), 0
    costs: dict[tuple[int, int], int] = {}
    while control[NODE_LOG2] > 0:
        y, x = int(control[NODE_Y]), int(control[NODE_X])
        code_node(picture, work, context.constants, 0, 0, 0, 0)
        if registers[FAULT] != 0:
            raise CorruptFileError("the picture data is damaged or cut short; get the file anew")
        # Only a leaf leaves a mark; what a split costs stays in `spent` until the leaf that it leads to.
        if picture.maps[SIZE, y >> 2, x >> 2]:
            costs[y, x] = int(registers[BITS]) - spent
            spent = int(registers[BITS])
    by_place = {(d.y, d.x): d for d in decisions_of(picture.maps)}
    return [Leaf(by_place[place], cost / COST_UNIT) for place, cost in costs.items()]
