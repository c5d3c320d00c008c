"""What the network in a bundle may consist of: an ONNX file is looked through before anything runs it.

Of a file from somebody else nothing is taken on trust: a graph of unlimited operators could loop, read other
files or make numbers at random. A generator is a chain of convolutions, so those few operators are allowed
whose outputs at a place depend on inputs near it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from ambi_rl.codec.bundle_file import short
from ambi_rl.errors import BundleError

_OPERATORS = (
    "Conv ConvTranspose BatchNormalization Resize DepthToSpace SpaceToDepth Pad",
    "Clip Dropout Elu Erf Exp Gelu HardSigmoid HardSwish LeakyRelu Mish PRelu Relu Sigmoid Softplus Tanh",
    "Add Div Max Min Mul Neg Pow Reciprocal Sqrt Sub",
    "Cast Concat Constant Gather Identity Reshape Shape Slice Split Squeeze Transpose Unsqueeze",
)
OPERATORS = frozenset(name for line in _OPERATORS for name in line.split())
"""ONNX operators that a network may use."""
MAX_NODES = 4096
_DOMAINS = ("", "ai.onnx")

_BYTES, _MESSAGE, _INT = 12, 11, 3
"""Types of fields, as protobuf numbers them. Text is read as bytes, for it need not be text in a bad file."""
_SCHEMA: dict[str, tuple[tuple[str, int, int, str], ...]] = {
    "Model": (("graph", 7, _MESSAGE, "Graph"), ("functions", 25, _MESSAGE, "Entry")),
    "Graph": (
        ("node", 1, _MESSAGE, "Node"),
        ("initializer", 5, _MESSAGE, "Tensor"),
        ("sparse_initializer", 15, _MESSAGE, "Entry"),
    ),
    "Node": (
        ("op_type", 4, _BYTES, ""),
        ("attribute", 5, _MESSAGE, "Attribute"),
        ("domain", 7, _BYTES, ""),
    ),
    "Attribute": (
        ("t", 5, _MESSAGE, "Tensor"),
        ("g", 6, _MESSAGE, "Entry"),
        ("tensors", 10, _MESSAGE, "Tensor"),
        ("graphs", 11, _MESSAGE, "Entry"),
        ("sparse_tensor", 22, _MESSAGE, "Entry"),
        ("sparse_tensors", 23, _MESSAGE, "Entry"),
    ),
    "Tensor": (("external_data", 13, _MESSAGE, "Entry"), ("data_location", 14, _INT, "")),
    "Entry": (),
}
"""What is looked at of ONNX's onnx.proto: for each message the names, numbers and types of fields."""


@cache
def _message_class() -> Any:
    """Protobuf's class for ONNX models, with the fields of `_SCHEMA`, all repeated, so that none hides."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(
        name="ambi_onnx.proto", package="ambi_onnx", syntax="proto2"
    )
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for field, number, kind, of in fields:
            described = message.field.add(name=field, number=number, type=kind, label=3)
            if of:
                described.type_name = f".ambi_onnx.{of}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("ambi_onnx.Model"))


def _refuse(what: str) -> BundleError:
    return BundleError(f"the bundle's network {what}; export it again")


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from attribute.t
            yield from attribute.tensors


def check_graph(model: bytes) -> None:
    """Refuse a network of other parts than a generator's.

    Args:
        model: An ONNX file.

    Raises:
        BundleError: It is no ONNX file, or it has other operators, graphs within graphs, functions, or
            weights in other files.
    """
    from google.protobuf.message import DecodeError

    try:
        parsed = _message_class().FromString(model)
    except (DecodeError, ValueError):
        raise _refuse("is not an ONNX file") from None
    if len(parsed.graph) != 1 or parsed.functions:
        raise _refuse("is not one ONNX graph")
    graph = parsed.graph[0]
    if not 1 <= len(graph.node) <= MAX_NODES:
        raise _refuse(f"has {len(graph.node)} nodes, not 1 to {MAX_NODES}")
    for node in graph.node:
        kind, domain = (
            b".".join(part).decode(errors="replace") for part in (node.op_type, node.domain)
        )
        if kind not in OPERATORS or domain not in _DOMAINS:
            raise _refuse(
                f"has the operator {short(f'{domain}.{kind}' if domain else kind)}, none of those that "
                "ambi_rl.superres.graph.OPERATORS names"
            )
        if any(attribute.g or attribute.graphs for attribute in node.attribute):
            raise _refuse("has graphs within its graph")
    # A sparse tensor of a few bytes becomes a dense one of gigabytes.
    sparse = any(a.sparse_tensor or a.sparse_tensors for n in graph.node for a in n.attribute)
    if (
        sparse
        or graph.sparse_initializer
        or any(t.external_data or any(t.data_location) for t in _tensors(graph))
    ):
        raise _refuse("does not hold its weights itself, as dense tensors")
