"""Text drawn into frames, and a video written with it."""

import os
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vidgn.data.decode.write import Recoding, recode

_AS_LARGE = Recoding(short_side=2**14, keyframe_distance=250, preset="veryfast")
_SHARE, _SMALLEST, _PADDING = 20, 10, 0.3  # height of a frame for each of text; pixels; share of the text's height


def paint_video(source: str, target: str, text_at: Callable[[float], str]) -> None:
    """`source` as the MP4 `target`, without sound: at each time, in seconds from the first frame on, with a text.

    Raises:
        DecodeError: where not every frame decodes or the target can't be written.
    """
    recode(source, target, _AS_LARGE, lambda frame_HWC, seconds: labelled(frame_HWC, text_at(seconds)))


def labelled(image_HWC: np.ndarray, text: str) -> np.ndarray:
    """uint8 (H, W, 3) with a line of text on a dark ground in the corner, made smaller until it fits."""
    if not text:
        return image_HWC
    image = Image.fromarray(image_HWC)
    canvas, size = ImageDraw.Draw(image, "RGBA"), max(_SMALLEST, image.height // _SHARE)
    while True:
        font, padding = _font(size), round(_PADDING * size)
        _, _, right, bottom = canvas.textbbox((padding, padding), text, font=font)
        if right + padding <= image.width or size <= _SMALLEST:
            break
        size = max(_SMALLEST, size * (image.width - 2 * padding) // right)
    canvas.rectangle((0, 0, right + padding, bottom + padding), fill=(0, 0, 0, 170))
    canvas.text((padding, padding), text, font=font, fill="white")
    return np.array(image)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which lies beside matplotlib's code: Latin, Greek, Cyrillic and more."""
    found = find_spec("matplotlib")  # imports nothing
    assert found is not None
    assert found.origin is not None
    return ImageFont.truetype(os.path.join(os.path.dirname(found.origin), "mpl-data/fonts/ttf/DejaVuSans.ttf"), size)


def undrawn(text: str) -> str:
    """The characters of `text` that the font has no picture of."""
    return "".join(dict.fromkeys(c for c in text if not c.isspace() and _drawn(c) == _drawn("\uffff")))


def _drawn(text: str) -> bytes:
    image = Image.new("L", (4 * _SMALLEST, 4 * _SMALLEST))
    ImageDraw.Draw(image).text((0, 0), text, font=_font(_SMALLEST), fill=255)
    return image.tobytes()
