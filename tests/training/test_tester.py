"""Which videos go through the model together, and what is left of a test that fails."""

import dataclasses
import threading

import pytest
import torch

from tests.cells import cell
from vidgn.data.datasets.manifest import read_manifest
from vidgn.data.loading.batches import view_videos
from vidgn.distributed.ranks import Ranks
from vidgn.training.setup import ToModel, make_model
from vidgn.training.tester import CURVE, evaluate

CPU = torch.device("cpu")


@pytest.mark.parametrize(("norm", "sizes"), [("bn", [4, 4, 1]), ("sync_bn", [9])])
def test_batch_statistics_are_those_of_training_size_groups_drawn_across_classes(tmp_path, tiny_data, norm, sizes):
    config = cell(tmp_path, tiny_data, f"norm={norm}")
    val = read_manifest(config.data, "val")
    read = view_videos(val, config.data, CURVE, seed=0, frames=8, stride=1, rows=range(len(val)))
    index_of = {v.clips_VTHWC[0].numpy().tobytes(): v.index for v in read}
    assert len(index_of) == len(val)
    model, to_model, groups = make_model(config, num_classes=3), ToModel(config, CPU), []

    def watched(clip_NTHWC):
        groups.append([index_of[clip.numpy().tobytes()] for clip in clip_NTHWC])
        return to_model(clip_NTHWC)

    def test(ranks):
        groups.clear()
        evaluate(model, val, config, CURVE, ranks=ranks, to_model=watched, use_batch_statistics=True)
        return list(groups)

    alone = test(Ranks(0, 1, CPU))
    assert sorted(map(len, alone), reverse=True) == sizes
    assert sorted(i for group in alone for i in group) == list(range(len(val)))
    assert alone[0] != sorted(alone[0])
    assert len({val[i].label for i in alone[0]}) > 1

    def share(rank):  # what a rank of two would do, without the other one to meet
        class Half(Ranks):
            def gather(self, value):
                raise EOFError

        with pytest.raises(EOFError):
            test(Half(rank, 2, CPU))
        return list(groups)

    assert sorted(share(0) + share(1)) == sorted(alone)


def test_readers_end_with_the_test_that_fails(tmp_path, tiny_data):
    config = cell(tmp_path, dataclasses.replace(tiny_data, workers=1), "norm=gn")

    def fails(clip_NTHWC):
        raise ArithmeticError

    val, model = read_manifest(config.data, "val"), make_model(config, num_classes=3)
    with pytest.raises(ArithmeticError) as caught:
        evaluate(model, val, config, CURVE, ranks=Ranks(0, 1, CPU), to_model=fails)
    assert "vidgn-loader" not in {thread.name for thread in threading.enumerate()}
    assert caught.value.__traceback__ is not None  # it holds what the test held
