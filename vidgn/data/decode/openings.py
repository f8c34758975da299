"""What opening a video tells, kept, so that opening it again reads none of its packets.

`vidgn data index` writes a table of these beside its csv. A row is found by the file's size, its time of change in
whole seconds, its first and last bytes: a set may be moved, if its times go with it, and a file that was replaced or
edited finds none. Those of long videos are kept in memory too: segments of one film follow each other.
"""

import contextlib
import hashlib
import itertools
import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vidgn.data.decode.container import libraries
from vidgn.data.decode.pixels import Orientation
from vidgn.data.decode.timeline import Timeline

_ENDS_BYTES = 2**16
_LONG = 2000  # packets from which on an opening is kept in memory
_MOST_PACKETS = 400_000  # that are kept there in all, about 200 bytes each; one film may have more
_long: dict[str, "Opening"] = {}


@dataclass(frozen=True)
class Opening:
    """What a PyavReader knows of its file. `num_frames`: None where no time stamps say it and none were counted.

    `verdicts`: decoder -> (its version, why it gives way to PyAV on this file or None).
    """

    timeline: Timeline | None
    can_seek: bool
    orientation: Orientation
    coded_size: tuple[int, int]
    num_streams: int
    num_frames: int | None
    verdicts: dict[str, tuple[str, str | None]] = field(default_factory=dict[str, tuple[str, str | None]])

    @property
    def num_packets(self) -> int:
        """0 without time stamps."""
        return 0 if self.timeline is None else len(self.timeline.pts_of)


def digest_of(path: str) -> str:
    """Of a file as it is now, and of the FFmpeg that reads it."""
    return ends_digest(path, salt=f"{int(os.stat(path).st_mtime)} {libraries()}")


def ends_digest(path: str, *, salt: str = "") -> str:
    """sha256 (hex) of a file's size, its first and its last 64 KiB."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        hasher = hashlib.sha256(f"{size} {salt}".encode())
        hasher.update(file.read(_ENDS_BYTES))
        file.seek(max(0, size - _ENDS_BYTES))
        hasher.update(file.read(_ENDS_BYTES))
    return hasher.hexdigest()


def find(tables: Sequence[str], path: str) -> Opening | None:
    """What `tables` or this process know of the file at `path`."""
    if not tables and not _long:
        return None
    try:
        digest = digest_of(path)
    except OSError:  # said where it is opened
        return None
    if digest in _long:
        return _long[digest]
    for table in tables:
        with contextlib.suppress(sqlite3.Error, ValueError, KeyError, TypeError, zlib.error):
            uri = f"{Path(table).absolute().as_uri()}?mode=ro&immutable=1"  # network file systems may have no locks
            with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
                row = connection.execute("SELECT packed FROM openings WHERE digest = ?", (digest,)).fetchone()
            if row is not None:
                opening = unpacked(row[0])
                _keep(digest, opening)
                return opening
    return None


def remember(path: str, opening: Opening) -> None:
    """Keep in memory what was found on the file at `path`, if it is long."""
    if opening.num_packets >= _LONG:
        with contextlib.suppress(OSError):
            _keep(digest_of(path), opening)


def _keep(digest: str, opening: Opening) -> None:
    if opening.num_packets >= _LONG:
        _long.pop(digest, None)
        _long[digest] = opening
        while len(_long) > 1 and sum(kept.num_packets for kept in _long.values()) > _MOST_PACKETS:
            _long.pop(next(iter(_long)))


def forget() -> None:
    """Keep nothing in memory any more."""
    _long.clear()


def write(table: str, rows: Iterable[tuple[str, bytes]]) -> None:
    """Add (digest, packed opening) rows to a table, which is made where it is not there or is none.

    Raises:
        OSError, sqlite3.Error: it can't be written.
    """
    try:
        _insert(table, rows)
    except sqlite3.OperationalError:  # it can't be opened or locked
        raise
    except sqlite3.DatabaseError:
        os.unlink(table)
        _insert(table, rows)


def _insert(table: str, rows: Iterable[tuple[str, bytes]]) -> None:
    with contextlib.closing(sqlite3.connect(table)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS openings (digest TEXT PRIMARY KEY, packed BLOB) WITHOUT ROWID")
        connection.executemany("INSERT OR REPLACE INTO openings VALUES (?, ?)", rows)


def packed(opening: Opening) -> bytes:
    """As bytes that `unpacked` reads; they run nothing."""
    timeline = opening.timeline
    arrays = [] if timeline is None else [timeline.pts_of, timeline.keyframes, timeline.shown_pts]
    told = {
        "lengths": [len(array) for array in arrays],
        "has_discarded": timeline is not None and timeline.has_discarded,
        "doubts_keyframes": timeline is not None and timeline.doubts_keyframes,
        "can_seek": opening.can_seek,
        "orientation": list(opening.orientation),
        "coded_size": list(opening.coded_size),
        "num_streams": opening.num_streams,
        "num_frames": opening.num_frames,
        "verdicts": opening.verdicts,
    }
    steps = b"".join(np.diff(np.array(array, "<i8"), prepend=0).tobytes() for array in arrays)
    return zlib.compress(json.dumps(told).encode() + b"\n" + steps)


def unpacked(data: bytes) -> Opening:
    """What `packed` made.

    Raises:
        ValueError, KeyError, TypeError, zlib.error: it is something else.
    """
    head, _, steps = zlib.decompress(data).partition(b"\n")
    told = json.loads(head)
    timeline = None
    if told["lengths"]:
        ends = list(itertools.accumulate(told["lengths"]))
        parts = np.split(np.frombuffer(steps, "<i8"), ends[:-1])
        pts_of, keyframes, shown = (tuple(np.cumsum(part).tolist()) for part in parts)
        order_of = {pts: order for order, pts in enumerate(pts_of)}
        doubts = bool(told["doubts_keyframes"])
        timeline = Timeline(shown, order_of, keyframes, pts_of, bool(told["has_discarded"]), doubts)
    height, width = told["coded_size"]
    return Opening(
        timeline,
        bool(told["can_seek"]),
        Orientation(*map(bool, told["orientation"])),
        (height, width),
        told["num_streams"],
        told["num_frames"],
        {decoder: (version, reason) for decoder, (version, reason) in told["verdicts"].items()},
    )
