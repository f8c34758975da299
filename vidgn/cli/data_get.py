"""`vidgn data get NAME FOLDER`: a published data set, fetched, checked, unpacked and indexed."""

import argparse
import os
from pathlib import Path

from vidgn.data.tools.registry import DATA_SETS
from vidgn.errors import ConfigError
from vidgn.terminal import bar_stream

SUMMARY = "fetch a published data set: resumed, checked, unpacked, indexed"
_EPILOG = """\
NAME: {names}

Stop it with Ctrl-C and start it again with the same words: it goes on where it was. Sizes and checksums are those that
the sets publish; where they publish none, those that the server tells, and those within the archives. FOLDER/archives
holds what is on its way. At the end every video is decoded once, as vidgn data index does, unless --no-index.

example: vidgn data get ucf101 /data/ucf101
         vidgn data get kinetics400 /data/k400 --split val
"""


def run(argv: list[str]) -> int:
    """Exit code 0 once all files of the set are there."""
    parser = argparse.ArgumentParser(
        prog="vidgn data get",
        description=SUMMARY,
        epilog=_EPILOG.format(names=", ".join(DATA_SETS)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", choices=DATA_SETS, help="of the data set")
    parser.add_argument("folder", metavar="FOLDER", help="where it goes")
    parser.add_argument("--split", choices=("train", "val"), action="append", help="this one alone (default: both)")
    parser.add_argument("--mirror", metavar="URL", help="of a server that has the files under the same paths")
    parser.add_argument("--keep-archives", action="store_true", help="leave archives that are unpacked")
    parser.add_argument("--no-index", action="store_true", help="decode nothing")
    arguments = parser.parse_args(argv)
    if arguments.mirror is not None and not arguments.mirror.startswith(("http://", "https://")):
        raise ConfigError(f"--mirror {arguments.mirror}: write an address that begins with http:// or https://")

    from tqdm import tqdm

    from vidgn.cli.data import index
    from vidgn.config.compose import command_line
    from vidgn.data.tools.get import get_files

    wanted, folder = DATA_SETS[arguments.name], os.path.abspath(arguments.folder)
    splits = arguments.split or ["train", "val"]
    print(wanted.terms)
    files = [file for split in (*splits, "both") for file in wanted.files.get(split, ())]
    with tqdm(unit="B", unit_scale=True, disable=None, file=bar_stream()) as bar:

        def show(name: str, done: int, total: int | None) -> None:
            bar.set_description(name, refresh=False)
            bar.total, bar.n = total, done
            bar.update(0)

        get_files(
            tuple(files),
            Path(folder),
            mirror=arguments.mirror,
            keep_archives=arguments.keep_archives,
            on_wait=lambda: bar.write(f"another process fetches into {folder}: waiting for it", file=bar_stream()),
            on_bytes=show,
            on_done=lambda name, outcome: bar.write(f"{name}: {outcome}", file=bar_stream()),
        )
    for split in splits if not arguments.no_index else ():
        words = [word.format(folder=folder, split=split) for word in wanted.index]
        index([*words, "--out", os.path.join(folder, f"{split}_index.csv")])
    print(f"train on it with: vidgn train {command_line([word.format(folder=folder) for word in wanted.use])}")
    return 0
