"""Hydra's side of the configuration: search path, resolvers, composition into Config, cells of a sweep, errors."""

import difflib
import os
import re
import shlex
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vidgn.config.build import build, to_plain
from vidgn.config.check import check_config
from vidgn.config.norm_kinds import NORM_KINDS
from vidgn.config.schema import Config, run_name
from vidgn.errors import ConfigError

_HERE = Path(__file__).resolve().parent.parent


def config_dir() -> Path:
    """`conf/`: inside the package when installed from a wheel, beside it in a checkout."""
    packaged = _HERE / "conf"
    return packaged if packaged.is_dir() else _HERE.parent / "conf"


def register_resolvers() -> None:
    """`${run_name:}`: the cell's directory name; what a Slurm job asks of each node. Safe to call again."""
    OmegaConf.register_new_resolver("run_name", lambda *, _root_: run_name(_root_), replace=True)
    OmegaConf.register_new_resolver("gpus_per_node", _gpus_per_node, replace=True)
    OmegaConf.register_new_resolver("cores_per_node", _cores_per_node, replace=True)
    # conf/hydra/launcher fills in what the plugins' own schemas declare under the same names, on purpose
    warnings.filterwarnings(
        "ignore", message=r"\s*'.*is validated against ConfigStore schema with the same name", append=False
    )


def _gpus_per_node(*, _root_: DictConfig) -> int | None:
    return None if _root_.trainer.device == "cpu" else _root_.launch.nproc_per_node


def _cores_per_node(*, _root_: DictConfig) -> int:
    return _root_.launch.nproc_per_node * (1 + _root_.data.workers)  # a rank and those that decode for it


@dataclass(frozen=True)
class Composition:
    """What a command line asks for: one cell, or the cells of a sweep."""

    cells: tuple[tuple[str, ...], ...]  # overrides of each cell
    configs: tuple[Config, ...]
    is_sweep: bool
    launcher: str  # Hydra's choice: basic, joblib, submitit_slurm, ...
    side_by_side: int | None = None  # hydra.launcher.n_jobs of joblib: cells at a time, -1 for as many as fit
    jobs_folder: Path | None = None  # where submitit has a folder for each job


def load_config(overrides: Sequence[str] = ()) -> Config:
    """The checked Config of one cell. For tests, notebooks and every verb that does not sweep.

    Raises:
        ConfigError: in one line for an unknown key or option, a wrong type or an impossible combination.
    """
    with _conf(), _one_line_errors():
        _parse(overrides)
        return to_config(compose("config", overrides=list(overrides)))


def compose_all(overrides: Sequence[str], *, multirun: bool, are_run: bool = True) -> Composition:
    """Every cell of the command line, each composed and checked, before anything starts.

    Cells that are run must differ in their directories; `are_run=False` for verbs that only look at them.

    Raises:
        ConfigError: naming the cell when there are several.
    """
    with _conf(), _one_line_errors():
        parsed = _parse(overrides)
        single = [o.input_line or "" for o in parsed if not o.is_sweep_override()]
        base = compose("config", overrides=single, return_hydra_config=True)
        launcher = str(OmegaConf.select(base, "hydra.runtime.choices")["hydra/launcher"])
        mode = str(OmegaConf.select(base, "hydra.mode") or "")
        is_sweep = multirun or mode.endswith("MULTIRUN")
        if not is_sweep:
            swept = [o.input_line for o in parsed if o.is_sweep_override()]
            if swept:
                raise ConfigError(
                    f"{swept[0]} asks for several runs: add -m, as in vidgn train -m {swept[0]}; a value with a comma "
                    f"in it is written {_quoted(swept[0] or '')}"
                )
            return Composition((tuple(overrides),), (to_config(_without_hydra(base)),), False, launcher)
        params = [f"{k}={v}" for k, v in (OmegaConf.select(base, "hydra.sweeper.params") or {}).items()]
        everything = _parse([*params, *overrides])
        cells = [tuple(c) for batch in BasicSweeper.split_arguments(everything, None) for c in batch]
        configs = []
        for cell in cells:
            try:
                configs.append(to_config(compose("config", overrides=list(cell))))
            except ConfigError as error:
                raise ConfigError(f"{error} (in the cell {' '.join(cell)})") from None
    if are_run:
        _refuse_twins(cells, configs)
    return Composition(tuple(cells), tuple(configs), True, launcher, *_launcher_settings(base))


def _parse(overrides: Sequence[str]) -> list[Override]:
    """Overrides as Hydra reads them.

    Raises:
        ConfigError: for one that can't be read, with how to write it.
    """
    parser, parsed = OverridesParser.create(), []
    for override in overrides:
        try:
            parsed.append(parser.parse_override(override))
        except HydraException:
            if "=" not in override:
                raise ConfigError(f"can't read {override!r}: write KEY=VALUE") from None
            raise ConfigError(
                f"can't read {override}: some of its characters mean something to Hydra; quote the value, once for "
                f"Hydra and once for the shell: {_quoted(override)}"
            ) from None
        group = config_dir() / (parsed[-1].key_or_group or "")
        if parsed[-1].value() is None and parsed[-1].key_or_group and group.is_dir() and not parsed[-1].is_delete():
            raise ConfigError(f"{override}: leave {parsed[-1].key_or_group} out, or give one of its options")
    return parsed


def command_line(overrides: Sequence[str]) -> str:
    """KEY=VALUE words as they are to be written in a shell, whatever folders are called."""
    words = []
    for override in overrides:
        try:
            value = OverridesParser.create().parse_override(override).value()
        except HydraException:
            value = None
        is_plain = shlex.quote(override) == override and str(value) == override.partition("=")[2]
        words.append(override if is_plain else _quoted(override))
    return " ".join(words)


def _quoted(override: str) -> str:
    """A KEY=VALUE that Hydra and a shell take as it stands."""
    key, _, value = override.partition("=")
    value = os.path.expanduser(value)  # a shell does not, behind the equals sign
    escaped = re.sub(r'(\\*)("|$)', lambda found: 2 * found[1] + ("\\" + found[2] if found[2] else ""), value)
    return shlex.quote(f'{key}="{escaped}"')


def _launcher_settings(base: DictConfig) -> tuple[int | None, Path | None]:
    folder = OmegaConf.select(base, "hydra.launcher.submitit_folder")
    return OmegaConf.select(base, "hydra.launcher.n_jobs"), None if folder is None else Path(folder).parent


def to_config(node: DictConfig) -> Config:
    """Resolve, type-check and cross-check a composed node.

    Raises:
        ConfigError: a key, a value or a combination can't be run.
    """
    config = build(Config, OmegaConf.to_container(node, resolve=True))
    check_config(config)
    _check_views(config)
    return config


def _check_views(config: Config) -> None:
    """Refuse a view that is not what its name says: results and reports tell views by their names alone."""
    name = config.views.name
    named = yaml.safe_load((config_dir() / "views" / f"{name}.yaml").read_text())
    for key, value in to_plain(config)["views"].items():
        if value != named[key]:
            raise ConfigError(f"views.{key}={value}: views={name} has {key}={named[key]}, leave it out")


def load_run_config(run_dir: Path) -> Config:
    """The Config a run was started with.

    Raises:
        ConfigError: if there is no run, or its config is damaged or of another version.
    """
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{run_dir} is not a run: it has no config.yaml (a run is runs_dir/study/run_name)")
    try:
        plain = OmegaConf.to_container(OmegaConf.load(path))
    except (yaml.YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        first = str(error).split("\n")[0]
        raise ConfigError(f"{path} is damaged ({first}): put it back from a copy, or train the run again") from None
    try:
        return build(Config, plain)
    except ConfigError as error:
        raise ConfigError(f"{path} was written by another version of vidgn: {error}") from None


_KEYS_OF_TESTS = (
    "bn_stats",
    "bn_stats_steps",
    "data.root",
    "data.train",
    "data.val",
    "data.classes",
    "data.missing",
    "data.workers",
    "trainer.device",
    "trainer.clips_per_forward",
)


def config_of_test(path: Path, overrides: Sequence[str]) -> Config:
    """The Config that a run is tested with: its own, where it lies now, with other views, statistics or videos.

    Raises:
        ConfigError: for a key that can't be changed for a test, and where there is no run.
    """
    config = load_run_config(path)
    plain = to_plain(config)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"can't read {override!r}: write KEY=VALUE")
        if key == "views":
            clip = [f"frames={config.frames}", f"span={config.span}"]  # what a view may be depends on it
            plain["views"] = to_plain(load_config([f"views={value}", *clip]).views)
            continue
        if key not in _KEYS_OF_TESTS and not key.startswith("launch."):
            raise ConfigError(f"{key} can't be changed for a test: views, {', '.join(_KEYS_OF_TESTS)} and launch.* can")
        _set(plain, key, value)
    # Where the run lies now is where it is tested, wherever it was trained.
    here = path.resolve()
    changed = replace(build(Config, plain), runs_dir=str(here.parent.parent), study=here.parent.name)
    if changed.run_dir.name != here.name:
        raise ConfigError(f"{path} was renamed: its run is {changed.run_dir.name}; give the folder that name again")
    check_config(changed)
    return changed


def _set(plain: dict[str, Any], key: str, text: str) -> None:
    """`text` as yaml, at the key, which has no dot or one."""
    group, _, last = key.rpartition(".")
    values = plain.get(group, {}) if group else plain
    if last not in values:
        raise ConfigError(f"unknown key {key!r}: known there are {', '.join(plain['launch'])}")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"{key}={text}: can't be read; write a number, a word, or a quoted text") from None


def _refuse_twins(cells: Sequence[Sequence[str]], configs: Sequence[Config]) -> None:
    seen: dict[Path, Sequence[str]] = {}
    for cell, config in zip(cells, configs, strict=True):
        if config.run_dir in seen:
            raise ConfigError(
                f"two cells of the sweep would share the directory {config.run_dir}: "
                f"give what they differ in a place in the name, for example tag='lr${{optim.lr_per_clip}}'"
            )
        seen[config.run_dir] = cell


def _without_hydra(node: DictConfig) -> DictConfig:
    plain = OmegaConf.masked_copy(node, [str(k) for k in node if k != "hydra"])
    assert isinstance(plain, DictConfig)
    return plain


@contextmanager
def _conf() -> Generator[None]:
    register_resolvers()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        yield


@contextmanager
def _one_line_errors() -> Generator[None]:
    """Hydra's messages run over several lines and suggest what would not help; say the same in one."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_line(error)) from None


def one_line(error: Exception) -> str:
    """A Hydra or OmegaConf error as one line with a remedy."""
    text = str(error).strip()
    if found := re.search(r"Could not override '([^']+)'", text):
        kinds = [f"norm={kind}" for kind, traits in NORM_KINDS.items() if found[1].removeprefix("norm.") in traits.keys]
        if found[1].startswith("norm.") and kinds:
            return (
                f"{found[1]} is for {' and '.join(kinds)} alone: leave it out, or write {kinds[0]} (a sweep over other "
                "norms too is two commands with one study)"
            )
        return f"unknown key {found[1]!r}: {_nearest_key(found[1])}"
    if found := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        group, option = found[1], found[2]
        options = sorted(p.stem for p in (config_dir() / group).glob("*.yaml"))
        if options:
            close = difflib.get_close_matches(option, options, n=1, cutoff=0.5)
            hint = f"did you mean {group}={close[0]}? " if close else ""
            return f"{group}={option}: no such option. {hint}Known are {', '.join(options)}"
    if "hydra/" in text and "Could not find" in text:
        return text.splitlines()[0] + ": is its plugin installed? (pip install 'vidgn[slurm]' for submitit)"
    return " ".join(line.strip() for line in text.splitlines()[:2])


def _nearest_key(key: str) -> str:
    with_groups = compose("config")
    known = list(_dotted(OmegaConf.to_container(with_groups)))
    known += [f"norm.{field}" for traits in NORM_KINDS.values() for field in traits.keys]
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if not close:  # the right leaf in the wrong group
        leaf = key.rsplit(".", 1)[-1]
        close = [k for k in known if k.rsplit(".", 1)[-1] == leaf][:1]
    return f"did you mean {close[0]!r}?" if close else "vidgn train --cfg job shows every key"


def _dotted(tree: Any, prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        path = f"{prefix}.{key}" if prefix else key
        yield path
        if isinstance(value, dict):
            yield from _dotted(value, path)
