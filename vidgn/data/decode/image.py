"""Still images with the face of a video of one frame."""

import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from vidgn.data.decode.base import OUT_OF_MEMORY, Box, FrameSink, VideoReader, check_file, check_size
from vidgn.errors import DecodeError

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")


class ImageReader(VideoReader):
    """A JPEG or PNG, turned as its EXIF data say; see VideoReader. `codec`: jpeg, png, webp or bmp."""

    decoder = "pillow"

    def __init__(self, path: str) -> None:
        """Read the whole image.

        Raises:
            DecodeError: the video can't be read.
        """
        super().__init__(check_file(path))
        try:
            # Of broken EXIF data, palettes and sizes: the size is checked here.
            with warnings.catch_warnings(action="ignore"), Image.open(path, formats=_FORMATS) as image:
                check_size(image.height, image.width, self.error)
                self.codec = str(image.format).lower()
                self._image_HWC = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except DecodeError:
            raise
        except MemoryError:
            raise self.error(OUT_OF_MEMORY) from None
        except Exception as error:  # damaged EXIF data make Pillow raise whatever its parser runs into
            raise self.error(
                f"is no image that can be read ({(str(error) or type(error).__name__).splitlines()[0]})"
            ) from None
        self.height, self.width = self._image_HWC.shape[:2]
        self.num_decoded = 1

    @property
    def num_frames(self) -> int:
        return 1

    def close(self) -> None:
        del self._image_HWC

    def _deliver(self, wanted: list[int], boxes: Sequence[Box], sink: FrameSink) -> None:
        for box in boxes:
            rows = slice(box.top, box.top + box.height)
            sink.put(0, box, self._image_HWC[rows, box.left : box.left + box.width])
