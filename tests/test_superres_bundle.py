"""Bundles with a network: saved, found, tried before they are used, and refused in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper  # noqa: E402

from ambi_rl.codec import bundle_file  # noqa: E402
from ambi_rl.errors import (  # noqa: E402
    AmbiError,
    BundleError,
    UnknownBundleError,
    UnsupportedVersionError,
)
from ambi_rl.superres import upscale  # noqa: E402
from ambi_rl.superres.bundle import (  # noqa: E402
    SuperresBundle,
    dump_bundle,
    find_bundle,
    load_bundle,
    make_bundle,
    parse_bundle,
    save_bundle,
)
from ambi_rl.superres.graph import OPERATORS, check_graph  # noqa: E402
from ambi_rl.superres.upscale import Upscaler, spans  # noqa: E402
from tests.superres_models import (  # noqa: E402
    RADIUS,
    enlarging,
    model_of,
    scales,
    tiny_bundle,
    tiny_model,
    value,
)


@pytest.fixture(scope="module")
def bundle() -> SuperresBundle:
    return tiny_bundle()


def test_bundles_are_saved_and_found_by_their_id(
    bundle: SuperresBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sr.ambic"
    save_bundle(bundle, path)
    loaded = load_bundle(path)
    assert loaded.model == bundle.model == tiny_model()
    assert (loaded.id, loaded.scale, loaded.radius) == (bundle.id, 2, RADIUS)
    assert loaded.manifest["training"] == {"steps": 0}
    assert bundle_file.read_profile(path) == "superres"
    assert dump_bundle(loaded) == path.read_bytes()
    monkeypatch.delenv("AMBI_BUNDLES", raising=False)
    assert find_bundle(bundle.id, loaded) is loaded
    with pytest.raises(UnknownBundleError, match=bundle.id):
        find_bundle(bundle.id)
    monkeypatch.setenv("AMBI_BUNDLES", str(tmp_path))
    assert find_bundle(bundle.id).model == bundle.model


def test_the_id_is_of_what_decoding_depends_on(bundle: SuperresBundle) -> None:
    assert make_bundle(bundle.model, 2, RADIUS, {"steps": 9}).id == bundle.id
    assert make_bundle(bundle.model, 2, RADIUS + 1, {"steps": 0}).id != bundle.id
    assert tiny_bundle(seed=2).id != bundle.id


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scale": 3}, "scale = 3, not 2 or 4"),
        ({"scale": 2.0}, "scale = 2.0"),
        ({"scale": 4}, "makes"),
        ({"radius": -1}, "radius = -1"),
        ({"radius": True}, "radius = True"),
        ({"training": None}, "training = None"),
        ({"profile": "features"}, "'features'"),
    ],
)
def test_manifests_that_do_not_fit_are_refused(
    change: dict[str, Any], words: str, bundle: SuperresBundle
) -> None:
    data = bundle_file.dump(bundle.manifest | change, bundle.named_tensors())
    with pytest.raises(BundleError, match=words):
        parse_bundle(data)


def test_newer_damaged_and_other_files_are_refused(bundle: SuperresBundle, tmp_path: Path) -> None:
    newer = bundle_file.dump(bundle.manifest | {"format_version": 2}, bundle.named_tensors())
    with pytest.raises(UnsupportedVersionError, match="version 2"):
        parse_bundle(newer)
    data = dump_bundle(bundle)
    for at in (5, 40, len(data) // 2, len(data) - 1):
        damaged = bytearray(data)
        damaged[at] ^= 16
        with pytest.raises(AmbiError) as caught:
            parse_bundle(bytes(damaged))
        assert "\n" not in str(caught.value)
    for tensors in ({}, {"network/onnx": np.zeros(9, np.int8)}, {"x": np.zeros(9, np.uint8)}):
        with pytest.raises(BundleError, match="network/onnx"):
            parse_bundle(bundle_file.dump(bundle.manifest, tensors))
    (tmp_path / "x.ambic").write_bytes(data[:-1])
    with pytest.raises(BundleError, match=r"x\.ambic"):
        load_bundle(tmp_path / "x.ambic")


def one_node(
    kind: str, inputs: list[str], weights: dict[str, np.ndarray], **attributes: Any
) -> bytes:
    """A network of one node and the enlargement."""
    node = helper.make_node(kind, inputs, ["made"], **attributes)
    return model_of([node, enlarging("made", "image")], weights | {"scales": scales(2)})


def _external() -> bytes:
    model = onnx.load_from_string(tiny_model())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    return bytes(model.SerializeToString())


def _subgraph() -> bytes:
    branch = helper.make_graph([], "branch", [], [value("c", [1])])
    return one_node("Identity", ["base"], {}, then_branch=branch)


def _networks() -> dict[str, tuple[bytes, str]]:
    """Networks that cannot be used, and what is said of them."""
    nan = np.full((3, 3, 1, 1), np.nan, np.float32)
    wide = np.zeros((4, 3, 1, 1), np.float32)
    same, big = np.zeros((3, 3, 1, 1), np.float32), np.array([1, 1, 1e5, 1e5], np.float32)
    large = [value("base", [1, 3, "h", "w"]), value("second", [1])]
    fixed = [value("base", [1, 3, 8, 8])]
    half = [value("base", [1, 3, "h", "w"], TensorProto.FLOAT16)]
    enlarge = [enlarging("base", "image")]
    return {
        "no file": (b"no network", "not an ONNX file|not one ONNX graph"),
        "empty": (b"", "not one ONNX graph"),
        "operator": (one_node("RandomNormalLike", ["base"], {}), "'RandomNormalLike'"),
        "global": (one_node("GlobalAveragePool", ["base"], {}), "'GlobalAveragePool'"),
        "domain": (one_node("Gelu", ["base"], {}, domain="com.microsoft"), "com.microsoft.Gelu"),
        "graphs": (_subgraph(), "graphs within"),
        "elsewhere": (_external(), "does not hold its weights"),
        "missing": (one_node("Conv", ["base", "absent"], {}), "cannot be loaded"),
        "nan": (one_node("Conv", ["base", "w"], {"w": nan}), "not finite"),
        "channels": (one_node("Conv", ["base", "w"], {"w": wide}), "makes"),
        "memory": (
            model_of(
                [
                    helper.make_node("Resize", ["base", "", "big"], ["image"], mode="nearest"),
                ],
                {"big": big},
            ),
            "cannot be run",
        ),
        "padding": (one_node("Conv", ["base", "w"], {"w": same}, pads=[2**40] * 4), "cannot be"),
        "two inputs": (model_of(enlarge, {"scales": scales(2)}, inputs=large), "one input base"),
        "bytes": (tiny_model().replace(b"PRelu", b"PRel\xff"), "has the operator"),
        "no shape": (
            model_of(enlarge, {"scales": scales(2)}, inputs=[value("base", None)]),
            "one input base",
        ),
        "half": (model_of(enlarge, {"scales": scales(2)}, inputs=half), "cannot be loaded|input"),
        "one size": (model_of(enlarge, {"scales": scales(2)}, inputs=fixed), "cannot be run"),
        "name": (
            model_of(
                [enlarging("base", "x")],
                {"scales": scales(2)},
                outputs=[value("x", [1, 3, "H", "W"])],
            ),
            "one output image",
        ),
    }


@pytest.mark.parametrize("name", _networks())
def test_networks_that_cannot_be_used_are_refused_in_one_line(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model, words = _networks()[name]
    with pytest.raises(BundleError, match=words) as caught:
        make_bundle(model, 2, 64, {})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    # onnxruntime has a voice of its own.
    assert capfd.readouterr() == ("", "")


def test_a_radius_below_the_networks_reach_is_refused(bundle: SuperresBundle) -> None:
    for scale in (2, 4):
        model = tiny_model(scale)
        make_bundle(model, scale, RADIUS, {})
        with pytest.raises(BundleError, match=f"further than radius = {RADIUS - 1}"):
            make_bundle(model, scale, RADIUS - 1, {})


def test_operators_are_names_that_onnx_knows() -> None:
    assert {name for name in OPERATORS if not onnx.defs.has(name)} == set()
    check_graph(tiny_model(4))


# --- Tiles ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [0, 3, 40, 100])
@pytest.mark.parametrize("length", [1, 191, 192, 193, 300, 301, 1000])
def test_tiles_cover_a_side_once_and_windows_reach_as_far_as_they_must(
    length: int, radius: int
) -> None:
    found = spans(length, radius)
    assert [span.start for span in found] == [0, *(span.stop for span in found[:-1])]
    assert found[-1].stop == length
    assert len({span.end - span.first for span in found}) == 1
    for first, start, stop, end in found:
        assert 0 <= first <= max(start - radius, 0) <= start < stop <= end <= length
        assert end >= min(stop + radius, length)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("window", [16, 37])
def test_tiles_make_what_the_whole_picture_does(
    scale: int, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = tiny_bundle(scale).upscaler
    rng = np.random.default_rng(3)
    base = rng.integers(0, 256, (61, 83, 3), np.uint8)
    size = 61 * scale - 1, 83 * scale - (scale - 1)
    whole = network.enlarge(base, *size)
    monkeypatch.setattr(upscale, "WINDOW", window)
    assert len(spans(61, RADIUS)) > 1
    difference = np.abs(network.enlarge(base, *size).astype(int) - whole)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3
    gray = np.abs(
        network.enlarge(base, *size, gray=True).astype(int) - whole @ [0.299, 0.587, 0.114]
    )
    assert gray.shape == size
    assert gray.max() < 1.1


def test_the_result_does_not_depend_on_threads(bundle: SuperresBundle) -> None:
    base = np.random.default_rng(3).integers(0, 256, (200, 70, 3), np.uint8)
    results = [
        Upscaler(bundle.model, 2, RADIUS, threads).enlarge(base, 400, 140) for threads in (1, 3)
    ]
    assert np.array_equal(results[0], results[1])


def test_without_onnxruntime_the_extra_is_named(bundle: SuperresBundle, tmp_path: Path) -> None:
    save_bundle(bundle, tmp_path / "sr.ambic")
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from ambi_rl.cli import main\n"
        f"sys.argv = ['ambi', 'info', {str(tmp_path / 'sr.ambic')!r}]\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 7
    assert 'pip install "ambi-rl[superres]"' in done.stderr
    assert done.stderr.count("\n") == 1


def test_sparse_constants_are_refused_before_they_become_dense() -> None:
    """Some hundred bytes would take gigabytes."""
    values = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    places = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    sparse = helper.make_sparse_tensor(values, places, [10**8])
    constant = helper.make_node("Constant", [], ["c"], sparse_value=sparse)
    graph = helper.make_graph([constant], "g", [], [])
    with pytest.raises(BundleError, match="dense tensors"):
        check_graph(helper.make_model(graph).SerializeToString())
