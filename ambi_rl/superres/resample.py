"""Enlargement without a network: what any generator has to beat."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ambi_rl.superres.base_layer import Pixels

FILTERS = ("lanczos", "bicubic")
"""Names of interpolations, as Pillow has them."""

_PILLOW = {"lanczos": Image.Resampling.LANCZOS, "bicubic": Image.Resampling.BICUBIC}


def enlarge(base: Pixels, scale: int, method: str) -> Pixels:
    """Enlarge a picture by interpolation.

    Args:
        base: uint8 [h, w, 3].
        scale: s.
        method: One of `FILTERS`.

    Returns:
        uint8 [s h, s w, 3].
    """
    height, width = base.shape[:2]
    image = Image.fromarray(base).resize((width * scale, height * scale), _PILLOW[method])
    return np.asarray(image)
