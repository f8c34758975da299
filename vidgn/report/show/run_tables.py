"""What runs cost and what they were tested on, a row each."""

from collections.abc import Sequence

from vidgn.report.read.study import Cell
from vidgn.report.show.tables import Table


def cost_table(cells: Sequence[Cell]) -> Table | None:
    """Hours, speed, waiting, starts, machine and versions of each run; accuracy an hour."""
    rows = []
    for cell in cells:
        cost = cell.cost()
        if cost is None:
            continue
        top1 = f"{cell.first / cost.hours:,.1f}" if cell.result else ""
        rows.append(
            [
                cell.run_name,
                f"{cost.hours:.3f}",
                f"{cost.clips_per_second:.3g}",
                f"{100 * cost.wait:.0f} %",
                str(cost.num_starts),
                str(cost.num_skipped),
                str(cost.num_changes),
                top1,
                ", ".join(cost.machines),
                cost.versions,
            ]
        )
    header = ["run", "hours", "clips/s", "waiting for data", "starts", "steps skipped", "changes on the way"]
    return Table.of("cost", "What it cost", [*header, "top-1 an hour", "on", "with"], rows) if rows else None


def data_table(cells: Sequence[Cell]) -> Table | None:
    """What each run was tested on and trained from."""
    rows = []
    for cell in cells:
        if cell.result:
            r = cell.result
            shown = [r.get("data"), r.get("classes"), r["num_videos"], r.get("num_unreadable"), r.get("num_missing")]
            ways = r.get("transcoded_as")  # runs of earlier versions do not say
            stored = "?" if ways is None else ", ".join(map(str, ways)) or "as it was"
            rows.append([cell.run_name, *("" if v is None else str(v) for v in shown), stored])
    header = ["run", "data", "classes", "tested", "unreadable", "missing", "stored"]
    return Table.of("data", "Data", header, rows) if rows else None
