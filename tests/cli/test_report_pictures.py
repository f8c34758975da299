"""What a report says of a set by opening some of its videos."""

import shutil

from tests.cells import cell
from vidgn.cli.report_pictures import described_set
from vidgn.run import run


def test_lengths_rates_and_sizes_of_the_videos_tested(tmp_path, tiny_data):
    config = cell(tmp_path, tiny_data, "gpus=1", "clips_per_gpu=2", "trainer.max_steps=1", "bn_stats_steps=1")
    run(config)
    said = described_set(config.run_dir)
    assert said == "Of the videos tested 9 were opened: 12 frames, 0.5 seconds, 24 frames a second, 32 × 32 pixels."


def test_a_run_that_keeps_no_list_is_not_described(tmp_path):
    shutil.rmtree(tmp_path)
    assert described_set(tmp_path) == ""
