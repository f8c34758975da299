"""Whether a file may carry a display rotation, told from its headers without decoding anything."""

import os
import struct
from typing import BinaryIO

_MATRIX_BYTES = 36
_IDENTITY = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_MAX_HEADER = 64 * 2**20
_MATROSKA_HEADER = 2**16
_MATROSKA_PROJECTION = b"\x76\x70"


def may_be_rotated(path: str, format_name: str) -> bool:
    """False only where the container surely has no rotation; True means: look at a decoded frame."""
    if format_name.startswith("mov,"):
        with open(path, "rb") as file:
            return any(matrix != _IDENTITY for matrix in _track_matrices(_movie_header(file)))
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


def _track_matrices(movie: bytes) -> list[bytes]:
    """The display matrices of all tracks: `tkhd` boxes, version 0 or 1."""
    matrices = []
    place = movie.find(b"tkhd")
    while place >= 0:
        version = movie[place + 4 : place + 5]
        start = place + 4 + (52 if version == b"\x01" else 40)
        matrix = movie[start : start + _MATRIX_BYTES]
        if len(matrix) == _MATRIX_BYTES:
            matrices.append(matrix)
        place = movie.find(b"tkhd", place + 4)
    return matrices
