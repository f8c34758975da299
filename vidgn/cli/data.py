"""`vidgn data VERB`: index, check, transcode and write data sets, and measure how fast clips come out of one."""

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vidgn.data.datasets.listing import ANNOTATED, OFFICIAL
from vidgn.errors import ConfigError, ManifestError
from vidgn.terminal import bar_stream

if TYPE_CHECKING:
    from vidgn.data.datasets.sources import Sources

SUMMARIES = {
    "index": "decode every video of a data set once and write a manifest: frames, size, rate, codec, flags, status",
    "check": "decode every video or image of a folder or manifest and say why the bad ones are bad",
    "transcode": (
        "write videos anew at a smaller size with short closed GOPs and no audio, so that clips come out faster"
    ),
    "synth": "write the synthetic motion set that a configuration asks for",
    "bench": "clips per second of loader and model, and how many workers to set",
}
_LIMITS = {"workers": (1, 4096), "timeout": (0.001, 86_400), "memory": (1, 2**24)}
_INDEX_EPILOG = """\
SOURCE is a folder (every video below it, or every image where it has no video, labelled by the folder it lies in) or
an annotation file: a Kinetics csv, a list of `path label`, or a csv with the columns path and label.

columns: path, label, num_frames (that really decode, from the first on), width, height (as shown), fps,
duration_seconds, codec, flags (vfr;open_gop;edit_list;late_start;no_timestamps;rotated;mirrored;video_streams: it has
several, the default one is read, else the largest), status, reason, bytes, modified_ns (of its last change)
status:  ok, damaged (some frames decode), unreadable, timeout, memory, crash, bug (of vidgn: report it)

Stop it with Ctrl-C and start it again with the same words: it goes on where it was.
Train on it with: vidgn train data=csv data.root=ROOT data.train=OUT.csv ...
OUT.csv.openings is used beside it: with it a video is opened without a look at all its packets.

example: vidgn data index /data/k400/train.csv --root /data/k400 --split train --out k400_train.csv
"""
_CHECK_EPILOG = """\
SOURCE is a folder, a video, an image, or an annotation file (Kinetics csv, list, csv with a column path, a json of
COCO's instances, whose entries are looked at too: duplicates, unknown categories, boxes without area or outside).
Exit code 0: all good; 1: at least one file is missing, damaged, unreadable, or breaks a limit, or an entry is wrong.

example: vidgn data check /data/ucf101
"""
_FORMAT_HELP = (
    f"of the annotation: {', '.join(ANNOTATED)} (default: told by it); frames: each folder of images below SOURCE is a "
    "video"
)
_PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")
_TRANSCODE_EPILOG = """\
SOURCE is a folder or an annotation file; FOLDER gets the same tree, every file an H.264 .mp4 with the same frames at
the same times. An annotation file NAME also gets FOLDER/NAME.csv for data=csv, with its other columns and what each
video was made of.

Files that are there already are left alone: stop it with Ctrl-C and start it again. One folder has one way of writing,
which its recoding.txt says, and of what each file is made. A file only ever appears under its name when it is whole.
Smaller videos keep their size, and colours are those of the source.

--profile fast gives 2.37 times the clips per second that the originals give, for 1.20 times their bytes, small 1.36
times for 1.05 times (eight videos of Kinetics, UCF101, HMDB51 and Something-Something: bench/results/stored.txt).

example: vidgn data transcode /data/k400/val /data/k400_256/val --short-side 256 --keyframes 30
"""
_BENCH_HELP = """usage: vidgn data bench [--seconds N] [KEY=VALUE ...]

Reads clips of the configured training set with 1, 2, 4, ... workers, runs the configured model on this device,
and says in its last line what to set so that it need not wait. Keys as in vidgn train.

  vidgn data bench data=csv data.root=videos data.train=train.csv data.val=val.csv frames=32 span=64
  vidgn data bench model=i3d_tiny data=synthetic frames=8 span=16

  --seconds N    for each measurement (default 5)
"""


def index(argv: list[str]) -> int:
    """Exit code 0 once the manifest is written, whatever the state of the videos."""
    parser = _parser("index", _INDEX_EPILOG)
    parser.add_argument("--out", required=True, metavar="CSV", help="the manifest to write")
    parser.add_argument("--retry", action="store_true", help="look again at files whose status was not ok")
    parser.add_argument(
        "--decoder",
        action="append",
        default=[],
        choices=("decord", "torchcodec"),
        help="also see where it can be trusted, so that training need not (may be given twice)",
    )
    add_limit_arguments(parser)
    arguments = checked(parser, argv)

    from tqdm import tqdm

    from vidgn.data.decode import check_installed
    from vidgn.data.tools.index import num_kept, write_index

    for decoder in arguments.decoder:
        check_installed(decoder)
    sources = sources_of(arguments)
    if not sources.files:
        raise ManifestError(
            f"none of the {len(sources.missing)} files of {arguments.source} is below {sources.root or '.'} "
            f"(first: {sources.missing[0]}); give the folder that its paths start from with --root"
        )
    statuses: Counter[str] = Counter()

    def count(source: object, status: str) -> None:
        statuses[status] += 1
        bar.set_postfix({name: number for name, number in statuses.items() if name != "ok"}, refresh=False)
        bar.update()

    with tqdm(total=len(sources.files), unit="file", disable=None, file=bar_stream()) as bar:
        try:
            summary = write_index(
                sources.files,
                arguments.out,
                **limits_of(arguments),
                retry=arguments.retry,
                decoders=arguments.decoder,
                on_done=count,
            )
        except KeyboardInterrupt:
            bar.close()
            done, total = num_kept(arguments.out), len(sources.files)  # the last may be written and not yet counted
            print(f"stopped after {done} of {total} files, which are kept; the same command goes on from here")
            raise
    others = "".join(f", {number} {status}" for status, number in sorted(statuses.items()) if status != "ok")
    missing = f", {len(sources.missing)} missing (no row)" if sources.missing else ""
    print(
        f"{arguments.out}: {summary.num_files} videos: {summary.num_ok} ok{others}{missing}; "
        f"{summary.num_frames} frames, {summary.duration_seconds / 3600:.2f} h; {summary.num_reused} rows reused"
    )
    for note in sources.notes():
        print(note)
    if summary.no_openings is not None:
        print(f"{arguments.out}.openings can't be written ({summary.no_openings}): videos are opened without it")
    from vidgn.config.compose import command_line

    words = command_line(["data=csv", f"data.root={sources.root or '.'}", f"data.train={arguments.out}"])
    print(f"use it with {words} (or data.val=...)")
    return 0


def check(argv: list[str]) -> int:
    """Exit code 0 if every file decodes from its first frame to its last, else 1."""
    parser = _parser("check", _CHECK_EPILOG)
    add_limit_arguments(parser)
    parser.add_argument(
        "--verbose", action="store_true", help="name every file that another decoder can't be trusted with"
    )
    arguments = checked(parser, argv)

    from tqdm import tqdm

    from vidgn.data.datasets.coco import checked_entries
    from vidgn.data.tools.probe import check_files, report_text

    sources = sources_of(arguments, takes_coco=True)
    faults, sizes = checked_entries(arguments.source, arguments.format)
    with tqdm(total=len(sources.files), unit="file", disable=None, file=bar_stream()) as bar:
        report = check_files(sources, sizes=sizes, on_done=lambda source, status: bar.update(), **limits_of(arguments))
    for note in sources.notes():
        print(note)
    for where, kind, reason in faults:
        print(f"{arguments.source}: {where}: {kind}: {reason}")
    print(report_text(report, verbose=arguments.verbose))
    return 1 if report.bad or faults else 0


def transcode(argv: list[str]) -> int:
    """Exit code 0 if every video was written or was there, else 1."""
    parser = _parser("transcode", _TRANSCODE_EPILOG)
    parser.add_argument("folder", metavar="FOLDER", help="where the new files go")
    parser.add_argument("--short-side", type=int, required=True, metavar="N", help="pixels of the shorter side")
    parser.add_argument("--keyframes", type=int, default=30, metavar="K", help="frames between keyframes (default: 30)")
    parser.add_argument(
        "--profile", choices=("small", "fast"), default="small", help="small files, or fast decoding (default: small)"
    )
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
    from vidgn.data.tools import transcode as tool

    sources = sources_of(arguments)
    recoding = Recoding(
        arguments.short_side, arguments.keyframes, arguments.crf, arguments.preset, arguments.profile == "fast"
    )
    jobs = tool.plan_jobs(sources, arguments.folder, recoding)
    is_list = os.path.isfile(arguments.source) and len(jobs) > 1
    manifest = tool.manifest_place(jobs, arguments.source, arguments.folder) if is_list else None
    tool.check_recoding(jobs, arguments.folder, recoding)
    with tqdm(total=len({job.target for job in jobs}), unit="file", disable=None, file=bar_stream()) as bar:
        summary = tool.transcode(
            jobs,
            **limits_of(arguments),
            on_done=lambda job, status: bar.update(),
        )
    for path, reason in (*summary.failed, *((path, "is not there") for path in sources.missing)):
        print(f"not written: {path}: {reason}")
    if manifest is not None:
        tool.write_manifest(jobs, arguments.folder, manifest)
    bad = len(summary.failed) + len(sources.missing)
    print(f"{summary.num_written} videos written, {summary.num_skipped} were there, {bad} not written")
    if summary.bytes_before:
        before, after = summary.bytes_before / 1e6, summary.bytes_after / 1e6
        print(f"{before:,.1f} MB became {after:,.1f} MB ({100 * (1 - after / before):.1f} % saved)")
    gain = tool.measure_gain(jobs)
    if gain is not None:
        print(f"clips of 32 frames, stride 2, crop 224 come out {gain:.2f} times as fast (one core, a few videos)")
    return 1 if bad else 0


def synth(argv: list[str]) -> int:
    """Exit code 0 once the set is there; a set that is there already is left alone."""
    parser = argparse.ArgumentParser(prog="vidgn data synth", description=SUMMARIES["synth"])
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for example data.synthetic.num_train=1000")
    arguments = parser.parse_args(argv)

    from vidgn.config.compose import load_config
    from vidgn.data.datasets.manifest import read_manifest
    from vidgn.data.datasets.synthetic import ensure_synthetic

    data = load_config(["data=synthetic", *arguments.overrides]).data
    folder = ensure_synthetic(data).root
    train, val = read_manifest(data, "train"), read_manifest(data, "val")
    print(f"{len(train)} training and {len(val)} validation videos of {len(train.classes)} classes in {folder}")
    return 0


def bench(argv: list[str]) -> int:
    """Measure the loader and the model, and print what follows.

    Returns:
        The exit code of vidgn.cli.main.
    """
    if "-h" in argv or "--help" in argv:
        print(_BENCH_HELP)
        return 0
    argv, seconds = list(argv), 5.0
    if "--seconds" in argv:
        at = argv.index("--seconds")
        text = argv[at + 1] if at + 1 < len(argv) else ""
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < 3600:
            raise ConfigError(f"--seconds {text}: write a number of seconds above 0")
        del argv[at : at + 2]
    from vidgn.config.compose import load_config

    config = load_config(argv)
    from vidgn.training.throughput import advice, measure

    print(advice(measure(config, seconds=seconds, log=print), config.data))
    return 0


def _parser(verb: str, epilog: str) -> argparse.ArgumentParser:
    """Of a verb that looks at files."""
    parser = argparse.ArgumentParser(
        prog=f"vidgn data {verb}",
        description=SUMMARIES[verb],
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_source_arguments(parser)
    return parser


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """What `sources_of` needs."""
    parser.add_argument("source", metavar="SOURCE", help="a folder, a video, or an annotation file")
    parser.add_argument("--root", help="folder of the videos; a Kinetics csv needs it (default: of the annotation)")
    parser.add_argument("--format", choices=(*ANNOTATED, "frames"), metavar="NAME", help=_FORMAT_HELP)
    parser.add_argument("--split", choices=("train", "val"), default="val", help="of a list of several (default: val)")
    parser.add_argument("--label", metavar="COLUMN", help="of epic (default: verb_class)")
    parser.add_argument("--fold", type=int, metavar="N", help="of ucf101, hmdb51: SOURCE is the folder of all lists")
    parser.add_argument("--separator", default=" ", help="between path and label of a list (default: a space)")


def add_limit_arguments(parser: argparse.ArgumentParser, *, timeout_seconds: float = 60.0) -> None:
    """--workers, --timeout and --memory."""
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core)")
    parser.add_argument(
        "--timeout", type=float, default=timeout_seconds, metavar="SECONDS", help="for one file (default: %(default)g)"
    )
    parser.add_argument("--memory", type=int, default=4096, metavar="MIB", help="for one file (default: %(default)s)")


def checked(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of a verb that looks at files.

    Raises:
        ConfigError: for limits under which nothing would be looked at.
    """
    arguments = parser.parse_args(argv)
    for name, (least, most) in _LIMITS.items():
        value = getattr(arguments, name)
        if value is not None and not least <= value <= most:
            raise ConfigError(f"--{name} {value}: must lie between {least} and {most}; mend it or leave it out")
    return arguments


def limits_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The workers and limits of `map_in_workers`."""
    from vidgn.data.loading.pool import Limits
    from vidgn.processes import num_cores

    workers = num_cores() if arguments.workers is None else arguments.workers
    return {"workers": workers, "limits": Limits(arguments.timeout, arguments.memory)}


def sources_of(arguments: argparse.Namespace, *, takes_coco: bool = False) -> "Sources":
    """The files that the arguments name.

    Raises:
        ManifestError: the annotation or the folder can't be used.
    """
    from vidgn.config.compose import load_config
    from vidgn.data.datasets.coco import is_coco
    from vidgn.data.datasets.sources import find_sources

    if is_coco(arguments.source, arguments.format) and not takes_coco:
        raise ConfigError(f"{arguments.source}: its boxes would be lost; a json of COCO's is for vidgn data check")
    for option, formats in (("fold", ("ucf101", "hmdb51")), ("label", ("epic",))):
        if (value := getattr(arguments, option)) is not None and arguments.format not in formats:
            raise ConfigError(f"--{option} {value} is for --format {' or '.join(formats)}; leave it out")
    official = load_config([f"data={arguments.format}"]).data if arguments.format in OFFICIAL else None
    return find_sources(
        arguments.source,
        root=arguments.root,
        format=arguments.format,
        split=arguments.split,
        separator=arguments.separator,
        official=official and replace(official, label=arguments.label or official.label, fold=arguments.fold),
    )
