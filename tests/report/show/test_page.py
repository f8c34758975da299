"""The page of a study: everything in it, names shown as text, tables that agree with the files beside it."""

import csv
import dataclasses
import gzip
import html.parser
import http.client
import json
import re
import threading

import numpy as np
import pytest

from tests.report.conftest import fill_demo
from vidgn.cli.report import run
from vidgn.cli.report_server import _Server
from vidgn.report.analyse.analysis import analyse
from vidgn.report.analyse.origin import origin_of
from vidgn.report.read.study import read_study
from vidgn.report.show.report_files import write_report
from vidgn.report.show.tables import Table

HOSTILE = (
    "<script>document.title='run'</script>",
    '"><img src=x onerror=alert(1)>',
    "a\u202etxt.exe\x1b[2J",
    '=HYPERLINK("http://x")',
    "50%_of $x^2$ & {more} \\input{/etc/passwd}",
    "שלום",
    "long " * 50,
    "plain",
)


class Page(html.parser.HTMLParser):
    """Tables by the heading before them, and every address that a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.fetched: list[str] = []
        self.tags: set[str] = set()
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        told = dict(attrs)
        self.fetched += [v for k in ("src", "data") if (v := told.get(k))]
        if tag == "link":
            self.fetched.append(told["href"] or "")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.tables[-1][-1][-1] += data


def keep_classes(writer, names) -> None:
    for directory in writer.directory.glob("i3d*"):
        (directory / "videos").mkdir()
        lists = {"base": "", "ids": [], "paths": [], "labels": [], "classes": list(names)}
        (directory / "videos" / "val.json.gz").write_bytes(gzip.compress(json.dumps(lists).encode()))


def test_the_page_stands_alone(demo) -> None:
    run([str(demo.directory)])
    text = (demo.directory / "report.html").read_text()
    page = Page(text)
    assert len(text) < 5e6
    assert all(address.startswith("data:") for address in page.fetched), page.fetched
    assert not re.findall(r"url\(|@import|https?://(?!www\.w3\.org)", re.sub(r"<svg.*?</svg>", "", text, flags=re.S))
    assert "<svg" in text
    for heading in ("Gap to bn", "Whether the arms differ in the norm alone", "Training", "Where the gaps come from"):
        assert heading in text


def test_tables_agree_to_the_digit(demo) -> None:
    run([str(demo.directory)])
    page = Page((demo.directory / "report.html").read_text())
    told = json.loads((demo.directory / "report.json").read_text())["tables"]
    assert {t["name"] for t in told} >= {"accuracy_i3d_tiny", "gaps", "changes", "classes_0", "data"}
    for table in told:
        cells = [table["header"], *table["rows"]]
        assert cells in page.tables, table["name"]
        with open(demo.directory / "tables" / f"{table['name']}.csv", newline="") as file:
            assert [[cell.removeprefix("'") for cell in row] for row in csv.reader(file)] == cells
        latex = (demo.directory / "tables" / f"{table['name']}.tex").read_text()
        assert latex.count(r"\\") == len(cells)


def test_files_of_an_earlier_state_are_removed(demo) -> None:
    run([str(demo.directory)])
    for directory in demo.directory.glob("*_gn_s0"):
        (directory / "result.json").unlink()
    run([str(demo.directory)])
    assert not (demo.directory / "tables" / "gaps.csv").exists()
    assert not (demo.directory / "gap.pdf").exists()


def test_names_full_of_markup_are_text(writer, make_ranks) -> None:
    for norm in ("bn", "gn"):
        writer.finish(writer.config(norm=norm, gpus=2), make_ranks(200, 0.6, seed=len(norm)))
    keep_classes(writer, HOSTILE)
    for file in writer.directory.glob("*/tests/*.csv"):
        file.write_text(file.read_text().replace("video_00001", "<b onclick=x>_\u202e"))
    run([str(writer.directory)])
    text = (writer.directory / "report.html").read_text()
    page = Page(text)
    assert page.tags.isdisjoint({"img", "b", "iframe", "object"})
    assert text.count("<script") == 1
    assert "\x1b" not in text
    assert "\u202e" not in text
    (classes,) = (t for t in page.tables if t[0][0] == "class" and t[0][-1] == "lost")
    assert classes[1][0] == HOSTILE[0]
    assert "שלום" in [row[0] for row in classes]
    table = (writer.directory / "tables" / "classes_0.csv").read_text()
    assert "'=HYPERLINK" in table
    latex = (writer.directory / "tables" / "classes_0.tex").read_text()
    assert r"\textbackslash{}input\{/etc/passwd\}" in latex
    assert r"50\%\_of \$x\textasciicircum{}2\$ \& \{more\}" in latex
    assert "\u202e" not in latex + table


def test_numbers_are_no_formulas() -> None:
    table = Table.of("t", "t", ["a"], [["+1.2"], ["-3"], ["−0.4"], ["-x"], ["@a"], ["± 1"]])
    assert table.csv().split("\n")[1:7] == ["+1.2", "-3", "−0.4", "'-x", "'@a", "± 1"]


def test_classes_by_hand(writer, make_ranks) -> None:
    """Video i is of class i % 8; the writer predicts class 0 for all that are wrong."""
    ranks = {norm: make_ranks(160, share, seed=i) for i, (norm, share) in enumerate([("bn", 0.6), ("gn", 0.7)])}
    for norm, of_norm in ranks.items():
        writer.finish(writer.config(norm=norm, gpus=2), of_norm)
    keep_classes(writer, [f"class {k}" for k in range(9)])
    (gap,) = analyse(read_study(writer.directory)).gaps
    origin = origin_of(gap)
    assert origin.absent == ("class 8",)
    right = {norm: of_norm == 0 for norm, of_norm in ranks.items()}
    for k, row in enumerate(origin.rows):
        of_class = np.arange(160) % 8 == k
        ours, theirs = right["gn"][of_class], right["bn"][of_class]
        assert (row.name, row.num_videos) == (f"class {k}", 20)
        assert (row.arm, row.baseline) == pytest.approx((100 * ours.mean(), 100 * theirs.mean()))
        assert (row.won, row.lost) == ((ours & ~theirs).sum(), (theirs & ~ours).sum())
        assert row.low <= row.points <= row.high
    assert origin.mean_class[0] == pytest.approx(100 * right["gn"].mean())
    assert origin.num_flips == (right["gn"] != right["bn"]).sum()
    changed = {(label, said): (a, b) for label, said, a, b in origin.confusions}
    assert changed["class 3", "class 0"] == (
        (~right["gn"])[np.arange(160) % 8 == 3].sum(),
        (~right["bn"])[np.arange(160) % 8 == 3].sum(),
    )


def test_a_check_that_fails_shows(writer, make_ranks) -> None:
    writer.finish(writer.config(norm="bn", gpus=2), make_ranks(100, 0.5, seed=1))
    other = dataclasses.replace(writer.config(norm="gn", gpus=2), weights="r50.pkl")
    writer.finish(other, make_ranks(100, 0.5, seed=1), plan_digest="p9", steps=300)
    run([str(writer.directory)])
    text = (writer.directory / "report.html").read_text()
    failed = re.findall(r'<li class="fails"[^>]*>([^<:]+)', text)
    assert failed == ["training clips (plan digest)", "first values", "steps"]
    assert 'class="verdict refused"' in text


def test_statistics_at_test_split_what_bn_loses(writer, make_ranks) -> None:
    directory = writer.finish(writer.config(norm="bn", clips_per_gpu=2), make_ranks(60, 0.5, seed=1))
    told = json.loads((directory / "result.json").read_text())
    for name, top1 in (("batch", 71.25), ("ema", 40.0)):
        ranks = make_ranks(60, 0.7, seed=2)
        writer.test(directory, f"paper-{name}", ranks, told | {"top1": top1, "bn_stats": name})
    for name in ("paper-precise-7steps", "paper-precise-0123abcd"):  # of other steps, of other videos
        writer.test(directory, name, make_ranks(60, 0.1, seed=3), told | {"top1": 9.87})
    run([str(writer.directory)])
    text = (writer.directory / "report.html").read_text()
    assert f"precise {told['top1']:.1f}, ema 40.0, batch 71.2" in text


def test_cost_is_that_of_the_steps(writer) -> None:
    clocks = [
        {"step_seconds": 2.0, "clips_per_second": 8.0, "data_wait_fraction": 0.5},
        {"step_seconds": 6.0, "clips_per_second": 4.0, "data_wait_fraction": 0.0},
    ]
    lines = [{"kind": "train", "step": n + 1, "epoch": 0.1, "clock": clock} for n, clock in enumerate(clocks)]
    directory = writer.start(writer.config(norm="bn"), metrics=lines)
    (cell,) = read_study(writer.directory).cells
    cost = cell.cost()
    assert (cost.hours, cost.clips_per_second, cost.wait, cost.steps) == (8 / 3600, 5.0, 0.125, 2)
    assert cost.num_starts == 2
    (directory / "metrics.jsonl").write_text("")
    assert cell.cost() is None


def test_a_run_has_a_page_of_its_own(demo, capsys) -> None:
    directory = next(demo.directory.glob("*_bn_s0"))
    assert run([str(directory)]) == 0
    assert str(directory / "report.html") in capsys.readouterr().out
    text = (directory / "report.html").read_text()
    for words in ("Per class", "Classes taken for others most", "Wrong, and sure of it", "Right, and sure", "<svg"):
        assert words in text
    assert "Gap to" not in text


def test_serving_shows_the_study_and_nothing_else(writer, make_ranks) -> None:
    fill_demo(writer)
    (writer.directory.parent / "secret.json").write_text("{}")
    (writer.directory / "link.json").symlink_to("/etc/passwd")
    server = _Server(writer.directory, 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)

        refreshed: list[str | None] = []

        def get(path: str) -> tuple[int, bytes]:
            connection.request("GET", path)
            response = connection.getresponse()
            refreshed.append(response.getheader("Refresh"))
            return response.status, response.read()

        status, page = get("/")
        assert status == 200
        assert b"8 runs: 8 done" in page
        assert refreshed == ["10"]
        assert get("/tables/gaps.csv")[0] == get("/report.json")[0] == get("/gap.png")[0] == 200
        run_name = next(writer.directory.glob("*_bn_s0")).name
        for path in (
            "/../secret.json",
            "/%2e%2e/secret.json",
            "//etc/passwd",
            "/link.json",
            f"/{run_name}/result.json",
            f"/{run_name}/config.yaml",
            "/tables/../../secret.json",
            "/%00",
            "/study.yaml",
        ):
            assert get(path)[0] == 404, path
        writer.finish(writer.config(norm="ln", frames=16, gpus=2), make_ranks(160, 0.5, seed=9))
        assert b"9 runs: 9 done" in get("/")[1]
        (writer.directory / "study.json").write_text("{")
        next(writer.directory.glob("*_bn_s0")).joinpath("error.txt").write_text("x")
        status, page = get("/")
        assert status == 503
        assert b"study.json is no list of cells" in page
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_port_that_is_taken_is_one_line(demo, capsys) -> None:
    from vidgn.cli.main import main

    with _Server(demo.directory, 0) as server:
        assert main(["report", str(demo.directory), "--serve", "--port", str(server.server_port)]) == 1
    assert f"--port {server.server_port}: Address already in use; give another" in capsys.readouterr().err


def test_a_page_is_the_same_each_time(demo) -> None:
    def content() -> str:
        write_report(demo.directory)
        return (demo.directory / "report.html").read_text()

    assert content() == content()
