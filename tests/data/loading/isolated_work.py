"""What the tests let worker processes do; a module of its own, since workers import it by name."""

import os
import signal
import time

import numpy as np

from vidgn.errors import DecodeError


def act(what: str) -> str:
    """Hang, eat memory, crash, fail or answer, as told."""
    match what.split():
        case ["hang"]:
            time.sleep(3600)
        case ["eat"]:
            np.ones(2**28)  # 2 GiB
        case ["crash"]:
            os.kill(os.getpid(), signal.SIGSEGV)
        case ["exit"]:
            os._exit(3)
        case ["fail"]:
            raise DecodeError("file.mp4: is bad")
        case ["stumble"]:
            return {}[what]
        case ["where"]:
            return os.getcwd()
        case ["sleep", seconds]:
            time.sleep(float(seconds))
    return f"{what} done"
