"""Predictions as text, json lines, csv or subtitles: one writer for whole videos and for windows."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vidgn.runs.progress import Progress

if TYPE_CHECKING:
    from vidgn.training.predictor import ClassScore, Window

FORMATS = ("text", "json", "jsonl", "csv", "srt")


class Lines:
    """Prints each prediction as it comes. `failed`: videos and windows that could not be read."""

    def __init__(self, format: str, *, top: int) -> None:
        self._format, self._top, self.failed = format, top, 0
        self.videos: list[dict[str, Any]] = []  # of format json, printed by the caller
        self._shown: str | None = None
        self._number = 0

    def video(self, video: str, classes: "Sequence[ClassScore]") -> None:
        """The classes of a whole video, best first."""
        best = classes[: self._top]
        if self._format == "text":
            self._print("\n".join([video, *(f"  {100 * c.score:6.2f} %  {_one_line(c.name)}" for c in best)]))
        elif self._format == "csv":
            self._csv(("video", "rank", "label", "class", "score"), ((video,), best))
        else:
            self._json({"video": video, "top": _as_json(best)})

    def window(self, video: str, window: "Window", *, until: float) -> None:
        """The classes of a window, best first.

        Args:
            until: when the next one begins, to which a subtitle lasts.
        """
        if window.error is not None:
            return self.error(video, f"{video}: {window.error}", window)
        start, end, best = window.start_seconds, window.end_seconds, window.classes[: self._top]
        if self._format == "text":
            names = ", ".join(f"{100 * c.score:.2f} % {_one_line(c.name)}" for c in best)
            head = [] if self._shown == video else [video]
            self._print("\n".join([*head, f"  {_clock(start)} - {_clock(end)}  {names}"]))
            self._shown = video
        elif self._format == "csv":
            columns = ("video", "start", "end", "frames", "rank", "label", "class", "score")
            self._csv(columns, ((video, start, end, window.num_frames), best))
        elif self._format == "srt":
            self._number += 1
            times = " --> ".join(_clock(seconds).replace(".", ",") for seconds in (start, min(end, until)))
            names = "\n".join(f"{_one_line(c.name)} {100 * c.score:.1f} %" for c in best)
            self._print(f"{self._number}\n{times}\n{names}\n")
        else:
            self._json({**_place(video, window), "top": _as_json(best)})
        return None

    def error(self, video: str, reason: str, window: "Window | None" = None) -> None:
        """What could not be read, in one line."""
        self.failed += 1
        if self._format in ("json", "jsonl"):
            self._json({**({"video": video} if window is None else _place(video, window)), "error": reason})
        if self._format != "json":
            print(f"vidgn predict: {reason}", file=sys.stderr, flush=True)

    def _json(self, told: dict[str, Any]) -> None:
        if self._format == "json":
            self.videos.append(told)
        else:
            self._print(json.dumps(told))

    def _csv(self, columns: tuple[str, ...], row: "tuple[tuple[object, ...], Sequence[ClassScore]]") -> None:
        text, (place, best) = io.StringIO(), row
        writer = csv.writer(text, lineterminator="\n")
        if self._shown is None:
            writer.writerow(columns)
        self._shown = ""
        writer.writerows((*place, rank, c.label, c.name, c.score) for rank, c in enumerate(best, start=1))
        self._print(text.getvalue().rstrip("\n"))

    @staticmethod
    def _print(text: str) -> None:
        Progress.print(text)


def _as_json(best: "Sequence[ClassScore]") -> list[dict[str, Any]]:
    return [{"class": c.name, "label": c.label, "score": c.score} for c in best]


def _place(video: str, window: "Window") -> dict[str, Any]:
    times = {"start": window.start_seconds, "end": window.end_seconds}
    return {"video": video, **times, "frames": window.num_frames}


def _clock(seconds: float) -> str:
    """hh:mm:ss.mmm."""
    whole = round(1000 * seconds)
    hours, minutes = divmod(whole // 60_000, 60)
    return f"{hours:02}:{minutes:02}:{whole // 1000 % 60:02}.{whole % 1000:03}"


def _one_line(name: str) -> str:
    return " ".join(name.split())
