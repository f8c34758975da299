"""A copy of a data set that clips come out of faster: smaller frames and shorter GOPs, in parallel, resumable."""

import csv
import json
import os
import re
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vidgn.data.clips.plan import ClipSizes, plan_clip, resolve_clip
from vidgn.data.datasets.listing import is_image
from vidgn.data.datasets.sources import Source, Sources, other_columns
from vidgn.data.decode import open_video
from vidgn.data.decode.base import VideoReader
from vidgn.data.decode.openings import ends_digest
from vidgn.data.decode.write import Recoding, recode
from vidgn.data.loading.pool import Limits, map_in_workers
from vidgn.errors import DecodeError, ManifestError

_MADE_OF = re.compile(r'^([0-9a-f]{64}) ("(?:[^"\\]|\\.)*")$', re.MULTILINE)  # a line of recoding.txt
_NUM_TIMED = 8  # videos that the gain is measured on


@dataclass(frozen=True)
class TranscodeJob:
    """One video to write: `source` as in the data set, `target` the path of the new file."""

    source: Source
    target: str
    recoding: Recoding


@dataclass(frozen=True)
class Summary:
    """`failed`: (path, why). Bytes are of the files that are there in both."""

    num_written: int
    num_skipped: int
    failed: tuple[tuple[str, str], ...]
    bytes_before: int
    bytes_after: int


def plan_jobs(sources: Sources, folder: str, recoding: Recoding) -> tuple[TranscodeJob, ...]:
    """Where each video goes: the same place below `folder`, named .mp4; one file for all rows of a video.

    Raises:
        ManifestError: the annotation or the folder can't be used.
    """
    jobs, taken, target_of = [], set[str](), dict[str, str]()
    for source in sources.files:
        if source.full_path in target_of:  # another segment of it
            jobs.append(TranscodeJob(source, target_of[source.full_path], recoding))
            continue
        if is_image(source.full_path):
            raise ManifestError(f"{source.full_path} is an image: only videos are written anew; give them alone")
        relative = os.path.relpath(source.full_path, sources.root or ".")
        if relative.startswith(os.pardir):
            raise ManifestError(f"{source.full_path} lies outside {sources.root}; give its folder with --root")
        stem = os.path.splitext(relative)[0]
        name = f"{stem}.mp4" if f"{stem}.mp4" not in taken else f"{relative}.mp4"  # a.avi beside a.mkv
        target = os.path.join(folder, name)
        if os.path.exists(target) and os.path.samefile(target, source.full_path):
            raise ManifestError(f"{target} would be written over itself; give another folder")
        taken.add(name)
        target_of[source.full_path] = target
        jobs.append(TranscodeJob(source, target, recoding))
    return tuple(jobs)


def check_recoding(jobs: Sequence[TranscodeJob], folder: str, recoding: Recoding) -> None:
    """Note down how and of what the files of `folder` are made, since those that are there are left alone.

    Raises:
        ManifestError: it was begun with other settings, or a file that is there was made of another video, or no one
            knows of what; or it can't be written.
    """
    path = os.path.join(folder, "recoding.txt")
    try:
        os.makedirs(folder, exist_ok=True)
        begun, made_of, torn = _begun(path)
        if begun not in (None, str(recoding)):
            raise ManifestError(f"{folder} was begun as {begun}, and is asked for as {recoding}; give another folder")
        lines = [] if begun else [f"{recoding}\n"]
        for job in {job.target: job for job in jobs}.values():
            name, digest = os.path.relpath(job.target, folder), _digest(job.source.full_path)
            if digest is None:  # which is told where it can't be written
                continue
            if made_of.get(name) == digest:
                continue
            if os.path.exists(job.target):
                raise ManifestError(
                    f"{job.target} is there, and was not made of {job.source.full_path} as it is now; give another "
                    "folder, or take the file away"
                )
            lines.append(f"{digest} {json.dumps(name)}\n")
        with open(path, "a", encoding="utf-8") as file:
            file.write("\n" if torn else "")
            file.writelines(lines)
    except OSError as error:
        raise ManifestError(f"{error.filename}: {error.strerror}; free space, or give another folder") from None


def _digest(path: str) -> str | None:
    try:
        return ends_digest(path)
    except OSError:
        return None


def _begun(path: str) -> tuple[str | None, dict[str, str], bool]:
    """What a recoding.txt says: the settings, of each file a digest of what it is made of, and whether its end is torn.

    Of a file that is told twice the later line counts.
    """
    if not os.path.exists(path):
        return None, {}, False
    text = Path(path).read_text(encoding="utf-8")
    told = _MADE_OF.findall(text)
    return text.partition("\n")[0].strip(), {json.loads(name): digest for digest, name in told}, text[-1:] != "\n"


def transcode(
    jobs: Iterable[TranscodeJob],
    *,
    workers: int,
    limits: Limits,
    on_done: Callable[[TranscodeJob, str], object] = lambda job, status: None,
) -> Summary:
    """Write every video that is not there yet. A video that can't be is reported, and no part of it is left."""
    jobs = tuple({job.target: job for job in jobs}.values())
    todo, skipped = [], []
    for job in jobs:
        (skipped if os.path.exists(job.target) else todo).append(job)
    for job in skipped:
        on_done(job, "skipped")
    failed = []
    for outcome in map_in_workers(_transcode_one, todo, workers=workers, limits=limits, preload=(__name__,)):
        if outcome.failure is not None:
            source = outcome.item.source
            failed.append((source.path, outcome.reason_line.removeprefix(f"{source.full_path}: ")))
            _remove_partial(outcome.item.target)
        on_done(outcome.item, outcome.failure or "ok")
    there = [job for job in jobs if os.path.exists(job.target)]
    return Summary(
        len(todo) - len(failed),
        len(skipped),
        tuple(sorted(failed)),
        sum(os.path.getsize(job.source.full_path) for job in there),
        sum(os.path.getsize(job.target) for job in there),
    )


def manifest_place(jobs: Sequence[TranscodeJob], annotation: str, folder: str) -> str:
    """Where the list of an annotation's new files goes: its name below `folder`, as .csv.

    Raises:
        ManifestError: what is there is not to be replaced: the annotation itself, or a list of other videos.
    """
    path = os.path.join(folder, os.path.splitext(os.path.basename(annotation))[0] + ".csv")
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (OSError, csv.Error) as error:
        raise ManifestError(f"{path} is there and can't be read ({error}); give another folder, or move it") from None
    ours = {os.path.relpath(job.target, folder) for job in jobs}
    if not all("transcoded_from" in row and row.get("path") in ours for row in rows):
        raise ManifestError(f"{path} is there and is no list of these videos; give another folder, or move it")
    return path


def write_manifest(jobs: Sequence[TranscodeJob], folder: str, path: str) -> None:
    """A csv with path, label and the annotation's other columns of the new files that are there.

    `transcoded_from` (size, first and last bytes as a digest) and `transcoded_as` say what each was made of and how.

    Raises:
        ManifestError: where it can't be written.
    """
    try:
        os.makedirs(folder, exist_ok=True)  # no video may have come out
        with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            others = [name for name in other_columns(job.source for job in jobs) if not name.startswith("transcoded_")]
            writer = csv.DictWriter(file, ("path", "label", *others, "transcoded_from", "transcoded_as"))
            writer.writeheader()
            for job in jobs:
                if os.path.exists(job.target):
                    made = {
                        "transcoded_from": ends_digest(job.source.full_path),
                        "transcoded_as": job.recoding,
                    }
                    there = {"path": os.path.relpath(job.target, folder), "label": job.source.label}
                    writer.writerow({**job.source.others, **there, **made})
    except OSError as error:
        raise ManifestError(f"{path} can't be written ({error.strerror}); give another folder") from None


def measure_gain(jobs: Iterable[TranscodeJob]) -> float | None:
    """Clips per second from the new files over those from the old ones; None where none is there in both.

    Median over some videos of the ratio for the same random training clip, by process CPU time.
    """
    ratios = []
    there = [job for job in jobs if os.path.exists(job.target)]
    for number, job in enumerate(there[:: max(1, len(there) // _NUM_TIMED)][:_NUM_TIMED]):
        try:
            _seconds(job.target, number)  # the first reading warms up
            after = _seconds(job.target, number)
            ratios.append(_seconds(job.source.full_path, number) / after)
        except DecodeError:
            continue
    return statistics.median(ratios) if ratios else None


def _seconds(path: str, position: int) -> float:
    started = time.process_time()
    read_training_clip(open_video(path), position)
    return time.process_time() - started


def read_training_clip(opened: VideoReader, position: int) -> None:
    """What training reads of a video at `position`: 32 frames, stride 2, crop 224. Closes it."""
    with opened as reader:
        sizes: ClipSizes = {
            "num_frames": reader.num_frames,
            "height": reader.height,
            "width": reader.width,
            "frames": 32,
            "stride": 2,
            "short_side": (256, 320),
            "crop": 224,
        }
        reader.read([resolve_clip(plan_clip(0, position, flip=True), **sizes)])


def _transcode_one(job: TranscodeJob) -> int:
    return recode(job.source.full_path, job.target, job.recoding)


def _remove_partial(target: str) -> None:
    folder, name = os.path.split(target)
    partial = os.path.join(folder, f".{name}.part")
    if os.path.exists(partial):  # its writer was killed
        os.unlink(partial)
