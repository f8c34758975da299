"""What guards the repository is itself in order: CI's workflow, the hooks, the citation."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import vidgn

REPO = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]


def pins(name: str) -> dict[str, str]:
    lines = [line for line in (REPO / name).read_text().splitlines() if not line.startswith("#")]
    parted = (line.partition(" #")[0].partition("==") for line in lines)
    return {normal(package): version for package, _, version in parted}


def normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def test_the_workflow_runs_make_targets_on_every_supported_python():
    jobs = yaml.safe_load((REPO / ".github/workflows/ci.yml").read_text())["jobs"]
    job = jobs.pop("test")
    assert jobs.keys() == {"container"}
    targets = {m for step in job["steps"] for m in re.findall(r"^make (\S+)", step.get("run", ""))}
    assert targets == {"setup", "lint", "suite"}
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=REPO, check=True, capture_output=True)
    runs = job["strategy"]["matrix"]["include"]
    prefix = "Programming Language :: Python :: "
    assert {run["python"] for run in runs} == {
        c.removeprefix(prefix) for c in PROJECT["classifiers"] if c.startswith(prefix)
    }
    assert {run["packages"] for run in runs} == {"tested", "lowest", "newest"}
    assert all(Path(REPO / run["constraints"]).exists() for run in runs)


def test_the_lowest_versions_are_those_that_the_project_asks_for():
    optional = PROJECT["optional-dependencies"]
    extras = [package for extra in ("torchcodec", "slurm", "detection", "export") for package in optional[extra]]
    asked = [*PROJECT["dependencies"], *extras]
    lowest = {normal(m[1]): m[2] for line in asked if (m := re.match(r"([\w-]+)>=([\d.]+)", line))}
    pinned = pins("constraints-lowest.txt")
    assert pinned.keys() - lowest.keys() == {"pyparsing"}
    for name, version in lowest.items():
        assert re.fullmatch(rf"{re.escape(version)}(\.0)*", pinned.get(name, "")), name


def test_constraints_pin_every_package_of_make_setup_once():
    lines = [line for line in (REPO / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(pins("constraints.txt")) == len(lines)
    extras = [package for packages in PROJECT["optional-dependencies"].values() for package in packages]
    names = {normal(re.match(r"[\w-]+", line)[0]) for line in [*PROJECT["dependencies"], *extras]} - {"vidgn"}
    assert names <= pins("constraints.txt").keys()


def test_hooks_are_tools_that_make_setup_installs():
    (repo,) = yaml.safe_load((REPO / ".pre-commit-config.yaml").read_text())["repos"]
    tools = {hook["entry"].split()[0] for hook in repo["hooks"]}
    missing = [tool for tool in tools if not (Path(sys.executable).parent / Path(tool).name).exists()]
    assert all(tool.startswith(".venv/bin/") for tool in tools)
    assert not missing


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text())
    assert citation["version"] == vidgn.__version__ == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]


@pytest.mark.parametrize(("size", "code"), [(400_000, 0), (600_000, 1)])
def test_a_large_file_is_no_commit(size, code, tmp_path):
    hooks = yaml.safe_load((REPO / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    (entry,) = (hook["entry"].split() for hook in hooks if "large" in hook["id"])
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "video.mp4").write_bytes(bytes(size))
    subprocess.run(["git", "add", "video.mp4"], cwd=tmp_path, check=True)
    tool = Path(sys.executable).parent / Path(entry[0]).name
    done = subprocess.run([tool, *entry[1:], "video.mp4"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == code, done.stdout


def test_files_that_pages_name_exist():
    pages = [*REPO.glob("*.md"), *REPO.glob("docs/**/*.md"), *REPO.glob("bench/*.md")]
    named = {
        (page.name, path)
        for page in pages
        for path in re.findall(r"\b(?:vidgn|tests|bench|conf|launch|docs|examples)/[\w/]+\.\w+", page.read_text())
        if f"+++ b/{path}" not in page.read_text()  # what a page's own diff makes
    }
    assert len(named) > 20
    assert not [(page, path) for page, path in sorted(named) if not (REPO / path).exists()]
