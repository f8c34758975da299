"""`vidgn data compare A B`: which videos two lists share, for a report on those alone."""

import argparse

from vidgn.errors import ManifestError

SUMMARY = "which videos two lists share, and whether their labels agree"
_NUM_NAMED = 3
_EPILOG = """\
A, B: a Kinetics csv, a csv with a column path, or a list of `path label`. Videos are matched by their names without
folders and endings; no video is looked at. Copies of Kinetics differ in what was still there when they were made:

  vidgn data compare ours.csv theirs.csv --out common.txt
  vidgn report runs/study --only common.txt

Exit code 0, or 1 where a video has another label in the other list.
"""


def run(argv: list[str]) -> int:
    """Exit code 0, or 1 where labels of the same video differ."""
    parser = argparse.ArgumentParser(
        prog="vidgn data compare",
        description=SUMMARY,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("first", metavar="A")
    parser.add_argument("second", metavar="B")
    parser.add_argument("--out", metavar="FILE", help="write the names of the shared videos, one a line")
    parser.add_argument("--separator", default=" ", help="between path and label of a list (default: a space)")
    arguments = parser.parse_args(argv)

    from vidgn.data.datasets.overlap import overlap_of

    found = overlap_of(arguments.first, arguments.second, separator=arguments.separator)
    print(f"{len(found.common)} videos in both")
    for path, names in ((arguments.first, found.only_first), (arguments.second, found.only_second)):
        named = f" ({', '.join(names[:_NUM_NAMED])}{', ...' if len(names) > _NUM_NAMED else ''})" if names else ""
        print(f"{len(names)} in {path} alone{named}")
    if found.relabelled:
        name, one, other = found.relabelled[0]
        print(f"{len(found.relabelled)} with another label in the other list (first: {name}, {one!r} and {other!r})")
    if arguments.out:
        try:
            with open(arguments.out, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.writelines(f"{name}\n" for name in found.common)
        except OSError as error:
            raise ManifestError(f"{arguments.out} can't be written ({error.strerror}); give another --out") from None
    return 1 if found.relabelled else 0
