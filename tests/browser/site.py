"""Drives a built site in a real Chromium, as its readers would.

Needs the packages playwright and axe-playwright-python, and a Chromium on PATH or in CHROMIUM. Prints a
line for each thing that does not hold and ends with 1 if there is any.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

arguments = argparse.ArgumentParser(description=__doc__)
arguments.add_argument("site", type=Path)
arguments.add_argument("--screenshots", type=Path, help="folder for pictures of the top pages")
arguments.add_argument("--pages-only", action="store_true", help="of a site with other devices than the published reports'")
arguments = arguments.parse_args()
SITE, SHOTS = arguments.site.resolve(), arguments.screenshots
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None
)
PAGES = sorted(str(path.relative_to(SITE)) for path in SITE.rglob("*.html"))
TOP = [page for page in PAGES if "/" not in page]
failures = []


def check(holds, what):
    if not holds:
        failures.append(what)
        print("does not hold:", what)


def place_of(address):
    return address.removeprefix(f"{SITE.as_uri()}/")


def rows(page, table):
    return page.locator(f"#{table} tbody tr").count()


def column(page, table, number):
    return page.evaluate(
        "([table, number]) => [...document.querySelectorAll(`#${table} tbody tr`)].map((row) => row.cells[number].dataset.v ?? row.cells[number].textContent)",
        [table, number],
    )


class Reader:
    """One browser window that notes whatever a page should not do."""

    def __init__(self, browser, **options):
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 1000}, **options})
        self.page = self.context.new_page()
        self.at = ""
        self.page.on("console", self.console)
        self.page.on("pageerror", lambda error: check(False, f"{self.at}: no error: {error}"))
        self.page.on("request", self.request)
        self.page.on("dialog", lambda dialog: check(False, f"{self.at}: no dialog: {dialog.message}"))

    def console(self, message):
        if message.type in ("error", "warning") and "GPU stall" not in message.text and "WebGL" not in message.text:
            check(False, f"{self.at}: quiet console: {message.text}")

    def request(self, request):
        own = request.url.startswith((SITE.as_uri(), "blob:file:", "blob:null", "data:"))
        check(own, f"{self.at}: no request beyond itself: {request.url}")

    def open(self, place):
        self.at = place
        self.page.goto("about:blank")
        self.page.goto(f"{SITE.as_uri()}/{place}")
        if self.page.evaluate("typeof chipmark") == "object":
            self.page.wait_for_function("document.documentElement.dataset.started === 'yes'")
            self.page.wait_for_function(
                "[...document.querySelectorAll('.chart .plot')].every((plot) => plot.dataset.ready)", timeout=60000
            )
        return self.page

    def shot(self, name, whole=False):
        if SHOTS:
            SHOTS.mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=SHOTS / f"{name}.png", full_page=whole)


def every_page(browser):
    axe = Axe()
    for scheme in ("light", "dark"):
        for width in (1280, 390):
            reader = Reader(browser, color_scheme=scheme, viewport={"width": width, "height": 900})
            for place in PAGES if width == 1280 and scheme == "light" else TOP + PAGES[:1]:
                page = reader.open(place)
                overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                check(overflow <= 0, f"{place} at {width}: nothing wider than the window, {overflow} px are")
                footer = page.locator("footer").inner_text()
                check("Made by" in footer and "chipmark 0." in footer, f"{place}: says what made it")
                check(page.evaluate("globalThis.hacked") is None, f"{place}: no script of a report runs")
                if place in TOP or width == 1280:
                    found = axe.run(page, options={"preload": False}).response["violations"]
                    for one in found:
                        if one["impact"] in ("serious", "critical"):
                            where = json.dumps(one["nodes"][0]["target"])
                            check(False, f"{place} {scheme} {width}: accessible: {one['id']}: {one['help']} at {where}")
                if place in TOP:
                    reader.shot(f"{place[:-5]}-{scheme}-{width}")
            reader.context.close()


def tables(browser):
    reader = Reader(browser)
    page = reader.open("index.html")
    all_rows = rows(page, "best")
    page.select_option("[name=op]", "")
    page.select_option("[name=dtype]", "")
    check(rows(page, "best") > all_rows, "overview: a wider filter shows more rows")
    page.fill("[name=q]", "attention")
    ops = set(column(page, "best", 2))
    check(ops == {"attention"}, f"overview: a search leaves attention, not {ops}")
    page.click("#best th:nth-child(5) button")
    values = [float(value) for value in column(page, "best", 4)]
    check(values == sorted(values, reverse=True) and len(values) > 1, "overview: sorted by rate, best first")
    address = page.url
    check("q=attention" in address and "best.sort=4-descending" in address, f"overview: the address keeps it: {address}")
    before = column(page, "best", 0)
    page = reader.open(place_of(address))
    check(column(page, "best", 0) == before, "overview: the address brings it back")
    with page.expect_download() as download:
        page.click("[data-csv=best]")
    text = Path(download.value.path()).read_text()
    lines = text.strip().split("\n")
    check(len(lines) == len(before) + 1 and lines[0].startswith("Device,Runner,Op"), "overview: the CSV has these rows")
    page.keyboard.press("Tab")
    page.focus("#best th:nth-child(1) button")
    page.keyboard.press("Enter")
    check(page.get_attribute("#best th:nth-child(1)", "aria-sort") == "ascending", "overview: sorts by keyboard")
    page.click("[type=reset]")
    check(rows(page, "best") == all_rows, "overview: reset brings the first view back")

    page.click("button.theme")
    theme = page.evaluate("document.documentElement.dataset.theme")
    check(theme == "dark", f"overview: the button turns it dark, not {theme}")

    link = page.locator("#best tbody tr a").nth(1).get_attribute("href")
    page = reader.open(link)
    case = page.locator("tr.chosen").count()
    check(case >= 1, f"{link}: the case of the link is marked")
    page.select_option("[name=status]", "measured")
    check(set(column(page, "cases", 2)) == {"measured"}, "chip: filters by outcome")
    points = page.evaluate("document.querySelector('#roofline .plot').data.length")
    check(points > 2, "chip: the roofline is drawn")
    reader.context.close()


def comparing(browser):
    still = Reader(browser, java_script_enabled=False)
    page = still.page
    page.goto(f"{SITE.as_uri()}/compare.html")
    def table(number):
        return [cell.get_attribute("data-v") or cell.inner_text() for cell in page.locator(f"#ratios tbody td:nth-child({number})").all()]
    names, ratios, lows = table(1), table(4), table(5)
    check(len(names) > 0, "compare: there without scripts")
    reader = Reader(browser)
    page = reader.open("compare.html")
    page.wait_for_function("document.querySelector('#summary').textContent !== ''")
    check(sorted(column(page, "ratios", 0)) == sorted(names), "compare: the same cases with and without scripts")
    def by_name(names, values):
        return sorted((name, round(float(value), 9)) for name, value in zip(names, values))
    live = column(page, "ratios", 0)
    check(by_name(live, column(page, "ratios", 4)) == by_name(names, ratios), "compare: the browser's ratios are the program's")
    check(by_name(live, column(page, "ratios", 5)) == by_name(names, lows), "compare: the browser's intervals are the program's")
    boxes = page.locator("#pickers input[type=checkbox]:not(:checked)")
    if boxes.count():
        before = page.url
        boxes.first.check()
        page.wait_for_function("(url) => location.href !== url", arg=before)
        check("chips=" in page.url, "compare: the address names the devices")
        kept = page.inner_text("#summary")
        page = reader.open(place_of(page.url))
        page.wait_for_function("document.querySelector('#summary').textContent !== ''")
        check(page.inner_text("#summary") == kept or "," in page.url, "compare: the address brings them back")
    reader.context.close()
    still.context.close()


def money(browser):
    reader = Reader(browser)
    page = reader.open("cost.html")
    if not page.locator("#costs").count():
        reader.context.close()
        return
    def price(device, dollars):
        page.select_option("[name=priced]", index=device)
        page.fill("[name=price]", str(dollars))
        page.press("[name=price]", "Enter")
    price(0, 0.05)
    price(1, 0.10)
    rates, hours, tokens = (column(page, "costs", number) for number in (5, 8, 9))
    for rate, hour, usd in zip(rates, hours, tokens):
        if hour:
            check(abs(float(usd) - float(hour) / 3600 / float(rate) * 1e6) < 1e-9 * float(usd), "cost: dollars are price over rate")
    check(any(hours), "cost: a given price stands in the table")
    said = page.inner_text("#breakeven")
    check("costs as much as" in said, f"cost: a break-even price is said: {said}")
    page.evaluate("const s = document.querySelector('[name=log-price]'); s.value = 1; s.dispatchEvent(new Event('input', { bubbles: true }))")
    check(page.inner_text("#breakeven") != "" and "10" in column(page, "costs", 8), "cost: the slider moves the price")
    address = page.url
    check("prices=" in address, "cost: the address keeps the prices")
    page = reader.open(place_of(address))
    check("10" in column(page, "costs", 8), "cost: the address brings the prices back")
    reader.shot("cost-priced")
    reader.context.close()


def trends(browser):
    reader = Reader(browser)
    page = reader.open("history.html")
    select = page.locator("#series select[name=series]")
    if select.count() and select.locator("option").count() > 1:
        page.select_option("#series select[name=series]", index=1)
        page.wait_for_function("location.hash.includes('series=')")
        kept = page.evaluate("document.querySelector('#points tbody').textContent")
        page = reader.open(place_of(page.url))
        page.wait_for_function("document.querySelector('#points tbody tr')")
        check(page.evaluate("document.querySelector('#points tbody').textContent") == kept, "history: the address brings the series back")
    reader.context.close()


def main():
    if CHROMIUM is None:
        sys.exit("no Chromium is on PATH; CHROMIUM names one")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        every_page(browser)
        if not arguments.pages_only:
            tables(browser)
            comparing(browser)
            money(browser)
        if "history.html" in PAGES:
            trends(browser)
        browser.close()
    print(f"{len(PAGES)} pages, {len(failures)} things do not hold")
    sys.exit(1 if failures else 0)


main()
