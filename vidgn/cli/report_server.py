"""`vidgn report STUDY --serve`: the page of a study that runs, made anew as cells end. On this machine alone."""

import contextlib
import http.server
import re
import threading
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vidgn.cli.report_pictures import PICTURES
from vidgn.errors import ConfigError, VidgnError
from vidgn.terminal import visible

REFRESH_SECONDS = 10
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".json": "application/json",
    ".csv": "text/csv; charset=utf-8",
    ".tex": "text/plain; charset=utf-8",
    ".png": "image/png",
    ".pdf": "application/pdf",
}


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, study: Path, port: int) -> None:
        self.study, self._lock, self._seen = study, threading.Lock(), None
        super().__init__(("127.0.0.1", port), _Handler)

    def make_anew(self) -> str | None:
        """Write the report again where a run has another result or another state than before.

        Returns:
            Why it can't be, None if it is there.
        """
        from vidgn.report.show.report_files import write_report

        with self._lock:
            found = [
                (str(path), path.stat().st_mtime_ns)
                for name in ("result.json", "error.txt", "config.yaml")
                for path in sorted(self.study.glob(f"*/{name}"))
            ]
            try:
                if found != self._seen:
                    write_report(self.study, pictures=PICTURES)
                    self._seen = found
            except VidgnError as error:
                return visible(str(error))
            return None


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        name = unquote(urlsplit(self.path).path).lstrip("/") or "report.html"
        is_page = name == "report.html"
        if is_page and (error := self.server.make_anew()) is not None:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, explain=error)
            return
        path = self.server.study / name
        is_plain = re.fullmatch(r"(?:tables/)?[\w-][\w.-]*", name) is not None
        if not (is_plain and path.suffix in _TYPES and path.is_file() and not path.is_symlink()):
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        data = path.read_bytes()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", _TYPES[path.suffix])
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        if is_page:
            self.send_header("Refresh", str(REFRESH_SECONDS))
        self.send_header("Content-Security-Policy", "default-src 'self' 'unsafe-inline' data:")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a page that asks again every few seconds would fill the terminal."""


def serve(study: Path, port: int) -> int:
    """Serve until Ctrl-C.

    Raises:
        ConfigError: the port is taken.
    """
    try:
        server = _Server(study, port)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--port {port}: {getattr(error, 'strerror', None) or error}; give another") from None
    with server:
        print(f"http://127.0.0.1:{server.server_port}/ shows {study}, anew as cells end; Ctrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever(0.2)
    return 0
