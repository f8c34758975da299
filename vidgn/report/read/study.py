"""A study read from its files: cells, what they were asked to be, where they stand and what they measured."""

import gzip
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vidgn.config.build import build
from vidgn.config.fingerprint import CLASSES, DATA_ROWS, fingerprint, identity, of_experiment
from vidgn.config.norm_kinds import NORM_KINDS
from vidgn.config.schema import Config, full_tag
from vidgn.errors import ConfigError, ManifestError
from vidgn.report.read.cost import Cost, read_cost
from vidgn.report.read.history import PolicyChange, layout_changes, order_of_sums, policy_changes, read_starts
from vidgn.report.read.matches import Matches, ap_fault, read_matches
from vidgn.report.read.run_state import RunStatus, json_or_none, lines_of, own_name, read_run_status
from vidgn.report.read.video_scores import VideoScores, read_videos

HEADLINES = (("top1", "top5"), ("box_ap", "mask_ap"))  # keys of result.json: of a classifier, of a detector
_ROUNDED = 0.006  # points: result.json may be rounded to 0.01


@dataclass(frozen=True)
class CurvePoint:
    """Validation under training augmentation, one clip a video."""

    step: int
    epoch: float
    top1_error_percent: float


@dataclass(frozen=True)
class Cell:
    """One combination of a study and the run that belongs to it, if there is one."""

    run_name: str
    directory: Path
    model: str
    norm: str
    frames: int
    clips_per_gpu: int
    gpus: int
    seed: int
    tag: str | None  # with `folds` in the place of the fold
    fold: int | None
    asked: bool  # the sweep asked for it; else its directory was found
    progress: RunStatus
    config: Mapping[str, Any] | None  # config.yaml, plain
    result: Mapping[str, Any] | None
    audit: Mapping[str, Any] | None
    only: frozenset[str] | None = None  # ids or names of the videos that it is judged by; None: all that were tested

    @property
    def state(self) -> str:
        return self.progress.state

    @property
    def slots_per_step(self) -> int:
        """Clips of one optimizer update."""
        return self.gpus * self.clips_per_gpu

    @property
    def group_free(self) -> bool:
        """Whether how a step is divided among GPUs can't change this cell."""
        is_detector = self.data_format == "coco"  # whose losses the images of a GPU share
        return not is_detector and self.norm in NORM_KINDS and NORM_KINDS[self.norm].is_group_free

    @property
    def has_statistics(self) -> bool:  # a choice of those to test with
        return self.norm in NORM_KINDS and NORM_KINDS[self.norm].has_running_statistics

    @property
    def data_format(self) -> str:
        """`imagenet`, `coco` or another; empty where the configuration is not there."""
        return str(((self.config or {}).get("data") or {}).get("format") or "")

    @property
    def headlines(self) -> tuple[str, str]:
        """Keys of result.json: what a run is judged by, and what stands beside it."""
        return HEADLINES[self.data_format == "coco"]

    @property
    def first(self) -> float:
        """Top-1, of a detector box AP; percent."""
        return float((self.result or {})[self.headlines[0]])

    @property
    def second(self) -> float:
        """Top-5, of a detector mask AP; percent."""
        return float((self.result or {})[self.headlines[1]])

    def matches(self) -> dict[str, Matches] | None:
        """Of a detector's configured test; None if the file is not there."""
        path = self.directory / "tests" / f"{self.test_name}.npz"
        return read_matches(path, path.stat().st_mtime_ns) if path.is_file() else None

    def class_names(self) -> tuple[str, ...]:
        """In label order; none where the run has not kept them."""
        try:
            kept = json.loads(gzip.decompress((self.directory / "videos" / "val.json.gz").read_bytes()))
            return tuple(map(str, kept["classes"]))
        except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error):
            return ()

    def cost(self) -> Cost | None:
        """What its training took; None before its first step."""
        return read_cost(self.directory)

    @property
    def fault(self) -> str | None:
        """How the result contradicts the per-video scores of its test, None where it does not."""
        if self.data_format == "coco":
            return ap_fault(self.result, self.matches()) if self.result else None
        videos = self.videos() if self.result else None
        if videos is None or self.result is None:
            return None
        reported, counted = self.result["top1"], videos.top(1)
        if abs(reported - counted) <= _ROUNDED:
            return None
        return f"result.json says top-1 {reported:.2f} %, its per-video scores {counted:.2f} %"

    @property
    def layouts(self) -> set[str]:
        """What the order of sums depends on in its starts; none where they did not say."""
        return {
            f"{start['clips_per_forward']} clips a forward on {start.get('device', 'cpu')}, "
            f"{start.get('threads', '?')} threads, sums: {order_of_sums(start)}"
            for start in read_starts(self.directory)
            if "world_size" in start and "clips_per_forward" in start
        }

    @property
    def test_name(self) -> str:
        """Stem of the files of the configured test."""
        assert self.result is not None
        return f"{self.result['views']}-{self.result.get('bn_stats') or 'none'}"

    def curve(self) -> tuple[CurvePoint, ...]:
        """Points of the validation curve, by step; of a step written twice the later one."""
        points = {}
        for line in lines_of(self.directory / "metrics.jsonl", "curve"):
            if "top1_error_percent" not in line:  # of a detector
                continue
            points[line["step"]] = CurvePoint(line["step"], line["epoch"], line["top1_error_percent"])
        return tuple(points[step] for step in sorted(points))

    def rate_drops(self) -> tuple[float, ...]:
        """Epochs at which a step schedule lowers the learning rate; of a run with a curve."""
        optim = (self.config or {}).get("optim") or {}
        points, totals = self.curve(), [s["steps_total"] for s in read_starts(self.directory) if "steps_total" in s]
        if optim.get("schedule") != "step" or not points or not totals:
            return ()
        epochs = totals[-1] * points[-1].epoch / points[-1].step
        return tuple(float(mark) * epochs for mark in optim.get("milestones") or ())

    def videos(self, test_name: str | None = None) -> VideoScores | None:
        """Per-video scores of the configured test or of another; None if the file is not there or not whole."""
        path = self.directory / "tests" / f"{test_name or self.test_name}.csv"
        try:
            found = read_videos(path, path.stat().st_mtime_ns)
        except OSError:
            return None
        return found if self.only is None else found.of(self.only)

    def tests(self) -> dict[str, Mapping[str, Any]]:
        """Results of every test there is, by `views-bn_stats`; none of those where only some videos count."""
        if self.only is not None:
            return {}
        found = {p.stem: json_or_none(p) for p in sorted((self.directory / "tests").glob("*.json"))}
        whole = {name: r for name, r in found.items() if isinstance(r, Mapping) and self.headlines[0] in r}
        if self.result is None:
            return whole
        trained = self.result.get("steps"), self.result.get("plan_digest")  # a test before the run's end is of another
        return {name: r for name, r in whole.items() if (r.get("steps"), r.get("plan_digest")) == trained}

    def experiment(self) -> dict[str, Any] | None:
        """Flat keys that can change a result, as a fingerprint takes them: identity.json, else config.yaml.

        The config alone doesn't know the usable rows. None where neither can be read by this version.
        """
        flat = json_or_none(self.directory / "identity.json")
        if not isinstance(flat, Mapping):
            try:
                flat = identity(build(Config, self.config), data_digest="", classes=(), weights_digest=None)
            except ConfigError:
                return None
            flat = {k: v for k, v in flat.items() if k not in (DATA_ROWS, CLASSES)}
        return of_experiment(flat)

    def policy_changes(self) -> list[PolicyChange]:
        """What its starts have changed on the way; nothing of a cell whose directory is another experiment's."""
        return [] if self.state == "refused" else policy_changes(read_starts(self.directory))

    def layout_changes(self) -> list[str]:
        """Where its starts ran in another way than the ones before; nothing of another experiment's cell."""
        return [] if self.state == "refused" else layout_changes(read_starts(self.directory))

    def decoders(self) -> set[str]:
        """The decoders that it was trained with; none where its starts did not write them down."""
        policies = [start.get("policy") or {} for start in read_starts(self.directory)]
        named = {p["data.decoder"] for p in policies if "data.decoder" in p}
        return {"pyav" if name == "auto" else name for name in named}


@dataclass(frozen=True)
class Study:
    """The cells of one study directory, those asked for first and in their order."""

    name: str
    directory: Path
    cells: tuple[Cell, ...]
    was_swept: bool  # study.json is there: what is missing can be named
    passed_over: tuple[str, ...] = ()  # directories that are no runs of it, and why

    def count(self, state: str) -> int:
        return sum(c.state == state for c in self.cells)


def read_study(directory: Path | str) -> Study:
    """Everything a report or a status needs, from the files in `directory`.

    Raises:
        ManifestError: if it is no study, naming what was looked for.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ManifestError(f"no study in {directory}: there is no such directory (a study is runs_dir/study)")
    if (directory / "config.yaml").is_file():
        raise ManifestError(
            f"{directory} is a run, not a study: give the directory above it, {directory.absolute().parent}"
        )
    asked, refused = _asked(directory / "study.json")
    found = sorted(p.parent.name for p in directory.glob("*/config.yaml"))
    moved = {n: own for n in found if n not in asked and (own := own_name(directory / n)) not in (None, n)}
    names = [*asked, *(n for n in found if n not in asked and n not in moved)]
    if not names:
        raise ManifestError(
            f"no study in {directory}: looked for study.json or a run in */config.yaml and found neither "
            f"(a study is runs_dir/study)"
        )
    cells = tuple(_read_cell(directory / name, asked.get(name), refused.get(name)) for name in names)
    passed_over = tuple(
        f"{n} is a copy or was renamed ({own} is its run), and is not counted" for n, own in moved.items()
    )
    return Study(directory.absolute().name, directory, cells, bool(asked), passed_over)


def _asked(path: Path) -> tuple[dict[str, Mapping[str, Any]], dict[str, str]]:
    """Run name -> values of every cell a sweep has asked for, and why it was refused; both empty without the file."""
    if not path.is_file():
        return {}, {}
    listing = json_or_none(path)
    try:
        asked: dict[str, Mapping[str, Any]] = {str(c["run_name"]): dict(c["values"]) for c in listing["cells"]}
        refused = {str(c["run_name"]): c["refused"] for c in listing["cells"] if "refused" in c}
        return asked, {name: str(r["reason"]) for name, r in refused.items() if r["holds"] == _held(path.parent / name)}
    except (KeyError, TypeError, ValueError):
        raise ManifestError(f"{path} is no list of cells: start the sweep again to write it anew") from None


def _held(directory: Path) -> str | None:
    """Fingerprint of the experiment in a directory: what was refused because of it may run once it is another."""
    there = json_or_none(directory / "identity.json")
    return fingerprint(there) if isinstance(there, Mapping) else None


def _read_cell(directory: Path, values: Mapping[str, Any] | None, refused: str | None) -> Cell:
    """A cell that was refused has no result: what lies in its directory is another experiment's."""
    config = _read_yaml(directory / "config.yaml")
    known = {**(values or {}), **_identity(config)}
    missing = [k for k in ("model", "norm", "frames", "clips_per_gpu", "gpus") if k not in known]
    if missing:
        raise ManifestError(
            f"{directory.parent / 'study.json'}: the cell {directory.name} does not say its {', '.join(missing)} "
            f"and has no config.yaml: start the sweep again to write it anew"
        )
    tag, fold = _without_fold(_tag(directory.name, known))
    return Cell(
        run_name=directory.name,
        directory=directory,
        model=str(known["model"]),
        norm=str(known["norm"]),
        frames=int(known["frames"]),
        clips_per_gpu=int(known["clips_per_gpu"]),
        gpus=int(known["gpus"]),
        seed=int(known.get("seed", 0)),
        tag=tag,
        fold=fold,
        asked=values is not None,
        progress=RunStatus("refused", error=refused) if refused else read_run_status(directory),
        config=config,
        result=None if refused else json_or_none(directory / "result.json"),
        audit=json_or_none(directory / "audit.json"),
    )


def _identity(config: Mapping[str, Any] | None) -> dict[str, Any]:
    if not config:
        return {}
    known = {k: config[k] for k in ("frames", "clips_per_gpu", "gpus", "seed", "tag") if k in config}
    for key, inner in (("model", "name"), ("norm", "kind")):
        if isinstance(config.get(key), Mapping) and inner in config[key]:
            known[key] = config[key][inner]
    if "tag" in known and isinstance(config.get("data"), Mapping):
        known["tag"] = full_tag(known["tag"], config["data"].get("fold"))
    return known


def _tag(run_name: str, known: Mapping[str, Any]) -> str | None:
    """The tag a cell was known, or the part of its run's name that nothing else explains."""
    if "tag" in known:
        return None if known["tag"] is None else str(known["tag"])
    size = f"{known['frames']}f_{known['clips_per_gpu']}x{known['gpus']}"
    rest = run_name.removeprefix(f"{known['model']}_{size}_{known['norm']}")
    return rest.removesuffix(f"_s{known.get('seed', 0)}").strip("_") or None


def _without_fold(tag: str | None) -> tuple[str | None, int | None]:
    """Both halves of `schema.full_tag`; folds of one tag share a column, which is none of runs without."""
    found = re.fullmatch(r"((?:.+_)?fold)(\d+)", tag or "")
    return (f"{found[1]}s", int(found[2])) if found else (tag, None)


def _read_yaml(path: Path) -> Mapping[str, Any] | None:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return None
    return found if isinstance(found, Mapping) else None
