"""Training of the entropy model's starting state: code pictures and keep what the model has learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.context import load_entropy
from ambi_rl.codec.entropy.model import Tensors, settle
from ambi_rl.codec.frame import Planes, count_frame, pad_planes
from ambi_rl.codec.kernel.state import allocate_picture
from ambi_rl.codec.strategists import Strategist
from ambi_rl.codec.tables import COUNT_LIMIT


def fit_entropy(
    images: Sequence[tuple[Planes, int]],
    bundle: Bundle,
    strategist: Strategist,
    passes: int = 1,
    report: Callable[[float], None] | None = None,
) -> Tensors:
    """Let the entropy model learn from coding pictures one after the other, as one long stream.

    Args:
        images: Planes (int16 [P, H, W]) and quantizer steps; the order should mix contents and steps.
        bundle: Starting state and lists.
        strategist: Who decides; the statistics will be those of its decisions.
        passes: How often to go through the pictures.
        report: Called with the fraction done.

    Returns:
        New entropy tensors for the bundle.
    """
    counters = np.array(bundle.entropy["counters"], np.int32)
    mixers = np.array(bundle.entropy["mixers"], np.int32)
    # While fitting, counters remember all they saw, so that they converge to the mean.
    limits = np.array([COUNT_LIMIT, bundle.entropy["limits"][1]], np.int32)
    total = passes * len(images)
    for number in range(total):
        planes, step = images[number % len(images)]
        entropy = {**bundle.entropy, "counters": counters, "mixers": mixers, "limits": limits}
        current = replace(bundle, entropy=entropy)
        count, height, width = pad_planes(planes).shape
        picture = allocate_picture(count, height, width, 1, outlook=strategist.needs_policy)
        load_entropy(picture, current)
        count_frame(picture, planes, step, current, strategist)
        counters = np.array(picture.state.probs)
        mixers = np.array(picture.state.weights)
        if report is not None:
            report((number + 1) / total)
    confidence = int(bundle.entropy["limits"][1])
    return {
        **bundle.entropy,
        "counters": settle(counters, confidence),
        "mixers": mixers,
    }
