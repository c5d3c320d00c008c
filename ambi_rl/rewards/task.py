"""A term for pictures that a model looks at: its output must survive compression.

Model files are read in the formats that hold a program of known operations and numbers:

    .pt2          torch.export.save
    .pt, .ts      torch.jit.save (TorchScript)
    .onnx         ONNX, with the extra `task` (onnxruntime)

Files that torch.save wrote of a whole module are refused: they are pickles, which may run any code when they
are read, and they need the module's class. A .pt file of weights alone says nothing of the model.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ambi_rl.errors import ConfigError
from ambi_rl.rewards.measured import MeasuredTerm
from ambi_rl.rewards.pictures import Slope
from ambi_rl.rewards.terms import Pixels

if TYPE_CHECKING:
    import torch

KEY = "reward.task"
SUFFIXES = (".pt2", ".pt", ".ts", ".onnx")
DISTANCES = ("features", "logits")

_TINY = 1e-12

Arrays = list[npt.NDArray[np.float64]]
Tensors = list["torch.Tensor"]


def _refuse(path: Path, problem: str) -> ConfigError:
    return ConfigError(f"{KEY}.model {path} {problem}")


def _load_torch(path: Path) -> Callable[[torch.Tensor], Any]:
    """A model of torch.export or TorchScript, on the CPU."""
    import torch

    try:
        if path.suffix == ".pt2":
            module = torch.export.load(str(path)).module()
        else:
            # TorchScript archives hold code; what torch.save pickles does not.
            with zipfile.ZipFile(path) as archive:
                if not any("/code/" in name for name in archive.namelist()):
                    raise _refuse(
                        path,
                        "is a pickle of torch.save, which may run any code when it is read; save the model "
                        "with torch.export.save (.pt2), torch.jit.save or as ONNX",
                    )
            module = torch.jit.load(str(path), map_location="cpu").eval()
    except ConfigError:
        raise
    except Exception as error:  # Torch raises many kinds for files it cannot read.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise _refuse(path, f"cannot be read as a {path.suffix} model: {reason}") from error
    return module


def _load_onnx(path: Path) -> Callable[[npt.NDArray[np.float32]], Any]:
    """An ONNX model, on one thread of the CPU."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise _refuse(path, "needs onnxruntime; install it: pip install 'ambi-rl[task]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # Its exceptions have no common base.
        reason = str(error).strip().splitlines()[0]
        raise _refuse(path, f"cannot be read as an ONNX model: {reason}") from error
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})


class TaskTerm(MeasuredTerm):
    """Distance between a model's outputs for the original and the decoded picture.

    The model takes float32 [1, 3, H, W] of (RGB/255 − mean)/deviation, H and W being those of a patch, and
    returns a tensor or several.

    Args:
        model: The file; see the module for formats.
        distance: "features": squared change over squared size, averaged over the outputs; "logits":
            Kullback-Leibler divergence of the class probabilities along dimension 1.
        mean: Of each colour, 0…1.
        deviation: Of each colour, over 0.
        constant: See `MeasuredTerm`.

    Raises:
        ConfigError: There is no such file, it has another format, or an argument is impossible.
    """

    def __init__(
        self,
        model: str | Path,
        distance: str,
        mean: Sequence[float],
        deviation: Sequence[float],
        constant: float | None,
    ) -> None:
        super().__init__(KEY, constant)
        self.path = Path(model)
        if not self.path.is_file():
            raise _refuse(self.path, "does not exist; name a model file")
        if self.path.suffix not in SUFFIXES:
            raise _refuse(self.path, f"has none of the suffixes {', '.join(SUFFIXES)}")
        if distance not in DISTANCES:
            raise ConfigError(f"{KEY}.distance is {distance!r}; it can be {', '.join(DISTANCES)}")
        for name, values in (("mean", mean), ("deviation", deviation)):
            if len(values) != 3 or not all(map(math.isfinite, values)):
                raise ConfigError(
                    f"{KEY}.{name} is {list(values)}; give three numbers, for R, G, B"
                )
        if min(deviation) <= 0:
            raise ConfigError(f"{KEY}.deviation is {list(deviation)}; it must be over 0")
        self.distance = distance
        self._mean = np.array(mean, np.float32)
        self._deviation = np.array(deviation, np.float32)
        self._model: Callable[..., Any] | None = None

    @property
    def differentiable(self) -> bool:
        """Whether the derivative by the picture is known: for torch's formats."""
        return self.path.suffix != ".onnx"

    def _loaded(self) -> Callable[..., Any]:
        # Late, for a configuration is looked at more often than it is run.
        if self._model is None:
            self._model = _load_torch(self.path) if self.differentiable else _load_onnx(self.path)
        return self._model

    def _batch(self, picture: Pixels) -> npt.NDArray[np.float32]:
        scaled = (picture.astype(np.float32) / 255 - self._mean) / self._deviation
        return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])

    def _fail(self, picture: Pixels, error: Exception) -> ConfigError:
        height, width = picture.shape[:2]
        text = str(error).strip()
        reason = text.splitlines()[0] if text else type(error).__name__
        return _refuse(self.path, f"failed on a picture of {width}x{height} pixels: {reason}")

    def _outputs(self, picture: Pixels, batch: Any) -> Tensors:
        """The model's outputs as float tensors."""
        import torch

        try:
            found = self._loaded()(batch)
        except ConfigError:
            raise
        except Exception as error:  # Whatever a model does with a picture of this size.
            raise self._fail(picture, error) from error
        if isinstance(found, dict):
            found = list(found.values())
        several = list(found) if isinstance(found, tuple | list) else [found]
        return [torch.as_tensor(output).float() for output in several]

    def _distance(self, before: Tensors, after: Tensors) -> torch.Tensor:
        import torch

        parts = []
        for a, b in zip(before, after, strict=True):
            if self.distance == "features":
                parts.append((a - b).square().mean() / (a.square().mean() + _TINY))
            else:
                given, seen = a.log_softmax(dim=1), b.log_softmax(dim=1)
                # Of two outputs that are equal but for rounding it may come out a little under 0.
                parts.append((given.exp() * (given - seen)).sum(dim=1).mean().clamp_min(0))
        return torch.stack(parts).mean()

    def loss(self, original: Pixels, decoded: Pixels) -> float:
        """The distance.

        Raises:
            ConfigError: The model cannot be read, fails, or the distance is not finite.
        """
        import torch

        with torch.no_grad():
            pair = [
                self._outputs(
                    p, torch.from_numpy(self._batch(p)) if self.differentiable else self._batch(p)
                )
                for p in (original, decoded)
            ]
            value = float(self._distance(*pair))
        if not math.isfinite(value):
            raise _refuse(self.path, "returned values that are not finite")
        return value

    def slope(self, original: Pixels, decoded: Pixels, step: int) -> Slope | None:
        """Its derivative, where torch knows it."""
        if not self.differentiable:
            return None
        import torch

        with torch.no_grad():
            before = self._outputs(original, torch.from_numpy(self._batch(original)))
        batch = torch.from_numpy(self._batch(decoded)).requires_grad_(True)
        distance = self._distance(before, self._outputs(decoded, batch))
        if not distance.requires_grad:  # Traced without derivatives.
            return None
        (gradient,) = torch.autograd.grad(
            distance, batch, allow_unused=True, materialize_grads=True
        )
        by_sample = gradient[0].permute(1, 2, 0).double().numpy()
        scale = self.scale(step, *original.shape[:2]) / 255
        return np.asarray(scale * by_sample / self._deviation.astype(np.float64))
