"""vidgn: video action recognition whose result depends on the experiment and never on the hardware it ran on.

What is public is in `__all__`, imported when it is first asked for: `import vidgn` costs no torch. The rest may change.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidgn import nn
    from vidgn.api import (
        ClassScore,
        ClipPlan,
        Clips,
        Config,
        ImportReport,
        Prediction,
        Study,
        VideoClassifier,
        VideoPredictor,
        VidgnError,
        Window,
        create_model,
        evaluate,
        list_models,
        list_norms,
        list_weights,
        load,
        load_config,
        load_detector,
        load_weights,
        open_video,
        plan,
        predict_memory,
        replace_norms,
        study,
        train,
    )

__version__ = "0.1.0"

__all__ = [
    "ClassScore",
    "ClipPlan",
    "Clips",
    "Config",
    "ImportReport",
    "Prediction",
    "Study",
    "VideoClassifier",
    "VideoPredictor",
    "VidgnError",
    "Window",
    "__version__",
    "create_model",
    "evaluate",
    "list_models",
    "list_norms",
    "list_weights",
    "load",
    "load_config",
    "load_detector",
    "load_weights",
    "nn",
    "open_video",
    "plan",
    "predict_memory",
    "replace_norms",
    "study",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"vidgn has no public name {name!r}: it has {', '.join(__all__)}")
    return importlib.import_module("vidgn.nn") if name == "nn" else getattr(importlib.import_module("vidgn.api"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
