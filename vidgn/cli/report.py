"""vidgn report: make a study's report again from its files, or plan how many seeds one needs."""

import argparse

from vidgn.errors import ConfigError

SUMMARY = "make a study's table and pictures again from its files; plan: how many seeds a gap needs"
_EPILOG = """\
example: vidgn report runs/demo
         vidgn report runs/demo --serve
         vidgn report plan --videos 19796 --points 0.5
         vidgn report plan --points 1 --pilot runs/demo
"""
_PLAN_EPILOG = """\
The model is that of the report's interval: training runs and test videos as crossed random effects. Without a pilot it
takes the noise that is published: 0.3 points from run to run (SlowFast's baseline on Kinetics), 20 % of the videos
decided otherwise by two networks of 74 % accuracy, a quarter of that whatever the seed.

example: vidgn report plan --videos 19796 --points 0.5
"""


def run(argv: list[str]) -> int:
    """Exit code 0 once report.html, report.md, report.json, tables and pictures are written."""
    if argv[:1] == ["plan"]:
        return _plan(argv[1:])
    parser = argparse.ArgumentParser(
        prog="vidgn report",
        description=SUMMARY,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", help="the study's directory, runs_dir/study; or a run's")
    parser.add_argument("--json", action="store_true", help="print report.json instead of the tables")
    parser.add_argument("--serve", action="store_true", help="show the page of a study that runs, on 127.0.0.1 alone")
    parser.add_argument("--port", type=int, default=0, help="to serve on (default: a free one)")
    parser.add_argument(
        "--only", metavar="FILE", help="judge by these videos alone, a name a line (vidgn data compare writes it)"
    )
    arguments = parser.parse_args(argv)

    from vidgn.cli.report_pictures import PICTURES
    from vidgn.report.show.report_files import write_report

    if arguments.serve and (arguments.only or arguments.json):
        raise ConfigError("--serve shows the page of all videos: leave out --only and --json")
    if arguments.serve:
        from vidgn.cli.report_server import serve
        from vidgn.report.read.study import read_study

        return serve(read_study(arguments.study).directory, arguments.port)
    written = write_report(arguments.study, pictures=PICTURES, only=arguments.only)
    print(written.json if arguments.json else written.console)
    return 0


def _plan(argv: list[str]) -> int:
    """Exit code 0, also where no number of seeds would do."""
    parser = argparse.ArgumentParser(
        prog="vidgn report plan",
        description="how many seeds each arm needs for a gap to be seen 4 times in 5",
        epilog=_PLAN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--videos", type=int, default=19796, help="of the test (default: Kinetics-400's 19796)")
    parser.add_argument("--points", type=float, required=True, help="the true gap that is to be seen")
    parser.add_argument("--pilot", metavar="STUDY", help="take the noise of this study, which has two seeds or more")
    parser.add_argument("--run-deviation", type=float, default=0.3, help="of one network, in points (default: 0.3)")
    parser.add_argument("--discordant", type=float, default=20.0, help="percent decided otherwise (default: 20)")
    arguments = parser.parse_args(argv)
    if arguments.videos < 2 or arguments.points <= 0:
        raise ConfigError(
            f"--videos {arguments.videos} --points {arguments.points:g}: give 2 videos and some points at least"
        )
    if arguments.run_deviation < 0 or not 0 < arguments.discordant <= 100:
        given = f"--run-deviation {arguments.run_deviation:g} --discordant {arguments.discordant:g}"
        raise ConfigError(f"{given}: give 0 points at least, and more than 0 percent, at most 100")

    from vidgn.report.analyse.planning import MOST_SEEDS, plan, spread_of_noise, spread_of_pilot
    from vidgn.report.show.markdown import column_name, table

    if arguments.pilot:
        spread, gap = spread_of_pilot(arguments.pilot)
        print(f"noise of {arguments.pilot}: {gap.arm.norm} and {gap.baseline.norm}, {column_name(gap.arm.column)}")
    else:
        spread = spread_of_noise(run_deviation=arguments.run_deviation, discordant=arguments.discordant)
    found = plan(spread, num_videos=arguments.videos, points=arguments.points)
    rows = [[str(seeds), f"± {expected.high:.2f}", f"{expected.detectable:.2f}"] for seeds, expected in found.rows]
    print(table(["seeds", "95 % interval", "can be seen"], rows))
    on = f"on {arguments.videos} videos"
    if found.needed is None:
        print(
            f"{MOST_SEEDS} seeds do not see a gap of {arguments.points:g} points {on}: with any number of them "
            f"{found.limit:.2f} points can be seen; test on more videos"
        )
    else:
        print(f"{found.needed} seeds an arm see a gap of {arguments.points:g} points {on} 4 times in 5")
    return 0
