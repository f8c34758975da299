"""Images, boxes and masks: what is planned, what is read, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from tests.detection.small_detector import SMALL_COCO, config_of, shape, write_coco
from vidgn.cli.main import main
from vidgn.config.compose import load_config
from vidgn.data.datasets.annotations import read_listing
from vidgn.data.datasets.coco import fills_image, read_instances
from vidgn.data.datasets.manifest import read_manifest
from vidgn.detection.image_order import ImageOrder, image_plan
from vidgn.detection.images import Annotations, TrainImages, flipped, read_ahead
from vidgn.detection.sampling import PlannedSampler
from vidgn.errors import DecodeError, ManifestError
from vidgn.rng_streams import Tag, stream


@pytest.fixture
def coco(tmp_path):
    return load_config([*SMALL_COCO, "weights=w.pt", *write_coco(tmp_path / "set")]).data


def read_split(data, split="train"):
    rows = read_manifest(data, split)
    return rows, Annotations(getattr(data, split), rows)


# -- order and plan ---------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 5), st.integers(0, 3))
def test_an_epoch_is_every_image_once_wherever_it_begins(is_wide, group, seed):
    order, num = ImageOrder(np.array(is_wide), group=group, seed=seed), len(is_wide)
    for epoch in range(3):
        assert sorted(order.row(epoch * num + item) for item in range(num)) == list(range(num))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=8, max_size=40), st.integers(2, 4))
def test_a_virtual_gpu_holds_images_of_one_kind_wherever_it_can(is_wide, group):
    is_wide = np.array(is_wide)
    order, num = ImageOrder(is_wide, group=group, seed=1), len(is_wide)
    for epoch in range(3):
        first = -(-epoch * num // group)  # of the virtual GPUs that lie in the epoch as a whole
        last = (epoch + 1) * num // group
        kinds = [{bool(is_wide[order.row(p)]) for p in range(g * group, (g + 1) * group)} for g in range(first, last)]
        could = sum(int((is_wide == kind).sum()) // group for kind in (True, False))
        assert sum(len(kind) == 1 for kind in kinds) >= min(could, len(kinds))


def test_order_and_plan_depend_on_seed_and_epoch_alone(coco):
    is_wide = np.arange(30) % 3 > 0
    one, other = (ImageOrder(is_wide, group=2, seed=4) for _ in range(2))
    places = list(range(90))
    assert [one.row(p) for p in places] == [other.row(p) for p in reversed(places)][::-1]
    assert [one.row(p) for p in places[:30]] != [one.row(p) for p in places[30:60]]
    assert [one.row(p) for p in places] != [ImageOrder(is_wide, group=2, seed=5).row(p) for p in places]
    jittered = config_of("data.short_side=[64,96]").data
    plans = [image_plan(jittered, 0, p) for p in range(400)]
    assert plans == [image_plan(jittered, 0, p) for p in range(400)]
    assert {plan.short_side for plan in plans} == set(range(64, 97))
    assert 150 < sum(plan.flip for plan in plans) < 250
    unflipped = config_of("data.flip=false").data
    assert not any(image_plan(unflipped, 0, p).flip for p in range(50))


def test_boxes_are_sampled_by_slot_and_as_torchvision_does():
    matched = [torch.tensor([1] * 20 + [0] * 100 + [-1] * 5), torch.tensor([0] * 3 + [2] * 2)]
    sampler = PlannedSampler(0, 16, 0.5)
    sampler.seed, sampler.step, sampler.slots = 0, 7, range(4, 6)
    positive, negative = sampler(matched)
    assert [int(m.sum()) for m in positive] == [8, 2]
    assert [int(m.sum()) for m in negative] == [8, 3]
    for found, right, wrong in zip(matched, positive, negative, strict=True):
        assert (found[right.bool()] >= 1).all()
        assert (found[wrong.bool()] == 0).all()
    sampler.slots = range(5, 6)  # alone, as on another rank
    assert torch.equal(sampler(matched[1:])[0][0], positive[1])
    sampler.slots = range(4, 5)
    sampler.step = 8
    assert not torch.equal(sampler(matched[:1])[0][0], positive[0])


# -- what is read -----------------------------------------------------------------------------------------------------


def test_boxes_masks_and_labels_are_those_that_were_drawn(coco):
    rows, annotations = read_split(coco)
    truth = COCO(coco.train)
    assert rows.classes == ("bar", "box", "disc")
    for index in range(len(rows)):
        row = rows[index]
        image, target = annotations.read(row), annotations.target(row)
        found = [a for a in truth.loadAnns(truth.getAnnIds(annotations.images[row.id]["id"])) if not a["iscrowd"]]
        assert image.shape[1:] == target["masks"].shape[1:]
        assert len(found) == len(target["boxes"])
        for box, label, mask, annotation in zip(target["boxes"], target["labels"], target["masks"], found, strict=True):
            left, top, width, height = annotation["bbox"]
            assert box.tolist() == [left, top, left + width, top + height]
            assert rows.classes[label - 1] == truth.cats[annotation["category_id"]]["name"]
            assert np.array_equal(mask.numpy(), truth.annToMask(annotation))
            assert abs(int(mask.sum()) - annotation["area"]) <= 0.1 * annotation["area"]


def test_a_mirror_mirrors_all(coco):
    rows, annotations = read_split(coco)
    image, target = annotations.read(rows[0]), annotations.target(rows[0])
    mirrored, other = flipped(image, target)
    width = image.shape[-1]
    assert torch.equal(mirrored[:, :, 0], image[:, :, width - 1])
    for box, mask, before in zip(other["boxes"], other["masks"], target["boxes"], strict=True):
        assert box.tolist() == [width - before[2], before[1], width - before[0], before[3]]
        columns = mask.any(0).nonzero()[:, 0]
        assert abs(columns.min() - box[0]) <= 1
        assert abs(columns.max() + 1 - box[2]) <= 1
    again, back = flipped(mirrored, other)
    assert torch.equal(again, image)
    assert torch.equal(back["boxes"], target["boxes"])


def test_batches_are_a_function_of_their_positions(coco):
    rows, annotations = read_split(coco)
    source = TrainImages(rows, annotations, coco, seed=3, group=2)
    whole = source.batch(range(6))
    parts = [source.batch(range(first, first + 2)) for first in (4, 0, 2)]
    assert sum(part.digest for part in parts) % 2**128 == whole.digest
    ids = {part.positions[0]: part.ids for part in parts}
    assert (*ids[0], *ids[2], *ids[4]) == whole.ids
    assert len(set(whole.ids)) == 6


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_items_come_in_order_whatever_reads_them(workers):
    with read_ahead(lambda n: n * n, range(40), workers=workers) as squares:
        assert list(squares) == [n * n for n in range(40)]


def test_an_image_that_can_t_be_read_is_replaced_and_named(coco, tmp_path):
    rows, annotations = read_split(coco)
    order = ImageOrder(annotations.is_wide(rows), group=2, seed=3)
    lost, cut = (rows[order.row(p)].id for p in (0, 3))
    (tmp_path / "set/images" / lost).unlink()
    file = tmp_path / "set/images" / cut
    file.write_bytes(file.read_bytes()[:60])
    batch = TrainImages(rows, annotations, coco, seed=3, group=2).batch(range(4))
    named = {s.position: s for s in reversed(batch.substitutions)}  # the first of each position
    assert {named[0].id, named[3].id} == {lost, cut}
    assert "no image that can be read" in named[3].reason
    assert batch.ids[0] not in (lost, cut)
    for row in range(len(rows)):
        (tmp_path / "set/images" / rows[row].id).unlink(missing_ok=True)
    with pytest.raises(DecodeError, match=r"images drawn for it can't be read .*`vidgn data check .*train\.json --"):
        TrainImages(rows, annotations, coco, seed=3, group=2).batch(range(2))


def test_an_image_of_another_size_than_its_annotation_is_none(coco, tmp_path):
    rows, annotations = read_split(coco)
    Image.new("RGB", (50, 40)).save(tmp_path / "set/images" / rows[0].id)
    with pytest.raises(DecodeError, match=r"has 50x40 pixels, and its annotation says \d+x\d+: its boxes are"):
        annotations.read(rows[0])


def test_an_image_that_is_turned_by_its_exif_data_is_read_as_its_annotation_has_it(coco, tmp_path):
    rows, annotations = read_split(coco)
    row = next(rows[i] for i in range(len(rows)) if annotations.images[rows[i].id]["width"] == 120)
    wide = np.random.default_rng(0).integers(0, 255, (90, 120, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown a quarter turned
    Image.fromarray(wide).save(tmp_path / "set/images" / row.id, exif=exif)
    assert np.array_equal(annotations.read(row).permute(1, 2, 0), wide)  # 120 x 90 as stored, which the json says
    assert main(["data", "check", coco.train]) == 0
    Image.fromarray(wide.swapaxes(0, 1).copy()).save(tmp_path / "set/images" / row.id, exif=exif)
    shown = np.rot90(wide.swapaxes(0, 1), -1)  # 90 x 120 stored, 120 x 90 as shown
    assert np.array_equal(annotations.read(row).permute(1, 2, 0), shown)


# -- what a json may hold ---------------------------------------------------------------------------------------------


def changed(path, change):
    tree = json.loads(Path(path).read_text())
    change(tree)
    Path(path).write_text(json.dumps(tree))


def test_images_without_objects_are_tested_and_not_trained_on(coco):
    assert [len(read_manifest(coco, split)) for split in ("train", "val")] == [6, 5]
    assert read_listing(coco, "train").notes == [f"{coco.train}: 1 images without objects are not trained on"]
    rows, annotations = read_split(coco, "val")
    target = annotations.target(next(rows[i] for i in range(5) if "empty" in rows[i].id))
    assert [tuple(target[key].shape) for key in ("boxes", "labels", "masks")] == [(0, 4), (0,), (0, 90, 90)]


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"segmentation": [[1.0, 2.0, 30.0, 40.0]]}, "1 objects left out, a polygon of fewer than three points"),
        ({"bbox": [10, 10, 0, 20]}, "1 objects left out, a box without an area"),
        ({"bbox": [500, 10, 20, 20]}, "1 objects left out, outside of its image"),
        ({"segmentation": {"size": [3, 3], "counts": [9]}}, "1 objects left out, no mask of its image's size"),
        ({"segmentation": []}, "1 objects left out, no mask of its image's size"),
        ({"segmentation": [[1.0, 2.0, 30.0, None, 5.0, 6.0]]}, "1 objects left out, polygons that are not numbers"),
        ({"segmentation": [["1", "2", "3", "4", "5", "6"]]}, "1 objects left out, polygons that are not numbers"),
        ({"segmentation": {"size": [90, 120]}}, "1 objects left out, a mask that does not fill its image"),
        ({"segmentation": {"size": [90, 120], "counts": [10, 5]}}, "1 objects left out, a mask that does not fill"),
        ({"segmentation": {"size": [90, 120], "counts": [-10, 10810]}}, "1 objects left out, a mask that does not"),
        ({"segmentation": {"size": [90, 120], "counts": "~~~"}}, "1 objects left out, a mask that does not fill"),
        ({"segmentation": {"size": [90, 120], "counts": "10"}}, "1 objects left out, a mask that does not fill"),
        ({"segmentation": "[[1, 2, 3, 4, 5, 6]]"}, "1 objects left out, a mask that does not fill its image"),
    ],
)
def test_an_object_that_can_t_be_learnt_is_left_out_with_a_line(coco, change, note):
    changed(coco.train, lambda tree: tree["annotations"][1].update(change))
    notes = read_listing(coco, "train").notes
    assert any(line.startswith(f"{coco.train}: {note}") and line.endswith("(first: annotation 2)") for line in notes)
    rows, annotations = read_split(coco)
    assert len(annotations.target(rows[0])["boxes"]) == 1  # of two and a crowd


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_packed_masks_are_known_as_whole(height, width, seed):
    """pycocotools packs them; one run more or less, or a character less, is none of its image."""
    mask_HW = np.random.default_rng(seed).random((height, width)) < 0.5
    packed = rle.encode(np.asfortranarray(mask_HW.astype(np.uint8)))["counts"].decode()
    assert fills_image({"counts": packed}, height * width)
    assert not fills_image({"counts": packed}, height * width + 1)
    assert not fills_image({"counts": packed[:-1]}, height * width)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t["images"].append(t["images"][0]), "image 5: its id or its file train_5.png is there twice"),
        (lambda t: t["annotations"].append(t["annotations"][0]), "annotation 1: its id is there twice"),
        (lambda t: t["annotations"][0].update(category_id=4), "annotation 1: there is no category 4"),
        (lambda t: t["annotations"][0].update(image_id=4), "annotation 1: there is no image 4"),
        (lambda t: t["categories"].append({"id": 9, "name": "box"}), "category 9: its id or its name 'box' is there"),
        (lambda t: t["images"][0].update(width=0), "image 5: 0x90 pixels"),
    ],
)
def test_a_json_that_contradicts_itself_is_refused(coco, change, told):
    changed(coco.train, change)
    with pytest.raises(ManifestError, match=r"1 entries contradict others .*data check .* --format coco lists all"):
        read_manifest(coco, "train")
    with pytest.raises(ManifestError) as refused:
        read_listing(coco, "train")
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "give the json of instances"),
        ("[]", "no lists of images, annotations, categories"),
        ('{"images": [], "annotations": []}', "no lists of images, annotations, categories"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "x"}]}', "images[0] lacks what"),
        (
            '{"images": [], "annotations": [{"id": "7"}], "categories": [{"id": 1, "name": "x"}]}',
            "annotations[0] lacks",
        ),
        ('{"images": [], "annotations": [NaN], "categories": []}', "NaN is no number"),
        ('{"images": [], "annotations": [], "categories": []}', "no categories"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "x"}]}', "no usable video"),
    ],
)
def test_what_is_no_json_of_instances_is_refused_in_one_line(coco, content, told):
    Path(coco.train).write_text(content)
    with pytest.raises(ManifestError) as refused:
        read_manifest(coco, "train")
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_test_is_about_all_that_pycocotools_reads_as_it_is_meant(coco):
    """A box without an area is no more learnt, and still looked for; a polygon that it would take for a box is not."""
    changed(coco.val, lambda tree: tree["annotations"][0]["bbox"].__setitem__(2, 0))
    assert read_listing(coco, "val").notes == []
    changed(coco.val, lambda tree: tree["annotations"][1].update(segmentation=[[1.0, 2, 3, 4]]))
    assert read_listing(coco, "val").notes == [
        f"{coco.val}: 1 objects left out, a polygon of fewer than three points (first: annotation 2)"
    ]
    instances = read_instances(coco.val)
    assert [a["id"] for a in instances.tested[1005]] == [1, 3]
    assert 1005 not in instances.objects  # the third is a crowd


def test_a_val_split_without_objects_is_refused_before_anything_is_trained(coco):
    changed(coco.val, lambda tree: tree["annotations"].clear())
    with pytest.raises(ManifestError, match="no image of it has an object, so there is nothing to find"):
        read_manifest(coco, "val")


def test_names_that_are_numbers_are_names(coco):
    def rename(tree):
        for category, name in zip(tree["categories"], ("10", "2", "31"), strict=True):
            category["name"] = name

    changed(coco.train, rename)
    changed(coco.val, rename)
    assert read_manifest(coco, "train").classes == ("10", "2", "31")


def test_a_json_that_changes_while_a_run_lasts_is_not_read(coco):
    rows, _ = read_split(coco)
    changed(coco.train, lambda tree: tree["annotations"][0]["bbox"].__setitem__(2, 20))
    with pytest.raises(ManifestError, match="has changed since the run began: put it back, or begin anew"):
        Annotations(coco.train, rows)


def test_categories_that_training_does_not_have_are_refused(coco):
    changed(coco.val, lambda tree: tree["categories"].append({"id": 1, "name": "cat"}))
    with pytest.raises(ManifestError, match=r"1 categories that .*train\.json does not have \(cat\): give both"):
        read_manifest(coco, "val")


def test_listed_files_that_are_not_there_are_missing(coco, tmp_path):
    (tmp_path / "set/images/train_5.png").unlink()
    with pytest.raises(ManifestError, match=r"1 of 6 videos .*\(first: train_5\.png\).*data\.missing=skip"):
        read_manifest(coco, "train")


def test_coco_s_own_folders_are_found(coco, tmp_path):
    (tmp_path / "coco").mkdir()
    (tmp_path / "set/images").rename(tmp_path / "coco/train2017")
    (tmp_path / "set/train.json").rename(tmp_path / "instances_train2017.json")
    data = load_config(
        [*SMALL_COCO, "weights=w.pt", f"data.root={tmp_path}/coco", f"data.train={tmp_path}/instances_train2017.json"]
    ).data
    rows = read_manifest(data, "train")
    assert rows[0].path == f"{tmp_path}/coco/train2017/{rows[0].id}"


def test_what_an_annotation_says_of_boxes_is_of_the_experiment(coco):
    before = read_manifest(coco, "train").digest()
    changed(coco.train, lambda tree: tree["annotations"][0]["bbox"].__setitem__(2, 20))
    assert read_manifest(coco, "train").digest() != before


def test_data_check_says_all_that_is_wrong(coco, tmp_path, capsys):
    assert main(["data", "check", coco.train, "--root", coco.root]) == 0
    assert "7 files: 7 ok, 0 bad" in capsys.readouterr().out
    (tmp_path / "set/images/train_5.png").unlink()
    picture = tmp_path / "set/images/train_16.png"
    picture.write_bytes(picture.read_bytes()[:70])
    Image.new("RGB", (30, 20)).save(tmp_path / "set/images/train_27.png")

    def spoil(tree):
        annotations = tree["annotations"]
        annotations[1]["bbox"] = [-30, 5, 60, 20]
        annotations[2]["bbox"] = [5, 5, 0, 20]
        annotations[3]["category_id"] = 77
        annotations[4]["segmentation"] = [[1.0, 2, 3, 4]]
        annotations.append(annotations[0])

    changed(coco.train, spoil)
    assert main(["data", "check", coco.train, "--format", "coco"]) == 1  # images beside the json are found
    out = capsys.readouterr().out
    for told in (
        "annotation 2: cut: bbox 30 pixels outside of its image",
        "annotation 3: a box without an area",
        "annotation 4: unknown category: there is no category 77",
        "annotation 5: a polygon of fewer than three points",
        "annotation 1: duplicate: its id is there twice",
        "train_5.png",
        "missing",
        "unreadable",
        "has 30x20 pixels, and its annotation says 100x100",
        "7 files: 4 ok, 3 bad",
    ):
        assert told in out, told


def test_sizes_are_compared_in_folders_too_and_other_verbs_refuse_a_json(coco, tmp_path, capsys):
    folder = tmp_path / "set/images/2017"
    folder.mkdir()
    (tmp_path / "set/images/train_5.png").rename(folder / "train_5.png")
    changed(coco.train, lambda tree: tree["images"][0].update(file_name="2017/train_5.png", width=121))
    assert main(["data", "check", coco.train]) == 1
    assert "has 120x90 pixels, and its annotation says 121x90" in capsys.readouterr().out
    assert main(["data", "index", coco.train, "--out", str(tmp_path / "x.csv")]) == 1
    assert "its boxes would be lost" in capsys.readouterr().err


def test_streams_of_boxes_have_a_tag_of_their_own():
    assert stream(Tag.BOXES, 0, 1, 2).random() != stream(Tag.INIT, 0, 1, 2).random()


def test_shapes_are_as_they_say():
    mask, polygon = shape("box", 10, 20, 30, 90, 90)
    assert (int(mask.sum()), polygon) == (900, [10, 20, 40, 20, 40, 50, 10, 50])


@pytest.mark.shared
def test_the_real_set_is_read_whole(shared_data):
    folder = shared_data / "coco"
    instances = read_instances(str(folder / "annotations/instances_train.json"))
    assert (len(instances.images), len(instances.categories), instances.faults) == (209, 80, ())
    assert sum(map(len, instances.tested.values())) == 1899
    assert sum(map(len, instances.objects.values())) == 1899 - 18
