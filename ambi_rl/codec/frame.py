"""A picture's planes to and from the arithmetic-coded payload."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.context import context_of, load_entropy
from ambi_rl.codec.entropy.coder import (
    COUNT,
    ENCODE,
    finish_encoding,
    start_decoding,
    start_encoding,
)
from ambi_rl.codec.kernel.block import begin, decode_picture
from ambi_rl.codec.kernel.state import (
    BITS,
    CHROMA,
    FAULT,
    MODE,
    OFFSET,
    SIZE,
    STATE,
    STRATEGY,
    TRANSFORM,
    Picture,
    State,
    allocate_picture,
    records,
)
from ambi_rl.codec.strategists import Strategist
from ambi_rl.codec.strategists.lookahead import look_ahead
from ambi_rl.codec.strategists.search import encode_picture
from ambi_rl.errors import BundleError, CorruptFileError, UsageError

Planes = npt.NDArray[np.int16]
Importance = npt.NDArray[np.float32]

COST_UNIT = 65536
"""Costs are in 1/COST_UNIT bit."""


class Decision(NamedTuple):
    """One leaf of the quadtree: pixel position, side, and indices into the bundle's lists."""

    y: int
    x: int
    size: int
    strategy: int
    offset: int
    chroma: int
    transform: int
    """How luma's residual is transformed (`tables.DCT_DCT`…); −1 if it has no levels."""


class EncodedFrame(NamedTuple):
    """Result of `encode_frame`.

    Attributes:
        payload: The arithmetic-coded bytes.
        planes: int16 [P, H, W], what a decoder will reconstruct.
        cost: The entropy model's cost in 1/65536 bit.
        error: Squared error, 8-bit code values, mean of R, G and B, summed over pixels.
        decisions: The leaves in raster order of their top-left corners.
    """

    payload: bytes
    planes: Planes
    cost: int
    error: float
    decisions: list[Decision]


def _padded(size: int) -> int:
    return (size + 3) // 4 * 4


def pad_planes(planes: Planes) -> Planes:
    """Repeat the last row and column until height and width are multiples of 4."""
    _, height, width = planes.shape
    return np.pad(
        planes, ((0, 0), (0, _padded(height) - height), (0, _padded(width) - width)), "edge"
    )


def decisions_of(maps: npt.NDArray[np.uint8]) -> list[Decision]:
    """The leaves that decision maps describe, in raster order."""
    height, width = maps.shape[1:]
    units = np.where(maps[SIZE] > 0, 1 << np.maximum(maps[SIZE].astype(int) - 1, 0), 1)
    rows, cols = np.mgrid[:height, :width]
    starts = (rows % units == 0) & (cols % units == 0) & (maps[SIZE] > 0)
    return [
        Decision(
            int(r) * 4,
            int(q) * 4,
            int(units[r, q]) * 4,
            int(maps[STRATEGY, r, q]) - 1,
            int(maps[OFFSET, r, q]) - 1,
            int(maps[CHROMA, r, q]) - 1,
            int(maps[TRANSFORM, r, q]) - 1,
        )
        for r, q in zip(*np.nonzero(starts), strict=True)
    ]


def run_encoder(
    picture: Picture, planes: Planes, step: int, bundle: Bundle, strategist: Strategist, mode: int
) -> float:
    """Code `planes` (padded) into `picture`, whose entropy state the caller has set; return the error."""
    context = context_of(bundle)
    if strategist.needs_policy and not context.has_policy:
        raise BundleError(
            f"the bundle holds no policy, which strategist {strategist.name!r} needs; use effort 5 or more"
        )
    count, height, width = planes.shape
    picture.source[...] = planes
    start_encoding(picture.state.registers)
    picture.state.registers[MODE] = mode
    begin(picture, count, height, width, step)
    plan, work = strategist.plan(context.dc), context.work()
    if strategist.needs_policy:
        look_ahead(picture, work, context.constants)
    # Decisions alone depend on λ, not the format: a strategist may weigh bits otherwise than the bundle.
    context.constants.lambda_scale[0] *= strategist.lambda_factor
    spares = cast(Sequence[State], records(STATE, 2 if strategist.refines else 0))
    return float(encode_picture(picture, spares, work, context.constants, context.network, plan))


def _check_importance(importance: Importance, padded: Planes) -> None:
    # Compiled code does not check bounds.
    units = (padded.shape[1] // 4, padded.shape[2] // 4)
    if importance.shape != units:
        raise UsageError(f"importance has shape {importance.shape}; this picture needs {units}")
    if not (np.isfinite(importance).all() and (importance > 0).all()):
        raise UsageError("importance has values that are not positive and finite")


def encode_frame(
    planes: Planes,
    step: int,
    bundle: Bundle,
    strategist: Strategist,
    *,
    importance: Importance | None = None,
) -> EncodedFrame:
    """Encode planes with the decisions of a strategist.

    Args:
        planes: int16 [P, H, W], 10 bits, P is 1 or 3.
        step: Quantizer step in 1/64 of an 8-bit code value, at least 1.
        bundle: Entropy state, lists, and the policy if the strategist needs one.
        strategist: Who decides.
        importance: float32 [ceil(H/4), ceil(W/4)], positive: weight of each 4x4 unit's squared error.
            A search minimises the weighted error, with the quantization offsets that suit it.

    Raises:
        BundleError: The strategist needs a policy and the bundle has none.
        UsageError: The importance has another shape, or values that are not positive and finite.
    """
    count, height, width = planes.shape
    padded = pad_planes(planes)
    if importance is not None:
        _check_importance(importance, padded)
    capacity = padded.size * 2 + 4096
    while True:
        picture = allocate_picture(
            count, _padded(height), _padded(width), capacity, outlook=strategist.needs_policy
        )
        if importance is not None:
            picture = picture._replace(importance=np.ascontiguousarray(importance, np.float32))
        load_entropy(picture, bundle)
        error = run_encoder(picture, padded, step, bundle, strategist, ENCODE)
        length = finish_encoding(picture.state.registers, picture.stream)
        if picture.state.registers[FAULT] == 0:
            break
        capacity *= 4
    return EncodedFrame(
        payload=picture.stream[:length].tobytes(),
        planes=picture.decoded[:, :height, :width].copy(),
        cost=int(picture.state.registers[BITS]),
        error=error,
        decisions=decisions_of(picture.maps),
    )


def count_frame(
    picture: Picture, planes: Planes, step: int, bundle: Bundle, strategist: Strategist
) -> int:
    """Let `picture`'s entropy state learn from coding `planes`; return the cost in 1/65536 bit."""
    run_encoder(picture, pad_planes(planes), step, bundle, strategist, COUNT)
    return int(picture.state.registers[BITS])


def decode_frame(
    payload: bytes, height: int, width: int, num_planes: int, step: int, bundle: Bundle
) -> Planes:
    """Decode a payload to int16 planes [P, H, W], exactly as the encoder reconstructed them.

    Raises:
        CorruptFileError: The payload says something impossible or ends early.
    """
    context = context_of(bundle)
    picture = allocate_picture(num_planes, _padded(height), _padded(width), 1)
    picture = picture._replace(stream=np.frombuffer(payload, np.uint8).copy())
    load_entropy(picture, bundle)
    begin(picture, num_planes, _padded(height), _padded(width), step)
    start_decoding(picture.state.registers, picture.stream)
    if not decode_picture(picture, context.work(), context.constants):
        raise CorruptFileError("the picture data is damaged or cut short; get the file anew")
    return picture.decoded[:, :height, :width].copy()
