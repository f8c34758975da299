import json

from vidgn.cli.report import run


def test_demo_report_is_written_and_printed(demo, capsys):
    assert run([str(demo.directory)]) == 0
    printed = capsys.readouterr().out
    report = (demo.directory / "report.md").read_text()
    assert "8 runs: 8 done. One seed (0)." in report
    for name in ("report.md", "curves.png", "gap.png"):
        assert str(demo.directory / name) in printed
        assert (demo.directory / name).stat().st_size > 500
    assert "With one seed, seed noise is not covered" in report
    assert "table 8" in report
    machine = json.loads((demo.directory / "report.json").read_text())
    assert len(machine["gaps"]) == 4
    assert all(g["is_gap"] for g in machine["gaps"])
