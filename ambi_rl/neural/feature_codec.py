"""The feature codec: frames to a stream of an agent's latents, and back to frames or to actions."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch

from ambi_rl.codec.container import MAX_PIXELS
from ambi_rl.errors import CorruptFileError, ImageTooLargeError, UnknownBundleError
from ambi_rl.neural.bundle import FeatureBundle
from ambi_rl.neural.networks import FRAME_SIDE
from ambi_rl.neural.quantization import to_integers
from ambi_rl.neural.stream import (
    FRAMES_PER_PACKET,
    StreamHeader,
    StreamReader,
    StreamWriter,
)

_BATCH = 64
"""Frames that the networks see at a time."""

Frames = npt.NDArray[np.uint8]
Latents = npt.NDArray[np.int32]
Progress = Callable[[int], None]
"""Is told how many frames are done."""


def _no_progress(frames: int) -> None:
    pass


class FeatureCodec:
    """Codes frames with a bundle.

    Latents of a stream are integers and the same for every decoder; what networks make of them is computed
    in floats, so that a reconstruction may differ by one code value between machines.

    Args:
        bundle: Of the profile "features".
    """

    def __init__(self, bundle: FeatureBundle) -> None:
        self.bundle = bundle
        self._networks = bundle.networks()
        self._stacked = bundle.manifest["encoder"]["frames"]

    @torch.inference_mode()
    def latents(self, stacks: Frames) -> Latents:
        """Rounded latents of stacked frames.

        Args:
            stacks: uint8 [N, k, 84, 84], the newest frame last.

        Returns:
            int32 [N, C, h, w].
        """
        out = np.empty((len(stacks), *self.bundle.latent_shape), np.int32)
        for start in range(0, len(stacks), _BATCH):
            part = torch.from_numpy(stacks[start : start + _BATCH].copy())
            latent = self._networks.encoder.latent(part.float() / 255)
            out[start : start + _BATCH] = to_integers(latent).numpy()
        return out

    @torch.inference_mode()
    def reconstruct(self, latents: Latents) -> Frames:
        """Frames of rounded latents.

        Args:
            latents: int32 [N, C, h, w].

        Returns:
            uint8 [N, 84, 84], gray.
        """
        out = np.empty((len(latents), FRAME_SIDE, FRAME_SIDE), np.uint8)
        for start in range(0, len(latents), _BATCH):
            part = torch.from_numpy(latents[start : start + _BATCH].copy()).float()
            frames = torch.nan_to_num(self._networks.decoder(part)[:, 0])
            scaled = torch.round(255 * frames.clamp(0, 1)).to(torch.uint8)
            out[start : start + _BATCH] = scaled.numpy()
        return out

    @torch.inference_mode()
    def action_logits(self, latents: Latents) -> npt.NDArray[np.float32]:
        """What the agent would do, from latents alone.

        Args:
            latents: int32 [N, C, h, w].

        Returns:
            float32 [N, A], the largest number is the action that the agent prefers.
        """
        features = self._networks.encoder.features(torch.from_numpy(latents.copy()).float())
        logits: torch.Tensor = self._networks.action(features)
        return logits.numpy()

    def stacks(self, frames: Frames, first: int = 0, count: int | None = None) -> Frames:
        """What the agent sees of a stream: each frame with those before it, zeros before the first.

        Args:
            frames: uint8 [N, 84, 84].
            first: The first frame whose stack is wanted.
            count: How many; the rest if None.

        Returns:
            uint8 [count, k, 84, 84].
        """
        end = len(frames) if count is None else min(first + count, len(frames))
        missing = max(self._stacked - 1 - first, 0)
        before = np.zeros((missing, FRAME_SIDE, FRAME_SIDE), np.uint8)
        start = max(first - self._stacked + 1, 0)
        windows = np.lib.stride_tricks.sliding_window_view(
            np.concatenate([before, frames[start:end]]), self._stacked, axis=0
        )
        return np.moveaxis(windows, -1, 1)

    def encode(
        self,
        frames: Frames,
        *,
        frames_per_packet: int = FRAMES_PER_PACKET,
        progress: Progress = _no_progress,
    ) -> bytes:
        """Code frames as a stream.

        Args:
            frames: uint8 [N, 84, 84], in the order the agent saw them.
            frames_per_packet: See `ambi_rl.neural.stream.StreamWriter`.
            progress: Is told from time to time how far it is.
        """
        if frames.dtype != np.uint8 or frames.shape[1:] != (FRAME_SIDE, FRAME_SIDE):
            raise ValueError(
                f"frames are {frames.dtype} {list(frames.shape)}, not uint8 [N, 84, 84]"
            )
        out = io.BytesIO()
        header = self.header(len(frames))
        tables = self.bundle.tables
        with StreamWriter(out, header, tables, frames_per_packet=frames_per_packet) as writer:
            for first in range(0, len(frames), _BATCH):
                writer.write(self.latents(self.stacks(frames, first, _BATCH)))
                progress(min(first + _BATCH, len(frames)))
        return out.getvalue()

    def header(self, frames: int | None) -> StreamHeader:
        """What a stream of this codec says before its first packet.

        Args:
            frames: How many will follow; None if that shows only when the stream ends.
        """
        return StreamHeader(
            self.bundle.id, (FRAME_SIDE, FRAME_SIDE), self.bundle.latent_shape, frames
        )

    def check_header(self, header: StreamHeader) -> None:
        """Refuse a stream of another bundle.

        Raises:
            UnknownBundleError: It names another one.
            CorruptFileError: It names this one and says what cannot be.
        """
        if header.bundle_id != self.bundle.id:
            raise UnknownBundleError(
                f"the stream was coded with bundle {header.bundle_id}, this is bundle {self.bundle.id}; "
                "decode it with its own"
            )
        if header != self.header(header.frames):
            raise CorruptFileError(
                f"the header says frames of {header.frame_shape} and latents of {header.latent_shape}, "
                f"which bundle {self.bundle.id} does not make; encode the file again"
            )

    def frames(
        self, reader: StreamReader, *, first: int = 0, most: int | None = None
    ) -> Iterator[Frames]:
        """Decode a stream packet by packet, as they come.

        Args:
            reader: Of the stream.
            first: Number of the frame to begin with.
            most: How many frames to accept; any number if None.

        Yields:
            uint8 [n, 84, 84].

        Raises:
            UnknownBundleError: The stream is of another bundle.
            CorruptFileError: A packet is truncated or damaged; those before it have been given out.
            ImageTooLargeError: There are more than `most`.
        """
        self.check_header(reader.header)
        done = 0
        for latents in reader.latents(self.bundle.tables, first=first):
            done += len(latents)
            # Before networks are asked: four thousand frames can be claimed in six bytes.
            if most is not None:
                _check_count(done, most)
            yield self.reconstruct(latents)

    def decode(
        self,
        source: bytes | BinaryIO,
        *,
        first: int = 0,
        max_pixels: int = MAX_PIXELS,
        progress: Progress = _no_progress,
    ) -> Frames:
        """Decode a whole stream.

        Args:
            source: The stream, or a file or pipe to read it from.
            first: Number of the frame to begin with.
            max_pixels: The largest result to accept, in pixels of all frames together. A stream can be
                much shorter than its frames.
            progress: Is told from time to time how far it is.

        Returns:
            uint8 [N, 84, 84].

        Raises:
            NotAmbiFileError: It is no such stream.
            UnsupportedVersionError: It is of another format version.
            UnknownBundleError: It is of another bundle.
            CorruptFileError: It is truncated or damaged.
            ImageTooLargeError: It is over `max_pixels`.
        """
        reader = StreamReader(io.BytesIO(source) if isinstance(source, bytes) else source)
        most = max_pixels // FRAME_SIDE**2
        _check_count(reader.header.frames or 0, most + first)
        parts = [np.empty((0, FRAME_SIDE, FRAME_SIDE), np.uint8)]
        done = 0
        for frames in self.frames(reader, first=first, most=most):
            done += len(frames)
            parts.append(frames)
            progress(done)
        reader.check_end()
        return np.concatenate(parts)


def _check_count(frames: int, most: int) -> None:
    if frames > most:
        raise ImageTooLargeError(
            f"the stream has {frames} frames or more, over the limit of {most} of {FRAME_SIDE}x"
            f"{FRAME_SIDE} pixels; raise max_pixels if you trust it"
        )
