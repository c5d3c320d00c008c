"""What the level network would see in a coded picture, and what it should have said: its training data."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ambi_rl.codec import tables
from ambi_rl.codec.entropy import layout
from ambi_rl.codec.entropy.coder import Model
from ambi_rl.codec.entropy.network import block_inputs, level_inputs
from ambi_rl.codec.jit import kernel
from ambi_rl.codec.kernel.block import SAME, code_node
from ambi_rl.codec.kernel.state import (
    CHROMA,
    FAULT,
    NODE_LOG2,
    NODE_X,
    NODE_Y,
    PLANES,
    SIZE,
    STRATEGY,
    Constants,
    Picture,
    Work,
)
from ambi_rl.codec.kernel.syntax import size_index

_SIDE = tables.SUPERBLOCK

TARGET_PLANE, TARGET_FIRST, TARGET_MAGNITUDE = range(3)
"""Columns of a target: plane; whether the level is known not to be zero; its magnitude, at most 255."""


@kernel
def _record_plane(
    p: Picture,
    s: Work,
    m: Model,
    scan: npt.NDArray[np.int32],
    plane: int,
    y: int,
    x: int,
    size: int,
    mode: int,
    others: int,
    inputs: npt.NDArray[np.int16],
    targets: npt.NDArray[np.uint8],
    count: int,
) -> int:
    """Append the levels of a plane of the block whose levels are in `s.levels`; return the new count."""
    last = size * size - 1
    while last >= 0 and s.levels[plane, int(scan[last]) // _SIDE, int(scan[last]) % _SIDE] == 0:
        last -= 1
    if last < 0:
        return count
    index = size_index(size)
    block_inputs(p, m, plane, y, x, index, mode, others)
    state = 0
    for position in range(last, -1, -1):
        row = int(scan[position]) // _SIDE
        col = int(scan[position]) % _SIDE
        known = level_inputs(p, m, plane, index, row, col, state, mode)
        for k in range(layout.NET_INPUTS):
            inputs[count, k] = s.net_inputs[k] if k < known else layout.NET_PADDING
        magnitude = abs(int(s.levels[plane, row, col]))
        targets[count, TARGET_PLANE] = plane
        targets[count, TARGET_FIRST] = 1 if position == last else 0
        targets[count, TARGET_MAGNITUDE] = min(magnitude, 255)
        state = int(tables.NEXT_STATE[state, magnitude & 1])
        count += 1
    return count


@kernel
def record_picture(
    p: Picture,
    s: Work,
    c: Constants,
    inputs: npt.NDArray[np.int16],
    targets: npt.NDArray[np.uint8],
) -> int:
    """Decode a picture that is ready to be decoded, and record every level; return how many there are.

    Args:
        p: The picture.
        s: Work.
        c: Constants.
        inputs: int16 [N, NET_INPUTS], receives rows of the network's first layer; N is at least the number of
            samples.
        targets: uint8 [N, 3], receives the targets.
    """
    m = Model(p.state, s, c, p.stream)
    count = 0
    while p.state.control[NODE_LOG2] > 0 and p.state.registers[FAULT] == 0:
        y = int(p.state.control[NODE_Y])
        x = int(p.state.control[NODE_X])
        log2 = int(p.state.control[NODE_LOG2])
        code_node(p, s, c, 0, 0, 0, 0)
        if p.maps[SIZE, y >> 2, x >> 2] == 0:
            continue
        code = int(c.strategies[int(p.maps[STRATEGY, y >> 2, x >> 2]) - 1])
        chroma = int(p.maps[CHROMA, y >> 2, x >> 2]) - 1
        others = 0
        for plane in range(int(p.state.control[PLANES])):
            mode = code if plane == 0 or chroma == SAME else tables.LAST_ANGLE + chroma
            scan = c.scans[size_index(1 << log2)]
            before = count
            count = _record_plane(
                p, s, m, scan, plane, y, x, 1 << log2, mode, others, inputs, targets, count
            )
            if count > before:
                others |= 1 << plane
    return count
