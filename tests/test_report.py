"""The report of a benchmark: one file, correct views, and a page that works in a real browser."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import os
import random
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ambi_rl.bench.benchmark import Plan, run_benchmark, write_outputs
from ambi_rl.bench.codecs import Codec, webp
from ambi_rl.bench.results import Comparison, CurveEntry, Results, load_results
from ambi_rl.bench.selector import make_codec
from ambi_rl.cli.app import app
from ambi_rl.codec.anatomy import Leaf, leaves_of
from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.container import read_container
from ambi_rl.errors import AmbiError
from ambi_rl.report.blocks import BITS_SCALE, pack_blocks
from ambi_rl.report.build import write_report
from ambi_rl.report.page import render_page
from ambi_rl.report.views import Views, make_views, shown_as, spread

HOSTILE = "<script>pwned=1<script><img src=x onerror=pwned=1>&amp;\"'"
SETTINGS = {
    "ambi:effort=0": (20, 45, 60, 80),
    "ambi:effort=5": (20, 45, 60, 80),
    "jpeg": (10, 40, 80, 95),
    "webp": (5, 50, 95),
    "jpeg2000": (26, 32, 40),
}


def small_codec(selector: str) -> Codec:
    return replace(make_codec(selector), settings=SETTINGS[selector])


@dataclass(frozen=True)
class Made:
    """A benchmark and its page."""

    results: Results = field(repr=False)
    views: Views = field(repr=False)
    text: str = field(repr=False)
    path: Path

    @property
    def data(self) -> dict[str, Any]:
        """What the page's scripts read."""
        found = re.search(r'<script type="application/json" id="data">(.*?)</script>', self.text)
        assert found is not None
        return dict(json.loads(found[1]))


@pytest.fixture(scope="module")
def made(photograph: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two small pictures, one with a name that is markup, measured and shown."""
    folder = tmp_path_factory.mktemp("bench")
    pictures = folder / "pictures"
    pictures.mkdir()
    photograph.save(pictures / "a photograph.png")
    photograph.resize((184, 180)).save(pictures / f"{HOSTILE}.png")
    published = CurveEntry(
        "published <b>curve</b>",
        "by others",
        "vtm.json",
        bpp=(0.05, 0.5, 2.0, 5.0),
        psnr=(24.0, 30.0, 36.0, 45.0),
    )
    codecs = tuple(small_codec(selector) for selector in SETTINGS)
    plan = Plan(
        tuple(sorted(pictures.iterdir())),
        codecs,
        (published,),
        Comparison("JPEG 4:2:0", 26.0, 35.0),
        command=("bench", "pictures", "-o", "out"),
    )
    write_outputs(run_benchmark(plan, folder), folder)
    results = load_results(folder / "results.json")
    views = make_views(results, images=9, budget=10**8)
    text = render_page(results, views)
    path = folder / "report.html"
    path.write_text(text)
    return Made(results, views, text, path)


# ---- views


def test_every_picture_is_shown_at_three_rates_with_every_codec(made: Made) -> None:
    assert made.views.problems == []
    assert made.views.left_out == ""
    assert made.views.reference == "ambi -e 5"
    assert [view.image.name for view in made.views.pictures] == [HOSTILE, "a photograph"]
    for view in made.views.pictures:
        assert set(view.sides) == {"low", "middle", "high"}
        for sides in view.sides.values():
            assert [side.codec for side in sides] == [codec.name for codec in made.results.codecs]


def test_peers_have_the_setting_that_is_closest_in_bytes(made: Made) -> None:
    view = made.views.pictures[1]
    with Image.open(view.image.path) as image:
        rgb = image.convert("RGB")
    for name in ("jpeg", "webp"):
        codec = make_codec(name)
        sizes = {quality: len(codec.encode(rgb, quality)) for quality in range(1, 101)}
        for sides in view.sides.values():
            target = next(side.size for side in sides if side.codec == made.views.reference)
            side = next(side for side in sides if side.codec == codec.name)
            assert sizes[round(side.setting)] == side.size
            best = min(abs(math.log(size / target)) for size in sizes.values())
            # A search that takes sizes to rise everywhere may miss the very best by a little.
            assert abs(math.log(side.size / target)) <= max(best, math.log(1.002)) + 0.01


def test_files_that_browsers_show_are_in_the_page_as_they_are(made: Made) -> None:
    view = made.views.pictures[1]
    with Image.open(view.image.path) as image:
        rgb = image.convert("RGB")
    for side in view.sides["middle"]:
        entry = next(codec for codec in made.results.codecs if codec.name == side.codec)
        codec = make_codec(entry.selector)
        data = codec.encode(rgb, side.setting)
        assert len(data) == side.size
        if entry.family in ("jpeg", "webp"):
            assert side.shown.data == data
        else:
            assert shown_as(data) is None
            assert pixels(side.shown.data) == codec.decode(data).tobytes()
        assert (side.blocks is not None) == (entry.family == "ambi")
    assert pixels(view.original.data) == rgb.tobytes()


def pixels(data: bytes) -> bytes:
    import io

    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB").tobytes()


def test_blocks_are_packed_in_the_order_of_the_quadtree(made: Made, default_bundle: Bundle) -> None:
    leaves = leaves_in(made, default_bundle)
    shuffled = random.Random(1).sample(leaves, len(leaves))
    packed = pack_blocks(shuffled)
    assert packed == pack_blocks(leaves)
    table = np.frombuffer(zlib.decompress(packed.data), np.uint8).reshape(6, packed.blocks)
    # What the entropy coder did first comes first: the order needs no places.
    assert table[0].tolist() == [leaf.decision.size.bit_length() - 1 for leaf in leaves]
    assert table[1].tolist() == [leaf.decision.strategy for leaf in leaves]
    bits = table[3:].astype(np.uint32).T @ [1, 256, 65536] / BITS_SCALE
    np.testing.assert_allclose(bits, [leaf.bits for leaf in leaves], atol=0.5 / BITS_SCALE)


def leaves_in(made: Made, bundle: Bundle) -> list[Leaf]:
    """The blocks of the second picture at the middle rate."""
    view = made.views.pictures[1]
    side = next(s for s in view.sides["middle"] if s.codec == made.views.reference)
    with Image.open(view.image.path) as image:
        data = make_codec("ambi:effort=5").encode(image.convert("RGB"), side.setting)
    return leaves_of(read_container(data), bundle)


def test_pictures_are_spread_evenly(made: Made) -> None:
    many = [replace(made.results.images[0], name=str(i)) for i in range(10)]
    assert [image.name for image in spread(many, 3)] == ["0", "3", "6"]
    assert spread(many, 20) == many
    assert spread(many, 0) == []


def test_a_changed_picture_is_named_and_left_out(made: Made) -> None:
    first = replace(made.results.images[0], sha256="0" * 64)
    gone = replace(made.results.images[1], path="nowhere.png")
    views = make_views(replace(made.results, images=(first, gone)), images=9, budget=10**8)
    assert views.pictures == []
    assert len(views.problems) == 2
    assert "changed since it was measured" in views.problems[0]
    assert "nowhere.png does not exist" in views.problems[1]


def test_a_codec_that_changed_since_is_named_and_left_out(made: Made) -> None:
    points = tuple(
        replace(p, size=p.size + 1) if p.codec == "ambi -e 5" else p for p in made.results.points
    )
    changed = replace(made.results, images=made.results.images[:1], points=points)
    views = make_views(changed, images=1, budget=10**8)
    # Without the file that defines the rate there is nothing to compare with.
    assert views.pictures == []
    ours = [problem for problem in views.problems if "ambi -e 5: setting" in problem]
    assert len(ours) == 3
    assert "measure again" in ours[0]


def test_one_codec_that_fails_costs_only_its_own_pictures(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = replace(webp(), format="none")

    def make(selector: str) -> Codec:
        return broken if selector.startswith("webp") else make_codec(selector)

    monkeypatch.setattr("ambi_rl.report.views.make_codec", make)
    views = make_views(made.results, images=9, budget=10**8)
    assert len(views.pictures) == 2
    for view in views.pictures:
        for sides in view.sides.values():
            assert [s.codec for s in sides] == [
                c.name for c in made.results.codecs if c.name != "WebP"
            ]
    assert len(views.problems) == 2
    assert all(": WebP: KeyError" in problem for problem in views.problems)


def test_a_process_that_dies_is_told(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self, *_: object, **__: object) -> None: ...

        def __enter__(self) -> Broken:
            return self

        def __exit__(self, *_: object) -> None: ...

        def map(self, *_: object) -> None:
            raise BrokenProcessPool

        def shutdown(self, **_: object) -> None: ...

    monkeypatch.setattr("ambi_rl.report.views.ProcessPoolExecutor", Broken)
    with pytest.raises(AmbiError, match="what is measured is kept: make the page with ambi report"):
        make_views(made.results, images=9, budget=10**8, jobs=2)


def test_a_page_without_room_for_pictures_says_so(made: Made, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    assert write_report(made.results, target, megabytes=0.1) == [
        "what did not fit, from the first picture on"
    ]
    assert "The page was full from the first picture on: --report-size" in target.read_text()


def test_names_that_are_no_utf_8_are_spelt_out(made: Made, tmp_path: Path) -> None:
    image = replace(made.results.images[0], name="p\udce9")
    target = tmp_path / "report.html"
    write_report(replace(made.results, images=(image,)), target, images=0)
    assert "p\\udce9" in target.read_text()


def test_the_page_keeps_within_its_size(made: Made, tmp_path: Path) -> None:
    full = len(made.text.encode())
    empty = len(render_page(made.results, Views("", [], "", [])).encode())
    limit = empty + (full - empty) // 2
    target = tmp_path / "report.html"
    (line,) = write_report(made.results, target, megabytes=limit / 1e6)
    assert line.startswith("what did not fit, from")
    assert empty < target.stat().st_size <= limit * 1.02
    assert "The page was full from" in target.read_text()


# ---- the page as a file


def test_equal_benchmarks_give_equal_pages(made: Made) -> None:
    views = make_views(made.results, images=9, budget=10**8, jobs=1)
    assert render_page(made.results, views) == made.text


def test_everything_is_in_one_file(made: Made) -> None:
    # What is between tags of scripts and styles is not markup.
    markup = re.sub(r"<(script|style)\b([^>]*)>.*?</\1>", r"<\1\2>", made.text, flags=re.DOTALL)
    links = re.findall(r"""(?:src|href|action|data|poster)\s*=\s*["']?([^"'\s>]+)""", markup)
    assert set(links) == {"data:,", "#summary"}
    style = re.search(r"<style>(.*?)</style>", made.text, re.DOTALL)
    assert style is not None
    assert not re.search(r"url\(|@import", style[1])


def test_only_the_page_s_own_scripts_may_run(made: Made) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', made.text)
    assert policy is not None
    allowed = html.unescape(policy[1])
    assert "default-src 'none'" in allowed
    assert "unsafe-inline" not in allowed.partition("style-src")[0]
    scripts = re.findall(r"<script>(.*?)</script>", made.text, re.DOTALL)
    assert len(scripts) == 4
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in allowed


def test_names_are_not_markup(made: Made) -> None:
    assert HOSTILE not in made.text
    assert "<b>curve" not in made.text
    data = made.data
    assert [picture["name"] for picture in data["pictures"]] == [HOSTILE, "a photograph"]
    assert data["codecs"][-1]["name"] == "published <b>curve</b>"


def test_the_page_has_what_was_measured(made: Made) -> None:
    data = made.data
    rows = {row["name"]: row for row in data["summary"]}
    assert list(rows) == [*(c.name for c in made.results.codecs), "published <b>curve</b>"]
    assert rows["JPEG 4:2:0"]["anchor"]
    delta = made.results.delta("WebP")
    assert delta is not None
    assert rows["WebP"]["deltas"]["psnr"]["rate"] == delta.bd_rate
    assert rows["WebP"]["bdPsnr"] == delta.bd_quality
    assert rows["published <b>curve</b>"]["encode"] is None
    mean = made.results.mean("WebP")
    assert mean is not None
    assert data["meanCurves"]["WebP"]["psnr"] == list(mean.psnr)
    assert data["command"] == "ambi bench pictures -o out"
    facts = dict(data["facts"])
    assert facts["Quality range"] == "26 to 35 dB RGB-PSNR"
    assert facts["Interpolation"].startswith("PCHIP")
    assert "of pictures" in made.text.partition("</title>")[0]


def test_equal_pictures_and_missing_metrics_are_null(made: Made) -> None:
    points = tuple(replace(p, psnr=math.inf, ssim=None) for p in made.results.points)
    data = Made(
        made.results,
        made.views,
        render_page(replace(made.results, points=points), Views("", [], "", [])),
        made.path,
    ).data
    curve = data["pictures"][0]["curves"]["WebP"]
    assert curve["psnr"] == [None] * 3
    assert "ssim" not in curve


# ---- the command


def test_the_command_makes_the_page_anew(made: Made, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    arguments = ["report", str(made.path.parent), "-o", str(target), "--report-images", "0"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert target.read_text() == render_page(made.results, Views("", [], "", []))


def test_a_measured_folder_gets_its_page_without_measuring(
    photograph: Image.Image, tmp_path: Path
) -> None:
    photograph.crop((0, 0, 64, 48)).save(tmp_path / "x.png")
    bench = ["bench", str(tmp_path / "x.png"), "-o", str(tmp_path / "out"), "--codec", "jpeg"]
    done = CliRunner().invoke(app, [*bench, "--efforts", "0"])
    assert done.exit_code == 0, done.output
    points = (tmp_path / "out" / "points.jsonl").read_bytes()
    assert not (tmp_path / "out" / "report.html").exists()
    done = CliRunner().invoke(app, [*bench, "--efforts", "0", "--report"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "points.jsonl").read_bytes() == points
    text = (tmp_path / "out" / "report.html").read_text()
    assert text.count(';base64" id="asset-') > 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "nowhere"], "results.json does not exist"),
        (["bench", "x.png", "-o", "out", "--report-images", "3"], "--report-images needs --report"),
        (["bench", "x.png", "-o", "out", "--report-size", "3"], "--report-size needs --report"),
    ],
)
def test_what_cannot_work_is_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert not (tmp_path / "out").exists()


# ---- the page in a browser

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NEEDS_BROWSER = "AMBI_NEEDS_BROWSER"
"""Environment variable: the browser's tests fail, rather than being skipped, where there is none."""

browser_test = pytest.mark.browser
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A real browser, of the system; none is ever downloaded."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        message = "there is no chromium: apt-get install chromium"
        pytest.fail(message) if os.environ.get(NEEDS_BROWSER) else pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any, made: Made) -> Iterator[Open]:
    """Opens the page offline; at the end there must have been no error, message or request."""
    problems: list[str] = []
    contexts = []

    def open_page(**options: Any) -> Any:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        context.set_offline(True)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: note(request.url))
        page.goto(made.path.as_uri())
        page.wait_for_selector("#chart .main-svg")
        settle(page)
        return page

    def note(url: str) -> None:
        if url != made.path.as_uri() and not url.startswith(("data:", "blob:")):
            problems.append(url)

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def settle(page: Any) -> None:
    """Wait until the viewer shows what is chosen, and has drawn it."""
    wait(
        page,
        "Boolean(viewer.shown && !viewer.canvas.hasAttribute('aria-busy') && !viewer.viewport.waiting)",
    )


def wait(page: Any, condition: str) -> None:
    """Wait for a condition (`wait_for_function` would have the page evaluate it, which it refuses)."""
    for _ in range(800):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    pytest.fail(f"never: {condition}")


def choose(page: Any, group: str, value: str) -> None:
    page.locator(f"#{group} input[value='{value}']").check(force=True)
    settle(page)


def canvas(page: Any) -> str:
    return str(page.evaluate("viewer.canvas.toDataURL()"))


@browser_test
def test_it_opens_offline_with_curves_tables_and_pictures(opened: Open, made: Made) -> None:
    page = opened()
    assert page.evaluate("document.getElementById('chart').data.length") == 6
    buttons = page.evaluate(
        "[...document.querySelectorAll('#chart .modebar-btn')].map((b) => b.dataset.title)"
    )
    # Plotly offers to upload the chart unless it is told not to.
    assert set(buttons) == {
        "Zoom",
        "Pan",
        "Zoom in",
        "Zoom out",
        "Reset axes",
        "Download plot as a PNG",
    }
    assert page.locator("#summary-table tbody tr").count() == 6
    assert page.locator("#picture-table tbody tr").count() == 2
    assert "ambi -e 5" in page.locator("#caption-left").inner_text()
    assert "JPEG 4:2:0" in page.locator("#caption-right").inner_text()


@browser_test
def test_hostile_names_are_text(opened: Open) -> None:
    page = opened()
    assert page.evaluate("typeof pwned") == "undefined"
    assert page.locator("#picture-table tbody th").first.inner_text() == HOSTILE
    assert page.locator("#chart .legendtext").last.text_content() == "published <b>curve</b>"
    assert page.locator("img[src='x']").count() == 0


@browser_test
def test_a_policy_forbids_what_is_not_the_page_s_own(chromium: Any, made: Made) -> None:
    page = chromium.new_page()
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.goto(made.path.as_uri())
    page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'pwned = 1';"
        "document.body.append(s); fetch('http://127.0.0.1:9/').catch(() => {}); }"
    )
    page.wait_for_timeout(200)
    assert page.evaluate("typeof pwned") == "undefined"
    assert any("http://127.0.0.1:9/" in message for message in messages)
    page.close()


@browser_test
def test_tables_sort_by_click_and_by_key(opened: Open, made: Made) -> None:
    page = opened()
    heading = page.locator("#summary-table thead th").nth(1)
    names = "[...document.querySelectorAll('#summary-table tbody th')].map((e) => e.innerText)"
    assert heading.get_attribute("aria-sort") == "ascending"
    ascending = page.evaluate(names)
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert page.evaluate(names) == ascending[::-1]
    # By name, with the keyboard alone.
    first = page.locator("#summary-table thead th").first
    first.locator("button").focus()
    page.keyboard.press("Enter")
    assert first.get_attribute("aria-sort") == "ascending"
    assert heading.get_attribute("aria-sort") is None
    assert page.evaluate(names)[:2] == ["ambi -e 0", "ambi -e 5"]
    # What has no value stays last, either way.
    seconds = page.locator("#summary-table thead th").last.locator("button")
    for _ in range(2):
        seconds.click()
        assert page.evaluate(names)[-1].startswith("published")


@browser_test
def test_the_divider_moves_by_key_mouse_and_touch(opened: Open) -> None:
    page = opened(has_touch=True)
    divider = page.locator("#divider")
    assert divider.get_attribute("role") == "slider"

    def now() -> float:
        return float(divider.get_attribute("aria-valuenow"))

    divider.focus()
    for key, expected in [
        ("Home", 0),
        ("ArrowLeft", 0),
        ("ArrowRight", 1),
        ("Shift+ArrowUp", 11),
        ("PageUp", 21),
        ("ArrowDown", 20),
        ("End", 100),
        ("PageDown", 90),
    ]:
        page.keyboard.press(key)
        assert now() == expected, key
    assert "ambi -e 5 on the left" in divider.get_attribute("aria-valuetext")
    page.locator("#canvas").scroll_into_view_if_needed()
    box = page.locator("#canvas").bounding_box()
    middle = box["y"] + box["height"] / 2
    before = canvas(page)
    page.mouse.move(box["x"] + 0.9 * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.25 * box["width"], middle, steps=4)
    page.mouse.up()
    assert now() == pytest.approx(25, abs=1)
    settle(page)
    assert canvas(page) != before
    touch = page.context.new_cdp_session(page)

    def send(kind: str, share: float | None = None) -> None:
        at = [] if share is None else [{"x": box["x"] + share * box["width"], "y": middle}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

    send("touchStart", 0.25)
    send("touchMove", 0.5)
    send("touchMove", 0.75)
    send("touchEnd")
    assert now() == pytest.approx(75, abs=1)


@browser_test
def test_pictures_rates_and_sides_can_be_chosen(opened: Open, made: Made) -> None:
    page = opened()
    seen = {canvas(page)}
    view = made.views.pictures[1]
    page.locator("#strip input[value='1']").check(force=True)
    settle(page)
    seen.add(canvas(page))
    for rate in ("low", "high"):
        choose(page, "rate", rate)
        seen.add(canvas(page))
        side = next(s for s in view.sides[rate] if s.codec == "JPEG 4:2:0")
        shown = page.locator("#caption-right .size").get_attribute("title")
        assert shown == f"{side.size:,} bytes"
    for name in ("JPEG 2000", "WebP", "original"):
        page.locator("#right").select_option(name)
        settle(page)
        seen.add(canvas(page))
        assert name.lower() in page.locator("#caption-right strong").inner_text().lower()
    page.locator("#swap").click()
    settle(page)
    assert page.locator("#caption-left").inner_text().startswith("Original")
    assert len(seen) == 7


@browser_test
def test_pixels_are_exact(opened: Open, made: Made) -> None:
    page = opened()
    number = made.data["views"][1]["original"]
    code = "async (n) => Array.from(pixelsOf(await picture(n)).data)"
    rgba = np.array(page.evaluate(code, number), np.uint8).reshape(-1, 4)
    assert rgba[:, :3].tobytes() == pixels(made.views.pictures[1].original.data)


@browser_test
def test_the_difference_is_absolute_and_amplified(opened: Open) -> None:
    page = opened()
    choose(page, "mode", "difference")
    assert not page.locator("#divider").is_visible()
    text = page.locator("#readout").inner_text()
    assert re.search(r"× 8; the largest is [1-9]\d* of 255", text)
    weak = canvas(page)
    page.locator("#gain").select_option("32")
    settle(page)
    assert canvas(page) != weak
    page.locator("#right").select_option("ambi -e 5")
    settle(page)
    assert "the largest is 0 of 255" in page.locator("#readout").inner_text()


@browser_test
def test_overlays_have_the_encoder_s_blocks_and_a_legend(
    opened: Open, made: Made, default_bundle: Bundle
) -> None:
    page = opened()
    page.locator("#strip input[value='1']").check(force=True)
    settle(page)
    plain = {canvas(page)}
    for kind, title in [
        ("partition", "Partition"),
        ("strategy", "Prediction strategy"),
        ("offset", "Quantization offset"),
        ("bits", "Bits per block"),
    ]:
        choose(page, "overlay", kind)
        assert page.locator("#legend h3").first.inner_text() == title
        assert canvas(page) not in plain
        plain.add(canvas(page))
    found = page.evaluate("viewer.shown.overlays[0].list")
    expected = leaves_in(made, default_bundle)
    assert len(found) == len(expected)
    for block, leaf in zip(found, expected, strict=True):
        d = leaf.decision
        assert (block["y"], block["x"], block["size"]) == (d.y, d.x, d.size)
        assert (block["strategy"], block["offset"]) == (d.strategy, d.offset)
        assert block["bits"] == pytest.approx(leaf.bits, abs=0.5 / BITS_SCALE)
    page.locator("#canvas").hover(position={"x": 3, "y": 3})
    assert page.locator("#readout").inner_text().startswith("pixel 0, 0, block")
    choose(page, "overlay", "none")
    assert not page.locator("#legend").is_visible()


@browser_test
def test_zoom_and_pan(opened: Open) -> None:
    page = opened(viewport={"width": 500, "height": 900})
    whole = canvas(page)
    choose(page, "zoom", "4")
    zoomed = canvas(page)
    assert zoomed != whole
    assert "400 %" in page.locator("#zoom legend").inner_text()
    picture = page.locator("#canvas")
    picture.focus()
    page.keyboard.press("ArrowRight")
    settle(page)
    assert canvas(page) != zoomed
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 140, box["y"] + 100, steps=3)
    page.mouse.up()
    left, top = page.evaluate("viewer.viewport.centre")
    width, height = page.evaluate("[viewer.viewport.width, viewer.viewport.height]")
    assert left < width / 2
    assert top < height / 2
    page.keyboard.press("0")
    settle(page)
    assert canvas(page) == whole


@browser_test
def test_curves_can_be_chosen_and_zoomed_by_key(opened: Open) -> None:
    page = opened()
    chart = "document.getElementById('chart')"
    page.locator("#curve-where").select_option(label="a photograph")
    # What was imported has no curve of one picture.
    assert page.evaluate(f"{chart}.data.length") == 5
    page.locator("#curve-metric").select_option("ssim")
    assert "SSIM" in page.evaluate(f"{chart}.layout.yaxis.title.text")
    choose(page, "curve-scale", "log")
    assert page.evaluate(f"{chart}.layout.xaxis.type") == "log"
    span = f"{chart}._fullLayout.yaxis.range[1] - {chart}._fullLayout.yaxis.range[0]"
    before = page.evaluate(span)
    page.locator("#chart").focus()
    page.keyboard.press("+")
    assert page.evaluate(span) == pytest.approx(0.8 * before)
    page.keyboard.press("0")
    wait(page, f"Math.abs({span} - {before}) < 0.01 * {before}")
    page.locator("#chart-numbers summary").click()
    # The table is made at the `toggle` event, which a browser sends in its own time after the click.
    rows = "document.querySelectorAll('#chart-numbers tbody tr').length"
    wait(page, f"{rows} > 0")
    assert page.evaluate(rows) == 4 + 4 + 4 + 3 + 3


@browser_test
def test_a_picture_s_name_leads_to_its_curves_and_view(opened: Open) -> None:
    page = opened()
    page.get_by_role("button", name="a photograph").click()
    settle(page)
    assert page.locator("#strip input:checked").get_attribute("value") == "1"
    assert page.locator("#curve-where").input_value() == "1"
    assert page.evaluate("document.activeElement.id") == "pictures"


@browser_test
def test_what_was_sorted_stays_sorted(opened: Open) -> None:
    page = opened()
    names = "[...document.querySelectorAll('#picture-table tbody th')].map((e) => e.innerText)"
    heading = page.locator("#picture-table thead th button").first
    heading.click()
    heading.click()
    summary = page.locator("#summary-table tbody")
    page.evaluate("document.querySelector('#summary-table tbody').dataset.mark = 'kept'")
    assert page.evaluate(names) == ["a photograph", HOSTILE]
    page.locator("#picture-metric").select_option("ssim")
    assert page.evaluate(names) == ["a photograph", HOSTILE]
    assert summary.get_attribute("data-mark") == "kept"
    page.locator("#theme-toggle").click()
    assert page.evaluate(names) == ["a photograph", HOSTILE]
    assert summary.get_attribute("data-mark") is None


@browser_test
def test_stars_say_of_which_part(opened: Open, made: Made) -> None:
    page = opened()
    cells = page.locator("#summary-table td, #picture-table td").all_text_contents()
    marked = [cell for cell in cells if "*" in cell]
    assert marked
    assert all(
        re.search(r", a part of the range: over .+ to .+ (dB|bit/pixel)$", c) for c in marked
    )


@browser_test
def test_light_and_dark(opened: Open) -> None:
    page = opened(color_scheme="dark")
    lightness = (
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        ".reduce((a, b) => a + b) / 3"
    )
    ink = "document.getElementById('chart').layout.font.color"
    toggle = page.locator("#theme-toggle")
    assert page.evaluate(lightness) < 60
    assert toggle.get_attribute("aria-pressed") == "true"
    dark_ink = page.evaluate(ink)
    toggle.click()
    assert page.evaluate(lightness) > 200
    assert toggle.get_attribute("aria-pressed") == "false"
    assert page.evaluate(ink) != dark_ink
    page.emulate_media(color_scheme="light")
    toggle.click()
    assert page.evaluate(lightness) < 60


@browser_test
def test_a_phone_scrolls_down_only(opened: Open) -> None:
    page = opened(
        viewport={"width": 360, "height": 740},
        device_scale_factor=2,
        is_mobile=True,
        has_touch=True,
    )
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    # Controls are large enough for a finger.
    for selector in ("#zoom label", "#swap", "#left", "#divider", "#theme-toggle"):
        box = page.locator(selector).first.bounding_box()
        assert min(box["width"], box["height"]) >= 32, selector
