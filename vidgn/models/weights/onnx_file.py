"""ONNX files that `vidgn convert --to onnx` wrote: what their metadata says, and their networks run by onnxruntime."""

import importlib
import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from vidgn.errors import ConfigError

PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # of the extra `export`


def need_packages(*names: str) -> None:
    """Check that packages are installed.

    Raises:
        ConfigError: with what installs them, if one is not.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"ONNX files need {', '.join(missing)}, not installed here: pip install 'vidgn[export]'")


def open_session(model: str | bytes) -> Any:
    """An onnxruntime session on the CPU, for a file or the bytes of one."""
    need_packages("onnxruntime")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else it sends its maker what it is used for
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class OnnxNetwork:
    """The network in a session, called as the one it was made of: its logits (N, K, T', H', W') on the CPU.

    `takes_uint8`: frames (N, T, H, W, 3) as they are read, normalised inside; else (N, 3, T, H, W), normalised before.
    """

    def __init__(self, session: Any) -> None:
        (self._input,) = session.get_inputs()
        self._outputs = {output.name: output.shape for output in session.get_outputs()}
        self.takes_uint8 = self._input.type == "tensor(uint8)"
        self._session = session

    def why_not(self, *, frames: int, num_classes: int) -> str | None:
        """Why it is no network of so many frames and classes; None where it is: its metadata may say anything."""
        shape = list(self._input.shape)
        found = (shape[1], shape[4]) if self.takes_uint8 and len(shape) == 5 else tuple(shape[2:0:-1])
        if len(shape) != 5 or self._input.type not in ("tensor(uint8)", "tensor(float)") or found != (frames, 3):
            return f"takes {self._input.type} {shape}, and says that clips have {frames} frames of RGB"
        scores = self._outputs.get("scores")
        if scores is None or "logits" not in self._outputs or list(scores[1:]) != [num_classes]:
            return f"gives {self._outputs}, and says that it names {num_classes} classes"
        return None

    def __call__(self, clip: Tensor) -> Tensor:
        return self.run(clip)[1]

    def run(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (N, K) and logits (N, K, T', H', W')."""
        scores, logits = self._session.run(["scores", "logits"], {self._input.name: clip.cpu().numpy()})
        return torch.from_numpy(scores), torch.from_numpy(logits)
