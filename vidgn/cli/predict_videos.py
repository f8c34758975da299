"""`vidgn predict` of a network that names classes: whole videos, or windows along them."""

import argparse
import contextlib
import json
import math
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from vidgn.api import VideoPredictor
from vidgn.cli.predict_features import Features
from vidgn.cli.predict_lines import Lines
from vidgn.cli.predict_sources import places_of, sources_of
from vidgn.config.schema import ViewsConfig
from vidgn.data.clips.windows import WindowRule
from vidgn.data.decode.in_turn import is_endless, open_in_turn
from vidgn.data.tools.painting import paint_video, undrawn
from vidgn.errors import ConfigError, DecodeError
from vidgn.processes import num_cores
from vidgn.runs.progress import Progress
from vidgn.training.bn_stats import statistics_used
from vidgn.training.explain import explained
from vidgn.training.predictor import ClassScore

_MANY = 8  # files from which on processes read ahead
_PATIENCE_SECONDS = 10.0
_LEAST_LAG_SECONDS = 5.0  # behind a live source, before it is said
_Text = tuple[float, float, str]  # from and until when it is shown, in seconds


class VideoPrediction:
    """One start of the command: all that can be refused is refused before the first video."""

    def __init__(self, predictor: VideoPredictor, arguments: argparse.Namespace) -> None:
        self._predictor, self._arguments = predictor, arguments
        self._views: ViewsConfig = predictor.views(arguments.views)
        if arguments.features is not None or arguments.explain is not None:
            _ = predictor.network  # an ONNX file has none to look into
        if arguments.clips is not None:
            if arguments.clips < 1:
                raise ConfigError(f"--clips {arguments.clips}: give 1 or more")
            self._views = replace(self._views, clips=arguments.clips)
        self._sources = sources_of(arguments.videos, of_images=predictor.config.frames == 1)
        self._live = [source for source in self._sources if arguments.live or is_endless(source)]
        self._rule = self._checked_rule()
        self._check_format()
        self._painted = self._places("--out", arguments.out, ".mp4")
        self._explained = self._places("--explain", arguments.explain, ".png")
        self._features = Features(arguments.features, each_clip=arguments.per_clip, windows=self._rule is not None)
        self._lines = Lines(arguments.format, top=arguments.top or 5)

    def run(self) -> int:
        """Predict, print and write.

        Returns:
            The exit code.
        """
        self._print_notes()
        with self._features.written():
            if self._rule is None:
                self._whole_videos()
            else:
                for source in self._sources:
                    with self._costs_its_line(source):
                        self._windows(source, self._rule)
        if self._arguments.format == "json":
            self._print_json()
        return 1 if self._lines.failed else 0

    def _checked_rule(self) -> WindowRule | None:
        given = self._arguments
        if given.windows is None:
            for option in ("stride", "live", "patience"):
                if getattr(given, option) is not None and getattr(given, option) is not False:
                    raise ConfigError(f"--{option} goes with windows: give --windows SECONDS, or leave it out")
            if self._live:
                raise ConfigError(f"{self._live[0]} has no known end: give --windows SECONDS")
            return None
        if self._live and len(self._sources) > 1:
            raise ConfigError(f"{self._live[0]} may have no end, so nothing would come after it: give it alone")
        if given.decoder not in (None, "auto", "pyav"):
            raise ConfigError(f"--decoder {given.decoder}: windows are read in one pass, by pyav: leave it out")
        if given.explain is not None:
            raise ConfigError("--explain shows one clip of a video, and windows have many: leave out one of the two")
        if given.patience is not None and not given.patience > 0:
            raise ConfigError(f"--patience {given.patience:g}: give seconds, above 0")
        return WindowRule(given.windows, given.windows if given.stride is None else given.stride)

    def _check_format(self) -> None:
        given = self._arguments
        if given.top is not None and given.top < 1:
            raise ConfigError(f"--top {given.top}: give 1 or more")
        if given.format == "srt" and self._rule is None:
            raise ConfigError("--format srt has times: give --windows SECONDS, or another format")
        if given.format == "srt" and len(self._sources) > 1:
            raise ConfigError(f"--format srt is of one video, not {len(self._sources)}: give one at a time")
        if given.format == "json" and self._rule is not None:
            raise ConfigError("--format json is one object at the end: windows come in turn, give --format jsonl")
        if given.workers is not None and given.workers < 0:
            raise ConfigError(f"--workers {given.workers}: give 0 or more")
        if given.per_clip and given.features is None:
            raise ConfigError("--per-clip is of features: give --features FILE.npz, or leave it out")

    def _places(self, option: str, out: str | None, ending: str) -> dict[str, Path]:
        if out is None:
            return {}
        if not Path(out).is_dir() and Path(out).suffix.lower() != ending:
            raise ConfigError(f"{option} {out}: must end in {ending}, or be a folder that is there")
        if self._live:
            raise ConfigError(f"{option} {out}: {self._live[0]} is not a whole file; record it first, or leave it out")
        return places_of(option, out, self._sources, ending=ending, noun="video")

    def _print_notes(self) -> None:
        given, stream = self._arguments, sys.stdout if self._arguments.format == "text" else sys.stderr
        notes = [] if given.format == "json" else list(self._predictor.report.warnings)
        trained_by = self._predictor.config.data.decoder
        if self._rule is not None and trained_by not in ("auto", "pyav"):
            notes.append(f"windows are read by pyav, and data.decoder={trained_by} of training may round otherwise")
        if statistics_used(self._predictor.config) == "batch":
            notes.append("bn_stats=batch tests by what is tested together; here the running statistics are used")
        if self._painted and (characters := undrawn("".join(self._predictor.classes))):
            notes.append(f"no font for {characters[:20]}: such characters are boxes in what is painted")
        for note in notes:
            print(f"note: {note}", file=stream)

    def _whole_videos(self) -> None:
        workers = self._arguments.workers
        if workers is None:
            workers = min(num_cores(), 8) if len(self._sources) >= _MANY else 0
        with Progress(0, len(self._sources), "video", log=_log, shown=len(self._sources) > 1) as progress:
            outputs = self._predictor.each(self._sources, self._views, workers=workers)
            for source, found in zip(self._sources, outputs, strict=True):
                if isinstance(found, str):
                    self._lines.error(source, found)
                else:
                    best = self._predictor.best(found.scores_K)
                    self._lines.video(source, best)
                    self._features.add(source, found.features_VC)
                    with self._costs_its_line(source):
                        self._paint(source, [(0.0, math.inf, _label(best[0]))])
                        self._explain(source)
                progress.advance()

    def _windows(self, source: str, rule: WindowRule) -> None:
        patience = self._arguments.patience or _PATIENCE_SECONDS
        texts: list[_Text] = []
        with contextlib.closing(open_in_turn(source, live=bool(self._live), patience_seconds=patience)) as stream:
            times, lag = stream.all_seconds, _Lag(source, rule)
            count = 0 if times is None else rule.count(times)
            with Progress(0, count, "window", log=_log, shown=count > 1) as progress:
                for window in self._predictor.windows_of(stream, self._views, rule):
                    until = round(window.start_seconds + rule.stride_seconds, 6)
                    self._lines.window(source, window, until=until)
                    if window.error is None:
                        times_of = (window.start_seconds, window.end_seconds)
                        self._features.add(source, window.features_VC, times_of)
                        texts.append((*times_of, _label(window.classes[0])))
                    if self._live:
                        texts.clear()
                        lag.look(window.end_seconds)
                    progress.advance()
            if stream.ended is not None:
                print(f"note: {source}: {stream.ended}", file=sys.stderr)
        self._paint(source, texts)

    def _paint(self, source: str, texts: Sequence[_Text]) -> None:
        if source in self._painted:
            paint_video(source, str(self._painted[source]), _shown_at(texts))

    def _explain(self, source: str) -> None:
        if source in self._explained:
            picture, _ = explained(self._predictor, source, self._views)
            Image.fromarray(picture).save(self._explained[source])

    @contextlib.contextmanager
    def _costs_its_line(self, source: str) -> Generator[None]:
        try:
            yield
        except DecodeError as error:
            self._lines.error(source, str(error))

    def _print_json(self) -> None:
        predictor = self._predictor
        output = {
            "weights": str(predictor.path),
            "trained_steps": predictor.trained_steps,
            "random_weights": predictor.is_random,
            "views": self._views.name,
            "device": predictor.device.type,
            "videos": self._lines.videos,
        }
        print(json.dumps(output, indent=1))


class _Lag:
    """Says once that predictions do not keep up with a live source."""

    def __init__(self, source: str, rule: WindowRule) -> None:
        self._source, self._most = source, max(_LEAST_LAG_SECONDS, 2 * rule.seconds)
        self._first: tuple[float, float] | None = None
        self._is_said = False

    def look(self, seconds: float) -> None:
        """A window that ends so many seconds into the stream is done."""
        now = time.monotonic()
        self._first = self._first or (now, seconds)
        behind = (now - self._first[0]) - (seconds - self._first[1])
        if behind > self._most and not self._is_said:
            self._is_said = True
            print(f"note: {self._source}: {behind:.0f} s behind; give --clips 1, or a larger --stride", file=sys.stderr)


def _label(best: ClassScore) -> str:
    return f"{' '.join(best.name.split())} {100 * best.score:.1f} %"


def _shown_at(texts: Sequence[_Text]) -> Callable[[float], str]:
    """The text of the last window that has begun by a time, if it is not over."""
    starts = [start for start, _, _ in texts]

    def text_at(seconds: float) -> str:
        number = bisect_right(starts, seconds + 1e-6) - 1
        return texts[number][2] if number >= 0 and seconds < texts[number][1] else ""

    return text_at


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
