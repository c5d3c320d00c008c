"""An exported feature codec as what a comparison needs: its agent, and its frames with what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ambi_rl.bench.frame_codecs import LatentFrames, Sizes
from ambi_rl.codec.container import varint
from ambi_rl.errors import UsageError
from ambi_rl.neural.bundle import FeatureBundle, load_bundle
from ambi_rl.neural.feature_codec import FeatureCodec
from ambi_rl.neural.latent_coder import LatentCoder
from ambi_rl.neural.networks import FRAME_SIDE
from ambi_rl.neural.stream import encode_latents

Latents = npt.NDArray[np.int32]


@dataclass(frozen=True)
class FeatureAgent:
    """A bundle's agent, which sees nothing but rounded latents, with Stable-Baselines3's `predict`.

    Attributes:
        codec: The bundle's codec.
    """

    codec: FeatureCodec

    @property
    def bundle(self) -> FeatureBundle:
        """Whose agent it is."""
        return self.codec.bundle

    def predict(
        self, observation: npt.NDArray[np.uint8], *, deterministic: bool = False
    ) -> tuple[npt.NDArray[np.int64], None]:
        """Actions int64 [n] for stacks uint8 [n, k, 84, 84], by PyTorch's generator unless deterministic."""
        logits = torch.from_numpy(self.codec.action_logits(self.codec.latents(observation)))
        if deterministic:
            return logits.argmax(dim=1).numpy(), None
        return torch.distributions.Categorical(logits=logits).sample().numpy(), None

    def frames(self, name: str = "features") -> LatentFrames:
        """Its reconstructions as a codec of frames."""
        return LatentFrames(self.codec, LatentCounter(self.bundle), name)


class LatentCounter:
    """Counts the bytes of frames' latents as streams have them.

    A frame's bare bytes are the payload of a packet with this frame alone; its whole bytes are a stream of it
    alone, with header, lengths and checksums.

    Args:
        bundle: Its tables code the latents.
    """

    def __init__(self, bundle: FeatureBundle) -> None:
        self._coder = LatentCoder(bundle.tables)
        zeros = np.zeros((1, *bundle.latent_shape), np.int32)
        payload = len(self._coder.encode(zeros))
        whole = len(stream_of(bundle, zeros))
        self._around = whole - payload - len(varint(payload))

    def __call__(self, latents: Latents) -> tuple[Sizes, Sizes]:
        """Whole and bare bytes, [n] each, of latents int32 [n, C, h, w]."""
        bare = [len(self._coder.encode(latent[None])) for latent in latents]
        whole = [self._around + size + len(varint(size)) for size in bare]
        return np.array(whole, np.float64), np.array(bare, np.float64)


def stream_of(bundle: FeatureBundle, latents: Latents) -> bytes:
    """Latents int32 [n, C, h, w] as a whole stream, many frames to a packet."""
    shape = (FRAME_SIDE, FRAME_SIDE)
    return encode_latents(latents, bundle.tables, bundle_id=bundle.id, frame_shape=shape)


def load_agent(path: Path) -> FeatureAgent:
    """The agent of an exported bundle, or of a folder with one bundle in it.

    Raises:
        UsageError: The folder has none, or several.
        BundleError: It is no usable bundle of the profile "features".
    """
    return FeatureAgent(FeatureCodec(load_bundle(find_bundle_file(path))))


def find_bundle_file(path: Path) -> Path:
    """The path itself, or the one bundle of a folder.

    Raises:
        UsageError: The folder has none, or several.
    """
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.ambic"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(f"{path} has no bundle; write one: ambi export {path} -o bundle.ambic")
    raise UsageError(f"{path} has several bundles; name one: {', '.join(p.name for p in found)}")


def describe(bundle: FeatureBundle) -> dict[str, Any]:
    """What a report tells of a bundle: id, shape of the latent, and what its maker wrote in the manifest."""
    known = {"hashes", "profile", "format_version"}
    told = {key: value for key, value in bundle.manifest.items() if key not in known}
    return {"id": bundle.id, "latent_shape": list(bundle.latent_shape), **told}
