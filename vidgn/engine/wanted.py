"""A sweep that is over is over in every cell: a file says that the sweep still wants them, wherever they run.

The process that sweeps makes the file and names it in the environment, which reaches cells in this process, in a
launcher's workers and in batch jobs alike. Once the file is gone, running cells save and stop, the rest do not start.
"""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vidgn.engine.signals import Stop

_WANTED = "VIDGN_WANTED"
_SECONDS_BETWEEN_LOOKS = 0.5


@contextmanager
def wanted(folder: Path) -> Iterator[Path]:
    """Cells started inside are wanted, until the file is removed or the block ends.

    Returns: the file.
    """
    file = folder / f".wanted-{socket.gethostname()}-{os.getpid()}"
    file.touch()
    os.environ[_WANTED] = str(file.resolve())
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)
        del os.environ[_WANTED]


def is_wanted() -> bool:
    """Whether this cell's sweep, if it is of one, has not been stopped."""
    file = os.environ.get(_WANTED)
    return file is None or os.path.exists(file)


@contextmanager
def stopped_with_sweep(stop: Stop) -> Iterator[None]:
    """Set `stop` once the sweep no longer wants this cell."""
    if _WANTED not in os.environ:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_SECONDS_BETWEEN_LOOKS):
            if not is_wanted():
                stop.set()
                return

    watcher = threading.Thread(target=watch, name="vidgn-wanted", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
