"""Still images with the face of a video: of one frame, or all of a folder's."""

import os
import re
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from vidgn.data.decode.base import (
    IMAGE_EXTENSIONS,
    OUT_OF_MEMORY,
    Box,
    FrameSink,
    VideoReader,
    check_file,
    check_size,
)
from vidgn.errors import DecodeError

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")


class ImageReader(VideoReader):
    """A JPEG or PNG, turned as its EXIF data say; see VideoReader. `codec`: jpeg, png, webp or bmp."""

    decoder = "pillow"

    def __init__(self, path: str, *, as_stored: bool = False) -> None:
        """Read the whole image.

        Args:
            as_stored: whatever its EXIF data say.

        Raises:
            DecodeError: the video can't be read.
        """
        super().__init__(check_file(path))
        try:
            # Of broken EXIF data, palettes and sizes: the size is checked here.
            with warnings.catch_warnings(action="ignore"), Image.open(path, formats=_FORMATS) as image:
                check_size(image.height, image.width, self.error)
                self.codec = str(image.format).lower()
                turned = image if as_stored else ImageOps.exif_transpose(image)
                self.image_HWC = np.asarray(_eight_bit(turned).convert("RGB"))
        except DecodeError:
            raise
        except MemoryError:
            raise self.error(OUT_OF_MEMORY) from None
        except Exception as error:  # damaged EXIF data make Pillow raise whatever its parser runs into
            raise self.error(
                f"is no image that can be read ({(str(error) or type(error).__name__).splitlines()[0]})"
            ) from None
        self.height, self.width = self.image_HWC.shape[:2]
        self.num_decoded = 1

    @property
    def num_frames(self) -> int:
        return 1

    def close(self) -> None:
        del self.image_HWC

    def _deliver(self, wanted: list[int], boxes: Sequence[Box], sink: FrameSink) -> None:
        for box in boxes:
            rows = slice(box.top, box.top + box.height)
            sink.put(0, box, self.image_HWC[rows, box.left : box.left + box.width])


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 bit by its higher byte, as Pillow reads colours of 16 bit; it would cut off grey at 255."""
    if image.mode not in ("I", "I;16", "I;16B", "I;16L"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


class FramesReader(VideoReader):
    """A folder of images named by number (`img_00001.jpg`), which are the frames of one video; see VideoReader.

    Frame i is the image with the i-th smallest number; a number that is left out is an error.
    """

    decoder = "pillow"

    def __init__(self, path: str) -> None:
        """List the folder and read its first image.

        Raises:
            DecodeError: where its images are not frames of one video, or can't be read.
        """
        super().__init__(path)
        by_number: dict[int, str] = {}
        for name in sorted(self._listed()):
            digits = re.search(r"(\d+)$", os.path.splitext(name)[0])
            if digits is None or int(digits[1]) in by_number:
                raise self.error(f"its image {name} has no number of its own at its end; name frames by number")
            by_number[int(digits[1])] = name
        if not by_number:
            raise self.error("is a folder without images; give a video, or a folder of its frames named by number")
        first, last = min(by_number), max(by_number)
        if lost := next((number for number in range(first, last) if number not in by_number), None):
            raise self.error(f"frame {lost} is not between {by_number[first]} and {by_number[last]}; write it anew")
        self._names = [by_number[number] for number in sorted(by_number)]
        self.codec, image_HWC = self._picture(0)
        self.height, self.width = image_HWC.shape[:2]

    @property
    def num_frames(self) -> int:
        return len(self._names)

    def close(self) -> None:
        pass

    def _listed(self) -> list[str]:
        try:
            with os.scandir(self.path) as entries:
                names = [entry.name for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            raise self.error(f"can't be opened ({error.strerror})") from None
        return [name for name in names if os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS]

    def _picture(self, number: int) -> tuple[str, np.ndarray]:
        with ImageReader(os.path.join(self.path, self._names[number])) as image:
            return image.codec, image.image_HWC

    def _deliver(self, wanted: list[int], boxes: Sequence[Box], sink: FrameSink) -> None:
        for number in wanted:
            _, image_HWC = self._picture(number)
            if image_HWC.shape[:2] != (self.height, self.width):
                raise self.error(
                    f"{self._names[number]} is {image_HWC.shape[0]}x{image_HWC.shape[1]} pixels, and the first frame "
                    f"{self.height}x{self.width}; write all in one size"
                )
            self.num_decoded += 1
            for box in boxes:
                if sink.wants(number, box):
                    rows = slice(box.top, box.top + box.height)
                    sink.put(number, box, image_HWC[rows, box.left : box.left + box.width])
