"""Bundles round-trip, are validated in full, and are found by their id."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from ambi_rl.codec import bundle as module
from ambi_rl.codec import bundle_file
from ambi_rl.codec.bundle import (
    Bundle,
    dump_bundle,
    find_bundle,
    load_bundle,
    parse_bundle,
    save_bundle,
)
from ambi_rl.errors import AmbiError, BundleError, UnknownBundleError, UnsupportedVersionError

Tensors = dict[str, np.ndarray]


def altered(
    bundle: Bundle,
    change_manifest: Callable[[dict[str, Any]], object] = lambda manifest: None,
    change_tensors: Callable[[Tensors], object] = lambda tensors: None,
    *,
    rehash: bool = True,
) -> bytes:
    """A bundle's file with something changed and, unless told otherwise, fitting hashes."""
    data = dump_bundle(bundle)
    manifest = bundle_file.read_manifest(data)
    tensors = {name: tensor.copy() for name, tensor in load_tensors(data).items()}
    change_tensors(tensors)
    if rehash:
        manifest["hashes"] = {
            name: bundle_file.hash_tensor(tensor) for name, tensor in tensors.items()
        }
    change_manifest(manifest)
    return save_tensors(tensors, {"ambi": json.dumps(manifest)})


def with_changes(bundle: Bundle, **manifest: Any) -> Bundle:
    return Bundle(bundle.manifest | manifest, bundle.entropy, bundle.policy)


def test_round_trip(plain_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "my.ambic"
    save_bundle(plain_bundle, path)
    loaded = load_bundle(path)
    assert loaded.id == plain_bundle.id
    assert loaded.manifest == plain_bundle.manifest | {"hashes": loaded.manifest["hashes"]}
    for group in ("entropy", "policy"):
        ours, theirs = getattr(plain_bundle, group), getattr(loaded, group)
        assert set(ours) == set(theirs)
        for name, tensor in ours.items():
            assert np.array_equal(tensor, theirs[name])
            assert theirs[name].dtype == tensor.dtype
            assert theirs[name].flags.writeable
    assert [p.name for p in tmp_path.iterdir()] == ["my.ambic"]


def test_saving_twice_gives_the_same_bytes(plain_bundle: Bundle) -> None:
    data = dump_bundle(plain_bundle)
    assert dump_bundle(parse_bundle(data)) == data


def test_the_id_covers_exactly_what_decoding_depends_on(plain_bundle: Bundle) -> None:
    def changed(**arrays: np.ndarray) -> Bundle:
        return dataclasses.replace(plain_bundle, entropy=plain_bundle.entropy | arrays)

    assert len(plain_bundle.id) == 16
    same = [
        dataclasses.replace(plain_bundle, policy={}),
        with_changes(plain_bundle, metrics={"bd_rate": -12.5}, training={"seed": 3}),
        with_changes(plain_bundle, lambda_scale=0.2),
    ]
    assert {bundle.id for bundle in same} == {plain_bundle.id}
    # What is encoded depends on the policy and λ as well, but not on what the manifest tells.
    assert len({bundle.encoder_id for bundle in [*same, plain_bundle]}) == 3
    assert same[1].encoder_id == plain_bundle.encoder_id
    counters = plain_bundle.entropy["counters"].copy()
    counters[-1] += 1
    different = [
        changed(counters=counters),
        changed(extra=np.zeros(1, np.int32)),
        changed(limits=plain_bundle.entropy["limits"].reshape(1, 2)),
        changed(limits=plain_bundle.entropy["limits"].astype(np.int64)),
        with_changes(plain_bundle, strategies=plain_bundle.strategies[::-1]),
        with_changes(plain_bundle, offsets=[0, -2, 2]),
        with_changes(plain_bundle, superblock=64),
        with_changes(plain_bundle, format_version=3),
    ]
    assert len({bundle.id for bundle in [*different, plain_bundle]}) == len(different) + 1


def test_the_id_does_not_depend_on_byte_order(plain_bundle: Bundle) -> None:
    swapped = {
        name: t.astype(t.dtype.newbyteorder(">")) for name, t in plain_bundle.entropy.items()
    }
    assert dataclasses.replace(plain_bundle, entropy=swapped).id == plain_bundle.id


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("strategies", []),
        ("strategies", "dc"),
        ("strategies", ["dc", "dc"]),
        ("strategies", ["dc", 3]),
        ("offsets", []),
        ("offsets", [0, 0]),
        ("offsets", [0, 25]),
        ("offsets", [0, 0.5]),
        ("offsets", [False]),
        ("superblock", 48),
        ("lambda_scale", 0),
        ("lambda_scale", "high"),
        ("format_version", 0),
        ("format_version", None),
    ],
)
def test_manifest_values_are_validated(plain_bundle: Bundle, key: str, value: Any) -> None:
    data = altered(plain_bundle, lambda manifest: manifest.update({key: value}))
    with pytest.raises(BundleError, match=key):
        parse_bundle(data)


def test_a_newer_version_is_named(plain_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "new.ambic"
    path.write_bytes(altered(plain_bundle, lambda manifest: manifest.update(format_version=3)))
    with pytest.raises(UnsupportedVersionError, match=r"new\.ambic.*version 3"):
        load_bundle(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("entropy/counters"),
        lambda t: t.update({"entropy/counters": t["entropy/counters"][:-1]}),
        lambda t: t.update({"entropy/counters": t["entropy/counters"].astype(np.int64)}),
        lambda t: t["entropy/counters"].fill(-1),
        lambda t: t.update({"entropy/other": np.zeros(3, np.int32)}),
        lambda t: t.pop("policy/w1"),
        lambda t: t.update({"policy/w1": t["policy/w1"][:, :-1].copy()}),
        lambda t: t.update({"policy/w2": t["policy/w2"][1:].copy()}),
        lambda t: t.update({"policy/b0": t["policy/b0"].astype(np.float64)}),
        lambda t: t["policy/w0"].fill(np.nan),
        lambda t: t["policy/scale"].fill(np.inf),
        lambda t: t.update({"weights": np.zeros(3, np.int32)}),
        lambda t: t.update({"code/run": np.zeros(3, np.int32)}),
        lambda t: t.update({f"entropy/{i}": np.zeros(1, np.int32) for i in range(300)}),
    ],
)
def test_tensors_are_validated(plain_bundle: Bundle, change: Callable[[Tensors], object]) -> None:
    with pytest.raises(BundleError) as caught:
        parse_bundle(altered(plain_bundle, change_tensors=change))
    assert "\n" not in str(caught.value)


def test_saving_validates_too(plain_bundle: Bundle, tmp_path: Path) -> None:
    broken = with_changes(plain_bundle, metrics={"psnr": float("nan")})
    with pytest.raises(BundleError, match="JSON"):
        save_bundle(broken, tmp_path / "x.ambic")
    with pytest.raises(BundleError, match="mean"):
        dump_bundle(dataclasses.replace(plain_bundle, policy={"w0": np.zeros((1, 1), np.float32)}))
    assert list(tmp_path.iterdir()) == []


def test_a_changed_tensor_does_not_match_its_hash(plain_bundle: Bundle) -> None:
    data = altered(plain_bundle, change_tensors=lambda t: t["policy/w0"].fill(1), rehash=False)
    with pytest.raises(BundleError, match=r"policy/w0.*hash"):
        parse_bundle(data)


def test_hashes_must_name_the_tensors(plain_bundle: Bundle) -> None:
    for hashes in (None, {}, {"entropy/counters": "0"}):
        with pytest.raises(BundleError, match="hashes"):
            parse_bundle(altered(plain_bundle, lambda m, h=hashes: m.update(hashes=h)))  # type: ignore[misc]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"short",
        b"\x80\x04pickle" * 4,
        (1 << 40).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}",
        (30).to_bytes(8, "little") + b'{"__metadata__":{"ambi":"[1]"}}'[:30],
        (31).to_bytes(8, "little") + b'{"__metadata__":{"ambi":"[1]"}}',
        (31).to_bytes(8, "little") + b'{"__metadata__":{"ambi":"NaN"}}',
        (20_000).to_bytes(8, "little") + b"[" * 20_000,
    ],
)
def test_other_files_are_not_bundles(data: bytes) -> None:
    with pytest.raises(BundleError):
        parse_bundle(data)


def test_truncated_and_flipped_bundles_are_refused(plain_bundle: Bundle) -> None:
    data = dump_bundle(plain_bundle)
    for length in (0, 7, 8, 100, 5000, len(data) // 2, len(data) - 1):
        with pytest.raises(BundleError):
            parse_bundle(data[:length])
    rng = np.random.default_rng(3)
    messages, ids = [], {plain_bundle.id}
    for position in rng.integers(0, len(data), 60).tolist():
        flipped = bytearray(data)
        flipped[position] ^= 1 << int(rng.integers(8))
        try:
            # A flip inside free text (metrics, training) changes nothing that matters.
            ids.add(parse_bundle(bytes(flipped)).id)
        except AmbiError as error:
            messages.append(str(error))
    assert ids == {plain_bundle.id}
    assert messages
    assert not any("\n" in message for message in messages)


def test_missing_large_and_unreadable_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        load_bundle(tmp_path / "none.ambic")
    with pytest.raises(BundleError, match="folder"):
        load_bundle(tmp_path)
    large = tmp_path / "large.ambic"
    large.write_bytes(bytes(2000))
    monkeypatch.setattr(bundle_file, "MAX_BYTES", 1000)
    with pytest.raises(BundleError, match="limit"):
        load_bundle(large)


def test_find_bundle(
    plain_bundle: Bundle,
    default_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AMBI_BUNDLES", raising=False)
    assert find_bundle(plain_bundle.id, plain_bundle) is plain_bundle
    assert find_bundle(default_bundle.id) is default_bundle
    assert find_bundle(default_bundle.id, plain_bundle) is default_bundle
    with pytest.raises(UnknownBundleError, match=plain_bundle.id):
        find_bundle(plain_bundle.id)
    with pytest.raises(UnknownBundleError, match=f"given is {plain_bundle.id}"):
        find_bundle("0" * 16, plain_bundle)

    (tmp_path / "empty").mkdir()
    full = tmp_path / "full"
    full.mkdir()
    (full / "a-broken.ambic").write_bytes(b"rubbish")
    save_bundle(plain_bundle, full / "b.ambic")
    monkeypatch.setenv("AMBI_BUNDLES", f"{tmp_path / 'missing'}:{tmp_path / 'empty'}:{full}")
    assert find_bundle(plain_bundle.id).id == plain_bundle.id
    with pytest.raises(UnknownBundleError, match=r"unusable there: a-broken\.ambic"):
        find_bundle("0" * 16)


def test_the_default_bundle_is_loaded_once_and_has_a_policy(default_bundle: Bundle) -> None:
    assert module.default_bundle() is default_bundle
    assert default_bundle.policy
