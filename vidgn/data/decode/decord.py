"""decord behind the VideoReader face, for the files on which it gives the frames asked for."""

import numpy as np

from vidgn.data.decode.guarded import GuardedReader, distrust_any
from vidgn.data.decode.pyav import PyavReader


class DecordReader(GuardedReader):
    """See VideoReader. decord 0.6.0 was last released in 2021; `distrust` says what it can't be trusted with."""

    decoder = "decord"

    def __init__(self, guide: PyavReader) -> None:
        """Raises: DecodeError; ImportError where decord is not installed."""
        super().__init__(guide)
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        self._failures = (RuntimeError, decord.DECORDError, IndexError)
        with self._errors_named():
            self._reader = decord.VideoReader(self.path, ctx=decord.cpu(0), num_threads=1)
            self.decoder_num_frames = len(self._reader)

    def _frames(self, numbers: list[int]) -> np.ndarray:
        return self._reader.get_batch(numbers).asnumpy()


def distrust(guide: PyavReader) -> str | None:
    """Why decord can't be trusted with this file, None if it can."""
    timeline = guide.timeline
    reason = distrust_any(guide)
    if reason is not None or timeline is None:
        return f"decord {reason}"
    if guide.codec == "av1":
        return "decord 0.6.0 knows no AV1"
    if timeline.is_open_gop():
        return "decord returns wrong frames on open GOPs"
    if timeline.has_discarded:
        return "decord ignores edit lists"
    return None
