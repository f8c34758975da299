"""Videos to frames: one interface, whatever decodes.

`open_video(path)` gives a VideoReader; `open_image` one of a single frame. Only this package imports av, decord and
torchcodec.
"""

from vidgn.data.decode.base import VideoReader
from vidgn.data.decode.open import DECODERS, open_image, open_video, preload

__all__ = ["DECODERS", "VideoReader", "open_image", "open_video", "preload"]
