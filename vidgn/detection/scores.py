"""The test of a detector: pycocotools' COCOeval on what it found, and what each image had to do with it."""

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from vidgn.data.datasets.manifest import Manifest
from vidgn.detection.images import Annotations

Found = dict[str, Any]  # an entry of COCO's result files
_KINDS: tuple[tuple[str, Literal["bbox", "segm"]], ...] = (("box", "bbox"), ("mask", "segm"))
_STATISTICS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")  # the first six of COCOeval's


@dataclass(frozen=True)
class ImageDetections:
    """What was found in one image. `error`: why it could not be read, which is a miss of all that is in it."""

    index: int
    found: list[Found] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True)
class DetectionScores:
    """A tested split: numbers in percent by name, and the files that say more.

    `matches`: for each of box and mask, which detection is right at which IoU (see vidgn/report/read/matches.py).
    """

    numbers: dict[str, float]
    detections: tuple[ImageDetections, ...]
    matches: dict[str, np.ndarray]
    unreadable: tuple[str, ...]

    @property
    def num_videos(self) -> int:
        """Images of the split."""
        return len(self.detections)

    def files(self) -> dict[str, bytes]:
        """Endings and contents: COCO's result files of boxes and of masks, which pycocotools reads; the matches."""
        found = [entry for image in self.detections for entry in image.found]
        packed = io.BytesIO()
        np.savez_compressed(packed, **self.matches)  # type: ignore[arg-type]  # names are those of arrays
        results = {f"/{kind}.json": (json.dumps(_of_kind(found, kind)) + "\n").encode() for _, kind in _KINDS}
        return {**results, ".npz": packed.getvalue()}

    def line(self) -> str:
        """The numbers that are looked at first."""
        parts = [f"{kind} AP {self.numbers[f'{kind}_ap']:.2f}" for kind, _ in _KINDS]
        return ", ".join([*parts, f"AP50 {self.numbers['box_ap50']:.2f} and {self.numbers['mask_ap50']:.2f}"])


def found_in(output: dict[str, Tensor], *, image_id: int, annotations: Annotations) -> list[Found]:
    """A detector's output on one image as entries of COCO's result files."""
    boxes_N4, scores_N, labels_N = (output[k].detach().cpu().double() for k in ("boxes", "scores", "labels"))
    masks_NHW = (output["masks"][:, 0] > 0.5).to(torch.uint8).cpu().numpy()
    found = []
    for box, score, label, mask_HW in zip(
        boxes_N4.tolist(), scores_N.tolist(), labels_N.tolist(), masks_NHW, strict=True
    ):
        packed: Any = rle.encode(np.asfortranarray(mask_HW))
        found.append(
            {
                "image_id": image_id,
                "category_id": annotations.category_of[int(label)],
                "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                "score": score,
                "segmentation": {"size": list(packed["size"]), "counts": packed["counts"].decode()},
            }
        )
    return found


def _of_kind(found: Sequence[Found], kind: Literal["bbox", "segm"]) -> list[Found]:
    """Entries with their boxes, or with their masks, alone.

    An entry with both has the area of its box in COCOeval, and so a mask of another size class: Detectron's have not.
    """
    other = "segmentation" if kind == "bbox" else "bbox"
    return [{key: value for key, value in entry.items() if key != other} for entry in found]


def score(rows: Manifest, annotations: Annotations, detections: Sequence[ImageDetections]) -> DetectionScores:
    """AP of boxes and masks over all images of `rows`, as pycocotools has it.

    Args:
        annotations: of the split.
        detections: of each row, in order.
    """
    truth, ids = _truth(annotations, rows)
    found = [entry for image in detections for entry in image.found]
    numbers: dict[str, float] = {}
    matches: dict[str, np.ndarray] = {}
    for name, kind in _KINDS:
        evaluated = _evaluated(truth, _of_kind(found, kind), ids, kind)
        for key, value in zip(_STATISTICS, evaluated.stats, strict=False):
            if value >= 0:  # -1: of sizes that no object has
                numbers[f"{name}_{key}"] = 100 * float(value)
        matches |= {f"{name}_{key}": array for key, array in _matches(evaluated).items()}
        matches["ids"] = np.array(evaluated.params.imgIds, np.int64)
    lost = {id for id, image in zip(ids, detections, strict=True) if image.error is not None}
    matches["readable"] = np.array([id not in lost for id in matches["ids"].tolist()])
    unreadable = tuple(f"{rows[d.index].id}: {d.error}" for d in detections if d.error is not None)
    return DetectionScores(numbers, tuple(detections), matches, unreadable)


def _truth(annotations: Annotations, rows: Manifest) -> tuple[Any, list[int]]:
    """The annotation of the rows' images, and their ids in order."""
    instances = annotations.instances
    images = [annotations.images[rows[index].id] for index in range(len(rows))]
    with contextlib.redirect_stdout(io.StringIO()):
        truth: Any = COCO()
        truth.dataset = {
            "images": images,
            "annotations": [dict(a) for image in images for a in instances.tested.get(image["id"], ())],
            "categories": [{"id": id, "name": name} for id, name in instances.categories.items()],
        }
        truth.createIndex()
    return truth, [image["id"] for image in images]


def _evaluated(truth: Any, found: list[Found], ids: list[int], kind: Literal["bbox", "segm"]) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        results = truth.loadRes([dict(entry) for entry in found]) if found else _nothing(truth)
        evaluation: Any = COCOeval(truth, results, kind)
        evaluation.params.imgIds = ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _nothing(truth: Any) -> Any:
    """Results without an entry, which loadRes does not take."""
    empty: Any = COCO()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _matches(evaluation: Any) -> dict[str, np.ndarray]:
    """Of every detection its image, category, score, and at which of the ten IoUs it is right or not counted.

    Objects of all sizes, 100 detections an image. In the order in which COCOeval goes through them.
    """
    params = evaluation.params
    places = {id: place for place, id in enumerate(params.imgIds)}
    numbers = {id: number for number, id in enumerate(params.catIds)}
    images, categories, scores, right, left_out, counts = [], [], [], [], [], []
    bits = 1 << np.arange(len(params.iouThrs))
    for of_image in evaluation.evalImgs:
        if of_image is None or list(of_image["aRng"]) != list(params.areaRng[0]):
            continue
        image, category = places[of_image["image_id"]], numbers[of_image["category_id"]]
        num = int((np.asarray(of_image["gtIgnore"]) == 0).sum())
        if num:
            counts.append((image, category, num))
        num_found = len(of_image["dtScores"])
        images += [image] * num_found
        categories += [category] * num_found
        scores += list(of_image["dtScores"])
        matched_TD, ignored_TD = (np.asarray(of_image[k]).reshape(len(bits), -1) for k in ("dtMatches", "dtIgnore"))
        right += list(bits @ (matched_TD != 0))
        left_out += list(bits @ ignored_TD.astype(bool))
    return {
        "image": np.array(images, np.int32),
        "category": np.array(categories, np.int16),
        "score": np.array(scores, np.float64),
        "right": np.array(right, np.uint16),
        "left_out": np.array(left_out, np.uint16),
        "objects": np.array(counts, np.int32).reshape(-1, 3),
    }
