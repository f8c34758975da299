"""What makes two runs the same experiment: the config less everything that can't change a result."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from vidgn.config.build import to_plain
from vidgn.config.schema import Config

DATA_ROWS, WEIGHTS = "data rows", "weights sha256"  # keys of an identity that are none of the config's

_MACHINE_ONLY = (
    "study",
    "runs_dir",
    "tag",
    "launch",
    "views",
    "bn_stats",
    "bn_stats_steps",
    "weights",  # its content is in, by sha256
    "data.root",
    "data.train",
    "data.val",
    "data.workers",
    "data.timeout_seconds",
    "trainer.device",
    "trainer.compile",
    "trainer.memory_format",
    "trainer.activation_memory",
    "trainer.clips_per_forward",
    "trainer.checkpoint_steps",
    "trainer.keep",
    "trainer.eval_every",
)


def identity(config: Config, *, data_digest: str, weights_digest: str | None) -> dict[str, Any]:
    """The experiment as flat `key: value`: what a fingerprint is taken of, and what is compared when two differ.

    Args:
        data_digest: of the usable rows of both splits.
        weights_digest: sha256 of the file, None without one.
    """
    flat = _flatten(to_plain(config))
    kept = {k: v for k, v in flat.items() if not any(k == m or k.startswith(m + ".") for m in _MACHINE_ONLY)}
    return {**kept, DATA_ROWS: data_digest, WEIGHTS: weights_digest}


def fingerprint(identity_of_run: Mapping[str, Any]) -> str:
    """Hex digest that guards a run directory."""
    return _digest(identity_of_run)


def pair_fingerprint(identity_of_run: Mapping[str, Any]) -> str:
    """The same without norm and weights: equal for two arms of one comparison."""
    return _digest({k: v for k, v in identity_of_run.items() if not k.startswith(("norm.", "weights"))})


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Keys whose values differ, each as `key (here x, there y)`."""
    keys = sorted(k for k in {*one, *other} if one.get(k) != other.get(k))
    return [f"{k} (here {one.get(k)}, there {other.get(k)})" for k in keys]


def _digest(mapping: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(mapping, sort_keys=True).encode()).hexdigest()[:32]


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else key)
    return flat
