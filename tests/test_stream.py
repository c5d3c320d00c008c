"""Streams of photographs: what is drawn, where it goes on, what is skipped, and who is held out."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ambi_rl.codec.color import planes_to_rgb
from ambi_rl.data import DataSettings, PatchSource, Skipped, open_collection
from ambi_rl.data import collection as collection_module
from ambi_rl.data import shards as shards_module
from ambi_rl.data.collection import RandomCollection
from ambi_rl.data.shards import find_shards, index_folder, is_held_out
from ambi_rl.data.stream import Order, StreamSource
from ambi_rl.envs import BlockCodingVectorEnv
from ambi_rl.errors import ConfigError, UsageError

COUNT = 40


def photograph(number: int, width: int = 56, height: int = 48) -> bytes:
    """A picture whose mean says its number."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 10, (height, width, 3)) + 5 * number
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def name_of(number: int) -> str:
    return f"p{number:03}.png"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty photographs in three folders, of which one is hidden, and a list of all but the hidden one."""
    root = tmp_path_factory.mktemp("photographs")
    for number in range(COUNT):
        place = root / ("a" if number % 2 else "b/c")
        place.mkdir(parents=True, exist_ok=True)
        (place / name_of(number)).write_bytes(photograph(number))
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.png").write_bytes(photograph(1))
    (root / "notes.txt").write_text("not a photograph")
    names = sorted(str(path.relative_to(root)) for path in root.rglob("p*.png"))
    (root / "list.txt").write_text("# all of them\n\n" + "\n".join(names) + "\n")
    return root


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same photographs in six shards, with labels beside them as webdataset has it."""
    root = tmp_path_factory.mktemp("shards")
    for shard in range(6):
        members: dict[str, bytes] = {}
        for number in range(shard, COUNT, 6):
            # One name that is too long for a plain header.
            prefix = "long/" * 60 if number == 7 else ""
            members[f"{prefix}{name_of(number)}"] = photograph(number)
            members[f"{name_of(number)[:-4]}.cls"] = b"3"
        write_tar(root / f"train-{shard}.tar", members)
    return root


def stream(where: Any, **options: Any) -> StreamSource:
    found = find_shards(str(where)) if isinstance(where, Path) else where
    arguments: dict[str, Any] = {"seed": 1, "shuffle": 12, "patches_per_picture": 3, "workers": 1}
    arguments |= options
    wanted = arguments.pop("wanted", lambda name: True)
    return StreamSource(found, wanted, 32, (30, 90), **arguments)


def draw(source: PatchSource, count: int, seed: int = 5) -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(seed)
    patches = [source.sample(rng) for _ in range(count)]
    return [(p.name, p.y, p.x, p.quality, p.step, p.planes.tobytes()) for p in patches]


def test_every_photograph_comes_once_before_any_comes_again(shards: Path) -> None:
    order = Order(find_shards(str(shards)), lambda name: True, 1, pictures=12, memory=1 << 30)
    first, second = ([order.draw() for _ in range(COUNT)] for _ in range(2))
    names = [[record.name.rsplit("/")[-1] for record in epoch] for epoch in (first, second)]
    expected = {name_of(number) for number in range(COUNT)}
    assert set(names[0]) == set(names[1]) == expected
    assert names[0] != names[1]
    assert names[0] != sorted(names[0])
    assert {record.epoch for record in first} == {0}
    # Not one shard after the other: the first dozen comes of four or more.
    assert len({record.shard for record in first[:12]}) >= 3


def test_the_buffer_is_bounded_in_bytes(shards: Path) -> None:
    order = Order(find_shards(str(shards)), lambda name: True, 1, pictures=99, memory=20_000)
    for _ in range(50):
        order.draw()
        assert len(order._held) < 99
        assert order._bytes <= 20_000 + 8_000


def test_patches_are_the_photographs_at_their_places(shards: Path) -> None:
    source = stream(shards)
    for name, y, x, quality, _, planes in draw(source, 60):
        number = int(name.rsplit("/", 1)[-1][1:4])
        with Image.open(io.BytesIO(photograph(number))) as image:
            whole = np.asarray(image)
        found = planes_to_rgb(np.frombuffer(planes, np.int16).reshape(3, 32, 32))
        np.testing.assert_array_equal(found, whole[y : y + 32, x : x + 32])
        assert 30 <= quality <= 90
    source.close()


def test_workers_make_no_difference_and_seeds_do(shards: Path) -> None:
    one, three = (stream(shards, workers=workers) for workers in (1, 3))
    first = draw(one, 200)
    assert first == draw(three, 200)
    other = stream(shards, seed=2)
    assert first != draw(other, 200)
    for source in (one, three, other):
        source.close()


@pytest.mark.parametrize("kind", ["shards", "folder"])
@pytest.mark.parametrize("before", [0, 7, 100, 150])
def test_goes_on_exactly(kind: str, before: int, shards: Path, folder: Path) -> None:
    where: Any = shards if kind == "shards" else index_folder(folder).shards()
    whole = stream(where)
    draw(whole, before, seed=9)
    state = whole.state()
    expected = draw(whole, 150)
    other = stream(where, workers=3)
    draw(other, 20)
    other.restore(state)
    assert draw(other, 150) == expected
    whole.close()
    other.close()


def test_states_of_other_data_are_refused(shards: Path, folder: Path) -> None:
    source = stream(shards)
    draw(source, 3)
    state = source.state()
    for other in (stream(index_folder(folder).shards()), stream(shards, seed=2)):
        with pytest.raises(UsageError, match="not those of the checkpoint"):
            other.restore(state)
        other.close()
    with pytest.raises(UsageError, match="was streamed"):
        open_collection(DataSettings()).source(32, texture=0.5, seed=1).restore(state)
    source.close()


def test_damaged_and_tiny_photographs_are_skipped_and_named(tmp_path: Path) -> None:
    good = {name_of(number): photograph(number) for number in range(6)}
    bad = {
        "broken.png": photograph(9)[:200],
        "text.jpg": b"not a picture",
        "tiny.png": photograph(9, 20, 60),
    }
    write_tar(tmp_path / "a.tar", good | bad)
    write_tar(tmp_path / "b.tar", {name_of(n): photograph(n) for n in range(6, 9)})
    whole = (tmp_path / "b.tar").read_bytes()
    # Cut within its second photograph.
    (tmp_path / "b.tar").write_bytes(whole[: 512 * 6 + 2048 * 2 - 100])
    (tmp_path / "c.tar").write_bytes(b"no archive" * 100)
    source = stream(tmp_path)
    names = {name for name, *_ in draw(source, 400)}
    assert {name_of(number) for number in range(7)} <= {n.rsplit("/", 1)[-1] for n in names}
    assert not any(name.endswith(tuple(bad)) for name in names)
    reasons = dict(source.skipped.named)
    assert source.skipped.count == len(reasons) == 5
    assert "damaged" in reasons["a.tar/broken.png"]
    assert "not a picture" in reasons["a.tar/text.jpg"]
    assert reasons["a.tar/tiny.png"] == "20x60, smaller than a patch of 32 pixels"
    assert any(name.startswith("b.tar") and "ends within" in r for name, r in reasons.items())
    assert "cannot be read as a tar" in reasons["c.tar"] or "damaged" in reasons["c.tar"]
    assert "5 photographs skipped (" in str(source.skipped)
    source.close()


def test_random_access_skips_what_is_damaged(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / name_of(number)).write_bytes(photograph(number))
    # Its header is whole, so that it is found out only when it is drawn.
    (tmp_path / "p002.png").write_bytes(photograph(2)[:500])
    (tmp_path / "p003.png").write_bytes(b"nothing")

    def source() -> PatchSource:
        settings = DataSettings(folder=str(tmp_path), held_out_every=6)
        return open_collection(settings).source(32, texture=0.5, seed=1)

    first = source()
    drawn = draw(first, 60)
    assert {name for name, *_ in drawn} == {"p000.png", "p001.png", "p004.png"}
    assert {name for name, _ in first.skipped.named} == {"p002.png", "p003.png"}
    # Whether it is known to be damaged makes no difference.
    assert draw(first, 60) == drawn == draw(source(), 60)


def test_data_without_a_usable_photograph_is_one_clear_error(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {f"{n}.png": b"bad" for n in range(5)})
    source = stream(tmp_path)
    with pytest.raises(ConfigError, match=r"none of the photographs can be used.*a\.tar/\d\.png"):
        draw(source, 1)
    source.close()
    empty = stream(tmp_path, wanted=lambda name: False)
    with pytest.raises(ConfigError, match="has no photograph to train with"):
        draw(empty, 1)
    empty.close()


@pytest.mark.parametrize("kind", ["shards", "folder", "list_file"])
def test_held_out_photographs_are_never_drawn(kind: str, shards: Path, folder: Path) -> None:
    where = {"shards": shards, "folder": folder, "list_file": folder / "list.txt"}[kind]
    settings = DataSettings(**{kind: str(where)}, access="stream", held_out_every=5, shuffle=10)
    collection = open_collection(settings)
    held = {found.name for found in collection.held_out(COUNT, Skipped())}
    # On the same side however they are packed.
    assert held == {name_of(n) for n in range(COUNT) if is_held_out(name_of(n), 5)}
    assert 2 <= len(held) <= 20
    source = collection.source(32, texture=0.5, seed=1)
    drawn = {name.rsplit("/", 1)[-1] for name, *_ in draw(source, 600)}
    assert drawn == {name_of(n) for n in range(COUNT)} - held
    source.close()
    assert is_held_out("held-out-x.png", 1000)


def test_access_depends_on_how_many_there_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {kind: DataSettings(**{kind: str(folder / end)}) for kind, end in
                (("folder", ""), ("list_file", "list.txt"))}  # fmt: skip
    for given in settings.values():
        found = open_collection(given)
        assert isinstance(found, RandomCollection)
        assert sorted(found.names())[0] == "p000.png"
        assert len(found.train) == 36
    monkeypatch.setattr(collection_module, "RANDOM_LIMIT", COUNT - 1)
    for given in settings.values():
        found = open_collection(given)
        assert found.title == "40 photographs, streamed"
        (name,) = found.names()
        assert name.startswith("40 photographs, streamed, sha256 ")


def test_folders_are_listed_sorted_whatever_fits_into_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = list(index_folder(folder).names())
    monkeypatch.setattr(shards_module, "_RUN", 7)
    monkeypatch.setattr(shards_module, "_BLOCK", 9)
    index = index_folder(folder)
    assert len(index.shards()) == 5
    assert list(index.names()) == whole == sorted(whole)
    assert len(whole) == COUNT


def test_errors_say_what_to_mend(tmp_path: Path) -> None:
    for settings, message in (
        (DataSettings(shards=str(tmp_path)), "names no tar archive"),
        (DataSettings(shards=str(tmp_path / "x-*.tar")), "names no tar archive"),
        (DataSettings(list_file=str(tmp_path / "no.txt")), "no.txt cannot be read"),
        (DataSettings(folder=str(tmp_path / "no"), access="stream"), "does not exist"),
        (DataSettings(folder=str(tmp_path), access="stream"), "holds or names no photographs"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_collection(settings)


def test_environments_go_on_with_the_stream(shards: Path) -> None:
    def environment() -> BlockCodingVectorEnv:
        return BlockCodingVectorEnv(4, source=stream(shards), threads=1)

    first, second = environment(), environment()
    first.reset(seed=1)
    second.reset(seed=2)
    leaves = np.ones((4, 2), np.int64)
    for _ in range(5):
        first.step(leaves)
    np.testing.assert_array_equal(second.restore(first.state()), first.episodes.observations)
    for _ in range(5):
        np.testing.assert_array_equal(first.step(leaves)[0], second.step(leaves)[0])
    assert [p and p.name for p in first.episodes.patches] == [
        p and p.name for p in second.episodes.patches
    ]
    first.close()
    second.close()
