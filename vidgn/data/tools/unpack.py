"""Archives of videos, unpacked so that nothing outside the target is written, whatever their members are called."""

import gzip
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from vidgn.data.datasets.listing import VIDEO_EXTENSIONS
from vidgn.errors import GetError

_CHUNK = 2**18
_WANTED = VIDEO_EXTENSIONS | {".txt", ".csv", ".json"}
_MAX_EXPANSION = 100  # bytes of an archive's members to its own: videos hardly shrink
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error, RuntimeError)


def is_archive(name: str) -> bool:
    """Whether the name says that it is one that `unpack` knows."""
    return name.endswith((".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".rar"))


def looks_like_archive(path: Path) -> bool:
    """Whether its first bytes say so."""
    with open(path, "rb") as file:
        start = file.read(512)
    return start.startswith((b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"Rar!\x1a\x07")) or start[257:262] == b"ustar"


def unpack(archive: Path, folder: Path, *, replaces: bool = False, class_of: str | None = None) -> str:
    """Write the videos and lists of an archive below `folder`.

    Links, devices and what lies outside are refused; other files are passed over.

    Args:
        replaces: each takes the place of every file of its name below `folder`, and none is new.
        class_of: see RemoteFile.

    Returns:
        How many files were written.

    Raises:
        GetError: it is damaged, hostile, or needs a program that is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places = _by_name(folder) if replaces else {}
    written, left = 0, _MAX_EXPANSION * archive.stat().st_size
    try:
        with _members(archive) as members:
            for name, source in members:
                path = _place(archive, name)
                if class_of and (match := re.fullmatch(class_of, path.name)):
                    path = Path(match[1], path.name)
                targets = places.get(path.name, []) if replaces else [folder / path]
                if path.suffix.lower() not in _WANTED or not targets:
                    continue
                first, *others = targets
                first.parent.mkdir(parents=True, exist_ok=True)
                partial = first.with_name(f".{first.name}.part")
                with open(partial, "wb") as out:
                    while data := source.read(_CHUNK):
                        left -= len(data)
                        if left < 0:
                            raise GetError(f"{archive}: holds more than an archive of videos can; fetch it again")
                        out.write(data)
                for other in others:
                    shutil.copyfile(partial, other)
                os.replace(partial, first)
                written += len(targets)
    except _BROKEN as error:
        reason = str(error) or type(error).__name__
        archive.unlink(missing_ok=True)
        raise GetError(f"{archive}: is damaged ({reason}) and thrown away; start again to fetch it anew") from None
    return f"{written} files"


def _by_name(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            found.setdefault(name, []).append(Path(parent, name))
    return found


def _place(archive: Path, name: str) -> Path:
    """Where a member goes, below the target."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in name or ":" in parts[0]:
        raise GetError(f"{archive}: has a member that lies outside ({name!r}); it is not unpacked: get another copy")
    return Path(*parts)


@contextmanager
def _members(archive: Path) -> Generator[Iterator[tuple[str, IO[bytes]]]]:
    """(name, open file) of every regular member, in order."""
    if archive.name.endswith(".rar"):
        with tempfile.TemporaryDirectory(dir=archive.parent) as work:
            yield _unrar(archive, Path(work))
    elif archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive) as opened:
            yield _zip_members(opened)
    else:
        with tarfile.open(archive, "r|*") as opened:
            yield _tar_members(archive, opened)


def _zip_members(opened: zipfile.ZipFile) -> Iterator[tuple[str, IO[bytes]]]:
    for info in opened.infolist():
        if not info.is_dir():
            with opened.open(info) as source:
                yield info.filename, source


def _tar_members(archive: Path, opened: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    for member in opened:
        if member.isdir():
            continue
        source = opened.extractfile(member) if member.isreg() else None
        if source is None:
            raise GetError(f"{archive}: {member.name!r} is no file; it is not unpacked: get another copy")
        yield member.name, source


def _unrar(archive: Path, work: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """By bsdtar, which writes nothing outside the folder that it is in; archives in the archive too (HMDB51)."""
    program = shutil.which("bsdtar")
    if program is None:
        raise GetError(
            f"{archive}: unpacking it needs bsdtar: apt-get install libarchive-tools, then start again to go on"
        )
    done = subprocess.run(
        [program, "--no-same-owner", "--no-same-permissions", "-x", "-f", str(archive.absolute())],
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise tarfile.ReadError((done.stderr.strip().splitlines() or ["bsdtar failed"])[-1])
    for parent, folders, names in os.walk(work):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            if path.is_symlink() or not path.is_file():
                raise GetError(f"{archive}: {name!r} is no file; it is not unpacked: get another copy")
            if name.endswith(".rar"):
                with tempfile.TemporaryDirectory(dir=archive.parent) as inner:
                    yield from _unrar(path, Path(inner))
                continue
            with open(path, "rb") as source:
                yield path.relative_to(work).as_posix(), source
