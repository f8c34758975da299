"""Weights in and out: foreign formats in, safetensors and the names of other libraries out.

`unpickle` reads pickles without running them, `containers` opens files, `formats` is the table of formats, `source` a
file whose names are understood, `transfer` puts weights into a model and gives the account, `export` writes, and
`onnx_file` runs what vidgn/training/portable.py has written.
"""

from vidgn.models.weights.containers import WeightsFile
from vidgn.models.weights.containers import read_file as load_file
from vidgn.models.weights.export import About, metadata_of, read_about, save_model, save_pytorchvideo, save_torchvision
from vidgn.models.weights.formats import FORMATS, Pixels
from vidgn.models.weights.source import WeightsSource, read_source
from vidgn.models.weights.transfer import ImportReport, load_weights, report_of_onnx

__all__ = [
    "FORMATS",
    "About",
    "ImportReport",
    "Pixels",
    "WeightsFile",
    "WeightsSource",
    "load_file",
    "load_weights",
    "metadata_of",
    "read_about",
    "read_source",
    "report_of_onnx",
    "save_model",
    "save_pytorchvideo",
    "save_torchvision",
]
