"""Trained networks for programs without vidgn: ONNX files, and programs of torch.export.

Both are of torch's plain operators, since norms show those to torch.export, and both are run on random clips and
compared with the network before they are put in place.
"""

import io
import json
import os
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from vidgn.atomic_files import write_atomic
from vidgn.errors import ConfigError
from vidgn.models.i3d import VideoResNet
from vidgn.models.weights import About, metadata_of
from vidgn.models.weights.onnx_file import PACKAGES, OnnxNetwork, need_packages, open_session
from vidgn.training.bn_stats import statistics_used
from vidgn.training.setup import ToModel, in_float32
from vidgn.training.tester import class_scores

_MOST_DIFFERENCE = 1e-4  # of scores, and of logits as a part of the largest; float32 alone gives some 1e-6
_OUTPUT_AXES = {"scores": ("batch", "class"), "logits": ("batch", "class", "map_time", "map_height", "map_width")}

Run = Callable[[Tensor], tuple[Tensor, Tensor]]  # clips -> scores, logits


class Deployed(nn.Module):
    """A network with what stands before and behind it.

    Shape: (N, 3, T, H, W) normalised float32, or (N, T, H, W, 3) uint8 RGB -> scores (N, K), which are softmax averaged
    over the final map, and logits (N, K, T', H', W').
    """

    def __init__(self, model: VideoResNet, to_model: ToModel | None) -> None:
        """`to_model`: what normalises uint8 frames, None where they come normalised."""
        super().__init__()
        self.model, self.to_model = model, to_model

    def forward(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        logits_NKTHW = self.model(clip if self.to_model is None else self.to_model(clip))
        return class_scores(logits_NKTHW), logits_NKTHW


def export_onnx(
    model: VideoResNet, path: str | os.PathLike[str], *, uint8: bool = False, **about: Unpack[About]
) -> str:
    """An ONNX file of any batch, height and width, with `about` in its metadata, put in place whole.

    Args:
        uint8: it takes frames as they are read, (N, T, H, W, 3), and normalises inside.

    Returns:
        How much it differs from the network.

    Raises:
        ConfigError: if the packages are not there, or if it differs from the network; nothing is written then.
    """
    need_packages(*PACKAGES)
    config = about["config"]
    program = _program(model, about, uint8=uint8, any_size=True)
    with _unwarned():
        made = torch.onnx.export(program, input_names=["clip"], output_names=list(_OUTPUT_AXES), verbose=False)
    assert made is not None
    proto: Any = made.model_proto
    _tidy(proto, ("batch", "time", "height", "width", "rgb") if uint8 else ("batch", "rgb", "time", "height", "width"))
    for key, text in sorted(metadata_of(about).items()):
        proto.metadata_props.add(key=key, value=text)
    content = proto.SerializeToString(deterministic=True)
    crop = config.data.crop
    run = OnnxNetwork(open_session(content)).run
    told = _compare(run, model, about, uint8=uint8, sizes=[(3, crop, crop), (1, crop + crop // 7, crop + crop // 3)])
    write_atomic(Path(path), lambda file: file.write(content))
    return told


def export_program(
    model: VideoResNet, path: str | os.PathLike[str], *, uint8: bool = False, **about: Unpack[About]
) -> str:
    """What torch.export.save writes, of any batch of clips of the training size; `about` in its `extra_files`.

    As `export_onnx`.
    """
    crop = about["config"].data.crop
    program = _program(model, about, uint8=uint8, any_size=False)
    program.example_inputs = None  # a clip of zeros
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"vidgn.json": json.dumps(metadata_of(about), sort_keys=True)})
    content = buffer.getvalue()
    with _unwarned():
        run = torch.export.load(io.BytesIO(content)).module()
    told = _compare(run, model, about, uint8=uint8, sizes=[(3, crop, crop), (1, crop, crop)])
    write_atomic(Path(path), lambda file: file.write(content))
    return told


@contextmanager
def _unwarned() -> Generator[None]:
    """Without the warnings that torch and onnxscript give of their own insides and future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _program(model: VideoResNet, about: About, *, uint8: bool, any_size: bool) -> Any:
    """The network as torch.export sees it, without the places of this machine's files."""
    config = in_float32(about["config"])
    if statistics_used(config) == "batch":
        raise ConfigError(
            "tested by the statistics of each batch (bn_stats=batch), of which an export has none: "
            "--bn-stats ema exports the running ones"
        )
    size = (2 * config.data.crop,) * 2 if any_size else (config.data.crop,) * 2
    shape = (2, config.frames, *size, 3) if uint8 else (2, 3, config.frames, *size)
    clip = torch.zeros(shape, dtype=torch.uint8 if uint8 else torch.float32)
    rows, columns = (2, 3) if uint8 else (3, 4)
    axes = (0, rows, columns) if any_size else (0,)
    to_model = ToModel(config, clip.device, input_mean=tuple(about["input_mean"])) if uint8 else None
    deployed = Deployed(model, to_model).eval()
    program = torch.export.export(deployed, (clip,), dynamic_shapes=(dict.fromkeys(axes, torch.export.Dim.DYNAMIC),))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _tidy(proto: Any, axes: tuple[str, ...]) -> None:
    """Names of axes in the place of torch's symbols, and nothing of how and where the file was made."""
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("value_info")
    named = [(graph.input[0], axes), *((output, _OUTPUT_AXES[output.name]) for output in graph.output)]
    for value, names in named:
        for dim, name in zip(value.type.tensor_type.shape.dim, names, strict=True):
            if dim.dim_param:
                dim.dim_param = name


@torch.no_grad()
def _compare(run: Run, model: VideoResNet, about: About, *, uint8: bool, sizes: list[tuple[int, int, int]]) -> str:
    """Compare what was made with the network, on random frames: (clips, height, width) of each of `sizes`."""
    config = in_float32(about["config"])
    to_model = ToModel(config, torch.device("cpu"), input_mean=tuple(about["input_mean"]))
    generator = torch.Generator().manual_seed(0)
    of_logits, of_scores, all_logits = [], [], []
    for clips, height, width in sizes:
        shape = (clips, config.frames, height, width, 3)
        frames_NTHWC = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        clip_NCTHW = to_model(frames_NTHWC)
        logits = model(clip_NCTHW)
        found_scores, found_logits = run(frames_NTHWC if uint8 else clip_NCTHW)
        of_logits.append((found_logits - logits).abs().max())
        of_scores.append((found_scores - class_scores(logits)).abs().max())
        all_logits.append(logits.abs().max())
    logits, scores, largest = (float(torch.stack(v).max()) for v in (of_logits, of_scores, all_logits))
    told = f"differs from the network on random clips by at most {logits:.1e} in logits up to {largest:.3g}"
    told += f", {scores:.1e} in scores"
    if not (logits <= _MOST_DIFFERENCE * largest and scores <= _MOST_DIFFERENCE):  # a NaN is neither
        raise ConfigError(f"the export {told}: not written; use --to safetensors, and tell the authors of vidgn")
    return told
