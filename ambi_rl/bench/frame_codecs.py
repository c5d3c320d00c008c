"""Codecs of single frames that an agent sees, and the setting of each that needs a given number of bytes.

Features of an agent take tens of bytes a frame, less than the header of a JPEG, and their decoder knows the
game. So that picture formats can be compared there at all, they get three favours: frames may be made
smaller before they are coded; a receiver may know the mean frame, so that only what differs from it is coded;
and what is the same in all files of a setting, which a stream would send once, is left out of the second of
two counts.
"""

from __future__ import annotations

import io
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from ambi_rl.codec.api import decode_image, encode_image
from ambi_rl.codec.container import Section, read_container
from ambi_rl.errors import UsageError

Frames = npt.NDArray[np.uint8]
Sizes = npt.NDArray[np.float64]
Setting = Mapping[str, int | float | bool]
"""Options of an encoder, by name."""
Count = Literal["whole", "bare"]
"""Which of the two counts of bytes: of whole files, or without what all files of a setting have in common."""

SHRINKING = (1, 1.5, 2, 3, 4, 6, 8, 12)
"""Factors by which the sides of frames are divided before they are coded."""
_MIDDLE = 128
"""The gray that stands for no difference."""


@dataclass(frozen=True)
class CodedFrames:
    """The newest frames of stacks after coding and decoding.

    Attributes:
        frames: What a receiver sees, uint8 [n, H, W].
        whole: Bytes of each frame's complete file, [n].
        bare: Bytes without what is the same in every file, [n].
    """

    frames: Frames
    whole: Sizes
    bare: Sizes


class FrameCodec(Protocol):
    """Whatever brings the newest frame of a stack to a receiver."""

    @property
    def name(self) -> str:
        """Short, unique within a comparison."""

    def code(self, stacks: Frames) -> CodedFrames:
        """Code and decode the newest frames of stacks uint8 [n, k, H, W]."""


@dataclass(frozen=True)
class OriginalFrames:
    """Frames as they are, a byte for each pixel."""

    name: str = "original"

    def code(self, stacks: Frames) -> CodedFrames:
        """See `FrameCodec`."""
        frames = stacks[:, -1]
        sizes = np.full(len(frames), float(frames[0].size if len(frames) else 0))
        return CodedFrames(frames.copy(), sizes, sizes)


@dataclass(frozen=True)
class MeanFrame:
    """The same frame whatever is there, for no bytes.

    Attributes:
        frame: uint8 [H, W].
        name: See `FrameCodec`.
    """

    frame: Frames
    name: str = "mean frame"

    @classmethod
    def of(cls, frames: Frames) -> MeanFrame:
        """The one of the least squared error for frames uint8 [N, H, W]."""
        return cls(np.round(frames.mean(axis=0)).astype(np.uint8))

    def code(self, stacks: Frames) -> CodedFrames:
        """See `FrameCodec`."""
        sizes = np.zeros(len(stacks))
        return CodedFrames(np.repeat(self.frame[None], len(stacks), axis=0), sizes, sizes)


class LatentCodec(Protocol):
    """A codec of latents, as the feature codec is."""

    def latents(self, stacks: Frames) -> npt.NDArray[np.int32]:
        """Rounded latents [n, C, h, w] of stacks uint8 [n, k, H, W]."""

    def reconstruct(self, latents: npt.NDArray[np.int32]) -> Frames:
        """Frames uint8 [n, H, W] of rounded latents."""


@dataclass(frozen=True)
class LatentFrames:
    """Frames that are coded as latents of their stacks.

    Attributes:
        codec: Makes latents, and frames of them.
        count: Whole and bare bytes of each frame's latents, [n] each, from its real stream.
        name: See `FrameCodec`.
    """

    codec: LatentCodec
    count: Callable[[npt.NDArray[np.int32]], tuple[Sizes, Sizes]]
    name: str = "features"

    def code(self, stacks: Frames) -> CodedFrames:
        """See `FrameCodec`."""
        latents = self.codec.latents(stacks)
        whole, bare = self.count(latents)
        return CodedFrames(self.codec.reconstruct(latents), whole, bare)


@dataclass(frozen=True)
class FrameFormat(ABC):
    """A format for single pictures.

    Attributes:
        name: Of the format.
        settings: Those that are tried, in any order.
    """

    name: str
    settings: tuple[Setting, ...]

    @abstractmethod
    def encode(self, picture: Frames, setting: Setting) -> bytes:
        """Code a gray picture uint8 [h, w] as a complete file."""

    @abstractmethod
    def decode(self, data: bytes) -> Frames:
        """Decode a file of this format, uint8 [h, w]."""

    def payload(self, data: bytes) -> bytes:
        """What of a file has to be sent where lengths are known already and checksums are not wanted."""
        return data


@dataclass(frozen=True)
class PillowFormat(FrameFormat):
    """A format that Pillow writes.

    Attributes:
        format: Pillow's name of the format.
        options: Of all settings.
        unpack: Takes the payload out of its container, where there is one.
    """

    format: str = field(default="", kw_only=True)
    options: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    unpack: Callable[[bytes], bytes] | None = field(default=None, kw_only=True)

    def encode(self, picture: Frames, setting: Setting) -> bytes:
        """See `FrameFormat`."""
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, self.format, **self.options, **setting)
        return buffer.getvalue()

    def decode(self, data: bytes) -> Frames:
        """See `FrameFormat`."""
        with Image.open(io.BytesIO(data), formats=[self.format]) as image:
            return np.asarray(image.convert("L"))

    def payload(self, data: bytes) -> bytes:
        """See `FrameFormat`."""
        return data if self.unpack is None else self.unpack(data)


@dataclass(frozen=True)
class BlockFormat(FrameFormat):
    """This project's block codec with the bundle that comes with it."""

    def encode(self, picture: Frames, setting: Setting) -> bytes:
        """See `FrameFormat`."""
        return encode_image(
            Image.fromarray(picture),
            quality=setting["quality"],
            effort=int(setting["effort"]),
            strip=True,
        ).data

    def decode(self, data: bytes) -> Frames:
        """See `FrameFormat`."""
        return np.asarray(decode_image(data))

    def payload(self, data: bytes) -> bytes:
        """The picture's section: size, quality and bundle are the same for all, the rest is checksums."""
        return read_container(data).sections[Section.PICTURE]


def _webp_payload(data: bytes) -> bytes:
    """The VP8 frame: what is around it are names and lengths."""
    start = 20
    return data[start : start + int.from_bytes(data[16:start], "little")]


def _avif_payload(data: bytes) -> bytes:
    """The AV1 frame with its sequence header: the boxes around it say nothing that is not in them."""
    name = data.index(b"mdat")
    length = int.from_bytes(data[name - 4 : name], "big")
    return data[name + 4 : name - 4 + length]


_LOW = (1, 3, 5, 8, 12, 18, 26, 37, 50, 65, 80, 90)


def jpeg_format() -> PillowFormat:
    """Gray JPEG with Huffman tables made for each file, or with the usual ones, which all files share."""
    settings = [{"quality": q, "optimize": own} for own in (True, False) for q in _LOW]
    return PillowFormat("JPEG", tuple(settings), format="JPEG")


def webp_format() -> PillowFormat:
    """Lossy WebP at its slowest method."""
    settings = tuple({"quality": q} for q in (0, *_LOW))
    options = {"method": 6}
    return PillowFormat("WebP", settings, format="WEBP", options=options, unpack=_webp_payload)


def avif_format() -> PillowFormat:
    """Gray AVIF on one thread, tuned for squared error."""
    settings = tuple({"quality": q} for q in (0, 4, 8, 14, 22, 32, 44, 58, 72, 86))
    options = {
        "subsampling": "4:0:0",
        "speed": 4,
        "max_threads": 1,
        "advanced": {"tune": "psnr"},
    }
    return PillowFormat("AVIF", settings, format="AVIF", options=options, unpack=_avif_payload)


def block_format(effort: int = 5) -> BlockFormat:
    """This project's block codec."""
    qualities = (1, 3, 6, 10, 15, 22, 32, 45, 60, 80)
    return BlockFormat("ambi blocks", tuple({"quality": q, "effort": effort} for q in qualities))


FORMATS: Mapping[str, Callable[[], FrameFormat]] = {
    "jpeg": jpeg_format,
    "webp": webp_format,
    "avif": avif_format,
    "ambi": block_format,
}
"""The formats that the features are compared with, by short names."""


@dataclass(frozen=True)
class Template:
    """The bytes that are the same in all files of a setting, so that a stream sends them once.

    Attributes:
        head: Bytes by their place from the beginning.
        tail: The end of all files.
    """

    head: Mapping[int, int]
    tail: bytes

    @classmethod
    def of(cls, files: Sequence[bytes]) -> Template:
        """Find what files, at least two, have in common.

        Raises:
            UsageError: There are fewer than two.
        """
        if len(files) < 2:
            raise UsageError(
                "what files have in common needs two of them at least; give more frames"
            )
        shortest = min(map(len, files))
        starts = np.stack([np.frombuffer(data[:shortest], np.uint8) for data in files])
        same = (starts == starts[0]).all(axis=0)
        head = {int(place): int(starts[0, place]) for place in np.flatnonzero(same)}
        ends = np.stack([np.frombuffer(data[len(data) - shortest :], np.uint8) for data in files])
        differs = np.flatnonzero(~(ends == ends[0]).all(axis=0))
        # A byte counts once, even where the shortest file's end is also at the same place from the beginning.
        last_of_head = max(head, default=-1)
        begin = max(int(differs[-1]) + 1 if len(differs) else 0, last_of_head + 1)
        return cls(head, bytes(ends[0, begin:]))

    def strip(self, data: bytes) -> bytes | None:
        """The rest of a file without these bytes; None if it does not have them all."""
        if len(data) < max(self.head, default=-1) + 1 + len(self.tail):
            return None
        if not data.endswith(self.tail) or any(data[i] != b for i, b in self.head.items()):
            return None
        end = len(data) - len(self.tail)
        return bytes(byte for place, byte in enumerate(data[:end]) if place not in self.head)

    def restore(self, rest: bytes) -> bytes:
        """The file that `strip` made this of."""
        left = iter(rest)
        length = len(rest) + len(self.head)
        start = (self.head[i] if i in self.head else next(left) for i in range(length))
        return bytes(start) + self.tail


@dataclass(frozen=True)
class Preparation:
    """What is done to a frame before it is coded as a picture, and undone after.

    Attributes:
        shrinking: What the sides are divided by, 1 or more.
        background: A frame uint8 [H, W] that the receiver knows, of which the difference is coded, from -128
            to 127; None to code frames themselves.
    """

    shrinking: float = 1.0
    background: Frames | None = None

    def apply(self, frame: Frames) -> Frames:
        """The picture uint8 [h, w] of a frame uint8 [H, W]; each of its pixels is the mean of an area."""
        if self.background is not None:
            difference = frame.astype(np.int16) - self.background + _MIDDLE
            frame = np.clip(difference, 0, 255).astype(np.uint8)
        height, width = (max(1, round(side / self.shrinking)) for side in frame.shape)
        return _resized(frame, height, width, Image.Resampling.BOX)

    def undo(self, picture: Frames, height: int, width: int) -> Frames:
        """The frame of a decoded picture, enlarged bicubically."""
        frame = _resized(picture, height, width, Image.Resampling.BICUBIC)
        if self.background is None:
            return frame
        sums = frame.astype(np.int16) + self.background - _MIDDLE
        return np.clip(sums, 0, 255).astype(np.uint8)


def _resized(frame: Frames, height: int, width: int, how: Image.Resampling) -> Frames:
    if frame.shape == (height, width):
        return frame
    return np.asarray(Image.fromarray(frame).resize((width, height), how))


@dataclass(frozen=True)
class PictureFrames:
    """Frames coded one by one in a picture format.

    Attributes:
        format: The format.
        setting: Its options.
        preparation: What is done to frames before.
        template: What the bare count leaves out.
        name: See `FrameCodec`.
    """

    format: FrameFormat
    setting: Setting
    preparation: Preparation
    template: Template
    name: str

    def code(self, stacks: Frames) -> CodedFrames:
        """See `FrameCodec`. A frame whose file does not fit the template counts with all of its payload."""
        frames = stacks[:, -1]
        files = [self.format.encode(self.preparation.apply(f), self.setting) for f in frames]
        return CodedFrames(
            _decoded(self.format, files, self.preparation, frames.shape),
            np.array([len(data) for data in files], np.float64),
            np.array([self._bare(data) for data in files], np.float64),
        )

    def _bare(self, data: bytes) -> int:
        payload = self.format.payload(data)
        rest = self.template.strip(payload)
        return len(payload) if rest is None else len(rest)


def _decoded(
    form: FrameFormat, files: Sequence[bytes], preparation: Preparation, shape: tuple[int, ...]
) -> Frames:
    frames = np.empty(shape, np.uint8)
    for index, data in enumerate(files):
        frames[index] = preparation.undo(form.decode(data), *shape[1:])
    return frames


@dataclass(frozen=True)
class GridPoint:
    """What a setting and a size give on sample frames.

    Attributes:
        setting: Options of the encoder.
        shrinking: What the frames' sides are divided by.
        difference: Whether differences from the sample's mean frame are coded.
        whole: Mean bytes of a file.
        bare: Mean bytes without what all files of the sample have in common.
        mse: Mean squared error of a pixel.
    """

    setting: Setting
    shrinking: float
    difference: bool
    whole: float
    bare: float
    mse: float

    def bytes(self, count: Count) -> float:
        """Mean bytes a frame by one of the counts."""
        return self.whole if count == "whole" else self.bare


@dataclass(frozen=True)
class Choice:
    """The point of a grid that serves for a target.

    Attributes:
        point: The one of the least error that does not exceed the target, or else the smallest.
        met: Whether it does not.
    """

    point: GridPoint
    met: bool


def measure_grid(
    form: FrameFormat,
    frames: Frames,
    *,
    shrinking: Sequence[float] = SHRINKING,
    report: Callable[[int, int], None] | None = None,
) -> list[GridPoint]:
    """Try all settings of a format at all sizes, on frames and on differences from their mean.

    Args:
        form: The format.
        frames: A sample, uint8 [N, H, W].
        shrinking: What the sides are divided by.
        report: Called with how many points are measured, and how many there are.

    Raises:
        UsageError: There are fewer than two frames.
    """
    points: list[GridPoint] = []
    total = 2 * len(shrinking) * len(form.settings)
    for difference, factor in itertools.product((False, True), shrinking):
        preparation = prepare(frames, factor, difference=difference)
        for setting in form.settings:
            whole, bare, error = _measure(form, frames, preparation, setting)
            points.append(GridPoint(dict(setting), factor, difference, whole, bare, error))
            if report is not None:
                report(len(points), total)
    return points


def prepare(frames: Frames, shrinking: float, *, difference: bool) -> Preparation:
    """A preparation whose background, if there is to be one, is the mean of frames uint8 [N, H, W]."""
    return Preparation(shrinking, MeanFrame.of(frames).frame if difference else None)


def _measure(
    form: FrameFormat, frames: Frames, preparation: Preparation, setting: Setting
) -> tuple[float, float, float]:
    """Mean whole and bare bytes and mean squared error."""
    files = [form.encode(preparation.apply(frame), setting) for frame in frames]
    payloads = [form.payload(data) for data in files]
    template = Template.of(payloads)
    common = len(template.head) + len(template.tail)
    return (
        float(np.mean([len(data) for data in files])),
        float(np.mean([len(data) for data in payloads])) - common,
        mean_squared_error(frames, _decoded(form, files, preparation, frames.shape)),
    )


def mean_squared_error(originals: Frames, reconstructions: Frames) -> float:
    """Mean of the squared differences of pixels, 0…255²."""
    difference = originals.astype(np.float64) - reconstructions
    return float(np.mean(difference * difference))


def at_bytes(grid: Sequence[GridPoint], target: float, *, count: Count = "bare") -> Choice:
    """The point of a grid with the least error whose mean bytes a frame do not exceed a target.

    Args:
        grid: See `measure_grid`; one point at least.
        target: Mean bytes a frame.
        count: How bytes are counted.
    """
    meeting = [point for point in grid if point.bytes(count) <= target]
    if meeting:
        return Choice(min(meeting, key=lambda point: (point.mse, point.bytes(count))), True)
    return Choice(min(grid, key=lambda point: (point.bytes(count), point.mse)), False)


def make_codec(
    form: FrameFormat, point: GridPoint, frames: Frames, *, name: str | None = None
) -> PictureFrames:
    """The codec of a grid's point, with template and mean of sample frames uint8 [N, H, W].

    Raises:
        UsageError: There are fewer than two frames.
    """
    preparation = prepare(frames, point.shrinking, difference=point.difference)
    files = [form.encode(preparation.apply(frame), point.setting) for frame in frames]
    template = Template.of([form.payload(data) for data in files])
    return PictureFrames(
        form, point.setting, preparation, template, form.name if name is None else name
    )
