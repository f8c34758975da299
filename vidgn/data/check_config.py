"""What can be told of a data config before any process starts."""

import os

from vidgn.config.schema import DataConfig
from vidgn.data.formats import annotation_path, root_folder
from vidgn.data.synthetic import check_synthetic
from vidgn.errors import ConfigError, ManifestError

_ANNOTATED = ("kinetics", "list", "csv")


def check_config(data: DataConfig) -> None:
    """Raises ConfigError for values that can't be, ManifestError for files and folders that are not there."""
    low, high = data.short_side
    if data.crop < 1:
        raise ConfigError(f"data.crop={data.crop} must be at least 1 pixel")
    if low > high or (data.augment == "video" and low < data.crop):
        rule = f"must be [min, max] with data.crop={data.crop} <= min <= max"
        raise ConfigError(
            f"data.short_side={[low, high]} {rule}; write for example [{data.crop}, {max(high, data.crop)}]"
        )
    at_least = {"workers": 0, "max_unreadable": 0, "clips_per_video": 1}
    for name, least in at_least.items():
        if getattr(data, name) < least:
            raise ConfigError(f"data.{name}={getattr(data, name)} must be {least} or more")
    if data.timeout_seconds <= 0:
        raise ConfigError(f"data.timeout_seconds={data.timeout_seconds:g} must be positive; 60 suits most disks")
    if min(data.std) <= 0:
        raise ConfigError(f"data.std={list(data.std)} must be positive; pixels are 0 to 255")
    if data.format == "list" and not data.separator:
        raise ConfigError('data.separator is empty; write what parts path and label, for example data.separator=","')
    if data.classes is not None and not os.path.isfile(data.classes):
        raise ManifestError(f"data.classes={data.classes}: no such file; give one class name a line, or null")
    if data.format == "synthetic":
        if data.synthetic is None or data.root is None:
            raise ConfigError("data.format=synthetic needs data.root and data.synthetic; start from data=synthetic")
        check_synthetic(data.synthetic)
        return
    if data.format in _ANNOTATED:
        for split in ("train", "val"):
            annotation_path(data, split)
    root_folder(data, default="." if data.format in ("list", "csv") else None)
