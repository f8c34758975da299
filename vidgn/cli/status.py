"""vidgn status: where each cell of a study stands."""

import argparse
import json

SUMMARY = "where each cell of a study stands"


def run(argv: list[str]) -> int:
    """Exit code 0, whatever the cells' states."""
    parser = argparse.ArgumentParser(prog="vidgn status", description=SUMMARY)
    parser.add_argument("study", help="the study's directory, runs_dir/study")
    parser.add_argument("--json", action="store_true", help="for machines")
    arguments = parser.parse_args(argv)

    from vidgn.report.read.study import read_study
    from vidgn.report.show.status import status_json, status_text

    study = read_study(arguments.study)
    print(json.dumps(status_json(study), indent=1) if arguments.json else status_text(study))
    return 0
