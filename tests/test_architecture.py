"""Imports go down only, and each outside package has its one room."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vidgn

PACKAGE = Path(vidgn.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# room -> rooms it may import; a room may always import itself
ROOMS = {
    "errors": set(),
    "streams": set(),
    "cores": set(),
    "files": set(),
    "processes": set(),
    "config": {"errors"},
    "data": {"config", "errors", "streams", "cores"},
    "models": {"config", "errors", "streams", "files"},
    "report": {"errors", "streams", "files", "processes", "config"},
    "engine": {"data", "models", "config", "errors", "streams", "cores", "files", "processes"},
    "cli": {"report", "engine", "data", "models", "config", "errors", "streams", "cores", "files", "processes"},
    "__main__": {"cli"},
    "__init__": set(),
}
# outside package -> where it may be imported
OUTSIDE = {
    "hydra": ("cli", "config"),
    "omegaconf": ("cli", "config"),
    "av": ("data/decode",),
    "decord": ("data/decode",),
    "torchcodec": ("data/decode",),
    "pytorchvideo": ("models",),
    "matplotlib": ("report",),
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
    room = inside.parts[0].removesuffix(".py")
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "vidgn" and rest and rest[0] != "__version__":
            assert rest[0] in ROOMS[room] | {room}, f"{room} imports {name}"
        if top in OUTSIDE:
            assert any(str(inside).startswith(place) for place in OUTSIDE[top]), f"{inside} imports {top}"


def test_only_schema_of_config_is_seen_below():
    for path in FILES:
        room = path.relative_to(PACKAGE).parts[0]
        if room in ("data", "models"):
            allowed = ("vidgn.config.schema.", "vidgn.config.build.")
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
