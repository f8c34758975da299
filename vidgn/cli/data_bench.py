"""`vidgn data bench`: clips per second of the loader and of the model, and the workers that follow."""

from vidgn.errors import ConfigError

SUMMARY = "clips per second of loader and model, and how many workers to set"

_HELP = """usage: vidgn data bench [--seconds N] [KEY=VALUE ...]

Reads clips of the configured training set with 1, 2, 4, ... workers, runs the configured model on this device,
and says how many workers per process keep it fed. Keys as in vidgn train.

  vidgn data bench data=csv data.root=videos data.train=train.csv data.val=val.csv frames=32 span=64
  vidgn data bench model=i3d_tiny data=synthetic frames=8 span=16

  --seconds N    for each measurement (default 5)
"""


def run(argv: list[str]) -> int:
    """Measure the loader and the model, and print what follows.

    Returns:
        The exit code of vidgn.cli.main.
    """
    if "-h" in argv or "--help" in argv:
        print(_HELP)
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
    from vidgn.training.throughput import measure

    found = measure(config, seconds=seconds, say=print)
    most_workers, most = found.by_workers[-1]
    need = found.workers_needed
    print(f"data.workers={need} for each process on {found.device} keeps the model fed")
    if need > most_workers:
        print(
            f"this machine has cores for {most_workers}, which deliver {most / found.model:.0%} of that: "
            f"shorter keyframe distance (vidgn data transcode) or smaller files help"
        )
    return 0
