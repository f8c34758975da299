"""`vidgn evaluate RUN`: test a trained run with other views, or with other BN statistics."""

import dataclasses
from pathlib import Path

from vidgn.errors import ConfigError

SUMMARY = "test a trained run with other views or BN statistics"

_HELP = """usage: vidgn evaluate RUN [KEY=VALUE ...] [--debug]

Tests the last checkpoint of a run (runs_dir/study/run_name) and writes tests/{views}-{bn_stats}.json and .csv there.

  vidgn evaluate runs/study/i3d_r50_32f_8x8_bn_s0 views=center
  vidgn evaluate runs/study/i3d_r50_32f_8x8_bn_s0 bn_stats=ema
  vidgn evaluate RUN launch.nproc_per_node=8

keys
  views=paper|center|curve|image   what is seen of a video
  bn_stats=precise|ema|batch       statistics BN tests with: recomputed, running averages, those of the test clips
  bn_stats_steps, data.root, data.train, data.val, data.classes, data.missing, data.workers,
  launch.*, trainer.device, trainer.clips_per_forward   as in vidgn train
"""

_KEYS = (
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


def run(argv: list[str]) -> int:
    """Returns: the exit code of vidgn.cli.main."""
    if "-h" in argv or "--help" in argv:
        print(_HELP)
        return 0
    if not argv or "=" in argv[0]:
        print(_HELP)
        return 2
    from vidgn.config.build import build, to_plain
    from vidgn.config.check import check_config
    from vidgn.config.compose import load_config, load_run_config
    from vidgn.config.schema import Config

    path = Path(argv[0])
    config = load_run_config(path)
    plain = to_plain(config)
    for override in argv[1:]:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"can't read {override!r}: write KEY=VALUE")
        if key == "views":
            plain["views"] = to_plain(load_config([f"views={value}"]).views)
            continue
        if key not in _KEYS and not key.startswith("launch."):
            raise ConfigError(f"{key} can't be changed for a test: views, {', '.join(_KEYS)} and launch.* can")
        _set(plain, key, value)
    changed = build(Config, plain)
    # Where the run lies now is where it is tested, wherever it was trained.
    here = path.resolve()
    changed = dataclasses.replace(changed, runs_dir=str(here.parent.parent), study=here.parent.name)
    if changed.run_dir.name != here.name:
        raise ConfigError(f"{path} was renamed: its run is {changed.run_dir.name}; give the folder that name again")
    check_config(changed)
    from vidgn.engine.run import test_run

    test_run(changed)
    return 0


def _set(plain: dict, key: str, text: str) -> None:
    """`text` as yaml, at the dotted key."""
    import yaml

    *groups, last = key.split(".")
    for group in groups:
        plain = plain[group]
    if last not in plain:
        raise ConfigError(f"unknown key {key!r}: known there are {', '.join(plain)}")
    plain[last] = yaml.safe_load(text)
