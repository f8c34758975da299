"""The published studies: their tables follow from the scores of each video, and their commands make these runs."""

import csv
import importlib.util
import json
import shlex
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from vidgn.config.build import to_plain
from vidgn.config.compose import compose_all
from vidgn.report.show.report_files import write_report

RESULTS = Path(__file__).resolve().parent.parent / "results"
PUBLISHED = sorted(path.parent.name for path in RESULTS.glob("*/report.json"))


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("studies", RESULTS / "studies.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["studies"] = module  # which dataclasses ask for
    spec.loader.exec_module(module)
    return module


studies = _script()


@pytest.fixture(scope="module", params=PUBLISHED)
def study(request, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """The unpacked runs of a published study, and its report.json."""
    place = RESULTS / request.param
    runs = studies.unpack(place, tmp_path_factory.mktemp("unpacked"))
    return runs, json.loads((place / "report.json").read_text())


def right(path: Path, k: int = 1) -> dict[str, bool]:
    """Whether each video of a test's csv is right within its k best classes."""
    with path.open(newline="") as file:
        return {row["id"]: row["status"] == "ok" and int(row["rank"]) < k for row in csv.DictReader(file)}


def scores(runs: Path, cell: dict[str, Any], k: int = 1) -> dict[str, bool]:
    return right(runs / cell["run_name"] / "tests" / f"{cell['views']}-{cell['bn_stats'] or 'none'}.csv", k)


def accuracies(runs: Path, cells: list[dict[str, Any]], k: int = 1) -> dict[int, float]:
    """Percent right of an arm's cells by seed, the folds of a seed together."""
    by_seed = defaultdict(list)
    for cell in cells:
        by_seed[cell["seed"]] += scores(runs, cell, k).values()
    return {seed: 100 * statistics.fmean(found) for seed, found in by_seed.items()}


def test_every_study_that_is_named_is_there():
    assert sorted(studies.STUDIES) == PUBLISHED


def test_accuracies_follow_from_the_scores(study):
    runs, report = study
    cells = {cell["run_name"]: cell for cell in report["cells"]}
    for cell in cells.values():
        assert cell["state"] == "done", cell["run_name"]
        for k in (1, 5):
            found = scores(runs, cell, k)
            assert cell[f"top{k}"] == pytest.approx(100 * sum(found.values()) / len(found), abs=0.005)
            assert cell["num_videos"] == len(found)
    for column in report["columns"]:
        for arm in column["arms"].values():
            found = list(accuracies(runs, [cells[name] for name in arm["runs"]]).values())
            assert arm["top1"]["mean"] == pytest.approx(statistics.fmean(found), abs=0.01)
            if len(found) > 1:
                assert arm["top1"]["deviation"] == pytest.approx(statistics.stdev(found), abs=0.01)


def test_accuracies_are_as_the_table_shows_them(study):
    runs, report = study
    cells = {cell["run_name"]: cell for cell in report["cells"]}
    are_errors = report["cells"][0]["views"] == "image"
    shown = {
        (row[0], name): value
        for table in report["tables"]
        if table["name"].startswith("accuracy")
        for row in table["rows"]
        for name, value in zip(table["header"][1:], row[1:], strict=True)
    }
    numbers = []
    for column in report["columns"]:
        for norm, arm in column["arms"].items():
            mean = statistics.fmean(accuracies(runs, [cells[name] for name in arm["runs"]]).values())
            numbers.append((norm, 100 - mean if are_errors else mean))
    told = sorted((norm, float(value.split(" ")[0].split("/")[0])) for (norm, _), value in shown.items() if value)
    for one, (norm, number) in zip(told, sorted(numbers), strict=True):
        assert one == (norm, pytest.approx(number, abs=0.0501))


def test_gaps_follow_from_the_scores(study):
    runs, report = study
    cells = {cell["run_name"]: cell for cell in report["cells"]}
    arms = {
        (c["model"], c["frames"], c["clips_per_gpu"], c["tag"], norm): arm["runs"]
        for c in report["columns"]
        for norm, arm in c["arms"].items()
    }
    for gap in report["gaps"]:
        assert not gap["refused"]
        sides = []
        for side in (gap["arm"], gap["baseline"]):
            names = arms[side["model"], side["frames"], side["clips_per_gpu"], side["tag"], side["norm"]]
            sides.append([cells[name] for name in names])
        both = {c["seed"] for c in sides[0]} & {c["seed"] for c in sides[1]}
        ours, theirs = (accuracies(runs, [c for c in side if c["seed"] in both]) for side in sides)
        assert set(gap["seeds"]) == both
        assert gap["points"]["mean"] == pytest.approx(statistics.fmean(ours[s] - theirs[s] for s in both), abs=0.01)


def test_the_report_made_again_is_the_one_published(study):
    """After a change of the report's words: python results/studies.py --again."""
    runs, report = study
    write_report(runs)
    assert json.loads((runs / "report.json").read_text()) == report
    assert (runs / "report.md").read_text() == (RESULTS / runs.name / "report.md").read_text()


def test_the_commands_make_these_runs(study):
    runs, _ = study
    about = json.loads((RESULTS / runs.name / "about.json").read_text())
    assert tuple(about["commands"]) == studies.STUDIES[runs.name].commands
    made = {}
    for command in about["commands"]:
        verb, *overrides = shlex.split(command)[1:]
        if verb == "train":
            made |= {c.run_dir.name: c for c in compose_all(overrides[1:], multirun=True).configs}
    there = {path.parent.name: yaml.safe_load(path.read_text()) for path in runs.glob("*/config.yaml")}
    assert there == {name: to_plain(config) for name, config in made.items()}


def test_what_is_published_is_small_and_of_this_repository():
    files = [path for path in RESULTS.rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) < 5e6
    assert {path.suffix for path in files} <= {".py", ".md", ".html", ".json", ".png", ".xz", ".pyc"}


def test_a_study_without_its_data_says_what_it_takes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["studies.py", "gestures"])
    assert studies.main() == 1
    assert "egogestar/all.csv is not there: it takes" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["studies.py", "motion", "--publish"])
    assert studies.main() == 1
    assert "runs/motion is not there: leave out --publish to make it" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["studies.py", "motion", "--folder", "nowhere"])
    assert studies.main() == 1
    assert "--folder nowhere: there is no such folder" in capsys.readouterr().err


def test_a_study_that_is_not_done_is_not_published(tmp_path):
    runs = studies.unpack(RESULTS / "images_lr", tmp_path)
    (run, *_) = sorted(path.parent for path in runs.glob("*/result.json"))
    (run / "result.json").unlink()
    assert studies.publish(runs, studies.STUDIES["images_lr"], tmp_path / "place") == run.name
    assert not (tmp_path / "place").exists()


def test_studies_are_listed_with_what_they_take(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["studies.py"])
    assert studies.main() == 0
    listing = capsys.readouterr().out
    for name, study in studies.STUDIES.items():
        assert f"{name:20} {study.asks}" in listing
        assert f"{study.minutes} minutes" in listing
