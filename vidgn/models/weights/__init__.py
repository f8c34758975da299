"""Weights in and out: foreign formats in, safetensors and pytorchvideo checkpoints out.

`unpickle` reads pickles without running them, `files` opens containers, `formats` is the table of formats, `source` a
file whose names are understood, `transfer` puts weights into a model, `report` is its account, `export` writes.
"""

from vidgn.models.weights.containers import WeightsFile
from vidgn.models.weights.containers import read_file as load_file
from vidgn.models.weights.export import read_about, save_model, save_pytorchvideo, save_torchvision
from vidgn.models.weights.formats import FORMATS, Pixels
from vidgn.models.weights.source import WeightsSource, read_source
from vidgn.models.weights.transfer import ImportReport, load_weights

__all__ = [
    "FORMATS",
    "ImportReport",
    "Pixels",
    "WeightsFile",
    "WeightsSource",
    "load_file",
    "load_weights",
    "read_about",
    "read_source",
    "save_model",
    "save_pytorchvideo",
    "save_torchvision",
]
