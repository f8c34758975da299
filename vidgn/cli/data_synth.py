"""vidgn data synth: write the synthetic motion set that a configuration asks for."""

import argparse

SUMMARY = "write the synthetic motion set that a configuration asks for"


def run(argv: list[str]) -> int:
    """Exit code 0 once the set is there; a set that is there already is left alone."""
    parser = argparse.ArgumentParser(prog="vidgn data synth", description=SUMMARY)
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
