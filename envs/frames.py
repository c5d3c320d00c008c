"""The gray square frame that agents see, computed from a picture without any environment."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ambi_rl.errors import UnsupportedImageError, UsageError

FRAME_SIZE = 84
"""Pixels a side of the frames that Atari agents see."""

MIN_SIZE = 8
MAX_SIZE = 512


def import_opencv() -> Any:
    """OpenCV, which is imported only when a frame is made.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise UsageError(
            'frames are made with OpenCV, which is not installed: pip install "ambi-rl[atari]"'
        ) from None
    return cv2


def is_picture_shape(shape: tuple[int, ...]) -> bool:
    """Whether arrays of a shape can be pictures: [H, W], [H, W, 1] or [H, W, 3], none of them empty."""
    return len(shape) in (2, 3) and min(shape) > 0 and (len(shape) == 2 or shape[2] in (1, 3))


def preprocess_frame(picture: npt.NDArray[Any], size: int = FRAME_SIZE) -> npt.NDArray[np.uint8]:
    """Make a picture gray (the luma of ITU-R BT.601) and resize it by averaging areas.

    This is to the bit what Stable-Baselines3's `WarpFrame` does to a screen of a game.

    Args:
        picture: uint8 [H, W, 3] in RGB order, [H, W, 1] or [H, W].
        size: Pixels a side of the result.

    Returns:
        uint8 [size, size].

    Raises:
        UnsupportedImageError: It has another shape or another type.
        UsageError: OpenCV is not installed.
    """
    if picture.dtype != np.uint8 or not is_picture_shape(picture.shape):
        raise UnsupportedImageError(
            f"a frame has to be uint8 [height, width] or [height, width, 3], not {picture.dtype} "
            f"{list(picture.shape)}; convert it to 8 bits and RGB or gray"
        )
    cv2 = import_opencv()
    if picture.ndim == 3:
        picture = (
            cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) if picture.shape[2] == 3 else picture[:, :, 0]
        )
    resized: npt.NDArray[np.uint8] = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
    return resized
