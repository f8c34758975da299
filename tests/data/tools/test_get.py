"""`vidgn data get` against a server of this machine that breaks off, lies about lengths and sends something else."""

import gzip
import hashlib
import http.server
import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.encoded_videos import KINDS
from vidgn.atomic_files import one_at_a_time
from vidgn.cli.main import main
from vidgn.config.compose import load_config
from vidgn.data.datasets.manifest import read_manifest
from vidgn.data.tools import get, registry
from vidgn.data.tools.registry import DataSet, RemoteFile
from vidgn.data.tools.unpack import unpack
from vidgn.errors import GetError

TEXT = bytes(range(256)) * 400


class Server:
    """`files`: path -> content. `faults`: what is wrong with the next answers, one each; `asked`: (path, Range)."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.asked: list[tuple[str, str | None]] = []
        self.headers: dict[str, str] = {}
        self.software = "test"
        self.slow = threading.Event()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def version_string(self) -> str:
                return server.software

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.asked.append((request.path, wanted))
        fault = self.faults.pop(0) if self.faults else ""
        data = self.files.get(request.path)
        if data is None or fault == "500":
            request.send_error(404 if data is None else 500)
            return
        etag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}-1"'
        start = 0
        if wanted and request.headers.get("If-Range") == etag and fault != "no ranges":
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(data)}")
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
        request.send_response(206 if start else 200)
        length = len(data) - start
        if start:
            first = start + 7 if fault == "another part" else start
            request.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        if fault != "no length":
            request.send_header("Content-Length", str(length + {"too long": 10, "too short": -10}.get(fault, 0)))
        for name, value in {"ETag": etag, **self.headers}.items():
            request.send_header(name, value)
        request.end_headers()
        body = data[start : start + length // 2] if fault == "breaks off" else data[start:]
        try:
            for place in range(0, len(body), 4096):
                request.wfile.write(body[place : place + 4096])
                if self.slow.is_set():
                    time.sleep(0.005)
        except OSError:
            pass

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(get, "_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(get, "_CHUNK", 4096)
    server = Server()
    yield server
    server.close()


def remote(server: Server, name: str = "a.txt", **fields: object) -> RemoteFile:
    return RemoteFile(f"{server.url}/{name}", "videos", **fields)


@pytest.mark.parametrize(
    ("faults", "ranges"),
    [
        ([], [None]),
        (["breaks off"] * 3, [None, "bytes=51200-", "bytes=76800-", "bytes=89600-"]),
        (["breaks off", "no ranges"], [None, "bytes=51200-"]),
        (["breaks off", "another part"], [None, "bytes=51200-", None]),
        (["500", "500"], [None, None, None]),
        (["too long"], [None, "bytes=102400-"]),
    ],
    ids=["well", "breaks off", "knows no ranges", "sends another part", "is not well", "adds ten"],
)
def test_a_server_that(server: Server, tmp_path: Path, faults: list[str], ranges: list[str | None]) -> None:
    server.files["/a.txt"] = TEXT
    server.faults = list(faults)
    get.download(remote(server), tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_bytes() == TEXT
    assert [asked for _, asked in server.asked] == ranges
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_that_changed_half_way_is_not_glued(server: Server, tmp_path: Path) -> None:
    server.files["/a.txt"], server.faults = TEXT, ["breaks off", *["500"] * 5]
    with pytest.raises(GetError, match="the same command goes on from here"):
        get.download(remote(server), tmp_path / "a.txt")
    assert (tmp_path / "a.txt.part").stat().st_size == len(TEXT) // 2
    server.files["/a.txt"] = TEXT[::-1]
    get.download(remote(server), tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_bytes() == TEXT[::-1]


def test_what_was_whole_when_it_was_killed_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    server.files["/a.txt"], server.faults = TEXT, ["breaks off", *["500"] * 5]
    with pytest.raises(GetError):
        get.download(remote(server), tmp_path / "a.txt")
    (tmp_path / "a.txt.part").write_bytes(TEXT)
    get.download(remote(server), tmp_path / "a.txt")
    assert server.asked[-1][1] == f"bytes={len(TEXT)}-"
    assert (tmp_path / "a.txt").read_bytes() == TEXT


def zipped(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "faults", "fields", "message"),
    [
        (None, [], {}, r"404 Not Found; look for it, or give a --mirror"),
        (TEXT, [], {"num_bytes": 5000}, r"has 102,400 bytes, and 5,000 at most are right"),
        (TEXT, ["no length"], {"num_bytes": 5000}, r"has more than the 5,000 bytes that are right"),
        (TEXT, [], {"num_bytes": 102_401}, r"102,400 bytes came, 102,401 were published; what came is thrown away"),
        (TEXT, [], {"num_bytes": 102_400, "sha256": "0" * 64}, r"its sha256 is [0-9a-f]{64}, 0{64} was published"),
    ],
    ids=["not there", "too long", "too long, not said", "too short", "another"],
)
def test_what_is_not_right_is_not_kept(
    server: Server, tmp_path: Path, content: bytes | None, faults: list[str], fields: dict[str, object], message: str
) -> None:
    if content is not None:
        server.files["/a.txt"] = content
    server.faults = faults
    with pytest.raises(GetError, match=message) as caught:
        get.download(remote(server, **fields), tmp_path / "a.txt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.txt").exists()


def test_a_server_that_never_sends_what_it_says(server: Server, tmp_path: Path) -> None:
    server.files["/a.txt"], server.faults = TEXT, ["too long"] * 9
    server.headers = {"ETag": 'W/"weak"'}
    with pytest.raises(GetError, match=r"IncompleteRead.*; the same command goes on from here"):
        get.download(remote(server), tmp_path / "a.txt")
    assert not (tmp_path / "a.txt").exists()


def test_a_text_of_no_known_length_can_not_be_told_whole(server: Server, tmp_path: Path) -> None:
    server.files |= {"/a.csv": TEXT, "/a.zip": zipped(**{"a.mp4": b"1"})}
    server.faults = ["no length", "no length"]
    with pytest.raises(GetError, match="its server does not say how long it is"):
        get.download(remote(server, "a.csv"), tmp_path / "a.csv")
    get.download(remote(server, "a.zip"), tmp_path / "a.zip")  # an archive knows where it ends


def test_what_was_replaced_before_a_split_came_is_replaced_again(server: Server, tmp_path: Path) -> None:
    kinetics_at(server, tmp_path)
    words = ["data", "get", "kinetics400", str(tmp_path / "k400"), "--mirror", server.url, "--no-index", "--split"]
    assert main([*words, "train"]) == 0
    assert main([*words, "val"]) == 0
    (mended,) = (tmp_path / "k400" / "videos" / "val").glob("valrun____1*")
    assert mended.stat().st_size > 100
    asked = len(server.asked)
    assert main([*words, "val"]) == 0
    assert len(server.asked) == asked


def test_another_that_fetches_there_is_waited_for_and_said(tmp_path: Path) -> None:
    (tmp_path / "archives").mkdir()
    said = threading.Event()
    second = threading.Thread(target=get.get_files, args=((), tmp_path), kwargs={"on_wait": said.set})
    with one_at_a_time(tmp_path / "archives"):
        second.start()
        assert said.wait(20)
        assert second.is_alive()
    second.join(20)
    assert not second.is_alive()


def test_a_login_page_is_no_archive(server: Server, tmp_path: Path) -> None:
    server.files["/a.zip"] = b"<html>please log in</html>" * 100
    with pytest.raises(GetError, match="what came is no archive"):
        get.get_files((remote(server, "a.zip"),), tmp_path)
    assert not (tmp_path / "videos").exists()


def test_a_length_that_is_too_short_is_found_in_the_archive(server: Server, tmp_path: Path) -> None:
    server.files["/a.zip"] = zipped(**{"a.mp4": os.urandom(5000)})
    server.faults = ["too short"]
    with pytest.raises(GetError, match=r"a.zip: is damaged \(.*\) and thrown away; start again to fetch it anew"):
        get.get_files((remote(server, "a.zip"),), tmp_path)
    get.get_files((remote(server, "a.zip"),), tmp_path)
    assert (tmp_path / "videos" / "a.mp4").stat().st_size == 5000


def test_s3_tells_what_a_file_must_be(server: Server, tmp_path: Path) -> None:
    server.files["/a.csv"] = TEXT
    server.software = "AmazonS3"
    server.headers = {"ETag": f'"{hashlib.md5(TEXT, usedforsecurity=False).hexdigest()}"'}
    server.faults = ["too short"]
    with pytest.raises(GetError, match="at the server; what came is thrown away"):
        get.download(remote(server, "a.csv"), tmp_path / "a.csv")
    get.download(remote(server, "a.csv"), tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes() == TEXT


def member(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"data", link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data) if kind == tarfile.REGTYPE else 0
    return info


def tarred(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for info in members:
            archive.addfile(info, io.BytesIO(b"data"))
    return path


@pytest.mark.parametrize(
    "info",
    [
        member("../evil.mp4"),
        member("a/../../evil.mp4"),
        member("/tmp/evil.mp4"),
        member("..\\evil.mp4"),
        member("C:\\evil.mp4"),
        member("evil.mp4", tarfile.SYMTYPE, link="/etc/passwd"),
        member("evil.mp4", tarfile.LNKTYPE, link="../evil"),
        member("evil.mp4", tarfile.CHRTYPE),
        member("evil.mp4", tarfile.FIFOTYPE),
    ],
    ids=lambda info: f"{info.name} {info.type!r}",
)
def test_archives_that_reach_outside(tmp_path: Path, info: tarfile.TarInfo) -> None:
    archive = tarred(tmp_path / "a.tar.gz", member("good.mp4"), info)
    with pytest.raises(GetError, match="it is not unpacked: get another copy"):
        unpack(archive, tmp_path / "to" / "videos")
    left = [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*")) if not path.is_dir()]
    assert left == ["a.tar.gz", "to/videos/good.mp4"]


def test_a_zip_that_reaches_outside(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped(**{"../evil.mp4": b"data"}))
    with pytest.raises(GetError, match="lies outside"):
        unpack(tmp_path / "a.zip", tmp_path / "to")
    assert not (tmp_path / "evil.mp4").exists()


def test_a_bomb_is_stopped(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.mp4", bytes(2**24))
    (tmp_path / "a.zip").write_bytes(out.getvalue())
    with pytest.raises(GetError, match="holds more than an archive of videos can"):
        unpack(tmp_path / "a.zip", tmp_path / "to")
    assert not (tmp_path / "to" / "a.mp4").exists()


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped(**{"x/a.mp4": b"1", "x/run.sh": b"2", "x/list.txt": b"3"}))
    assert unpack(tmp_path / "a.zip", tmp_path / "to") == "2 files"
    assert sorted(path.name for path in (tmp_path / "to" / "x").iterdir()) == ["a.mp4", "list.txt"]


def test_rar_needs_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.rar").write_bytes(b"Rar!\x1a\x07")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GetError, match=r"needs bsdtar: apt-get install libarchive-tools, then start again to go on"):
        unpack(tmp_path / "a.rar", tmp_path / "to")


@pytest.mark.skipif(shutil.which("bsdtar") is None, reason="no bsdtar: apt-get install libarchive-tools")
def test_archives_in_an_archive(tmp_path: Path) -> None:
    """bsdtar tells a format by its content, so that a tar called .rar goes the same way; nothing here writes RAR."""
    inner = tarred(tmp_path / "wave.rar", member("wave/a.mp4"), member("wave/b.mp4"))
    with tarfile.open(tmp_path / "all.rar", "w:gz") as archive:
        archive.add(inner, "wave.rar")
    assert unpack(tmp_path / "all.rar", tmp_path / "to") == "2 files"
    assert sorted(path.name for path in (tmp_path / "to" / "wave").iterdir()) == ["a.mp4", "b.mp4"]
    (tmp_path / "all.rar").write_bytes(gzip.compress(b"nothing")[:-9])
    with pytest.raises(GetError, match="is damaged"):
        unpack(tmp_path / "all.rar", tmp_path / "to")


def kinetics_at(server: Server, folder: Path, *, padding: int = 0) -> None:
    """A Kinetics-400 of two classes, its archives in two parts, and a replacement for one video."""
    good = KINDS["h264_closed"](folder)
    bad = b"not a video"
    rows = ["label,youtube_id,time_start,time_end,split,is_cc"]
    for split in ("train", "val"):
        urls = []
        for part, label in enumerate(("wave", "run")):
            path = folder / f"part_{part}.tar.gz"
            with tarfile.open(path, "w:gz") as archive:
                pad = tarfile.TarInfo("pad.bin")
                pad.size = padding
                archive.addfile(pad, io.BytesIO(os.urandom(padding)))
                for number in range(2):
                    name = f"{split}{label}_____"[:10] + f"{number}_000001_000011.mp4"
                    data = bad if (split, label, number) == ("val", "run", 1) else good.read_bytes()
                    info = tarfile.TarInfo(f"./{name}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
                    rows.append(f"{label},{name[:11]},1,11,{split},0")
            server.files[f"/kinetics/400/{split}/part_{part}.tar.gz"] = path.read_bytes()
            urls.append(f"https://s3.amazonaws.com/kinetics/400/{split}/part_{part}.tar.gz")
        server.files[f"/kinetics/400/{split}/k400_{split}_path.txt"] = "\n".join(urls).encode()
        listed = [rows[0], *(row for row in rows[1:] if f",{split}," in row)]
        server.files[f"/kinetics/400/annotations/{split}.csv"] = ("\n".join(listed) + "\n").encode()
    whole = tarred(folder / "r.tgz")
    with tarfile.open(whole, "w:gz") as archive:
        archive.add(good, "replacement_for_corrupted_k400/valrun____1_000001_000011.mp4")
    server.files["/kinetics/400/replacement_for_corrupted_k400.tgz"] = whole.read_bytes()


def test_kinetics_comes_whole(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinetics_at(server, tmp_path)
    folder = tmp_path / "kinetics (400)"
    server.faults = ["", "", "breaks off"]
    assert main(["data", "get", "kinetics400", str(folder), "--mirror", server.url]) == 0
    said = capsys.readouterr().out
    assert "CC BY 4.0" in said
    assert said.count("4 videos: 4 ok; 160 frames") == 2
    words = shlex.split(said.splitlines()[-1].removeprefix("train on it with: vidgn train "))
    data = load_config(words).data
    for split in ("train", "val"):
        manifest = read_manifest(data, split)
        assert (len(manifest), manifest.classes) == (4, ("run", "wave"))
    asked = len(server.asked)
    assert main(["data", "get", "kinetics400", str(folder), "--mirror", server.url, "--no-index"]) == 0
    assert len(server.asked) == asked
    assert not list(folder.glob("archives/*.gz"))


def test_ucf101_goes_into_its_classes(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = KINDS["h264_avi"](tmp_path).read_bytes()
    names = {f"UCF101/v_{label}_g0{n}_c01.avi": good for label in ("Biking", "YoYo") for n in (1, 2)}
    lists = {
        "ucfTrainTestlist/trainlist01.txt": b"Biking/v_Biking_g01_c01.avi 1\nYoYo/v_YoYo_g01_c01.avi 2\n",
        "ucfTrainTestlist/testlist01.txt": b"Biking/v_Biking_g02_c01.avi\nYoYo/v_YoYo_g02_c01.avi\n",
    }
    contents = (zipped(**lists), zipped(**names))
    own, files = registry.DATA_SETS["ucf101"], []
    for file, content in zip(own.files["both"], contents, strict=True):
        path = "/" + file.url.split("/", 3)[3]
        server.files[path] = content
        sha256 = hashlib.sha256(content).hexdigest()
        files.append(RemoteFile(file.url, file.folder, len(content), sha256, class_of=file.class_of))
    known = {**registry.DATA_SETS, "ucf101": DataSet(own.terms, {"both": tuple(files)}, own.index, own.use)}
    monkeypatch.setattr("vidgn.cli.data_get.DATA_SETS", known)
    assert main(["data", "get", "ucf101", str(tmp_path / "u c f"), "--mirror", server.url]) == 0
    said = capsys.readouterr().out
    assert said.count("2 videos: 2 ok; 80 frames") == 2
    data = load_config(shlex.split(said.splitlines()[-1].removeprefix("train on it with: vidgn train "))).data
    assert len(read_manifest(data, "train")) == len(read_manifest(data, "val")) == 2


def test_a_killed_get_goes_on(server: Server, tmp_path: Path) -> None:
    kinetics_at(server, tmp_path, padding=2**21)
    server.slow.set()
    command = [sys.executable, "-m", "vidgn", "data", "get", "kinetics400", str(tmp_path / "k400"), "--no-index"]
    command += ["--mirror", server.url, "--split", "val"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        part = tmp_path / "k400" / "archives" / "videos-val-part_0.tar.gz.part"
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    server.slow.clear()
    asked = len(server.asked)
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    paths = [path for path, _ in server.asked[asked:]]
    assert paths[0] == "/kinetics/400/val/part_0.tar.gz"
    assert server.asked[asked][1] is not None
    assert len(list((tmp_path / "k400" / "videos" / "val").iterdir())) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["kinetics400", "{folder}", "--mirror", "ftp://x"], "write an address that begins with http:// or https://"),
        (["kinetics400", "{folder}", "--mirror", "http://127.0.0.1:9"], "the same command goes on from here"),
    ],
)
def test_wrong_words(
    words: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(get, "_WAIT_SECONDS", 0.001)
    assert main(["data", "get", *(word.format(folder=tmp_path) for word in words)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert message in said[-1]


def test_every_set_names_what_it_needs() -> None:
    for name, wanted in registry.DATA_SETS.items():
        files = [file for some in wanted.files.values() for file in some]
        assert all(file.url.startswith("https://") for file in files), name
        assert len({get.name_of(file) for file in files}) == len(files), name
        assert {"{folder}", "{split}"} <= {part for word in wanted.index for part in _fields(word)}, name


def _fields(word: str) -> list[str]:
    return [field for field in ("{folder}", "{split}") if field in word]
