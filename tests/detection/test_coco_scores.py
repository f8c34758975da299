"""AP of a test, against pycocotools run by hand on the file that it wrote."""

import contextlib
import dataclasses
import io
import json

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.detection.small_detector import SMALL_COCO, write_coco
from vidgn.config.compose import load_config
from vidgn.data.datasets.manifest import read_manifest
from vidgn.detection.images import Annotations
from vidgn.detection.scores import DetectionScores, ImageDetections, score
from vidgn.errors import ManifestError
from vidgn.report.analyse.average_precision import compare_aps
from vidgn.report.read.matches import Matches, Precision, ap_fault, read_matches


def by_hand(truth_json, found, kind):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(truth_json)
        evaluation = COCOeval(truth, truth.loadRes(found), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    data = load_config([*SMALL_COCO, "weights=w.pt", *write_coco(folder / "set", val=9)]).data
    rows = read_manifest(data, "val")
    return Annotations(data.val, rows), rows, data.val


def detections(annotations, rows, *, seed=0, noise=6.0, lost=()):
    """What a network might say: objects moved by some pixels, some of them twice, some under another name."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(len(rows)):
        image, entries = annotations.images[rows[index].id], []
        if index in lost:
            found.append(ImageDetections(index, [], "could not be read"))
            continue
        for annotation in [a for a in annotations.instances.tested.get(image["id"], ()) for _ in range(2)]:
            left, top, width, height = annotation["bbox"]
            box = [left + rng.normal(0, noise), top + rng.normal(0, noise), width, height]
            category = annotation["category_id"] if rng.random() < 0.7 else 3
            x0, y0 = max(box[0], 0), max(box[1], 0)
            x1, y1 = min(box[0] + width, image["width"]), min(box[1] + height, image["height"])
            segmentation = {"size": [image["height"], image["width"]], "counts": ""}
            packed = rle.frPyObjects([[x0, y0, x1, y0, x1, y1, x0, y1]], image["height"], image["width"])[0]
            segmentation["counts"] = packed["counts"].decode()
            entries.append(
                {
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": box,
                    "score": round(float(rng.random()), 1),  # ties
                    "segmentation": segmentation,
                }
            )
        found.append(ImageDetections(index, entries))
    return found


def test_ap_is_pycocotools_on_the_written_file(split, tmp_path):
    annotations, rows, path = split
    scores = score(rows, annotations, detections(annotations, rows))
    for name, kind in (("box", "bbox"), ("mask", "segm")):
        (tmp_path / f"{kind}.json").write_bytes(scores.files()[f"/{kind}.json"])
        stats = by_hand(path, str(tmp_path / f"{kind}.json"), kind)
        keys = [f"{name}_{key}" for key in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")]
        expected = {key: 100 * value for key, value in zip(keys, stats, strict=False) if value >= 0}
        assert {key: value for key, value in scores.numbers.items() if key.startswith(name)} == expected
    assert 5 < scores.numbers["box_ap"] < 95


def test_a_file_that_can_t_be_read_is_a_miss_and_named(split):
    annotations, rows, _ = split
    whole = score(rows, annotations, detections(annotations, rows))
    lost = score(rows, annotations, detections(annotations, rows, lost=(1, 4)))
    assert lost.numbers["box_ap"] < whole.numbers["box_ap"]
    assert (lost.num_videos, len(lost.unreadable)) == (len(rows), 2)
    assert lost.unreadable[0] == f"{rows[1].id}: could not be read"


def test_nothing_found_is_an_ap_of_0(split):
    annotations, rows, _ = split
    scores = score(rows, annotations, [ImageDetections(index) for index in range(len(rows))])
    assert set(scores.numbers.values()) == {0.0}
    assert json.loads(scores.files()["/bbox.json"]) == json.loads(scores.files()["/segm.json"]) == []


def matches_of(scores, tmp_path, name="m.npz"):
    (tmp_path / name).write_bytes(scores.files()[".npz"])
    return read_matches(tmp_path / name, (tmp_path / name).stat().st_mtime_ns)


def test_ap_of_the_matches_is_cocoeval_s_and_weights_are_repeats(split, tmp_path):
    """An image that counts twice is an image that is there twice under two ids."""
    annotations, rows, path = split
    scores = score(rows, annotations, detections(annotations, rows))
    found = matches_of(scores, tmp_path)
    for kind in ("box", "mask"):
        assert 100 * Precision(found[kind]).ap() == pytest.approx(scores.numbers[f"{kind}_ap"], abs=1e-12)
    with open(path) as file:
        tree = json.load(file)
    entries = [entry for image in scores.detections for entry in image.found]
    first = next(image["id"] for image in tree["images"] if image["file_name"] == rows[0].id)
    tree["images"].append({**next(i for i in tree["images"] if i["id"] == first), "id": 5000, "file_name": "copy.png"})
    copies = [a for a in tree["annotations"] if a["image_id"] == first]
    tree["annotations"] += [{**a, "id": 900 + k, "image_id": 5000} for k, a in enumerate(copies)]
    entries += [{**e, "image_id": 5000} for e in entries if e["image_id"] == first]
    (tmp_path / "twice.json").write_text(json.dumps(tree))
    (tmp_path / "found.json").write_text(json.dumps(entries))
    stats = by_hand(str(tmp_path / "twice.json"), str(tmp_path / "found.json"), "bbox")
    weights = np.where(found["box"].ids == first, 2.0, 1.0)
    # with equal scores COCOeval takes the copy after all others: a tie may fall otherwise
    assert Precision(found["box"]).ap(weights) == pytest.approx(stats[0], abs=0.01)
    assert Precision(found["box"]).ap(weights) != pytest.approx(Precision(found["box"]).ap(), abs=1e-4)


def test_matches_are_the_same_bytes_each_time(split):
    annotations, rows, _ = split
    first, second = (score(rows, annotations, detections(annotations, rows)).files() for _ in range(2))
    assert first == second


def test_what_is_no_file_of_matches_is_refused(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ManifestError, match="holds no matches of detections"):
        read_matches(tmp_path / "x.npz", 0)


def world(*, better, num_images=80, seed=0, readable=None):
    """Matches of a made-up test: in each image three objects of two categories, each found by chance."""
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(num_images), 3)
    category = rng.integers(0, 2, len(image))
    right = (rng.random(len(image)) < 0.5 + better).astype(np.uint16) * 0x3FF
    objects = np.stack([image, category, np.ones_like(image)], axis=1)
    left_out = np.zeros_like(right)
    readable = np.ones(num_images, bool) if readable is None else readable
    return Matches(np.arange(num_images), readable, image, category, rng.random(len(image)), right, left_out, objects)


def test_an_interval_of_ap_holds_the_truth_about_as_often_as_it_says():
    """Two arms alike, two seeds: the interval over images and runs leaves 0 out in few of the studies."""
    wrong = 0
    for study in range(16):
        pairs = [(world(better=0, seed=4 * study + 2 * s), world(better=0, seed=4 * study + 2 * s + 1)) for s in (0, 1)]
        interval = compare_aps(tuple(pairs)).interval
        assert interval is not None
        wrong += not interval.low <= 0 <= interval.high
    assert wrong <= 3


def test_one_seed_has_an_interval_over_images_alone():
    found = compare_aps(((world(better=0, seed=1), world(better=0, seed=2)),))
    assert found.interval is None
    assert found.images.low < found.images.points < found.images.high


def test_a_difference_of_ap_is_seen():
    pairs = [(world(better=0.3, seed=2 * s), world(better=0, seed=2 * s + 1)) for s in range(3)]
    found = compare_aps(tuple(pairs))
    assert found.interval.low > 0
    assert found.images.points == pytest.approx(found.interval.points, abs=1e-9)
    assert found.images.points == pytest.approx(np.mean(found.by_pair))
    assert found.images.discordant > 0.3


def test_images_that_one_arm_could_not_read_are_left_out_of_both():
    """What was lost to one says nothing of its network."""
    lost = np.arange(80) < 30
    arm, seen = world(better=0, seed=1), world(better=0, seed=2)
    right = np.where(lost[seen.image], 0, seen.right).astype(np.uint16)
    blind = dataclasses.replace(seen, right=right, readable=~lost)
    kept = (~lost).astype(float)
    found = compare_aps(((arm, blind),))
    assert found.by_pair[0] == pytest.approx(100 * (Precision(arm).ap(kept) - Precision(seen).ap(kept)), abs=1e-9)
    assert found.images.num_videos == 50


def test_a_result_that_contradicts_its_matches_is_told(split, tmp_path):
    annotations, rows, _ = split
    scores = score(rows, annotations, detections(annotations, rows, lost=(2,)))
    found = matches_of(scores, tmp_path)
    assert found["box"].readable.sum() == len(rows) - 1
    assert ap_fault(scores.numbers, found) is None
    assert ap_fault({**scores.numbers, "mask_ap": 99.0}, found).startswith(
        "result.json says mask AP 99.00, its matches"
    )


def test_sizes_of_masks_are_those_of_masks():
    """An entry with its box too would have the box's area: a thin mask in a large box is small."""
    entry = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 90, 90], "score": 0.5, "segmentation": {"size": [1, 1]}}
    files = DetectionScores({}, (ImageDetections(0, [entry]),), {}, ()).files()
    assert "bbox" not in json.loads(files["/segm.json"])[0]
    assert "segmentation" not in json.loads(files["/bbox.json"])[0]
