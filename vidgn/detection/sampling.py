"""What torchvision's detector draws in training, drawn by name: no global generator and no device has a say."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vidgn.rng_streams import Tag, stream


class PlannedSampler:
    """torchvision's `BalancedPositiveNegativeSampler`, with the draws of an image a function of its slot.

    Of each image at most `positive_fraction * batch_size` boxes that hold an object, and others up to `batch_size`.
    """

    def __init__(self, place: int, batch_size: int, positive_fraction: float) -> None:
        """`place`: 0 for proposals, 1 for the heads."""
        self._place, self._size, self._most_positive = place, batch_size, int(batch_size * positive_fraction)
        self.seed, self.step, self.slots = 0, 0, range(0)

    def __call__(self, matched_idxs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Masks (A,) uint8 of the positive and of the negative boxes taken, for each image.

        Args:
            matched_idxs: (A,) of each image: at least 1 positive, 0 negative, below 0 neither.
        """
        assert len(matched_idxs) == len(self.slots), "one slot an image"
        taken: tuple[list[Tensor], list[Tensor]] = [], []
        for slot, matched_A in zip(self.slots, matched_idxs, strict=True):
            draws = stream(Tag.BOXES, self.seed, self.step, 2 * slot + self._place)
            left = self._size
            for masks, candidates, most in (
                (taken[0], matched_A >= 1, self._most_positive),
                (taken[1], matched_A == 0, self._size),
            ):
                places = candidates.nonzero()[:, 0]
                chosen = draws.permutation(len(places))[: min(most, left)]
                mask_A = torch.zeros_like(matched_A, dtype=torch.uint8)
                mask_A[places[torch.from_numpy(chosen).to(places.device)]] = 1
                masks.append(mask_A)
                left -= len(chosen)
        return taken
