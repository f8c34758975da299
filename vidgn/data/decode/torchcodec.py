"""torchcodec behind the VideoReader face (extra `torchcodec`; FFmpeg's libraries from the system)."""

import numpy as np

from vidgn.data.decode.guarded import GuardedReader, distrust_any
from vidgn.data.decode.pyav import PyavReader


class TorchcodecReader(GuardedReader):
    """See VideoReader. Seeks exactly: the file's packets are scanned once when it is opened."""

    decoder = "torchcodec"

    def __init__(self, guide: PyavReader) -> None:
        """Raises: DecodeError; ImportError where torchcodec or FFmpeg's libraries are not installed."""
        super().__init__(guide)
        from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportPrivateImportUsage]

        self._failures = (RuntimeError, ValueError, IndexError)
        with self._errors_named():
            self._reader = VideoDecoder(self.path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
            self.decoder_num_frames = len(self._reader)

    def _frames(self, numbers: list[int]) -> np.ndarray:
        return self._reader.get_frames_at(numbers).data.numpy()


def distrust(guide: PyavReader) -> str | None:
    """Why torchcodec can't be trusted with this file, None if it can."""
    reason = distrust_any(guide)
    if reason is not None:
        return f"torchcodec {reason}"
    if guide.timeline is not None and guide.timeline.has_discarded:
        return "torchcodec counts frames that an edit list discards"
    return None
