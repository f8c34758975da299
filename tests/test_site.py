"""The site: built strictly, complete, every link leads somewhere, nothing is fetched; two widths in a browser."""

import functools
import http.server
import importlib.util
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import get_args
from urllib.parse import unquote, urlsplit

import pytest

import vidgn
from tests.report.show.test_page_in_browser import browser  # noqa: F401  # a fixture
from vidgn.cli.main import EXIT_CODES, verbs
from vidgn.config.fingerprint import declared_kinds
from vidgn.config.norm_kinds import NORM_KINDS
from vidgn.models.activation_memory import Mode

REPO = Path(__file__).resolve().parent.parent
BY_FILE = ("norm.kind", "views.name", "data.format")  # whose choices are the files of their group


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """docs/reference.py."""
    spec = importlib.util.spec_from_file_location("reference", REPO / "docs/reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reference"] = module  # which dataclasses ask for
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


class Links(HTMLParser):
    """What a page leads to, what it loads, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.loaded, self.anchors = list[str](), list[str](), set[str]()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in ("script", "img", "link", "iframe") and given.get("rel") != "canonical":
            self.loaded += [given[name] for name in ("src", "href") if name in given]


def test_every_link_leads_somewhere_and_nothing_is_fetched(site: Path) -> None:
    pages = {path: Links(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 40
    wrong = []
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//"):
                wrong += [f"{path.name} loads {link}"] if link in page.loaded else []
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].anchors):
                wrong.append(f"{path.relative_to(site)} leads to {link}")
    assert wrong == []


def test_the_reference_has_every_key_verb_name_and_code(site: Path, reference: ModuleType) -> None:
    keys = [key.name for key in reference.all_keys()]
    groups = {key.rpartition(".")[0] for key in keys}  # declared as a whole, or keys that hold keys
    assert {*keys, *declared_kinds()} - groups <= Links(site / "reference/config.html").anchors
    commands = (site / "reference/commands.html").read_text()
    assert [verb for verb in verbs() if f"usage: vidgn {verb}" not in commands] == []
    python = Links(site / "reference/python.html").anchors
    names = {f"vidgn.{name}" for name in vidgn.__all__} - {"vidgn.nn", "vidgn.__version__"}
    assert names <= python
    codes = (site / "reference/exit-codes.html").read_text()
    assert [code for code in EXIT_CODES if f"<code>{code}</code>" not in codes] == []


def test_every_key_has_one_line_of_meaning_with_its_choices(reference: ModuleType) -> None:
    keys = reference.all_keys()
    assert len(keys) > 100
    assert [key.name for key in keys if not key.meaning or not key.identity] == []
    for key in keys:
        if key.name not in BY_FILE:
            missing = [choice for choice in key.choices if not re.search(rf"\b{choice}\b", key.meaning)]
            assert not missing, f"conf/{key.file}, {key.name}: its line says nothing of {', '.join(missing)}"


def test_every_key_of_a_file_that_inherits_nothing_has_its_line(reference: ModuleType) -> None:
    for path in sorted((REPO / "conf").glob("*/*.yaml")):
        if path.parent.name == "sweep" or path.read_text().count("\ndefaults:"):
            continue
        said = reference.meanings()
        silent = [k for k, c in reference.comments(path).items() if not c and f"{path.parent.name}.{k}" not in said]
        assert silent == [], path


def test_every_norm_and_memory_mode_has_its_card(site: Path) -> None:
    assert set(NORM_KINDS) <= Links(site / "methods/norms.html").anchors
    assert set(get_args(Mode)) <= Links(site / "methods/memory-modes.html").anchors


def test_every_example_is_shown() -> None:
    shown = (REPO / "docs/tutorials/examples.md").read_text()
    assert [p.name for p in (REPO / "examples").glob("*.py") if f"<!-- file examples/{p.name} -->" not in shown] == []


PAGES = ["index.html", "reference/config.html", "reference/python.html", "tutorials/migration.html", "results.html"]


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Of the site on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1400])
def test_pages_in_a_browser(address: str, browser, width: int) -> None:  # noqa: F811
    """No error, no scrolling sideways."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    for page in PAGES:
        browser.get(f"{address}/{page}")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width, page
        assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == [], page
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
