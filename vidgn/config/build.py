"""Strict construction of frozen dataclasses from plain mappings: every mistake is one line that says what to write."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union

from vidgn.errors import ConfigError

T = TypeVar("T")


def build(cls: type[T], values: Any, *, path: str = "") -> T:
    """`cls` from `values`, checking keys, types and allowed values all the way down.

    Raises:
        ConfigError: with the dotted key, what was found and what is allowed.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path or 'config'} must be a group of keys, not {_shown(values)}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]  # T is a dataclass
    for key in values:
        if key not in fields:
            raise ConfigError(f"unknown key {_join(path, str(key))!r}: {_suggest(str(key), fields)}")
    built = {}
    for name, field in fields.items():
        if name in values:
            built[name] = _convert(hints[name], values[name], _join(path, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"missing key {_join(path, name)!r}: give it with {_join(path, name)}=VALUE")
    return cls(**built)


def to_plain(value: Any) -> Any:
    """A dataclass as dicts and lists, ready for yaml or json."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [to_plain(v) for v in value]
    return value


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        options = [a for a in args if a is not type(None)]
        for option in options:
            if len(options) == 1 or _fits(option, value):
                return _convert(option, value, path)
        raise ConfigError(f"{path} must be {_name(hint)}, not {_shown(value)}")
    if origin is Literal:
        if value in args and not isinstance(value, bool):
            return value
        raise ConfigError(f"{path} must be one of {', '.join(map(str, args))}, not {_shown(value)}")
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{path} must be a list like [1,2], not {_shown(value)}")
        if args[-1] is Ellipsis:
            return tuple(_convert(args[0], v, f"{path}[{i}]") for i, v in enumerate(value))
        if len(value) != len(args):
            raise ConfigError(f"{path} must have {len(args)} values, not {len(value)}: {_shown(value)}")
        return tuple(_convert(a, v, f"{path}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True)))
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, path=path)
    if not _fits(hint, value):
        raise ConfigError(f"{path} must be {_name(hint)}, not {_shown(value)}")
    return float(value) if hint is float else value


def _fits(hint: Any, value: Any) -> bool:
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint) and not isinstance(value, bool)
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, (int, float)) and value == value and abs(value) != float("inf")
    return isinstance(hint, type) and isinstance(value, hint)


def _name(hint: Any) -> str:
    if typing.get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_name(a) for a in typing.get_args(hint))
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _suggest(key: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known here are {', '.join(known)}"


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
