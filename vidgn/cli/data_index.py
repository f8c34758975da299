"""vidgn data index: one csv row for every video of a data set, by decoding each of them once."""

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import Any

from vidgn.errors import ConfigError, ManifestError

_LIMITS = {"workers": (1, 4096), "timeout": (0.001, 86_400), "memory": (1, 2**24)}
SUMMARY = "decode every video of a data set once and write a manifest: frames, size, rate, codec, flags, status"
_EPILOG = """\
SOURCE is a folder (every video below it, or every image where it has no video, labelled by the folder it lies in) or
an annotation file: a Kinetics csv, a list of `path label`, or a csv with the columns path and label.

columns: path, label, num_frames (that really decode, from the first on), width, height (as shown), fps,
duration_seconds, codec, flags (vfr;open_gop;edit_list;rotated;late_start;no_timestamps), status, reason, bytes
status:  ok, damaged (some frames decode), unreadable, timeout, memory, crash

Stop it with Ctrl-C and start it again with the same words: it goes on where it was.
Train on it with: vidgn train data=csv data.root=ROOT data.train=OUT.csv ...

example: vidgn data index /data/k400/train.csv --root /data/k400 --split train --out k400_train.csv
"""


def run(argv: list[str]) -> int:
    """Exit code 0 once the manifest is written, whatever the state of the videos."""
    parser = argparse.ArgumentParser(
        prog="vidgn data index",
        description=SUMMARY,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_source_arguments(parser)
    parser.add_argument("--out", required=True, metavar="CSV", help="the manifest to write")
    parser.add_argument("--retry", action="store_true", help="look again at files whose status was not ok")
    add_limit_arguments(parser)
    arguments = checked(parser, argv)

    from tqdm import tqdm

    from vidgn.data.tools.index import write_index

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

    with tqdm(total=len(sources.files), unit="file", disable=None) as bar:
        try:
            summary = write_index(
                sources.files,
                arguments.out,
                **limits_of(arguments),
                retry=arguments.retry,
                on_done=count,
            )
        except KeyboardInterrupt:
            bar.close()
            done, total = statuses.total(), len(sources.files)
            print(f"stopped after {done} of {total} files, which are kept; the same command goes on from here")
            raise
    others = "".join(f", {number} {status}" for status, number in sorted(statuses.items()) if status != "ok")
    missing = f", {len(sources.missing)} missing (no row)" if sources.missing else ""
    print(
        f"{arguments.out}: {summary.num_files} videos: {summary.num_ok} ok{others}{missing}; "
        f"{summary.num_frames} frames, {summary.duration_seconds / 3600:.2f} h; {summary.num_reused} rows reused"
    )
    print(f"use it with data=csv data.root={sources.root or '.'} data.train={arguments.out} (or data.val=...)")
    return 0


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """What `sources_of` needs."""
    parser.add_argument("source", metavar="SOURCE", help="a folder, a video, or an annotation file")
    parser.add_argument("--root", help="folder of the videos; a Kinetics csv needs it (default: of the annotation)")
    parser.add_argument("--format", choices=("kinetics", "list", "csv"), help="of the annotation (default: told by it)")
    parser.add_argument("--split", choices=("train", "val"), default="val", help="of a Kinetics csv (default: val)")
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
    """What `run_isolated` takes."""
    from vidgn.data.loading.isolate import Limits
    from vidgn.processes import num_cores

    workers = num_cores() if arguments.workers is None else arguments.workers
    return {"workers": workers, "limits": Limits(arguments.timeout, arguments.memory)}


def sources_of(arguments: argparse.Namespace):
    """The files that the arguments name.

    Raises:
        ManifestError: the annotation or the folder can't be used.
    """
    from vidgn.data.datasets.sources import find_sources

    return find_sources(
        arguments.source,
        root=arguments.root,
        format=arguments.format,
        split=arguments.split,
        separator=arguments.separator,
    )
