"""Tiny generators as ONNX files, made without torch: nearest-neighbour enlargement and a convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from ambi_rl.superres.bundle import SuperresBundle, make_bundle

RADIUS = 3
"""Reach of `tiny_model`: two 3x3 convolutions before and one after the enlargement."""


def value(name: str, shape: Sequence[int | str] | None, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, None if shape is None else list(shape))


def model_of(
    nodes: Sequence[Any],
    weights: dict[str, np.ndarray],
    *,
    inputs: Sequence[Any] | None = None,
    outputs: Sequence[Any] | None = None,
    **model: Any,
) -> bytes:
    """An ONNX file of nodes and weights, with the usual input and output unless told otherwise."""
    graph = helper.make_graph(
        list(nodes),
        "generator",
        inputs or [value("base", [1, 3, "h", "w"])],
        outputs or [value("image", [1, 3, "H", "W"])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model.setdefault("opset_imports", [helper.make_opsetid("", 17)])
    made = helper.make_model(graph, **model)
    made.ir_version = 8
    return bytes(made.SerializeToString())


def enlarging(name: str, output: str) -> Any:
    """A node that repeats pixels; needs the weights `scales`."""
    return helper.make_node(
        "Resize",
        [name, "", "scales"],
        [output],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def scales(scale: int) -> np.ndarray:
    return np.array([1, 1, scale, scale], np.float32)


def tiny_model(scale: int = 2, *, seed: int = 1, strength: float = 0.1) -> bytes:
    """Repeated pixels, plus what random convolutions with bias add: each padding is seen at the borders."""
    rng = np.random.default_rng(seed)

    def kernel(outputs: int, inputs: int) -> np.ndarray:
        return rng.normal(0, strength, (outputs, inputs, 3, 3)).astype(np.float32)

    weights = {
        "w1": kernel(8, 3),
        "b1": rng.normal(0, 0.1, 8).astype(np.float32),
        "w2": kernel(3 * scale * scale, 8),
        "w3": kernel(3, 3),
        "slope": np.full((8, 1, 1), 0.2, np.float32),
        "scales": scales(scale),
    }
    same: dict[str, Any] = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["base", "w1", "b1"], ["hidden"], **same),
        helper.make_node("PRelu", ["hidden", "slope"], ["active"]),
        helper.make_node("Conv", ["active", "w2"], ["parts"], **same),
        helper.make_node("DepthToSpace", ["parts"], ["detail"], blocksize=scale, mode="CRD"),
        helper.make_node("Conv", ["detail", "w3"], ["smooth"], **same),
        enlarging("base", "large"),
        helper.make_node("Add", ["large", "smooth"], ["image"]),
    ]
    return model_of(nodes, weights)


def tiny_bundle(scale: int = 2, **options: Any) -> SuperresBundle:
    return make_bundle(tiny_model(scale, **options), scale, RADIUS, {"steps": 0})
