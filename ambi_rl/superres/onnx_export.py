"""From a trained generator to the ONNX model that decodes without torch.

The graph is built here, node by node, from the few kinds of layers that a generator has: of torch's own
exporters one is deprecated and the other needs a further package, and what they write differs from version to
version. Batch normalisation is folded into the convolution before it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from ambi_rl import __version__
from ambi_rl.superres.networks import (
    BicubicEnlargement,
    Encoder,
    Generator,
    ResidualBlock,
    SubPixelStage,
)

OPSET = 17
"""Version of ONNX's operators; onnxruntime reads it since 1.12."""
_IR_VERSION = 8
"""Version of the file's layout that belongs to the operators."""

Array = npt.NDArray[np.float32]


def export_onnx(generator: Generator) -> bytes:
    """Write a generator as an ONNX model: what it computes in evaluation mode.

    Args:
        generator: It is only read.

    Returns:
        The file. Input `base`: float32 [1, 3, h, w], RGB in 0…1. Output `image`: float32 [1, 3, s h, s w],
        not clipped. Heights and widths are free.
    """
    graph = _Graph()
    features = _add_encoder(graph, generator.encoder, "base")
    for stage in generator.decoder.stages:
        assert isinstance(stage, SubPixelStage)
        maps = graph.add_convolution(stage.convolution, features)
        features = graph.add_shuffle(graph.add_activation(stage.activation, maps), 2)
    image = graph.add_convolution(generator.decoder.tail, features)
    if generator.enlargement is not None:
        enlarged = _add_enlargement(graph, generator.enlargement, "base", generator.scale)
        image = graph.add("Add", image, enlarged)
    graph.add("Identity", image, output="image")
    return graph.dump()


def _add_encoder(graph: _Graph, encoder: Encoder, base: str) -> str:
    start = graph.add_activation(encoder.activation, graph.add_convolution(encoder.head, base))
    features = start
    for block in encoder.blocks:
        assert isinstance(block, ResidualBlock)
        inner = graph.add_convolution(block.first, features, block.first_norm)
        inner = graph.add_activation(block.activation, inner)
        inner = graph.add_convolution(block.second, inner, block.second_norm)
        features = graph.add("Add", features, inner)
    return graph.add("Add", start, graph.add_convolution(encoder.tail, features, encoder.tail_norm))


def _add_enlargement(graph: _Graph, enlargement: BicubicEnlargement, base: str, scale: int) -> str:
    """Bicubic interpolation, with the weights of the taps inside of the picture divided by their sum."""
    kernels = graph.add_tensor(_array(enlargement.kernels))
    pads = [enlargement.reach] * 4
    one = graph.add_tensor(np.ones((), np.float32))
    # Of the picture's shape; bundles may not hold operators that make tensors of any shape.
    ones = graph.add("Clip", base, one, one)
    sums = graph.add("Conv", base, kernels, pads=pads, group=3)
    present = graph.add("Conv", ones, kernels, pads=pads, group=3)
    return graph.add_shuffle(graph.add("Div", sums, present), scale)


class _Graph:
    """A graph that grows by one node at a time; values go by the names that the methods return."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node with one output."""
        name = output or f"value_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def add_tensor(self, values: Array) -> str:
        """Add a constant."""
        name = f"tensor_{len(self._tensors)}"
        self._tensors.append(numpy_helper.from_array(values, name))
        return name

    def add_convolution(
        self, layer: nn.Conv2d, features: str, norm: nn.Module | None = None
    ) -> str:
        """Add a convolution, with the batch normalisation after it (or the identity) folded in."""
        weight, bias = _fold(layer, norm)
        side = layer.kernel_size[0]
        return self.add(
            "Conv", features, self.add_tensor(weight), self.add_tensor(bias), pads=[side // 2] * 4
        )

    def add_activation(self, layer: nn.PReLU, features: str) -> str:
        """Add a PReLU with one slope: runtimes fuse a LeakyRelu with the convolution, but no PRelu."""
        return self.add("LeakyRelu", features, alpha=layer.weight.item())

    def add_shuffle(self, features: str, scale: int) -> str:
        """Add a pixel shuffle in torch's order: the maps of one square follow one another."""
        return self.add("DepthToSpace", features, blocksize=scale, mode="CRD")

    def dump(self) -> bytes:
        """The whole as a checked model."""
        graph = helper.make_graph(
            self._nodes,
            "generator",
            [helper.make_tensor_value_info("base", TensorProto.FLOAT, [1, 3, "h", "w"])],
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "H", "W"])],
            self._tensors,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=_IR_VERSION,
            producer_name="ambi-rl",
            producer_version=__version__,
        )
        onnx.checker.check_model(model)
        data: bytes = model.SerializeToString(deterministic=True)
        return data


def _fold(layer: nn.Conv2d, norm: nn.Module | None) -> tuple[Array, Array]:
    """Weight and bias of a convolution followed by its batch normalisation, computed in float64."""
    assert layer.bias is not None
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    if isinstance(norm, nn.BatchNorm2d):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gain = norm.weight.detach().double() / torch.sqrt(norm.running_var.double() + norm.eps)
        weight = weight * gain[:, None, None, None]
        bias = (bias - norm.running_mean.double()) * gain + norm.bias.detach().double()
    return _array(weight), _array(bias)


def _array(tensor: Tensor) -> Array:
    return tensor.detach().float().cpu().numpy()
