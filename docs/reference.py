"""The reference, out of vidgn itself: verbs from parsers, keys from schema.py and conf/, files from a real run."""

import contextlib
import csv
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import types
import typing
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import yaml

import vidgn
from vidgn.cli.main import EXIT_CODES, main, verbs
from vidgn.config.build import to_plain
from vidgn.config.compose import load_config
from vidgn.config.fingerprint import kind_of
from vidgn.config.schema import Config, PoolConfig

REPO = Path(__file__).resolve().parent.parent
CONF = REPO / "conf"


# --- commands, exit codes, Python -----------------------------------------------------------------------------------


def commands() -> str:
    """The help of each verb, as its parser gives it."""
    parts = ["# Commands\n\nWhat `vidgn VERB --help` says of each verb. `python -m vidgn VERB` is the same.\n"]
    os.environ["COLUMNS"] = "100"  # argparse's width
    for verb in sorted([*verbs(), "report plan"]):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            main([*verb.split(), "--help"])
        parts.append(f"## vidgn {verb}\n\n```text\n{said.getvalue().strip()}\n```\n")
    return "\n".join(parts)


def exit_codes() -> str:
    """The table of exit codes."""
    rows = [[f"`{code}`", meaning] for code, meaning in EXIT_CODES.items()]
    return (
        "# Exit codes\n\nOf every verb. What a script does with them, and what is saved when: "
        "[Stopping and starting again](../reliability.md).\n\n" + table(["code", "meaning"], rows)
    )


def python() -> str:
    """What `import vidgn` offers."""
    names = [f"vidgn.{name}" for name in vidgn.__all__ if name not in ("nn", "__version__")]
    norms = [f"vidgn.nn.{name}" for name in ("BatchNorm3d", "FrozenBatchNorm3d", "GroupNorm3d")]
    head = (
        "# Python\n\nWhat `import vidgn` offers: all that is public; the rest may change from version to version. "
        "Whole programs: [Examples](../tutorials/examples.md).\n"
    )
    return "\n".join([head, *(f"::: {name}\n" for name in [*names, *norms])])


# --- configuration --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Key:
    """One row of the reference. `meaning` is None where conf/ says nothing of it."""

    name: str
    type: str
    choices: tuple[str, ...]
    default: Any
    identity: str | None
    meaning: str | None
    file: str | None  # of conf/, which says the meaning


def all_keys() -> list[Key]:
    """Every key of an experiment: type and class from schema.py, meaning from conf/, default from what both make."""
    default, said, found = to_plain(load_config()), meanings(), []
    for name, hint in schema_keys():
        meaning, file, value = said.get(name, (None, None, None))
        place: Any = default
        for part in name.split("."):
            place = place.get(part, value) if isinstance(place, dict) else value
        found.append(Key(name, type_of(hint), choices_of(hint), place, kind_of(name), meaning, file))
    return found


def schema_keys(cls: type = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and type of each key."""
    for name, hint in typing.get_type_hints(cls).items():
        options = [o for o in typing.get_args(hint) or (hint,) if dataclasses.is_dataclass(o) and o is not PoolConfig]
        if not options or hint is not options[0]:
            yield f"{prefix}{name}", hint
        for option in options:
            yield from schema_keys(typing.cast(type, option), f"{prefix}{name}.")


@cache
def meanings() -> dict[str, tuple[str, str, Any]]:
    """Dotted key -> its meaning, the file that says it, the value there: of a group's default first, then of others."""
    defaults: dict[str, str] = {}
    for entry in yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]:
        if isinstance(entry, dict):
            defaults |= {group: option for group, option in entry.items() if option and "/" not in group}
    files = [("", CONF / "config.yaml")]
    for group, option in defaults.items():
        first = CONF / group / f"{option}.yaml"
        files += [(f"{group}.", path) for path in (first, *sorted((CONF / group).glob("*.yaml")))]
    found: dict[str, tuple[str, str, Any]] = {}
    for prefix, path in files:
        values = yaml.safe_load(path.read_text())
        for key, comment in comments(path).items():
            value: Any = values
            for part in key.split("."):
                value = value[part]
            if comment is not None:
                found.setdefault(prefix + key, (comment, str(path.relative_to(CONF)), value))
    return found


def comments(path: Path) -> dict[str, str | None]:
    """Dotted key -> the comment on its line, of a yaml file indented by two."""
    found: dict[str, str | None] = {}
    above: list[str] = []
    for line in path.read_text().splitlines():
        if key := re.match(r"( *)(\w+):(?:.*?\s# (.*)|.*)$", line):
            above = [*above[: len(key[1]) // 2], key[2]]
            found[".".join(above)] = key[3]
    return found


def type_of(hint: Any) -> str:
    """A type in a reader's words."""
    if typing.get_origin(hint) is Annotated:
        return type_of(typing.get_args(hint)[0])
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_of(a) for a in arguments))
    if typing.get_origin(hint) is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if typing.get_origin(hint) is tuple:
        if arguments[-1] is Ellipsis:
            return f"list of {_plural(type_of(arguments[0]))}"
        return f"{len(arguments)} {_plural(type_of(arguments[0]))}"
    if hint is PoolConfig:
        return "kernel, stride, padding"
    if dataclasses.is_dataclass(hint):
        return "keys"
    return {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "null"}[hint]


def _plural(noun: str) -> str:
    if noun.startswith("list of "):
        return f"lists of {noun.removeprefix('list of ')}"
    return noun if noun[0].isdigit() else f"{noun}s"


def choices_of(hint: Any) -> tuple[str, ...]:
    """The words or numbers that a key may be, where they are few."""
    if typing.get_origin(hint) is Literal:
        return tuple(str(a) for a in typing.get_args(hint))
    return tuple(choice for argument in typing.get_args(hint) for choice in choices_of(argument))


def configuration() -> str:
    """Every key, by group, and every option of a group."""
    parts = [
        "# Configuration\n\n`vidgn train KEY=VALUE ...` sets a key, `vidgn train GROUP=OPTION` takes a file of "
        "`conf/GROUP/`; `vidgn train --cfg job` prints what comes of it. A key that is not here is refused with the "
        "nearest that is; Hydra's own begin with `hydra.`.\n\nThe class says what another value makes of a run:\n\n"
        "- **experiment**: another experiment. A directory in which a step was trained takes no others.\n"
        "- **policy**: what is measured on the way, and what is done when something goes wrong. May change between two "
        "starts, which is written down.\n"
        "- **machine**: where and how it is carried out. May change between two starts.\n"
    ]
    keys = all_keys()
    groups = dict.fromkeys(key.name.partition(".")[0] for key in keys if "." in key.name)
    for group in ("", *groups):
        chosen = [k for k in keys if (k.name.partition(".")[0] if "." in k.name else "") == group]
        rows = [
            [
                f"`{k.name}`{{ #{k.name} }}",
                code(k.default),
                k.type,
                k.identity or "",
                cell(k.meaning or ""),
            ]
            for k in chosen
        ]
        parts.append(f"## {group or 'At the top'}\n")
        if group and (CONF / group).is_dir():
            parts.append(options(group))
        parts.append(table(["key", "default", "type or choices", "class", "meaning"], rows))
    parts.append("## hydra.launcher\n\nOf `vidgn train -m hydra/launcher=OPTION`: what each launcher may be told.\n")
    for path in sorted((CONF / "hydra/launcher").glob("*.yaml")):
        values = yaml.safe_load(path.read_text())
        rows = [
            [f"`hydra.launcher.{key}`", code(values[key]), cell(comment or "")]
            for key, comment in comments(path).items()
            if key in values and not key.startswith("_")
        ]
        parts += [f"### hydra/launcher={path.stem}\n", table(["key", "default", "meaning"], rows)]
    parts += ["## sweep\n", "Ready-made sweeps: `vidgn train sweep=OPTION`.\n", options("sweep")]
    return "\n".join(parts)


def options(group: str) -> str:
    """The files of a group and the first lines of each."""
    rows = []
    for path in sorted((CONF / group).glob("*.yaml")):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
        said = []
        for line in lines:
            if not line.startswith("# "):
                break
            said.append(line[2:].strip())
        words = " ".join(line for line in said if not line.startswith(("vidgn ", "trainer.", "model=", "norm=")))
        rows.append([f"`{group}={path.stem}`", cell(words.removesuffix(" Its other rows:"))])
    return table(["option", "what it is"], rows)


# --- files of a run -------------------------------------------------------------------------------------------------

# what a run leaves, in the order of the page -> what it is; columns and keys are those of a real run
_FILES = {
    "config.yaml": "the configuration, resolved; `auto` stays",
    "identity.json": "what makes the run this experiment: keys and digests of what files hold",
    "machine.json": "one entry for each start: processes, device, resolved choices, versions, policy keys",
    "audit.json": "parameters by role: the proof that two arms differ in the norm alone",
    "metrics.jsonl": "one JSON object a line, of `kind` train (a step), curve (a point of the validation curve)",
    "log.txt": "what the run has said",
    "checkpoints/*.pt": "model, optimizer, step; the newest `trainer.keep` and the best one",
    "videos/*.json.gz": "the rows of both splits that the run began with",
    "tests/*.csv": "the score of each video in a test, named by its views and statistics",
    "tests/*.json": "the result of that test",
    "result.json": "the result of the run's own test: accuracies in percent",
    "model.safetensors": "the network, with its configuration, classes and pixels in the metadata",
    "tensorboard/*": "the numbers of metrics.jsonl for TensorBoard",
}
_TINY = (
    "model=i3d_tiny data=synthetic norm=bn frames=8 span=8 gpus=1 clips_per_gpu=2 views=center bn_stats_steps=1 "
    "data.crop=32 data.short_side=[32,32] data.workers=0 data.cache_gb=0 data.synthetic.num_train=4 "
    "data.synthetic.num_val=4 data.synthetic.num_classes=2 data.synthetic.size=32 data.synthetic.num_frames=8 "
    "trainer.epochs=1 trainer.device=cpu launch.threads=1"
)


def files_of_a_run() -> str:
    """The files that a run leaves, with the columns and keys that it has written."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
        subprocess.run(
            [sys.executable, "-m", "vidgn", "train", *_TINY.split()], cwd=folder, env=environment, check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        (run,) = Path(folder).glob("runs/study/*")
        there = sorted(path.relative_to(run) for path in run.rglob("*") if path.is_file())
        unknown = [str(p) for p in there if not any(p.match(pattern) for pattern in _FILES)]
        assert not unknown, f"docs/reference.py, _FILES: says nothing of {', '.join(unknown)}"
        rows = [
            [f"`{pattern}`", meaning, columns([run / p for p in there if p.match(pattern)])]
            for pattern, meaning in _FILES.items()
        ]
    return (
        "# Files of a run\n\nA run is a folder `runs_dir/study/run_name`, and a run's name is "
        "`MODEL_FRAMESf_CLIPSxGPUS_NORM[_TAG]_sSEED`. All is plain text but the weights. Columns and keys below are "
        "those that a run wrote while this page was built; a run that was stopped or has failed has some files more, "
        "`error.txt` and `lock.json` among them. A study's own files: [Read a report](../report.md).\n\n"
        + table(["file", "what it is", "columns or keys"], rows)
    )


def columns(paths: list[Path]) -> str:
    """Names of what is in files of one kind."""
    names: dict[str, None] = {}
    for path in paths:
        match path.suffix:
            case ".csv":
                names |= dict.fromkeys(next(csv.reader(path.read_text().splitlines())))
            case ".json" if path.name != "identity.json":  # whose keys are the configuration's
                told = json.loads(path.read_text())
                names |= dict.fromkeys(told[0] if isinstance(told, list) else told)
            case ".jsonl":
                names |= {key: None for line in path.read_text().splitlines() for key in json.loads(line)}
            case _:
                pass
    return ", ".join(f"`{name}`" for name in names)


# --- Markdown -------------------------------------------------------------------------------------------------------


def table(header: list[str], rows: Iterable[list[Any]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def cell(text: str) -> str:
    """A text that a table and HTML take as it is."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def code(value: Any) -> str:
    """A value as it is written in a command."""
    written = '" "' if value == " " else json.dumps(value).replace('"', "")
    return f"`{written}`" if len(written) <= 40 else f"`{written[:37]}...`"
