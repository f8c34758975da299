"""vidgn data check: why each bad video is bad."""

import argparse

from vidgn.cli.data_index import add_limit_arguments, add_source_arguments, checked, limits_of, sources_of

SUMMARY = "decode every video or image of a folder or manifest and say why the bad ones are bad"
_EPILOG = """\
SOURCE is a folder, a video, an image, or an annotation file (Kinetics csv, list, csv with a column path).
Exit code 0: all good; 1: at least one file is missing, damaged, unreadable, or breaks a limit.

example: vidgn data check /data/ucf101
"""


def run(argv: list[str]) -> int:
    """Exit code 0 if every file decodes from its first frame to its last, else 1."""
    parser = argparse.ArgumentParser(
        prog="vidgn data check",
        description=SUMMARY,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_source_arguments(parser)
    add_limit_arguments(parser)
    parser.add_argument(
        "--verbose", action="store_true", help="name every file that another decoder can't be trusted with"
    )
    arguments = checked(parser, argv)

    from tqdm import tqdm

    from vidgn.data.tools.probe import check_files, report_text

    sources = sources_of(arguments)
    with tqdm(total=len(sources.files), unit="file", disable=None) as bar:
        report = check_files(
            sources,
            **limits_of(arguments),
            on_done=lambda source, status: bar.update(),
        )
    print(report_text(report, verbose=arguments.verbose))
    return 1 if report.bad else 0
