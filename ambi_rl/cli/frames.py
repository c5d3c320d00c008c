"""Frames of a game from pictures, animations and arrays, and back to them."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageSequence

from ambi_rl.codec.files import check_target, read_file, write_file
from ambi_rl.codec.image_io import reading
from ambi_rl.corpus.plan import PICTURE_SUFFIXES, is_pattern
from ambi_rl.errors import AmbiError, CorruptFileError, UnsupportedImageError, UsageError

ARRAY_SUFFIXES = (".npy", ".npz")
FRAMES_PER_SECOND = 15
"""Of animations: the console makes 60 frames a second, of which agents see every fourth."""
_ANIMATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    ".gif": ("GIF", {"loop": 0}),
    ".png": ("PNG", {}),
    ".webp": ("WEBP", {"lossless": True, "loop": 0}),
}
WRITTEN_SUFFIXES = (*_ANIMATIONS, ".npy")
_FRAME_NAME = re.compile(r"[0-9]{6,}\.png")
_ARRAY_NAME = "frames"
_MAX_ARRAY_BYTES = 16 << 30
_MODES = {"1": "L", "L": "L", "LA": "L", "P": "RGB", "PA": "RGB", "RGB": "RGB", "RGBA": "RGB"}
"""Pillow modes that frames may have, and what they become; transparency is left out."""

Picture = npt.NDArray[np.uint8]


def _by_number(path: Path) -> list[tuple[bool, int, str]]:
    """Sorts names as people do: frame9 before frame10."""
    parts = re.split(r"([0-9]+)", str(path))
    # Numbers come before other text; of equal ones the text decides (01 and 1).
    return [(i % 2 == 0, int(part) if i % 2 else 0, part) for i, part in enumerate(parts)]


def find_files(names: Sequence[str]) -> list[Path]:
    """The files that frames are read from, in order.

    Args:
        names: Files, which stay in their order, and folders and patterns, whose pictures are taken in the
            order of their names, numbers in them as numbers.

    Raises:
        UsageError: One does not exist or has no pictures.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if is_pattern(name):
            some = [Path(match) for match in glob(name, recursive=True)]  # noqa: PTH207 - may be absolute
        elif path.is_dir():
            some = list(path.iterdir())
        else:
            found.append(path)
            continue
        pictures = [f for f in some if f.suffix.lower() in PICTURE_SUFFIXES and f.is_file()]
        if not pictures:
            raise UsageError(f"{name} has no pictures; name a folder or a pattern that has frames")
        found += sorted(pictures, key=_by_number)
    return found


def read_pictures(path: Path) -> Iterator[Picture]:
    """All pictures of a file, as they are in it: uint8 [H, W] or [H, W, 3].

    Args:
        path: A picture, an animation, or an array: .npy, or .npz with one array or one called frames;
            uint8 [N, H, W] or [N, H, W, 3].

    Raises:
        UsageError: There is no such file.
        UnsupportedImageError: It is of no such kind.
        CorruptFileError: It is damaged.
    """
    if path.suffix.lower() in ARRAY_SUFFIXES:
        yield from _read_array(path)
        return
    data = read_file(path)
    with reading(str(path)):
        image = Image.open(io.BytesIO(data))
        for frame in ImageSequence.Iterator(image):
            deep = any(";16" in str(tile[3]) for tile in getattr(frame, "tile", None) or ())
            if frame.mode not in _MODES or deep:
                raise UnsupportedImageError(
                    f"a frame has Pillow mode {frame.mode!r}{' of 16 bits' * deep}; convert it to 8-bit "
                    "gray or RGB first"
                )
            yield np.asarray(frame.convert(_MODES[frame.mode]))


def _read_array(path: Path) -> Iterator[Picture]:
    try:
        array = _load_array(path)
    except AmbiError:
        raise
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; check the name") from None
    except OSError as error:
        raise AmbiError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:
        # Damaged files end in many kinds of exception, from zlib.error to MemoryError for a false shape; and
        # numpy's messages speak of pickles, which are never loaded here.
        raise CorruptFileError(
            f"{path} is no array that can be read; write it with numpy.save"
        ) from error
    is_frames = array.ndim == 3 or (array.ndim == 4 and array.shape[3] == 3)
    if array.dtype != np.uint8 or not is_frames:
        raise UnsupportedImageError(
            f"{path} is {array.dtype} {list(array.shape)}; frames are uint8 [N, H, W] or [N, H, W, 3]"
        )
    if array.size == 0 and len(array):
        raise UnsupportedImageError(f"{path} has frames of no pixels, {list(array.shape)}")
    yield from array


def _load_array(path: Path) -> npt.NDArray[Any]:
    if path.suffix.lower() == ".npy":
        # Mapped, so that frames are read as they are needed, and a false header is not believed.
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        return array
    with zipfile.ZipFile(path) as archive:
        names = [info.filename.removesuffix(".npy") for info in archive.infolist()]
        name = _ARRAY_NAME if _ARRAY_NAME in names else names[0] if len(names) == 1 else None
        if name is None:
            raise UnsupportedImageError(
                f"{path} has {len(names)} arrays and none called {_ARRAY_NAME}; save the frames as that"
            )
        size = archive.getinfo(f"{name}.npy").file_size
        if size > _MAX_ARRAY_BYTES:
            raise UnsupportedImageError(
                f"{path} holds {size} bytes, over the limit of {_MAX_ARRAY_BYTES}; save a .npy instead"
            )
    with np.load(path, allow_pickle=False) as arrays:
        chosen: npt.NDArray[Any] = arrays[name]
        return chosen


def to_frame(picture: Picture, side: int) -> Picture:
    """What an agent sees of a picture: gray, uint8 [side, side].

    A gray picture of that size, be it saved as RGB, is taken as it is; any other is made so by the agents'
    own preprocessing.

    Args:
        picture: uint8 [H, W] or [H, W, 3].
        side: Pixels a side.

    Raises:
        UsageError: OpenCV is needed and missing.
    """
    if picture.ndim == 3 and (picture == picture[..., :1]).all():
        picture = picture[..., 0]
    if picture.shape == (side, side):
        return picture
    # Deferred: it brings the environments, which only this needs.
    from ambi_rl.envs.frames import preprocess_frame

    frame: Picture = preprocess_frame(np.ascontiguousarray(picture), side)
    return frame


def read_frames(names: Sequence[str], side: int, progress: Callable[[int], None]) -> Picture:
    """Read frames as an agent sees them.

    Args:
        names: See `find_files`.
        side: Pixels a side.
        progress: Is told how many are read.

    Returns:
        uint8 [N, side, side], N ≥ 1.

    Raises:
        UsageError: There are none, or a file does not exist.
        UnsupportedImageError: A file does not have frames.
        CorruptFileError: A file is damaged.
    """
    frames: list[Picture] = []
    for path in find_files(names):
        for picture in read_pictures(path):
            frames.append(to_frame(picture, side))
            progress(len(frames))
    if not frames:
        raise UsageError(f"{', '.join(names)} has no frames; name what has one or more")
    return np.stack(frames)


def is_folder(target: str) -> bool:
    """Whether frames are written to it as pictures, each of its own, rather than as one file."""
    path = Path(target)
    return path.is_dir() or target.endswith("/") or path.suffix.lower() not in WRITTEN_SUFFIXES


def frame_names(count: int) -> list[str]:
    """Names of pictures in a folder."""
    return [f"{number:06d}.png" for number in range(count)]


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder whose pictures could be taken for those that are to be written.

    Raises:
        UsageError: There is one, it is a file, or the folder above it is missing.
    """
    if not folder.exists():
        check_target(folder)
        return
    if not folder.is_dir():
        endings = " ".join(WRITTEN_SUFFIXES)
        raise UsageError(
            f"{folder} is a file; name a folder, or a file that ends in one of {endings}"
        )
    for path in folder.iterdir():
        if path.suffix.lower() in PICTURE_SUFFIXES and not (
            overwrite and _FRAME_NAME.fullmatch(path.name)
        ):
            raise UsageError(f"{folder} holds pictures, such as {path.name}; name a new folder")


def write_folder(folder: Path, frames: Picture, progress: Callable[[int], None]) -> None:
    """Write each frame as a PNG of its own.

    Args:
        folder: Made if there is none; what it has of frames is replaced.
        frames: uint8 [N, H, W].
        progress: Is told how many are written.

    Raises:
        UsageError: The folder has frames of a longer stream, which would seem to be of this one.
        AmbiError: They cannot be written.
    """
    folder.mkdir(exist_ok=True)
    names = frame_names(len(frames))
    others = {p.name for p in folder.iterdir() if _FRAME_NAME.fullmatch(p.name)} - set(names)
    if others:
        raise UsageError(
            f"{folder} holds more frames than the {len(frames)} of this stream, such as {min(others)}; "
            "name a new folder"
        )
    for number, (name, frame) in enumerate(zip(names, frames, strict=True)):
        out = io.BytesIO()
        Image.fromarray(frame).save(out, "PNG")
        write_file(folder / name, out.getvalue())
        progress(number + 1)


def frames_to_bytes(frames: Picture, suffix: str) -> bytes:
    """One file of frames, without loss.

    Animations show `FRAMES_PER_SECOND`; Pillow writes equal frames that follow each other as one that is
    shown for longer.

    Args:
        frames: uint8 [N, H, W].
        suffix: One of `WRITTEN_SUFFIXES`.

    Raises:
        UsageError: There are no frames, of which an animation cannot be made.
    """
    out = io.BytesIO()
    if suffix == ".npy":
        np.save(out, frames)
        return out.getvalue()
    if not len(frames):
        raise UsageError("the stream has no frames; write it to a .npy")
    name, options = _ANIMATIONS[suffix]
    first, *others = (Image.fromarray(frame) for frame in frames)
    if others:
        options = options | {"save_all": True, "append_images": others}
        options |= {"duration": round(1000 / FRAMES_PER_SECOND)}
    else:
        options = {key: value for key, value in options.items() if key != "loop"}
    first.save(out, name, **options)
    return out.getvalue()
