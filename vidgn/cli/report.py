"""vidgn report: make a study's report again from its files."""

import argparse

SUMMARY = "make a study's table and pictures again from its files"


def run(argv: list[str]) -> int:
    """Exit code 0 once report.md, report.json and the pictures are written."""
    parser = argparse.ArgumentParser(prog="vidgn report", description=SUMMARY)
    parser.add_argument("study", help="the study's directory, runs_dir/study")
    parser.add_argument("--json", action="store_true", help="print report.json instead of the tables")
    arguments = parser.parse_args(argv)

    from vidgn.report.show.report_files import write_report

    written = write_report(arguments.study)
    print(written.json if arguments.json else written.console)
    return 0
