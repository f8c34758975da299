"""Files over HTTP, and what is in them: resumed, checked, unpacked one by one, so that a second start goes on.

Nothing is believed of a server: how long a file is, what it is, and what an archive calls its members.
"""

import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from vidgn.atomic_files import one_at_a_time, write_atomic, write_json
from vidgn.data.tools.registry import RemoteFile
from vidgn.data.tools.unpack import is_archive, looks_like_archive, unpack
from vidgn.errors import GetError

_CHUNK = 2**18
_TRIES = 5  # in a row that bring nothing new
_WAIT_SECONDS = 2.0  # doubled from try to try
_TIMEOUT_SECONDS = 60.0
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_MAX_LIST_BYTES = 2**24
_OnBytes = Callable[[str, int, int | None], object]


def get_files(
    files: tuple[RemoteFile, ...],
    folder: Path,
    *,
    mirror: str | None = None,
    keep_archives: bool = False,
    on_bytes: _OnBytes = lambda name, done, total: None,
    on_done: Callable[[str, str], object] = lambda name, outcome: None,
    on_wait: Callable[[], object] = lambda: None,
) -> None:
    """Bring every file to its place below `folder`; what an earlier start has brought is left as it is.

    Args:
        mirror: URL of a folder that holds the files under the paths that they have at home, in place of their hosts.
        on_bytes: (name, bytes there, bytes in all or None) while a file comes.
        on_done: (name, what became of it) behind each.
        on_wait: before waiting for another process that fetches into `folder`.

    Raises:
        GetError: for a file that can't be had, is not what was published, or is no archive that can be unpacked.
        OSError: the disk is full, or the folder can't be written.
    """
    archives = folder / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(archives, on_wait=on_wait):
        for file in _with_lists(files, archives, mirror, on_bytes):
            name = name_of(file)
            done = archives / f"{name}.done"
            if done.exists() and not (file.replaces and _is_older(done, archives)):
                on_done(name, "was there")
                continue
            path = archives / name
            if not path.exists():
                download(file, path, mirror=mirror, on_bytes=on_bytes)
            size, outcome = path.stat().st_size, _put(file, path, folder / file.folder)
            write_json(done, {"url": file.url, "bytes": size, "outcome": outcome})
            if not keep_archives:
                path.unlink()
            on_done(name, outcome)


def _is_older(done: Path, archives: Path) -> bool:
    """Whether other files have come since, some of whose videos it may have to replace."""
    return any(other.stat().st_mtime_ns > done.stat().st_mtime_ns for other in archives.glob("*.done"))


def _put(file: RemoteFile, path: Path, target: Path) -> str:
    """Unpack an archive, or copy another file, to where it belongs."""
    if is_archive(path.name):
        return unpack(path, target, replaces=file.replaces, class_of=file.class_of)
    target.mkdir(parents=True, exist_ok=True)
    with open(path, "rb") as source:
        write_atomic(target / path.name, lambda out: shutil.copyfileobj(source, out))
    return "1 file"


def _with_lists(
    files: tuple[RemoteFile, ...],
    archives: Path,
    mirror: str | None,
    on_bytes: _OnBytes,
) -> Iterator[RemoteFile]:
    """The files themselves; in place of a list those that it names."""
    for file in files:
        if not file.is_list:
            yield file
            continue
        path = archives / name_of(file)
        if not path.exists():
            download(file, path, mirror=mirror, on_bytes=on_bytes, most_bytes=_MAX_LIST_BYTES)
        urls = path.read_text(errors="replace").split()
        if not urls or not all(url.startswith(("https://", "http://")) for url in urls):
            path.unlink()
            raise GetError(f"{file.url}: is no list of URLs; try again later, or give another --mirror")
        yield from (RemoteFile(url, file.folder) for url in urls)


def name_of(file: RemoteFile) -> str:
    """What a file is called here: letters, digits and a few marks of its URL's last part; two never the same."""
    path = urllib.parse.urlsplit(file.url).path
    plain = re.sub(r"[^\w.+-]", "_", file.name or path.rpartition("/")[2]).lstrip(".") or "file"
    folder = "" if file.folder == "." else file.folder.replace("/", "-") + "-"
    return plain if file.name else f"{folder}{plain}"


def download(
    file: RemoteFile,
    path: Path,
    *,
    mirror: str | None = None,
    on_bytes: _OnBytes = lambda name, done, total: None,
    most_bytes: int | None = None,
) -> None:
    """Bring one file to `path`, which appears when it is whole and checked; what came before a break is kept.

    Raises:
        GetError: where it can't be had, or is not what was published.
    """
    url = file.url if mirror is None else mirror.rstrip("/") + urllib.parse.urlsplit(file.url).path
    if not url.startswith(("https://", "http://")):
        raise GetError(f"{url}: is no http address; give one that begins with https:// or http://")
    partial, state = path.with_name(path.name + ".part"), path.with_name(path.name + ".state")
    tries = 0
    while True:
        before = partial.stat().st_size if partial.exists() else 0
        try:
            _continue(file, url, partial, state, on_bytes, most_bytes)
            break
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
                if error.code < 500 and error.code not in (408, 416, 429):
                    raise GetError(f"{url}: {error.code} {error.reason}; look for it, or give a --mirror") from None
                if error.code == 416:  # nothing is left to send, or the file is another
                    if error.headers.get("Content-Range") == f"bytes */{before}":
                        break
                    partial.unlink(missing_ok=True)
            elif isinstance(error, OSError) and (error.filename is not None or error.errno in _DISK_FULL):
                raise  # of the disk here, not of the network
            now = partial.stat().st_size if partial.exists() else 0
            tries = 0 if now > before else tries + 1
            if tries == _TRIES:
                reason = str(getattr(error, "reason", None) or error or type(error).__name__)
                raise GetError(f"{url}: {reason}; the same command goes on from here") from None
            time.sleep(_WAIT_SECONDS * 2**tries)
    _check(file, url, partial, md5=_state(state, url).get("md5"))
    state.unlink(missing_ok=True)
    os.replace(partial, path)


def _continue(
    file: RemoteFile,
    url: str,
    partial: Path,
    state: Path,
    on_bytes: _OnBytes,
    most_bytes: int | None,
) -> None:
    """Ask for what is missing, and append it; begin anew where the server has another file by now."""
    there = partial.stat().st_size if partial.exists() else 0
    validator = _state(state, url).get("validator")
    headers = {"User-Agent": "vidgn", "Accept-Encoding": "identity"}
    if there and validator:
        headers |= {"Range": f"bytes={there}-", "If-Range": validator}
    elif there:
        there = 0
    if there and file.num_bytes == there:
        return
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
        start = there if response.status == 206 else 0
        told = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if response.status == 206 and (told is None or int(told[1]) != there):
            partial.unlink(missing_ok=True)
            raise http.client.HTTPException("the server gives another part than was asked for")
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdecimal() else file.num_bytes
        if total is None and not response.chunked and file.sha256 is None and not is_archive(name_of(file)):
            raise GetError(f"{url}: its server does not say how long it is, nor does it itself; give another --mirror")
        limit = most_bytes if file.num_bytes is None else file.num_bytes
        if limit is not None and total is not None and total > limit:
            raise GetError(f"{url}: has {total:,} bytes, and {limit:,} at most are right; give another --mirror")
        etag, changed = response.headers.get("ETag"), response.headers.get("Last-Modified")
        validator = etag if etag and not etag.startswith("W/") else changed
        if start == 0:
            plain = (
                re.fullmatch(r'"([0-9a-f]{32})"', etag or "") if response.headers.get("Server") == "AmazonS3" else None
            )
            write_json(state, {"url": url, "validator": validator, "md5": plain and plain[1]})
        with open(partial, "ab" if start else "wb") as out:
            done = start
            while data := response.read(_CHUNK):
                done += len(data)
                if limit is not None and done > limit:
                    raise GetError(f"{url}: has more than the {limit:,} bytes that are right; give another --mirror")
                out.write(data)
                on_bytes(name_of(file), done, total)
        if total is not None and done < total:
            raise http.client.IncompleteRead(b"", total - done)


def _state(state: Path, url: str) -> dict[str, str | None]:
    """What the server has said of the file that came so far."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(state.read_text())
        if found["url"] == url:
            return found
    return {}


def _check(file: RemoteFile, url: str, partial: Path, *, md5: str | None) -> None:
    size = partial.stat().st_size
    wrong = None
    if file.num_bytes is not None and size != file.num_bytes:
        wrong = f"{size:,} bytes came, {file.num_bytes:,} were published"
    elif file.sha256 is not None and (found := _digest(partial, "sha256")) != file.sha256:
        wrong = f"its sha256 is {found}, {file.sha256} was published"
    elif md5 is not None and (found := _digest(partial, "md5")) != md5:
        wrong = f"its md5 is {found}, {md5} at the server"
    elif is_archive(name_of(file)) and not looks_like_archive(partial):
        wrong = "what came is no archive"
    if wrong is not None:
        partial.unlink()
        raise GetError(f"{url}: {wrong}; what came is thrown away: try again, or give another --mirror")


def _digest(path: Path, kind: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
