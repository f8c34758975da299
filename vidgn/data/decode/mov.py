"""Whether a container may carry a display rotation, told from its headers without decoding anything."""

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

_MATRIX_BYTES = 36
_MATRIX_OFFSETS = {b"mvhd": 36, b"tkhd": 40}  # from the version on, in version 0
_IDENTITY = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_MAX_HEADER = 64 * 2**20
_MATROSKA_HEADER = 2**16
_MATROSKA_PROJECTION = b"\x76\x70"


def may_be_rotated(path: str, format_name: str) -> bool:
    """True means: look at a decoded frame. False: no header of a MOV, MP4 or Matroska file turns the picture.

    Other containers have no such header. An orientation in the coded pictures (an SEI message) is not looked for.
    """
    if format_name.startswith("mov,"):
        with open(path, "rb") as file:
            return any(matrix != _IDENTITY for matrix in _matrices(_movie_header(file)))
    if format_name.startswith("matroska"):
        with open(path, "rb") as file:
            return _MATROSKA_PROJECTION in file.read(_MATROSKA_HEADER)
    return False


def _movie_header(file: BinaryIO) -> bytes:
    """The payload of the `moov` box (ISO/IEC 14496-12), empty if there is none."""
    end = os.fstat(file.fileno()).st_size
    position = 0
    while position + 8 <= end:
        file.seek(position)
        header = file.read(16)
        size, kind = struct.unpack(">I4s", header[:8])
        body = 8
        if size == 1 and len(header) == 16:
            size, body = struct.unpack(">Q", header[8:])[0], 16
        if size == 0:
            size = end - position
        if kind == b"moov":
            file.seek(position + body)
            return file.read(min(size - body, _MAX_HEADER))
        if size < body:
            return b""
        position += size
    return b""


def _matrices(movie: bytes) -> Iterator[bytes]:
    """The display matrices of the movie (`mvhd`) and of its tracks (`tkhd`), which are multiplied."""
    for kind, offset in _MATRIX_OFFSETS.items():
        place = movie.find(kind)
        while place >= 0:
            is_long = movie[place + 4 : place + 5] == b"\x01"  # version 1 has times and duration of 8 bytes
            start = place + 4 + offset + (12 if is_long else 0)
            matrix = movie[start : start + _MATRIX_BYTES]
            if len(matrix) == _MATRIX_BYTES:
                yield matrix
            place = movie.find(kind, place + 4)
