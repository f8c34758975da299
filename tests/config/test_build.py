"""Strict construction: every kind of mistake is one line."""

from dataclasses import dataclass
from typing import Literal

import pytest

from vidgn.config.build import build, to_plain
from vidgn.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    size: tuple[int, int]


@dataclass(frozen=True)
class Outer:
    count: int
    rate: float
    flag: bool
    kind: Literal["a", "b"]
    limit: int | Literal["auto"]
    name: str | None
    inner: Inner
    rows: tuple[tuple[int, ...], ...]


GOOD = {
    "count": 3,
    "rate": 1,
    "flag": True,
    "kind": "a",
    "limit": "auto",
    "name": None,
    "inner": {"size": [1, 2]},
    "rows": [[1], [2, 3]],
}


def test_good_values_come_back_as_they_were():
    built = build(Outer, GOOD)
    assert built == Outer(3, 1.0, True, "a", "auto", None, Inner((1, 2)), ((1,), (2, 3)))
    assert isinstance(built.rate, float)
    assert to_plain(built) == GOOD
    assert build(Outer, to_plain(built)) == built


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cuont": 1}, r"unknown key 'cuont': did you mean 'count'\?"),
        ({"zzz": 1}, "unknown key 'zzz': known here are count, rate,"),
        ({"count": "three"}, "count must be a whole number, not 'three'"),
        ({"count": 3.0}, "count must be a whole number, not 3.0"),
        ({"count": True}, "count must be a whole number, not True"),
        ({"rate": "fast"}, "rate must be a number"),
        ({"rate": float("nan")}, "rate must be a number, not nan"),
        ({"flag": 1}, "flag must be true or false, not 1"),
        ({"kind": "c"}, "kind must be one of a, b, not 'c'"),
        ({"limit": "most"}, "limit must be a whole number or auto, not 'most'"),
        ({"name": 3}, "name must be text"),
        ({"inner": {"size": [1, 2, 3]}}, r"inner.size must have 2 values, not 3"),
        ({"inner": {"size": 4}}, r"inner.size must be a list like \[1,2\], not 4"),
        ({"inner": {"sise": [1, 2]}}, "unknown key 'inner.sise': did you mean 'size'"),
        ({"inner": {}}, "missing key 'inner.size'"),
        ({"inner": 3}, "inner must be a group of keys, not 3"),
        ({"rows": [[1], ["x"]]}, r"rows\[1\]\[0\] must be a whole number"),
    ],
)
def test_each_mistake_is_one_line(change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build(Outer, {**GOOD, **change})
    assert "\n" not in str(caught.value)
