"""Still images with the face of a video of one frame."""

from collections.abc import Sequence

import torch
from torchvision.io import ImageReadMode, decode_image

from vidgn.data.decode.base import FrameSink, VideoReader, check_file, check_size
from vidgn.data.plan import Box


class ImageReader(VideoReader):
    """A JPEG or PNG, read through torchvision; see VideoReader."""

    decoder = "torchvision"
    num_frames = 1

    def __init__(self, path: str) -> None:
        """Raises: DecodeError."""
        super().__init__(check_file(path))
        try:
            data = torch.frombuffer(bytearray(open(path, "rb").read()), dtype=torch.uint8)  # noqa: SIM115
            image_CHW = decode_image(data, mode=ImageReadMode.RGB, apply_exif_orientation=True)
        except (RuntimeError, OSError, ValueError) as error:
            raise self.error(f"is no JPEG or PNG that can be read ({str(error).splitlines()[0]})") from None
        self._image_HWC = image_CHW.permute(1, 2, 0).numpy()
        self.height, self.width = self._image_HWC.shape[:2]
        check_size(self.height, self.width, self.error)
        self.num_decoded = 1

    def close(self) -> None:
        del self._image_HWC

    def _deliver(self, wanted: list[int], boxes: Sequence[Box], sink: FrameSink) -> None:
        for box in boxes:
            rows = slice(box.top, box.top + box.height)
            sink.put(0, box, self._image_HWC[rows, box.left : box.left + box.width])
