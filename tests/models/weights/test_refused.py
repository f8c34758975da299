"""Files that must not be taken: hostile, torn, or made for another network. One line each, and the model untouched."""

import os
import pickle
import shlex
import struct

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.models.foreign_files import caffe2_blobs, python2_pickle, torchvision_state
from tests.models.narrow_nets import IMAGE, OUR_STD, VIDEO, ours, plain
from vidgn.errors import CheckpointError
from vidgn.models.weights import load_file, load_weights


class Command:
    """Pickled, it is a call that leaves a file behind."""

    def __init__(self, target, how=os.system):
        self.target, self.how = target, how

    def __reduce__(self):
        if self.how is os.system:
            return os.system, (f"touch {shlex.quote(str(self.target))}",)
        return eval, (f"__import__('pathlib').Path({str(self.target)!r}).touch()",)


def refused(path):
    with pytest.raises(CheckpointError) as caught:
        load_file(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("how", [os.system, eval])
def test_a_hostile_pickle_is_refused_by_name_and_nothing_runs(protocol, how, tmp_path):
    mark, path = tmp_path / "it_ran", tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"blobs": {"conv1_w": Command(mark, how)}}, protocol))
    message = refused(path)
    assert ("system" if how is os.system else "eval") in message
    assert "nothing of it was run" in message
    assert not mark.exists()
    with pytest.raises(AttributeError):  # the file does run, when python's own reader is let at it
        pickle.loads(path.read_bytes())["blobs"]["conv1_w"].shape  # noqa: B018
    assert mark.exists()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.pkl"])
def test_a_hostile_torch_file_is_refused_by_name_whatever_it_is_called(legacy, name, tmp_path):
    mark, path = tmp_path / "it_ran", tmp_path / name
    content = {"state_dict": {"conv1.weight": torch.zeros(2), "x": Command(mark)}}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert "posix.system" in refused(path)
    assert not mark.exists()


def opcodes(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"
HOSTILE = {
    "a builtin": (opcodes(b"c__builtin__\neval\n(U\x011tR"), "__builtin__.eval"),
    "numpy's own loader": (opcodes(b"cnumpy\nload\n(U\x01xtR"), "numpy.load"),
    "a name behind an allowed one": (opcodes(b"cnumpy\ndtype.type\n"), "numpy.dtype.type"),
    "an array of another class": (opcodes(b"cnumpy.core.multiarray\n_reconstruct\n(I0\n(I0\ntU\x01btR"), "array of"),
    "an array of objects": (opcodes(ARRAY, b"(I1\n(I1\ntcnumpy\ndtype\n(U\x02O8I0\nI1\ntR"), "'O8'"),
    "an array of records": (opcodes(b"cnumpy\ndtype\n(U\x04f4,iI0\nI1\ntR"), "'f4,i'"),
    "a dtype with fields": (
        opcodes(b"cnumpy\ndtype\n(U\x02f4I0\nI1\ntR(I3\nU\x01<NU\x01a}I4\nI4\nI0\ntb"),
        "an array of records",
    ),
    "an outside object": (opcodes(b"U\x01xQ"), "the outside object 'x'"),
    "another codec": (opcodes(b"c_codecs\nencode\n(U\x01xU\x04zlibtR"), "the codec 'zlib'"),
    "a set state on a function": (opcodes(b"c_codecs\nencode\n}U\x04nameU\x01xsb\x30}"), None),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_other_ways_to_make_a_pickle_do_something(case, tmp_path):
    raw, name = HOSTILE[case]
    (tmp_path / "w.pkl").write_bytes(raw)
    message = refused(tmp_path / "w.pkl")
    if name is not None:
        assert name in message


def test_a_list_that_doubles_fifty_times_is_read_in_no_time(tmp_path):
    bomb = []
    for _ in range(50):
        bomb = [bomb, bomb]
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(bomb))
    assert "not weights by name" in refused(tmp_path / "w.pkl")


def test_numpy_arrays_of_every_layout_are_read_as_they_are(tmp_path):
    arrays = {
        "c": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big_endian": np.arange(4, dtype=">f4"),
        "half": np.ones(3, np.float16),
        "int": np.arange(3),
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 4), np.float32),
    }
    for protocol in range(6):
        (tmp_path / "w").write_bytes(pickle.dumps({**arrays, "lr": np.float32(0.5)}, protocol))
        file = load_file(tmp_path / "w")
        assert file.beside == {"lr": 0.5}
        for name, array in arrays.items():
            assert torch.equal(file.tensors[name], torch.from_numpy(array.astype(array.dtype.newbyteorder("="))))
    assert np.dtype("f4").byteorder == "="  # a pickled dtype is told its byte order; numpy's own must not hear it


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One whole file of every container."""
    folder, state = tmp_path_factory.mktemp("whole"), torchvision_state(plain(IMAGE, "bn"))
    torch.save(state, folder / "zip.pth")
    torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(state, folder / "w.safetensors")
    (folder / "w.pkl").write_bytes(python2_pickle({"blobs": caffe2_blobs(plain(IMAGE, "bn"))}))
    return folder


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth", "w.safetensors", "w.pkl"])
def test_a_truncated_file_costs_one_line(name, share, whole, tmp_path):
    raw = (whole / name).read_bytes()
    (tmp_path / name).write_bytes(raw[: int(share * len(raw))])
    message = refused(tmp_path / name)
    assert "fetch it again" in message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<html>404</html>", "neither safetensors, nor a torch file, nor a whole pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "nor a whole pickle"),
        (struct.pack("<Q", 10**7) + b"{", "a torn safetensors file"),
        (pickle.dumps([1, 2]), "holds a list, not weights by name"),
        (pickle.dumps({"a": 1}), "without tensors by name"),
        (pickle.dumps({"w": np.zeros(2)}), None),
    ],
)
def test_what_is_no_weights_file_is_told(content, says, tmp_path):
    (tmp_path / "w").write_bytes(content)
    if says is not None:
        assert says in refused(tmp_path / "w")
    else:
        with pytest.raises(CheckpointError, match=r"tensors named w, \.\.\. are of no known format; known are pyt"):
            load_weights(ours(IMAGE, "bn"), tmp_path / "w", std=OUR_STD)


def test_a_missing_file_is_told(tmp_path):
    assert "no such weights file" in refused(tmp_path / "absent.pth")
    (tmp_path / "run").mkdir()
    with pytest.raises(CheckpointError, match=r"run/model\.safetensors: no such weights file"):
        load_file(tmp_path / "run")


def tampered(tmp_path, change, kind="bn"):
    state = torchvision_state(plain(IMAGE, kind))
    change(state)
    torch.save(state, tmp_path / "w.pth")
    return tmp_path / "w.pth"


def swap(key, value):
    return lambda state: state.update({key: value})


TAMPERED = {
    "missing conv": (lambda s: s.pop("layer3.2.conv2.weight"), r"lacks blocks\.3\.res_blocks\.2\.branch2\.conv_b"),
    "missing variance": (lambda s: s.pop("layer3.2.bn2.running_var"), r"lacks .*norm_b\.running_var"),
    "missing bias of the classifier": (lambda s: s.pop("fc.bias"), r"lacks blocks\.5\.proj\.bias"),
    "wrong conv": (
        swap("layer2.0.conv1.weight", torch.zeros(16, 32, 3, 3)),
        r"layer2\.0\.conv1\.weight is 16x32x3x3 and .*conv_a\.weight 16x32x1x1x1.*choose the model=",
    ),
    "wrong norm": (swap("bn1.weight", torch.zeros(9)), r"bn1\.weight is 9 and blocks\.0\.norm\.weight 8"),
    "wrong classifier width": (swap("fc.weight", torch.zeros(7, 100)), r"fc\.weight is 7x100"),
    "a block too many": (
        swap("layer1.3.conv1.weight", torch.zeros(8, 32, 1, 1)),
        r"layer1\.3\.conv1\.weight has no ",
    ),
    "a tensor of another net": (swap("layer1.0.se.fc.weight", torch.zeros(1)), r"no ResNet of ours has: layer1\.0\.se"),
    "not a number": (swap("bn1.bias", torch.full((8,), torch.nan)), r"bn1\.bias holds values that are not finite"),
    "negative variance": (swap("bn1.running_var", torch.full((8,), -1.0)), r"bn1\.running_var holds negative varianc"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_what_does_not_fit_is_refused_in_one_line_and_the_model_is_as_it_was(case, tmp_path):
    change, says = TAMPERED[case]
    net = ours(IMAGE, "bn")
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=says) as caught:
        load_weights(net, tampered(tmp_path, change), std=OUR_STD)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_a_3d_file_does_not_fit_an_image_model(tmp_path):
    (tmp_path / "w").write_bytes(python2_pickle(caffe2_blobs(plain(VIDEO, "bn"))))
    with pytest.raises(CheckpointError, match=r"conv1_w is 8x3x5x7x7 and blocks\.0\.conv\.weight 8x3x1x7x7"):
        load_weights(ours(IMAGE, "bn"), tmp_path / "w", std=OUR_STD)
