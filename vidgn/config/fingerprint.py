"""What makes two runs the same experiment: the keys that schema.py declares so, and what their files hold."""

import dataclasses
import hashlib
import json
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated, Any, Literal

from vidgn.config.build import to_plain
from vidgn.config.norm_kinds import NORM_KINDS
from vidgn.config.schema import Config, NormConfig

Kind = Literal["experiment", "policy", "machine"]

# keys of an identity that are none of the config's: what files hold
DATA_ROWS, CLASSES, WEIGHTS = "data rows", "class names", "weights sha256"
_CONTENT = (DATA_ROWS, CLASSES, WEIGHTS)


def identity(config: Config, *, data_digest: str, classes: Iterable[str], weights_digest: str | None) -> dict[str, Any]:
    """The experiment as flat `key: value`: what a fingerprint is taken of, and what is compared when two differ.

    Args:
        data_digest: of the usable rows of both splits.
        classes: names in label order.
        weights_digest: sha256 of the file, None without one.
    """
    names = list(classes)
    named = f"{len(names)}, sha256 {_digest(names)[:12]}"
    return {**_of_kind(config, "experiment"), DATA_ROWS: data_digest, CLASSES: named, WEIGHTS: weights_digest}


def policy(config: Config) -> dict[str, Any]:
    """The policy keys as flat `key: value`: they may change between two starts of a run, which is written down."""
    return _of_kind(config, "policy")


def fingerprint(identity_of_run: Mapping[str, Any]) -> str:
    """Hex digest that guards a run directory."""
    return _digest(of_experiment(identity_of_run))


def pair_fingerprint(identity_of_run: Mapping[str, Any]) -> str:
    """The same without norm and weights: equal for two arms of one comparison."""
    return _digest({k: v for k, v in of_experiment(identity_of_run).items() if not k.startswith(("norm.", "weights"))})


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Keys of the experiment whose values differ, each as `key (here x, there y)`."""
    one, other = of_experiment(one), of_experiment(other)
    keys = sorted(k for k in {*one, *other} if one.get(k) != other.get(k))
    if CLASSES in keys and (CLASSES not in one or CLASSES not in other):  # written before names were noted down
        keys.remove(CLASSES)
    keys = [k for k in keys if k not in idle_norm_keys(one.get("norm.kind"))]  # which earlier versions took
    return [f"{k} (here {one.get(k)}, there {other.get(k)})" for k in keys]


def idle_norm_keys(kind: Any) -> set[str]:
    """Keys of NormConfig that mean nothing to a kind of norm."""
    traits = NORM_KINDS.get(kind)
    return (
        set()
        if traits is None
        else {f"norm.{f.name}" for f in dataclasses.fields(NormConfig)} - {f"norm.{key}" for key in traits.keys}
    )


def of_experiment(identity_of_run: Mapping[str, Any]) -> dict[str, Any]:
    """Without keys that are not of the experiment: runs of earlier versions have such."""
    return {k: v for k, v in identity_of_run.items() if k in _CONTENT or kind_of(k) == "experiment"}


def kind_of(key: str) -> Kind | None:
    """How schema.py declares a dotted key, by itself or with its group; None for a key that it does not know."""
    while key and key not in declared_kinds():
        key = key.rpartition(".")[0]
    return declared_kinds().get(key)


@cache
def declared_kinds(cls: type = Config, prefix: str = "") -> dict[str, Kind]:
    """Dotted key -> kind, of every key and group that is declared.

    Raises:
        TypeError: for a key that is not.
    """
    kinds: dict[str, Kind] = {}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        key = f"{prefix}{name}"
        if typing.get_origin(hint) is Annotated:
            kinds[key] = hint.__metadata__[0]
        elif dataclasses.is_dataclass(hint):
            kinds |= declared_kinds(typing.cast(type, hint), f"{key}.")
        else:
            raise TypeError(f"{key}: declare it in schema.py as Experiment, Policy or Machine")
    return kinds


def _of_kind(config: Config, kind: Kind) -> dict[str, Any]:
    """Without experiment keys that a later version has added and that have the value that earlier runs had."""
    of_kind = {k: v for k, v in _flatten(to_plain(config)).items() if kind_of(k) == kind}
    added = _added() if kind == "experiment" else {}
    return {k: v for k, v in of_kind.items() if k not in added or v != added[k]}


@cache
def _added(cls: type = Config, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> the value of runs of versions that did not have it."""
    found: dict[str, Any] = {}
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.metadata.get("in_identity"):
            continue
        if field.default is not dataclasses.MISSING:
            found[f"{prefix}{field.name}"] = to_plain(field.default)
        elif dataclasses.is_dataclass(hints[field.name]):
            found |= _added(typing.cast(type, hints[field.name]), f"{prefix}{field.name}.")
    return found


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else key)
    return flat
