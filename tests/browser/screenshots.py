"""Takes the pictures of README from a built site: python screenshots.py SITE docs/images"""

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

SITE, TO = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
device = max((SITE / "chips").glob("*.html"), key=lambda page: page.stat().st_size).name

with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    for name, place, scheme in [
        ("overview", "index.html", "light"),
        ("device", f"chips/{device}", "dark"),
        ("compare", "compare.html#op=matmul", "light"),
    ]:
        page = browser.new_page(viewport={"width": 1200, "height": 860}, color_scheme=scheme)
        page.goto(f"{SITE.as_uri()}/{place}")
        page.wait_for_function("[...document.querySelectorAll('.chart .plot')].every((plot) => plot.dataset.ready)")
        page.screenshot(path=TO / f"{name}.png")
    browser.close()
