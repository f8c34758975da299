"""The loader gives the same clips whatever reads them, replaces what can't be read, and says so."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vidgn.config.schema import DataConfig
from vidgn.data.clips import read
from vidgn.data.clips.plan import plan_clip, plan_digest, resolve_clip, resolve_views, row_at, substitute_row
from vidgn.data.clips.read import clip_hash
from vidgn.data.datasets.manifest import Manifest, check_data, read_manifest
from vidgn.data.decode import open_video
from vidgn.data.decode.write import Recoding, recode
from vidgn.data.loading.batches import Batch, train_batches, view_videos
from vidgn.errors import ConfigError, DecodeError, ManifestError
from vidgn.rng_streams import Tag

CLIP = {"seed": 5, "frames": 4, "stride": 2}


@pytest.fixture(scope="module")
def manifest(tiny_data: DataConfig) -> Manifest:
    return read_manifest(tiny_data, "train")


def batches(manifest: Manifest, data: DataConfig, positions, **more) -> list[Batch]:
    with train_batches(manifest, data, positions=positions, **{**CLIP, **more}) as stream:
        return list(stream)


def forwards(num: int, size: int, start: int = 0) -> list[range]:
    return [range(start + i * size, start + (i + 1) * size) for i in range(num)]


def assert_same(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a.clip_NTHWC, b.clip_NTHWC)
        assert torch.equal(a.label_N, b.label_N)
        assert (a.ids, a.positions, a.digest, a.substitutions) == (b.ids, b.positions, b.digest, b.substitutions)


def test_a_batch_holds_what_its_positions_plan(manifest, tiny_data):
    (batch,) = batches(manifest, tiny_data, [(7, 30, 2)])
    assert batch.clip_NTHWC.shape == (3, 4, 28, 28, 3)
    assert batch.clip_NTHWC.dtype == torch.uint8
    digest = 0
    for slot, position in enumerate((7, 30, 2)):
        row = manifest[row_at(5, position, 24)]
        plan = plan_clip(5, position, flip=True)
        clip = resolve_clip(plan, num_frames=12, height=32, width=32, frames=4, stride=2, short_side=(28, 32), crop=28)
        with open_video(row.path) as reader:
            (expected_THWC,) = reader.read([clip])
        assert np.array_equal(batch.clip_NTHWC[slot].numpy(), expected_THWC)
        assert (batch.ids[slot], int(batch.label_N[slot])) == (row.id, row.label)
        digest += plan_digest(position, row.id, plan, clip_hash(clip, (12, 32, 32)))
    assert batch.digest == digest % 2**128


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(manifest, tiny_data, workers):
    positions = [*forwards(9, 4), (3,), (), range(100, 107)]
    alone = batches(manifest, tiny_data, positions)
    assert_same(batches(manifest, replace(tiny_data, workers=workers), positions), alone)
    assert [batch.positions for batch in alone] == [tuple(p) for p in positions]


def test_copies_of_another_size_have_another_digest(manifest, tiny_data, tmp_path):
    """The plan is fractions: on smaller copies under the same ids it is equal, and the clips are not."""
    source = Path(manifest[0].path)
    small = tmp_path / "small" / f"{source.stem}.mp4"
    recode(str(source), str(small), Recoding(24, 12))
    digests = []
    for path in (source, small):
        listing = replace(manifest.listing(), ids=["a"], paths=[str(path)], labels=["x"], num_frames=[], num_bytes=[])
        own = Manifest(listing, np.array([0]), ("x",))
        (batch,) = batches(own, tiny_data, [(3,)])
        digests.append(batch.digest)
    assert digests[0] != digests[1]


def test_a_resumed_stream_goes_on_where_it_was(manifest, tiny_data):
    whole = batches(manifest, tiny_data, forwards(10, 5))  # two epochs and a bit
    assert_same(batches(manifest, tiny_data, forwards(4, 5, start=30)), whole[6:])
    ids = [id for batch in whole for id in batch.ids]
    assert sorted(ids[:24]) == sorted(manifest[i].id for i in range(24)) == sorted(ids[24:48])


def test_ranks_and_forwards_change_no_clip(manifest, tiny_data):
    one = batches(manifest, tiny_data, forwards(4, 6))
    ranks = [
        batches(manifest, tiny_data, [range(6 * k + 2 * r, 6 * k + 2 * r + 2) for k in range(4)]) for r in range(3)
    ]
    for k in range(4):
        joined = torch.cat([rank[k].clip_NTHWC for rank in ranks])
        assert torch.equal(joined, one[k].clip_NTHWC)
        assert sum(rank[k].digest for rank in ranks) % 2**128 == one[k].digest


@pytest.mark.parametrize("workers", [0, 2])
def test_positions_are_taken_as_they_are_needed(manifest, tiny_data, workers):
    taken = 0

    def endless() -> Iterator[range]:
        nonlocal taken
        for forward in itertools.count():
            taken += 1
            yield range(forward * 2, forward * 2 + 2)

    with train_batches(manifest, replace(tiny_data, workers=workers), positions=endless(), **CLIP) as stream:
        for _ in range(5):
            next(stream)
        assert taken <= 5 + (1 + 8 if workers else 0)  # read ahead: 2 x 2 places a worker
    with pytest.raises(StopIteration):
        next(stream)


def test_another_tag_is_another_stream(manifest, tiny_data):
    training = batches(manifest, tiny_data, forwards(1, 24))[0]
    statistics = batches(manifest, tiny_data, forwards(1, 24), tag=Tag.BN_STATS, order_tag=Tag.BN_STATS_ORDER)[0]
    assert training.ids != statistics.ids
    assert sorted(training.ids) == sorted(statistics.ids)
    assert training.digest != statistics.digest


@pytest.fixture
def damaged(tiny_data: DataConfig, manifest: Manifest, tmp_path: Path) -> tuple[Manifest, DataConfig]:
    """A quarter of the files are no videos."""
    text = "path,label\n"
    for index in range(24):
        row = manifest[index]
        path = row.path
        if index % 4 == 1:
            path = str(tmp_path / f"{index}.mp4")
            Path(path).write_bytes(b"no video")
        text += f"{path},{row.label}\n"
    (tmp_path / "t.csv").write_text(text)
    data = replace(tiny_data, format="csv", train=str(tmp_path / "t.csv"), synthetic=None)
    return read_manifest(data, "train"), data


def test_an_unreadable_clip_is_replaced_by_the_row_drawn_for_its_position(damaged):
    manifest, data = damaged
    whole = batches(manifest, data, forwards(3, 8))
    substitutions = [s for batch in whole for s in batch.substitutions]
    failed = {position for position in range(24) if row_at(5, position, 24) % 4 == 1}
    assert {s.position for s in substitutions} == failed
    assert len(failed) == 6
    used = {p: id for batch in whole for p, id in zip(batch.positions, batch.ids, strict=True)}
    for position in failed:
        rows = [row_at(5, position, 24)]
        for attempt in itertools.count():
            row = substitute_row(5, position, attempt, 24)
            if row not in rows:
                rows.append(row)
            if row % 4 != 1:
                break
        chain = [s for s in substitutions if s.position == position]
        assert [s.id for s in chain] == [manifest[row].id for row in rows[:-1]]
        assert [s.replaced_by for s in chain] == [manifest[row].id for row in rows[1:]]
        assert used[position] == manifest[rows[-1]].id
        assert all(s.id in s.reason for s in chain)  # the reason names the file
    labels = {manifest[i].id: manifest[i].label for i in range(24)}
    for batch in whole:
        assert [labels[id] for id in batch.ids] == batch.label_N.tolist()
    assert_same(batches(manifest, replace(data, workers=2), forwards(3, 8)), whole)


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_readable_is_an_error(tiny_data, tmp_path, workers):
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "t.csv").write_text("path,label\na.mp4,x\n")
    data = replace(tiny_data, format="csv", root=None, train=str(tmp_path / "t.csv"), workers=workers)
    with pytest.raises(DecodeError, match=r"position 0: 1 videos drawn for it can't be read \(last: .*a\.mp4"):
        batches(read_manifest(data, "train"), data, [(0,)])


def test_repeated_augmentation_opens_a_video_once_a_step(manifest, tiny_data, monkeypatch):
    opened: list[str] = []
    open_file = read._open
    monkeypatch.setattr(read, "_open", lambda path, geometry: opened.append(path) or open_file(path, geometry))
    data = replace(tiny_data, clips_per_video=2)
    step = batches(manifest, data, [range(4), range(4, 8)], slots_per_step=8)
    assert len(opened) == 4
    assert step[0].ids == step[1].ids  # slots s and s + 4 show one video
    assert step[0].ids == tuple(manifest[row_at(5, p, 24)].id for p in range(4))
    assert not torch.equal(step[0].clip_NTHWC, step[1].clip_NTHWC)
    ranks = [batches(manifest, data, [half], slots_per_step=8)[0] for half in (range(4), range(4, 8))]
    assert_same(ranks, step)
    assert_same(
        batches(manifest, replace(data, workers=2), [range(8), range(8, 16)], slots_per_step=8)[:1],
        [batches(manifest, data, [range(8)], slots_per_step=8)[0]],
    )


def test_repeats_survive_an_unreadable_video(damaged):
    manifest, data = damaged
    data = replace(data, clips_per_video=2)
    whole = batches(manifest, data, forwards(6, 4), slots_per_step=8)
    split = batches(manifest, data, forwards(12, 2), slots_per_step=8)
    assert torch.equal(torch.cat([b.clip_NTHWC for b in whole]), torch.cat([b.clip_NTHWC for b in split]))
    assert sum(len(b.substitutions) for b in whole) >= 2


@pytest.mark.parametrize("num_rows", [3, 5])
def test_a_video_drawn_twice_in_a_step_keeps_to_its_readers_memory(manifest, tiny_data, tmp_path, num_rows):
    text = "path,label\n" + "".join(f"{manifest[i].path},{manifest[i].label}\n" for i in range(num_rows))
    (tmp_path / "t.csv").write_text(text)
    data = replace(tiny_data, format="csv", train=str(tmp_path / "t.csv"), synthetic=None, clips_per_video=2)
    few = read_manifest(data, "train")
    alone = batches(few, data, forwards(10, 8), slots_per_step=8)  # 4 videos a step
    assert any(len(set(batch.ids)) < 4 for batch in alone)
    assert not any(batch.substitutions for batch in alone)
    assert_same(batches(few, replace(data, workers=2), forwards(10, 8), slots_per_step=8), alone)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["paper", "center", "curve"])
def test_views_of_a_test_video(tiny_data, all_views, workers, name):
    data, views = replace(tiny_data, workers=workers), all_views[name]
    manifest = read_manifest(data, "val")
    rows = [8, 0, 3]
    with view_videos(manifest, data, views, rows=rows, **CLIP) as stream:
        videos = list(stream)
    assert [video.index for video in videos] == rows
    for video in videos:
        row = manifest[video.index]
        plan = plan_clip(5, video.index, tag=Tag.CURVE, flip=True)
        size = {"num_frames": 12, "height": 32, "width": 32, "short_side": (28, 32), "crop": 28}
        clips = resolve_views(views, **size, frames=4, stride=2, plan=plan)
        with open_video(row.path) as reader:
            expected_VTHWC = np.stack(reader.read(clips))
        assert video.clips_VTHWC is not None
        assert np.array_equal(video.clips_VTHWC.numpy(), expected_VTHWC)
        assert (video.id, video.label, video.error) == (row.id, row.label, None)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_test_video_is_said_and_not_replaced(damaged, all_views, workers):
    manifest, data = damaged
    data = replace(data, workers=workers)
    with view_videos(manifest, data, all_views["center"], rows=range(24), **CLIP) as stream:
        videos = list(stream)
    assert [video.index for video in videos if video.clips_VTHWC is None] == [1, 5, 9, 13, 17, 21]
    for video in videos:
        assert (video.error is None) == (video.clips_VTHWC is not None)
        assert video.error is None or video.id in video.error


def test_images(tiny_data, tmp_path, all_views):
    from PIL import Image

    for split, label in itertools.product(("train", "val"), ("cat", "dog")):
        (tmp_path / split / label).mkdir(parents=True)
        Image.new("RGB", (50, 40), (50 if label == "cat" else 200,) * 3).save(tmp_path / split / label / "1.png")
    data = replace(tiny_data, format="imagenet", root=str(tmp_path), augment="image", synthetic=None)
    (batch,) = batches(read_manifest(data, "train"), data, [range(4)], frames=1, stride=1)
    assert batch.clip_NTHWC.shape == (4, 1, 28, 28, 3)
    assert [int(clip.max()) for clip in batch.clip_NTHWC] == [50 if label == 0 else 200 for label in batch.label_N]
    val = read_manifest(data, "val")
    with view_videos(val, data, all_views["image"], seed=0, frames=1, stride=1, rows=[0, 1]) as stream:
        assert [video.clips_VTHWC.shape for video in stream if video.clips_VTHWC is not None] == [(1, 1, 28, 28, 3)] * 2


def test_an_index_that_counts_fewer_frames_than_the_file_claims_is_believed(manifest, tiny_data, tmp_path):
    text = f"path,label,num_frames,width,height,status\n{manifest[0].path},x,3,32,32,ok\n"
    (tmp_path / "t.csv").write_text(text)
    data = replace(tiny_data, format="csv", train=str(tmp_path / "t.csv"), synthetic=None, flip=False)
    (batch,) = batches(read_manifest(data, "train"), data, [(0,)])
    # Frames 0, 2, 4, 6 modulo 3 are 0, 2, 1, 0.
    assert torch.equal(batch.clip_NTHWC[0, 0], batch.clip_NTHWC[0, 3])
    assert not torch.equal(batch.clip_NTHWC[0, 0], batch.clip_NTHWC[0, 1])


@pytest.mark.parametrize(
    ("column", "change", "reason"),
    [
        ("bytes", 1, r"has \d+ bytes, and had \d+ when its index was made or the run began"),
        ("num_frames", 1, r"has \d+ frames, and its annotation says num_frames=\d+; make its index anew"),
    ],
)
def test_a_video_that_is_not_the_one_that_was_indexed_cant_be_read(
    manifest, tiny_data, tmp_path, all_views, column, change, reason
):
    path = manifest[0].path
    with open_video(path) as reader:
        right = {"bytes": Path(path).stat().st_size, "num_frames": reader.num_frames}
    for number, is_wrong in ((right[column], False), (right[column] + change, True)):
        (tmp_path / "t.csv").write_text(f"path,label,{column}\n{path},0,{number}\n")
        data = replace(tiny_data, format="csv", root=None, train=str(tmp_path / "t.csv"), val=None)
        rows = read_manifest(data, "train")
        with view_videos(rows, data, all_views["center"], rows=[0], **CLIP) as stream:
            (found,) = stream
        assert (found.error is not None) == is_wrong
        if is_wrong:
            assert re.search(reason, found.error)
            with pytest.raises(DecodeError, match=reason):
                batches(rows, data, [(0,)])


def test_check_data(tiny_data, tmp_path):
    check_data(tiny_data)
    with pytest.raises(ConfigError, match=r"needs (the keys under data.synthetic|a place for its videos)"):
        check_data(replace(tiny_data, synthetic=None))
    csv = replace(tiny_data, format="csv", root=str(tmp_path), synthetic=None)
    with pytest.raises(ManifestError, match=r"data.train is not set"):
        check_data(csv)
    (tmp_path / "t.csv").touch()
    with pytest.raises(ManifestError, match=r"data.val is not set"):
        check_data(replace(csv, train=str(tmp_path / "t.csv")))
    with pytest.raises(ManifestError, match=r"/no: no such folder"):
        check_data(replace(csv, train=str(tmp_path / "t.csv"), val=str(tmp_path / "t.csv"), root="/no"))
    with pytest.raises(ConfigError, match=r"data.separator is empty"):
        check_data(replace(csv, format="list", separator=""))
