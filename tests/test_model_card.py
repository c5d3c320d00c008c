"""What docs/model-card.md says of the default bundle is so: identity, contents, sources of its data."""

from __future__ import annotations

import hashlib
import re
import runpy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ambi_rl.codec import bundle as bundle_module
from ambi_rl.codec.bundle import Bundle

ROOT = Path(__file__).parent.parent
CARD = (ROOT / "docs" / "model-card.md").read_text(encoding="utf-8")
SCRIPT = ROOT / "scripts" / "bench_screen.py"


def test_the_card_is_of_this_bundle(default_bundle: Bundle) -> None:
    data = Path(bundle_module.__file__).with_name("default.ambic").read_bytes()
    assert f"`{default_bundle.id}`" in CARD
    assert f"`{default_bundle.planes_id}`" in CARD
    assert f"`{hashlib.sha256(data).hexdigest()}`" in CARD
    assert f"{len(data):,} bytes".replace(",", " ") in CARD


@pytest.mark.parametrize("group", ["entropy", "policy", "restoration"])
def test_parts_are_as_large_as_it_says(default_bundle: Bundle, group: str) -> None:
    tensors = getattr(default_bundle, group).values()
    row = next(line for line in CARD.splitlines() if line.startswith(f"| {group}"))
    cells = [cell.strip().replace(" ", "") for cell in row.split("|")[2:-2]]
    found = [int(cell) for cell in cells]
    assert found == [len(tensors), sum(t.size for t in tensors), sum(t.nbytes for t in tensors)]


def test_photographs_are_counted_by_source(default_bundle: Bundle) -> None:
    """Each number of the table is that of a prefix of the names in the manifest."""
    names = [name.split("-", 1)[1] for name in default_bundle.manifest["data"]]
    sources = Counter(re.sub(r"^photos-", "", re.split(r"-(?=n?\d)", name)[0]) for name in names)
    table = CARD[CARD.index("| source | used |") :].split("\n\n")[0].splitlines()[2:]
    found = [int(n) for row in table for n in row.split("|")[2].split(",")]
    assert sum(found) == len(names)
    assert f"{len(names)} photographs" in CARD
    merged = Counter(
        {
            "bsds500": sources.pop("train") + sources.pop("val"),
            "debian": sum(sources.pop(k) for k in sorted(sources) if k.startswith("debian")),
        }
    )
    assert sorted(found) == sorted((sources + merged).values())


def test_kodak_is_not_among_them(default_bundle: Bundle) -> None:
    assert not any("kod" in name.lower() for name in default_bundle.manifest["data"])


def test_the_drawn_page_is_coded_by_all() -> None:
    """The table's rows come out, of a piece of the picture; lossless files are lossless."""
    script = runpy.run_path(str(SCRIPT))
    page: Image.Image = script["draw"]()
    assert page.size == (640, 480)
    part = page.crop((300, 220, 428, 316))
    rows = list(script["files"](part))
    names = [name for name, _, _ in rows]
    assert all(f"| {name} |" in CARD for name in names)
    for name, data, decoded in rows:
        error = np.abs(np.asarray(part, int) - np.asarray(decoded)).max()
        assert (error == 0) == (name in ("PNG, optimized", "WebP, lossless")), name
        assert 0 < len(data) < part.width * part.height * 3
