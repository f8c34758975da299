"""Writes the weights of a PlainResNet as each library writes its own: names, nesting, dtypes, container.

Written from the libraries' code: video-nonlocal-net `lib/utils/checkpoints.py`, Detectron's model zoo, PySlowFast
`slowfast/utils/checkpoint.py`, pytorchvideo's hub, mmaction2's published files, torchvision and timm state dicts.
"""

import struct
from collections import OrderedDict

import numpy as np
import torch

C2_PARTS = {"conv": "w", "gamma": "s", "beta": "b", "mean": "rm", "var": "riv"}
TORCH_PARTS = {"conv": "weight", "gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"}


def torch_state(net, conv_name, norm_name, head, *, counters=True):
    """A state dict: `conv_name(unit)` and `norm_name(unit)` give the module, unit None being the stem."""
    state = OrderedDict()
    for unit in [None, *net.units()]:
        name = unit or ("stem",)
        state[f"{conv_name(unit)}.weight"] = net.params[(*name, "conv")].float()
        for part in ("gamma", "beta", "mean", "var"):
            if (*name, part) in net.params:
                state[f"{norm_name(unit)}.{TORCH_PARTS[part]}"] = net.params[(*name, part)].float()
        if counters and net.norm == "bn":
            state[f"{norm_name(unit)}.num_batches_tracked"] = torch.tensor(1234)
    state[f"{head}.weight"] = net.params["head", "weight"].float()
    state[f"{head}.bias"] = net.params["head", "bias"].float()
    return state


def torchvision_state(net, *, counters=True):
    number = {"a": 1, "b": 2, "c": 3}

    def conv(unit):
        if unit is None:
            return "conv1"
        stage, block, branch = unit
        return f"layer{stage + 1}.{block}." + ("downsample.0" if branch == "shortcut" else f"conv{number[branch]}")

    def norm(unit):
        if unit is None:
            return "bn1"
        stage, block, branch = unit
        return f"layer{stage + 1}.{block}." + ("downsample.1" if branch == "shortcut" else f"bn{number[branch]}")

    return torch_state(net, conv, norm, "fc", counters=counters)


def mmaction_checkpoint(net):
    number = {"a": 1, "b": 2, "c": 3}

    def module(unit):
        if unit is None:
            return "backbone.conv1"
        stage, block, branch = unit
        name = "downsample" if branch == "shortcut" else f"conv{number[branch]}"
        return f"backbone.layer{stage + 1}.{block}.{name}"

    state = torch_state(net, lambda u: f"{module(u)}.conv", lambda u: f"{module(u)}.{net.norm}", "cls_head.fc_cls")
    return {"meta": {"mmengine_version": "0.3.1", "epoch": 100, "CLASSES": None}, "state_dict": state}


def pyslowfast_checkpoint(net, *, data_cfg="  MEAN:\n  - 0.45\n  - 0.45\n  - 0.45\n"):
    def conv(unit):
        if unit is None:
            return "s1.pathway0_stem.conv"
        stage, block, branch = unit
        name = "branch1" if branch == "shortcut" else f"branch2.{branch}"
        return f"s{stage + 2}.pathway0_res{block}.{name}"

    def norm(unit):
        return "s1.pathway0_stem.bn" if unit is None else f"{conv(unit)}_bn"

    state = torch_state(net, conv, norm, "head.projection")
    momentum = {"state": {0: {"momentum_buffer": torch.zeros(8, 3, 1, 7, 7)}}, "param_groups": [{"lr": 0.1}]}
    cfg = f"BN:\n  MOMENTUM: 0.1\nDATA:\n  CROP_SIZE: 224\n{data_cfg}  NUM_FRAMES: 8\nMODEL:\n  ARCH: i3d\n"
    return {"epoch": 195, "model_state": state, "optimizer_state": momentum, "cfg": cfg}


def pytorchvideo_checkpoint(net):
    numbers = (1, 3, 4, 5) if net.pool2 else (1, 2, 3, 4)  # the pool is a block

    def conv(unit):
        if unit is None:
            return "blocks.0.conv"
        stage, block, branch = unit
        name = "branch1_conv" if branch == "shortcut" else f"branch2.conv_{branch}"
        return f"blocks.{numbers[stage]}.res_blocks.{block}.{name}"

    def norm(unit):
        return "blocks.0.norm" if unit is None else conv(unit).replace("conv", "norm")

    return {"model_state": torch_state(net, conv, norm, f"blocks.{numbers[-1] + 1}.proj")}


def caffe2_blobs(net, *, momentum=True, statistics=True):
    """Blobs as caffe2 names them, float32; `riv` holds the variance."""
    blobs = {}
    for unit in [None, *net.units()]:
        name = unit or ("stem",)
        if unit is None:
            conv, norm = "conv1", "res_conv1_bn" if net.norm == "bn" else "conv1_gn"
        else:
            stage, block, branch = unit
            conv = f"res{stage + 2}_{block}_" + ("branch1" if branch == "shortcut" else f"branch2{branch}")
            norm = f"{conv}_{net.norm}"
        for part, suffix in C2_PARTS.items():
            if (*name, part) in net.params and (statistics or part not in ("mean", "var")):
                blob = f"{conv if part == 'conv' else norm}_{suffix}"
                blobs[blob] = net.params[(*name, part)].float().numpy()
                if momentum and part not in ("mean", "var"):
                    blobs[f"{blob}_momentum"] = np.full_like(blobs[blob], 0.5)
    blobs["pred_w"] = net.params["head", "weight"].float().numpy()
    blobs["pred_b"] = net.params["head", "bias"].float().numpy()
    if momentum:
        blobs["lr"] = np.array([0.00125], np.float32)
        blobs["model_iter"] = 400000
    return blobs


def python2_pickle(value, protocol=2):
    """The bytes cPickle of python 2 writes: text and bytes alike are 8-bit strings, arrays hold such a string."""
    return (b"\x80\x02" if protocol == 2 else b"") + _python2(value, protocol) + b"."


def _python2(value, protocol):
    binary = protocol == 2
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return (b"\x88" if value else b"\x89") if binary else (b"I01\n" if value else b"I00\n")
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value) if binary else f"I{value}\n".encode()
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value) if binary else f"F{value!r}\n".encode()
    if isinstance(value, (str, bytes)):
        raw = value.encode() if isinstance(value, str) else value
        if not binary:
            return b"S" + repr(raw)[1:].encode() + b"\n"
        return (b"U" + bytes([len(raw)]) if len(raw) < 256 else b"T" + struct.pack("<i", len(raw))) + raw
    if isinstance(value, tuple):
        return b"(" + b"".join(_python2(v, protocol) for v in value) + b"t"
    if isinstance(value, dict):
        items = b"".join(_python2(k, protocol) + _python2(v, protocol) + b"s" for k, v in value.items())
        return (b"}" if binary else b"(d") + items
    assert isinstance(value, np.ndarray)
    code = value.dtype.str[1:]
    dtype = b"cnumpy\ndtype\n" + _python2((code, 0, 1), protocol) + b"R"
    dtype += _python2((3, "<", None, None, None, -1, -1, 0), protocol) + b"b"
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + _python2((0,), protocol)
    made += _python2("b", protocol) + b"tR"
    state = b"(" + _python2(1, protocol) + _python2(tuple(value.shape), protocol) + dtype
    state += _python2(False, protocol) + _python2(value.astype(value.dtype.newbyteorder("<")).tobytes(), protocol)
    return made + state + b"tb"
