"""Detectors and a COCO set small enough for tests: coloured shapes whose boxes and masks are known by construction."""

import json
import math

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from vidgn.config.compose import load_config

SMALL_COCO = (
    "model=mask_rcnn_tiny_fpn",
    "data=coco",
    "views=coco",
    "optim=detection",
    "frames=1",
    "span=1",
    "clips_per_gpu=2",
    "gpus=2",
    "data.short_side=[96,96]",
    "data.long_side=160",
    "data.workers=0",
)
CATEGORIES = {3: "box", 7: "disc", 8: "bar"}  # ids with gaps, names not in the order of ids
_COLOURS = {"box": (220, 40, 40), "disc": (40, 220, 40), "bar": (40, 40, 220)}


def config_of(*overrides):
    return load_config([*SMALL_COCO, "weights=w.pt", *overrides])


def shape(name, left, top, size, height, width):
    """(H, W) booleans of a shape, and a polygon of it."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    if name == "disc":
        centre, radius = (left + size / 2, top + size / 2), size / 2
        mask = (columns - centre[0]) ** 2 + (rows - centre[1]) ** 2 < radius**2
        angles = [2 * math.pi * k / 24 for k in range(24)]
        points = [(centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a)) for a in angles]
    else:
        wide, high = (size, size) if name == "box" else (size, size // 3)
        mask = (columns > left) & (columns < left + wide) & (rows > top) & (rows < top + high)
        points = [(left, top), (left + wide, top), (left + wide, top + high), (left, top + high)]
    return mask, [float(v) for point in points for v in point]


def write_coco(folder, *, train=6, val=4, seed=0):
    """Images in `folder`/images, and train.json and val.json beside them.

    Masks are polygons, compressed and plain RLE in turn; a crowd and an image without objects are among them.
    """
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    for split, count in (("train", train), ("val", val)):
        images, annotations = [], []
        for number in range(count):
            id = 1000 * (split == "val") + 11 * number + 5
            height, width = ((90, 120), (120, 84), (100, 100))[number % 3]
            picture = rng.integers(90, 140, (height, width, 3)).astype(np.uint8)
            name = f"{split}_{id}.png"
            images.append({"id": id, "file_name": name, "height": height, "width": width})
            for k in range(2 if number else 3):
                category = list(CATEGORIES)[(number + k) % 3]
                size = int(rng.integers(30, 50))
                left, top = int(rng.integers(2, width - size - 2)), int(rng.integers(2, height - size - 2))
                mask, polygon = shape(CATEGORIES[category], left, top, size, height, width)
                picture[mask] = _COLOURS[CATEGORIES[category]]
                packed = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
                forms = [
                    [polygon],
                    {"size": [height, width], "counts": packed["counts"].decode()},
                    {"size": [height, width], "counts": runs(mask)},
                ]
                rows, columns = np.nonzero(mask)
                box = [columns.min(), rows.min(), columns.max() + 1 - columns.min(), rows.max() + 1 - rows.min()]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": id,
                        "category_id": category,
                        "bbox": [float(v) for v in box],
                        "area": float(mask.sum()),
                        "iscrowd": int(number == 0 and k == 2),
                        "segmentation": forms[2 if number == 0 and k == 2 else (number + k) % 3],
                    }
                )
            Image.fromarray(picture).save(folder / "images" / name)
        empty = {"id": 99 + 1000 * (split == "val"), "file_name": f"{split}_empty.png", "height": 90, "width": 90}
        Image.fromarray(np.full((90, 90, 3), 120, np.uint8)).save(folder / "images" / empty["file_name"])
        tree = {
            "images": [*images, empty],
            "annotations": annotations,
            "categories": [{"id": id, "name": name} for id, name in CATEGORIES.items()],
        }
        (folder / f"{split}.json").write_text(json.dumps(tree))
    return [f"data.root={folder}/images", f"data.train={folder}/train.json", f"data.val={folder}/val.json"]


def runs(mask):
    """Plain RLE: lengths of runs down the columns, the first of zeros."""
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat.astype(int), [1 - int(flat[-1])]])))
    lengths = np.diff(np.concatenate([[0], edges]))
    return [int(n) for n in lengths]
