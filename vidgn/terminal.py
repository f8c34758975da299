"""Text as a terminal may have it: control characters in names of files and classes are written out, never obeyed."""

import io
import sys
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

# C0 but for tab and newline, DEL and C1; characters that turn the direction of the text around, or end a line unseen
_HIDDEN = (
    *(c for c in range(32) if c not in (9, 10)),
    *range(0x7F, 0xA0),
    *range(0x2028, 0x202F),
    *range(0x2066, 0x206A),
)
_WRITTEN_OUT = {c: f"\\u{c:04x}" for c in _HIDDEN}  # as JSON has it, so that JSON stays JSON


def visible(text: str) -> str:
    """`text` with its control characters written out."""
    return text.translate(_WRITTEN_OUT)


class _VisibleStream:
    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(visible(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def visible_streams() -> Generator[None]:
    """Let what is printed inside show any name: those that are not UTF-8 as the bytes they are."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")
    out, err = (cast(TextIO, _VisibleStream(s)) for s in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(err):
        yield


def bar_stream() -> TextIO:
    """Stderr as it is, for what moves the cursor."""
    return sys.stderr.stream if isinstance(sys.stderr, _VisibleStream) else sys.stderr
