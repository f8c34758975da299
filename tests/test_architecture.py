"""Imports go down only, and each outside package has its one room."""

import ast
import collections
import subprocess
import sys
from pathlib import Path

import pytest

import vidgn

PACKAGE = Path(vidgn.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Imports go down only: a room imports itself and rooms on later lines. What stands on one line never meets.
ORDER = [
    ["__main__"],
    ["cli"],
    ["api", "nn"],
    ["experiments", "clip_dataset"],
    ["run"],
    ["preflight"],
    ["memory", "detection"],
    ["training"],
    ["runs"],
    ["distributed"],
    ["models", "data", "report"],
    ["summation"],
    ["geometry"],
    ["config"],
    ["atomic_files", "rng_streams", "processes", "terminal", "video_names", "__init__"],
    ["errors"],
]
# The same inside data and report.
INNER_ORDER = {
    "data": [["tools"], ["loading"], ["clips"], ["datasets"], ["decode"]],
    "report": [["show"], ["analyse"], ["read"]],
}
LINE_OF = {room: number for number, line in enumerate(ORDER) for room in line}
# outside package -> where it may be imported
OUTSIDE = {
    "hydra": ("cli", "config"),
    "omegaconf": ("cli", "config"),
    "av": ("data/decode",),
    "decord": ("data/decode",),
    "torchcodec": ("data/decode",),
    "pytorchvideo": ("models",),
    "matplotlib": ("report",),
    "pycocotools": ("detection",),
    "onnxruntime": ("models/weights",),
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    inside = path.relative_to(PACKAGE)
    if inside == Path("__init__.py"):  # the face: for type checkers alone, see test_api.py
        return
    room = inside.parts[0].removesuffix(".py")
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "vidgn" and rest:
            target = "__init__" if rest[0] == "__version__" else rest[0]
            assert target == room or LINE_OF[target] > LINE_OF[room], f"{room} imports {name}"
        if top in OUTSIDE:
            assert any(str(inside).startswith(place) for place in OUTSIDE[top]), f"{inside} imports {top}"


@pytest.mark.parametrize("room", INNER_ORDER)
def test_imports_go_down_inside(room):
    line_of = {inner: number for number, line in enumerate(INNER_ORDER[room]) for inner in line}
    for path in sorted((PACKAGE / room).rglob("*.py")):
        here = path.relative_to(PACKAGE / room).parts[0]
        for name in imports(path):
            top, *rest = name.split(".")
            if top == "vidgn" and rest[:1] == [room] and rest[1] != here:
                assert line_of[rest[1]] > line_of[here], f"{path} imports {name}"


def test_no_stem_names_two_files():
    """A verb's file in cli/ and the faces of packages aside."""
    stems = collections.Counter(p.stem for p in FILES if p.parent.name != "cli" and not p.stem.startswith("__"))
    assert [stem for stem, count in stems.items() if count > 1] == []


def test_no_file_is_long():
    lengths = {str(p.relative_to(PACKAGE)): len(p.read_text().splitlines()) for p in FILES}
    assert {name: n for name, n in lengths.items() if n > 350} == {}


def test_only_schema_of_config_is_seen_below():
    for path in FILES:
        room = path.relative_to(PACKAGE).parts[0]
        if room in ("data", "models"):
            allowed = ("vidgn.config.schema.", "vidgn.config.build.", "vidgn.config.norm_kinds.")
            assert all(n.startswith(allowed) for n in imports(path) if n.startswith("vidgn.config")), path


def test_every_file_says_what_it_is():
    for path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


@pytest.mark.parametrize(
    "verb",
    [
        "",
        "train",
        "evaluate",
        "status",
        "memory",
        "report",
        "predict",
        "convert",
        "data",
        "data index",
        "data check",
        "data transcode",
        "data synth",
        "data bench",
        "data get",
        "data compare",
    ],
)
def test_help_needs_no_torch(verb):
    code = f"import sys; from vidgn.cli.main import main\ntry: code = main({verb.split()} + ['--help'])\n"
    code += "except SystemExit as e: code = e.code\nassert not code, code\n"
    code += "heavy = {'torch', 'av', 'matplotlib'} & set(sys.modules)\nassert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: vidgn")
    assert "unrecognized" not in done.stdout
