"""A score without a gradient, as an example of one's own: are edges where they were?

It is used in docs/rl-srgan.md::

    ambi train experiment=superres_score rl.score=function rl.function=scripts.edge_score.edge_score
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def edge_score(
    original: npt.NDArray[np.uint8], image: npt.NDArray[np.uint8], threshold: float = 20.0
) -> float:
    """F-score of edges: pixels that differ from their right or lower neighbour by more than a threshold.

    Args:
        original: uint8 [H, W, 3].
        image: Likewise.
        threshold: In code values of luma.

    Returns:
        0…1; 1 where neither has an edge.
    """
    wanted, found = (_edges(pixels, threshold) for pixels in (original, image))
    both = np.count_nonzero(wanted & found)
    # One more of each, so that a single pixel does not decide where there are hardly any edges.
    return (2 * both + 1) / (np.count_nonzero(wanted) + np.count_nonzero(found) + 1)


def _edges(pixels: npt.NDArray[np.uint8], threshold: float) -> npt.NDArray[np.bool_]:
    luma = pixels @ _LUMA
    right = np.abs(np.diff(luma, axis=1))[:-1] > threshold
    down = np.abs(np.diff(luma, axis=0))[:, :-1] > threshold
    return right | down
