"""Reads a served site in a real Chromium from when it is empty, while reports are sent to it: python live.py URL ONE OTHER

Needs the package playwright, and a Chromium on PATH or in CHROMIUM. Prints a line for each thing that
does not hold and ends with 1 if there is any.
"""

import json
import os
import shutil
import sys
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

URL, ONE, OTHER = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None
)
failures = []


def check(holds, what):
    if not holds:
        failures.append(what)
        print("does not hold:", what)


def until(page, what):
    """Waits as wait_for_function does, which the site's policy forbids as it evaluates text."""
    deadline = time.monotonic() + 60
    while not page.evaluate(what):
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        page.wait_for_timeout(50)


def ready(page):
    until(page, "document.documentElement.dataset.started === 'yes'")
    until(page, "[...document.querySelectorAll('.chart .plot')].every((plot) => plot.dataset.ready)")


def send(report):
    request = urllib.request.Request(URL + "reports", data=report.read_bytes(), method="POST")
    with urllib.request.urlopen(request) as answer:
        check(answer.status == 201, f"the report is taken in: {answer.status}")


def every_page(page):
    for place in ("compare.html", "cost.html", "history.html", "reports.html", "index.html"):
        page.goto(URL + place)
        ready(page)


def read(browser):
    page = browser.new_page()
    page.on("console", lambda message: check(
        message.type not in ("error", "warning") or "GPU stall" in message.text or "WebGL" in message.text,
        f"quiet console: {message.text}"))
    page.on("pageerror", lambda error: check(False, f"no error: {error}"))
    page.on("request", lambda request: check(
        request.url.startswith((URL, "blob:", "data:")), f"no request beyond itself: {request.url}"))
    every_page(page)
    send(ONE)
    page.locator(".notice[role=status]").wait_for(timeout=60000)
    every_page(page)
    page.goto(URL + "index.html#q=chase")
    page.reload()
    ready(page)
    check(page.locator(".notice").count() == 0, "no notice where nothing has changed")
    devices = page.locator(".tiles strong").first.inner_text()
    send(OTHER)
    notice = page.locator(".notice[role=status]")
    notice.wait_for(timeout=60000)
    check(page.locator(".tiles strong").first.inner_text() == devices, "nothing changes before the reader wants it")
    notice.locator("button").click()
    until(page, f"document.querySelector('.tiles strong')?.textContent !== {json.dumps(devices)}")
    ready(page)
    check(page.url.endswith("#q=chase"), f"the state stays: {page.url}")
    check(page.locator(".notice").count() == 0, "the notice goes with its cause")
    page.goto(URL + "reports.html")
    ready(page)
    with page.expect_navigation():
        page.locator("#files a.code, #files .code a").first.click()
    check("/reports/" in page.url and "schema_version" in page.content(), "a report can be opened")


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    read(browser)
    browser.close()
sys.exit(1 if failures else 0)
