"""Takes a picture of a benchmark's report in the system's Chromium: docs/images/report.png.

python scripts/screenshot_report.py out/report.html -o docs/images/report.png
python scripts/screenshot_report.py out/report.html -o phone.png --width 390 --dark --part page
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PARTS = {"summary": "main > section:nth-of-type(2)", "viewer": "#viewer", "page": None}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("report", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="PNG, JPEG or WebP")
    parser.add_argument("--part", choices=PARTS, default="viewer")
    parser.add_argument("--width", type=int, default=1280, help="of the window, in pixels")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--picture", help="its name; the first one if not given")
    parser.add_argument("--left", default=None, help="a codec's name, or original")
    parser.add_argument("--right", default=None)
    parser.add_argument("--rate", choices=("low", "middle", "high"), default="middle")
    parser.add_argument("--overlay", default="none", help="partition, strategy, offset, bits")
    return parser.parse_args()


def settle(page: Any) -> None:
    # The page's policy refuses what `wait_for_function` does, so the script asks again and again.
    while not page.evaluate("Boolean(viewer?.shown && !viewer.canvas.hasAttribute('aria-busy'))"):
        page.wait_for_timeout(50)
    page.wait_for_timeout(300)


def prepare(page: Any, arguments: argparse.Namespace) -> None:
    """Choose in the viewer what the arguments name."""
    if arguments.picture is not None:
        page.locator(f"#strip label[title={arguments.picture!r}] input").check(force=True)
        settle(page)
    if page.locator(f"#rate input[value={arguments.rate}]").count():
        page.locator(f"#rate input[value={arguments.rate}]").check(force=True)
        settle(page)
    for side in ("left", "right"):
        if getattr(arguments, side) is not None:
            page.locator(f"#{side}").select_option(getattr(arguments, side))
            settle(page)
    page.locator(f"#overlay input[value={arguments.overlay}]").check(force=True)
    settle(page)


def main() -> None:
    arguments = parse_arguments()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("there is no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(
            viewport={"width": arguments.width, "height": 1000},
            color_scheme="dark" if arguments.dark else "light",
        )
        page.goto(arguments.report.resolve().as_uri())
        page.wait_for_selector("#chart .main-svg")
        if page.locator("#canvas").count():
            settle(page)
            prepare(page, arguments)
        selector = PARTS[arguments.part]
        shot = page.locator(selector).screenshot() if selector else page.screenshot(full_page=True)
        browser.close()
    image = Image.open(io.BytesIO(shot)).convert("RGB")
    image.save(arguments.output, optimize=True, quality=88)
    print(
        f"{arguments.output}: {image.width}x{image.height}, {arguments.output.stat().st_size} bytes"
    )


if __name__ == "__main__":
    main()
