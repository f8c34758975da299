"""Reader processes behind two calls: submit a file, wait for files. A hung or killed reader costs its file at most.

Each reader has a queue of a few files in a known order, so the parent knows which one it is at. Past the time limit
the reader is killed and the file fails; a reader that dies gets its file tried once more by another, since the
machine may have killed it for no fault of the file's.
"""

import contextlib
import mmap
import os
import pickle
import signal
import socket
import time
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait

import numpy as np

from vidgn.data.clips.read import ReadTask, read_clips
from vidgn.data.loading.worker import READY, nursery
from vidgn.errors import ConfigError, DecodeError

_GRACE_SECONDS = 2.0  # a decoder that keeps its own time limit gets to say so
_TICK_SECONDS = 1.0
_MAX_TRIES = 2
_MAX_FAILED_STARTS = 3


@dataclass(frozen=True)
class Done:
    """A file that was read, or could not be. `clips_VTHWC` is valid until the next call of `wait`."""

    task: ReadTask
    clips_VTHWC: np.ndarray | None
    error: str | None


class InlinePool:
    """No processes: `wait` reads one file, here and now. The time limit is left to the decoder."""

    def __init__(self) -> None:
        self._tasks: deque[ReadTask] = deque()

    @property
    def wants_tasks(self) -> bool:
        return not self._tasks

    @property
    def busy(self) -> bool:
        return bool(self._tasks)

    def submit(self, task: ReadTask) -> None:
        self._tasks.append(task)

    def wait(self) -> list[Done]:
        """The oldest task's file, or nothing where there is none."""
        if not self._tasks:
            return []
        task = self._tasks.popleft()
        clips_VTHWC = np.empty((task.num_clips, *task.geometry.clip_shape), np.uint8)
        try:
            read_clips(task, clips_VTHWC)
        except DecodeError as error:
            return [Done(task, None, str(error))]
        return [Done(task, clips_VTHWC, None)]

    def wake(self) -> None:
        pass

    def close(self) -> None:
        self._tasks.clear()


@dataclass
class _Reader:
    connection: Connection
    memory: mmap.mmap
    queue: deque[tuple[int, ReadTask]] = field(default_factory=deque)  # (slot, task), the first is being read
    free_slots: list[int] = field(default_factory=list)
    handle: int | None = None  # pidfd, once it is ready: a number may be another process by the time it is killed
    seconds: float = 0.0  # spent on the first of the queue, as far as this pool was there to see


class ReaderPool:
    """`workers` reader processes with `slots` places of `slot_bytes` shared memory each. Used from one thread.

    Only `wake` may be called from another.
    """

    def __init__(self, workers: int, *, slots: int, slot_bytes: int, timeout_seconds: float) -> None:
        self._slots = slots
        self._slot_bytes = slot_bytes
        self._limit_seconds = timeout_seconds + _GRACE_SECONDS
        self._timeout_seconds = timeout_seconds
        self._workers = workers
        self._tasks: deque[ReadTask] = deque()
        self._tries: dict[int, int] = {}
        self._failed_starts = 0
        self._readers: list[_Reader] = []
        self._lent: list[tuple[_Reader, int]] = []
        self._waker, self._wakened = socket.socketpair()
        self._waker.setblocking(False)
        self._last = time.monotonic()

    @property
    def wants_tasks(self) -> bool:
        """Whether another task would be sent to a reader soon."""
        return len(self._tasks) + sum(len(reader.queue) for reader in self._readers) < self._workers * self._slots

    @property
    def busy(self) -> bool:
        return bool(self._tasks) or any(reader.queue for reader in self._readers)

    def submit(self, task: ReadTask) -> None:
        self._tasks.append(task)

    def wake(self) -> None:
        """Makes `wait` return soon."""
        with contextlib.suppress(OSError):  # full: it will wake anyway
            self._waker.send(b"!")

    def wait(self) -> list[Done]:
        """Files that are done, at least one unless woken or a second has passed."""
        for reader, slot in self._lent:
            reader.free_slots.append(slot)
        self._lent.clear()
        while len(self._readers) < self._workers:
            self._readers.append(self._start())
        self._send()
        sources = [self._wakened, *(reader.connection for reader in self._readers)]
        heard = wait(sources, _TICK_SECONDS)
        elapsed, self._last = time.monotonic() - self._last, time.monotonic()
        done: list[Done] = []
        if self._wakened in heard:
            self._wakened.recv(4096)
        for reader in list(self._readers):
            if reader.handle is not None and reader.queue:
                # A process that was stopped for a while (a suspended job) must not blame the videos.
                reader.seconds += min(elapsed, 2 * _TICK_SECONDS)
            if reader.connection in heard:
                done += self._receive(reader)
            elif reader.seconds > self._limit_seconds:
                done += self._give_up(reader)
        self._send()
        return done

    def close(self) -> None:
        """Ends all readers now."""
        for reader in self._readers:
            _end(reader)
        self._readers.clear()
        self._tasks.clear()
        self._waker.close()
        self._wakened.close()

    def _start(self) -> _Reader:
        ours, theirs = socket.socketpair()
        connection = Connection(ours.detach())
        # Memory without a name: nothing to clean up, and /dev/shm may be small in a container.
        with theirs, os.fdopen(os.memfd_create("vidgn-clips"), "wb") as file:
            os.truncate(file.fileno(), self._slots * self._slot_bytes)
            memory = mmap.mmap(file.fileno(), 0)
            with contextlib.suppress(ConnectionError):  # the nursery has died: the connection says so
                nursery().start_reader(theirs.fileno(), file.fileno())
        return _Reader(connection, memory, free_slots=list(range(self._slots)))

    def _send(self) -> None:
        """Hands tasks to the readers with the shortest queues."""
        for length in range(self._slots):
            for reader in self._readers:
                if self._tasks and reader.handle is not None and reader.free_slots and len(reader.queue) == length:
                    task, slot = self._tasks.popleft(), reader.free_slots.pop()
                    if not reader.queue:
                        reader.seconds = 0.0
                    reader.queue.append((slot, task))
                    with contextlib.suppress(OSError):  # it has died: the next wait hears of it
                        reader.connection.send_bytes(pickle.dumps((slot, slot * self._slot_bytes, task)))

    def _receive(self, reader: _Reader) -> list[Done]:
        done: list[Done] = []
        try:
            while reader.connection.poll():
                slot, kind, text = reader.connection.recv()
                if slot == READY:
                    reader.handle = os.pidfd_open(int(text))
                    self._failed_starts = 0
                    continue
                expected, task = reader.queue.popleft()
                assert slot == expected
                reader.seconds = 0.0
                done.append(self._done(reader, slot, task, kind, text))
        except (EOFError, OSError):
            done += self._bury(reader)
        return done

    def _done(self, reader: _Reader, slot: int, task: ReadTask, kind: str, text: str) -> Done:
        self._tries.pop(task.key, None)
        self._lent.append((reader, slot))
        if kind == "bug":
            raise RuntimeError(text)
        if kind == "refused":
            raise ConfigError(text)
        if kind == "unreadable":
            return Done(task, None, text)
        shape = (task.num_clips, *task.geometry.clip_shape)
        count, offset = int(np.prod(shape)), slot * self._slot_bytes
        return Done(task, np.frombuffer(reader.memory, np.uint8, count, offset).reshape(shape), None)

    def _bury(self, reader: _Reader) -> list[Done]:
        """A reader has died by itself: its file is tried once more, the rest of its queue goes to others."""
        self._readers.remove(reader)
        _end(reader)
        if reader.handle is None:
            self._failed_starts += 1
            if self._failed_starts >= _MAX_FAILED_STARTS:
                raise RuntimeError(f"{_MAX_FAILED_STARTS} video readers in a row died before they began")
        tasks = [task for _, task in reader.queue]
        done = []
        if tasks:
            key = tasks[0].key
            self._tries[key] = self._tries.get(key, 0) + 1
            if self._tries[key] >= _MAX_TRIES:
                task = tasks.pop(0)
                del self._tries[key]
                reason = f"{task.row.path}: {_MAX_TRIES} reader processes died on it; transcode or remove the file"
                done.append(Done(task, None, reason))
        self._tasks.extendleft(reversed(tasks))
        return done

    def _give_up(self, reader: _Reader) -> list[Done]:
        """A reader is over the time limit: it is killed and its file fails."""
        self._readers.remove(reader)
        _end(reader)
        _, task = reader.queue.popleft()
        self._tries.pop(task.key, None)
        self._tasks.extendleft(reversed([task for _, task in reader.queue]))
        reason = f"not read within data.timeout_seconds={self._timeout_seconds:g}; transcode or remove the file"
        return [Done(task, None, f"{task.row.path}: {reason}")]


def _end(reader: _Reader) -> None:
    reader.connection.close()  # one that is not ready yet ends by itself
    if reader.handle is not None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(reader.handle, signal.SIGKILL)
        os.close(reader.handle)
