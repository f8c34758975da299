"""vidgn data transcode: a copy of a data set that clips come out of faster."""

import argparse
import os

from vidgn.cli.data_index import add_limit_arguments, add_source_arguments, checked, limits_of, sources_of
from vidgn.errors import ConfigError

SUMMARY = "write videos anew at a smaller size with short closed GOPs and no audio, so that clips come out faster"
_PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")
_EPILOG = """\
SOURCE is a folder or an annotation file; FOLDER gets the same tree, every file an H.264 .mp4 with the same frames at
the same times. An annotation file also gets FOLDER/manifest.csv (path,label) for data=csv.

Files that are there already are left alone: stop it with Ctrl-C and start it again. A file only ever appears under its
name when it is whole. Smaller videos keep their size.

example: vidgn data transcode /data/k400/val /data/k400_256/val --short-side 256 --keyframes 30
"""


def run(argv: list[str]) -> int:
    """Exit code 0 if every video was written or was there, else 1."""
    parser = argparse.ArgumentParser(
        prog="vidgn data transcode",
        description=SUMMARY,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_source_arguments(parser)
    parser.add_argument("folder", metavar="FOLDER", help="where the new files go")
    parser.add_argument("--short-side", type=int, required=True, metavar="N", help="pixels of the shorter side")
    parser.add_argument("--keyframes", type=int, default=30, metavar="K", help="frames between keyframes (default: 30)")
    parser.add_argument("--crf", type=int, default=20, help="x264's quality: 0 lossless, 51 worst (default: 20)")
    parser.add_argument("--preset", choices=_PRESETS, default="medium", help="x264's (default: medium)")
    add_limit_arguments(parser, timeout_seconds=600.0)
    arguments = checked(parser, argv)
    if arguments.short_side < 2 or arguments.keyframes < 1 or not 0 <= arguments.crf <= 51:
        raise ConfigError(
            f"--short-side {arguments.short_side} --keyframes {arguments.keyframes} --crf {arguments.crf}: "
            "give at least 2 pixels, at least 1 frame, and a crf of 0 to 51"
        )

    from tqdm import tqdm

    from vidgn.data.decode.write import Recoding
    from vidgn.data.tools.transcode import measure_gain, plan_jobs, transcode, write_manifest

    sources = sources_of(arguments)
    recoding = Recoding(arguments.short_side, arguments.keyframes, arguments.crf, arguments.preset)
    jobs = plan_jobs(sources, arguments.folder, recoding)
    with tqdm(total=len(jobs), unit="file", disable=None) as bar:
        summary = transcode(
            jobs,
            **limits_of(arguments),
            on_done=lambda job, status: bar.update(),
        )
    for path, reason in (*summary.failed, *((path, "is not there") for path in sources.missing)):
        print(f"not written: {path}: {reason}")
    if os.path.isfile(arguments.source) and len(jobs) > 1:
        write_manifest(jobs, arguments.folder, os.path.join(arguments.folder, "manifest.csv"))
    bad = len(summary.failed) + len(sources.missing)
    print(f"{summary.num_written} videos written, {summary.num_skipped} were there, {bad} not written")
    if summary.bytes_before:
        before, after = summary.bytes_before / 1e6, summary.bytes_after / 1e6
        print(f"{before:,.1f} MB became {after:,.1f} MB ({100 * (1 - after / before):.1f} % saved)")
    gain = measure_gain(jobs)
    if gain is not None:
        print(f"clips of 32 frames, stride 2, crop 224 come out {gain:.2f} times as fast (one core, a few videos)")
    return 1 if bad else 0
