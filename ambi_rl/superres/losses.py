"""The losses that have a gradient: squared error, perceptual and adversarial, as in SRGAN.

They are those of the paper's section 2.2.1, float32 scalars also under autocast. `image` is what a generator
made and `target` the photograph: float32 [B, 3, H, W], RGB in 0…1, with B pictures in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ambi_rl.errors import ConfigError
from ambi_rl.superres.networks import Discriminator

PERCEPTUAL = ("discriminator", "vgg19")
"""Whose features the perceptual loss compares."""

VGG_FILE = "vgg19-dcbb9e9d.pth"
"""What torchvision calls its file of VGG-19's weights."""
VGG_LAYERS = tuple(
    f"{block}_{number}"
    for block, count in enumerate((2, 2, 4, 4, 4), start=1)
    for number in range(1, count + 1)
)
"""Names of VGG-19's convolutions, as SRGAN has them: before which pooling, and which of those between two."""

_VGG_WIDTHS = (64, 128, 256, 512, 512)
# By SRGAN, "to obtain VGG losses of a scale that is comparable to the MSE loss".
_VGG_RESCALING = 1 / 12.75
# Of ImageNet's pictures, with which the weights were trained.
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)

PerceptualLoss = Callable[[Tensor, Tensor], Tensor]
"""From (image, target) to a scalar."""


def mean_squared_error(image: Tensor, target: Tensor) -> Tensor:
    """The content loss of equation 2, for values in 0…1: 10^(−PSNR / 10) if nothing needs clipping."""
    return F.mse_loss(image.float(), target.float())


def adversarial_loss(logits: Tensor) -> Tensor:
    """What the generator pays for being recognised: mean of −log D (the form without vanishing gradients).

    Args:
        logits: [B], of a discriminator that saw the generator's pictures; see `frozen_logits`.
    """
    return F.softplus(-logits.float()).mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator pays for its mistakes: mean of −log D(photograph) − log(1 − D(generated)).

    Args:
        real: [B], logits of photographs.
        fake: [B], logits of generated pictures (detached from their generator).
    """
    return F.softplus(-real.float()).mean() + F.softplus(fake.float()).mean()


class _Features(nn.Module):
    """A discriminator whose `forward` is `features`, as `functional_call` needs it."""

    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.discriminator.features(image)


def _call_frozen(module: nn.Module, image: Tensor) -> Any:
    """A module's result, with a gradient for the image alone; its running statistics stay as they are."""
    state = {name: parameter.detach() for name, parameter in module.named_parameters()}
    state |= {name: buffer.clone() for name, buffer in module.named_buffers()}
    return torch.func.functional_call(module, state, (image,))


def frozen_logits(discriminator: Discriminator, image: Tensor) -> Tensor:
    """Judge pictures for a step of the generator: the discriminator learns nothing by it.

    Returns:
        [B]: logits, differentiable by the image but not by the discriminator's weights.
    """
    logits: Tensor = _call_frozen(discriminator, image)
    return logits


def feature_matching_loss(discriminator: Discriminator, image: Tensor, target: Tensor) -> Tensor:
    """Squared differences of the discriminator's feature maps, each by the mean square of the photograph's.

    After Salimans et al. 2016 (arXiv:1606.03498) and Larsen et al. 2016 (arXiv:1512.09300). Needs no weights
    but those that are trained anyway. Nothing is learned by the discriminator here.

    Returns:
        Mean over the maps after each activation; 0 for equal pictures, and 1.5…1.8 for unrelated photographs
        with a discriminator that has learned nothing.
    """
    # In one batch, so that batch normalisation treats both alike and leaves more of their difference.
    both = torch.cat([image, target.detach()])
    losses = []
    for maps in _call_frozen(_Features(discriminator), both):
        made, wanted = maps.float().chunk(2)
        wanted = wanted.detach()
        losses.append(F.mse_loss(made, wanted) / wanted.square().mean().clamp_min(1e-8))
    return torch.stack(losses).mean()


def _check_layer(layer: str) -> None:
    if layer not in VGG_LAYERS:
        raise ConfigError(f"loss.vgg_layer is {layer!r}; VGG-19 has {', '.join(VGG_LAYERS)}")


class VggLoss(nn.Module):
    """Squared difference of VGG-19's features after a ReLU (equation 3), rescaled as in SRGAN.

    Pictures need a pixel a side for each of the features that are compared: 16 for layer 5_4.

    Args:
        layer: One of `VGG_LAYERS`, up to which the network is built; 5_4 is SRGAN's VGG54.
        weights: By torchvision's names, `features.0.weight` and so on; others are ignored.

    Raises:
        ConfigError: There is no such layer, or a weight is missing or has another shape.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, layer: str, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        _check_layer(layer)
        layers: list[nn.Module] = []
        inputs = 3
        for name in VGG_LAYERS[: VGG_LAYERS.index(layer) + 1]:
            block, number = map(int, name.split("_"))
            if number == 1 and block > 1:
                layers.append(nn.MaxPool2d(2))
            convolution = nn.Conv2d(inputs, _VGG_WIDTHS[block - 1], 3, padding=1)
            _take_weights(convolution, weights, len(layers))
            layers += [convolution, nn.ReLU()]
            inputs = _VGG_WIDTHS[block - 1]
        self.layers = nn.Sequential(*layers).requires_grad_(False)
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(_DEVIATION)[:, None, None], persistent=False)

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """The loss; the gradient reaches the image alone."""
        with torch.no_grad():
            wanted = self._features(target)
        return F.mse_loss(self._features(image), wanted)

    def _features(self, image: Tensor) -> Tensor:
        features: Tensor = self.layers((image - self.mean) / self.deviation)
        return features.float() * _VGG_RESCALING


def _take_weights(convolution: nn.Conv2d, weights: Mapping[str, Tensor], index: int) -> None:
    """Fill a convolution from `features.INDEX.*`."""
    for name, parameter in convolution.named_parameters():
        key = f"features.{index}.{name}"
        given = weights.get(key)
        if not isinstance(given, Tensor) or given.shape != parameter.shape:
            found = "none" if given is None else str(tuple(getattr(given, "shape", ())))
            raise ConfigError(
                f"these are not VGG-19's weights in torchvision's layout: {key} must have the shape "
                f"{tuple(parameter.shape)}, found {found}"
            )
        with torch.no_grad():
            parameter.copy_(given)


def load_vgg_loss(layer: str, path: Path | None) -> VggLoss:
    """Build the loss from a file of torchvision's weights; nothing is downloaded.

    Args:
        layer: One of `VGG_LAYERS`.
        path: The file; None for where torch's hub keeps it once torchvision has fetched it.

    Raises:
        ConfigError: There is no such layer or file, or the file is damaged or something else.
    """
    _check_layer(layer)
    place = path or Path(torch.hub.get_dir()) / "checkpoints" / VGG_FILE
    if not place.is_file():
        raise ConfigError(
            f"loss.features=vgg19 needs VGG-19's weights, and {place} is not there: put torchvision's "
            f"{VGG_FILE} there, or name the file with loss.vgg_weights=FILE, or take "
            "loss.features=discriminator, which needs no download"
        )
    try:
        weights = torch.load(place, weights_only=True, map_location="cpu")
    except Exception as error:
        # What torch raises for a file that is none of its own is not documented.
        raise ConfigError(
            f"{place} cannot be read as a file of weights ({type(error).__name__}); fetch torchvision's "
            f"{VGG_FILE} anew"
        ) from error
    try:
        return VggLoss(layer, weights if isinstance(weights, Mapping) else {})
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error


def make_perceptual_loss(
    features: str,
    discriminator: Discriminator | None,
    layer: str,
    path: Path | None,
    device: torch.device,
) -> PerceptualLoss:
    """The perceptual loss that the configuration names.

    Args:
        features: One of `PERCEPTUAL`.
        discriminator: Whose features are compared with `discriminator`; it should be in training.
        layer: For `vgg19`, see `load_vgg_loss`.
        path: Likewise.
        device: Where VGG-19 is to run.

    Raises:
        ConfigError: See `load_vgg_loss`.
        ValueError: The discriminator is missing, or there are no such features.
    """
    if features == "vgg19":
        return load_vgg_loss(layer, path).to(device)
    if features != "discriminator" or discriminator is None:
        raise ValueError(f"no perceptual loss of {features!r} with discriminator={discriminator}")
    return partial(feature_matching_loss, discriminator)
