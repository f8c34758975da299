"""The page in headless Chromium: no error, nothing cut off, sorting and folding work, light and dark."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report.conftest import Writer, fill_demo
from tests.report.show.test_page import HOSTILE, keep_classes
from vidgn.report.show.report_files import write_report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    writer = Writer(tmp_path_factory.mktemp("page") / "runs" / "demo")
    fill_demo(writer, seeds=(0, 1))
    keep_classes(writer, HOSTILE)
    write_report(writer.directory)
    return writer.directory / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    profile = tmp_path_factory.mktemp("profile")
    for word in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    driver.set_page_load_timeout(60)  # a browser that hangs fails a test, and does not hold up the rest
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


def test_no_error_and_every_figure(page: Path, browser) -> None:
    browser.get(page.as_uri())
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []
    assert browser.title == "Study demo"  # no name has run
    for name in ("gap", "curves"):
        box = browser.execute_script(f"return document.querySelector('#{name} svg').getBoundingClientRect().toJSON()")
        assert box["width"] > 200
        assert box["height"] > 100


@pytest.mark.parametrize("width", [400, 1400])
def test_no_scrolling_sideways(page: Path, browser, width: int) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.get(page.as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    found = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert found[1] == width
    assert found[0] <= width


def test_sorting_and_folding(page: Path, browser) -> None:
    browser.get(page.as_uri())
    column = "return [...document.querySelectorAll('#gaps tbody tr')].map((r) => r.cells[1].textContent)"
    head = "document.querySelectorAll('#gaps th')[1].click()"
    value = [float(cell.replace("\u2212", "-")) for cell in browser.execute_script(column)]
    for reverse in (True, False):
        browser.execute_script(head)
        shown = [float(cell.replace("\u2212", "-")) for cell in browser.execute_script(column)]
        assert shown == sorted(value, reverse=reverse)
    is_shown = "return document.querySelector('#classes details table').checkVisibility()"
    assert browser.execute_script(is_shown) is False
    browser.execute_script("document.querySelector('#classes summary').click()")
    assert browser.execute_script(is_shown) is True


def test_dark_and_light(page: Path, browser) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get(page.as_uri())
        colours[scheme] = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert colours == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 28)"}


def test_it_is_read_without_javascript(page: Path, browser) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(page.as_uri())
    text = browser.find_element("tag name", "main").text
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "Gap to bn: top-1 accuracy, points" in text
    assert "Where the gaps come from" in text
