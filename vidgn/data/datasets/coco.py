"""COCO's instances: which images a split has, and what is wrong with the json. Masks are vidgn/detection's affair.

A json that contradicts itself is refused, since whoever reads it would silently take one of two. An object without an
area, or outside its image, is left out of training with a line, as are images without objects; a test has all that
pycocotools reads as it is meant.
"""

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from vidgn.config.schema import DataConfig
from vidgn.data.datasets.listing import Listing, Split, annotation_path, keep_existing, root_folder
from vidgn.errors import ManifestError

_SECTIONS = ("images", "annotations", "categories")
_SAMPLE = 20  # images that are looked for to tell their folder
_LEAST_POLYGON = 6  # numbers: three points


@dataclass(frozen=True)
class Fault:
    """What is wrong with one entry.

    `refused`: the json can't be used; else the object is left out of training, and of a test unless it is `tested`.
    """

    where: str
    kind: str
    reason: str
    refused: bool = False
    tested: bool = False


@dataclass(frozen=True)
class Instances:
    """A json of instances. `objects`: of each image what is learnt; `tested`: what a test is about, crowds too."""

    images: tuple[dict[str, Any], ...]
    categories: dict[int, str]  # id -> name
    objects: dict[int, list[dict[str, Any]]]
    tested: dict[int, list[dict[str, Any]]]
    faults: tuple[Fault, ...]
    digest: str  # sha256 of the file


def read_instances(path: str) -> Instances:
    """A json of instances, looked at entry by entry. Of one file that does not change it is read once.

    Raises:
        ManifestError: if it is no such json.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}; give the json of instances") from None
    return _read(path, found.st_mtime_ns, found.st_size)


def coco_listing(data: DataConfig, split: Split) -> Listing:
    """The images of a split whose files are there.

    Raises:
        ManifestError: for a json that can't be used.
    """
    path = annotation_path(data, split)
    instances = read_instances(path)
    refused = [fault for fault in instances.faults if fault.refused]
    if refused:
        first = refused[0]
        raise ManifestError(
            f"{path}: {len(refused)} entries contradict others (first: {first.where}: {first.reason}); mend them "
            f"(vidgn data check {path} --format coco lists all)"
        )
    trained = annotation_path(data, "train") if data.train is not None else path
    unknown = set(instances.categories.values()) - set(read_instances(trained).categories.values())
    if unknown:
        raise ManifestError(
            f"{path}: {len(unknown)} categories that {trained} does not have ({', '.join(sorted(unknown)[:3])}): "
            "give both the same"
        )
    listing = Listing(root_folder(data), content=instances.digest)
    faults = [fault for fault in instances.faults if split == "train" or not fault.tested]
    for kind, count in sorted(Counter(fault.kind for fault in faults).items()):
        first = next(fault for fault in faults if fault.kind == kind)
        listing.notes.append(f"{path}: {count} objects left out, {kind} (first: {first.where})")
    first_name = next(iter(instances.categories.values()))
    empty = 0
    for image in instances.images:
        objects = instances.objects.get(image["id"], [])
        if split == "train" and not objects:
            empty += 1
            continue
        name = image["file_name"]
        listing.add(name, name, instances.categories[objects[0]["category_id"]] if objects else first_name)
    if empty:
        listing.notes.append(f"{path}: {empty} images without objects are not trained on")
    folder = _subfolder(listing, path)
    listing.paths = [os.path.join(folder, name) for name in listing.ids]
    there = keep_existing(listing)
    if split == "val" and there.ids:
        kept, objects = set(there.ids), instances.objects
        if not any(image["file_name"] in kept and image["id"] in objects for image in instances.images):
            raise ManifestError(f"{path}: no image of it has an object, so there is nothing to find: give another json")
    return there


def coco_labels(data: DataConfig, split: Split) -> Iterable[str]:
    """Names of all categories."""
    return read_instances(annotation_path(data, split)).categories.values()


def coco_files(path: str, root: str | None) -> Listing:
    """Every image that a json names, whatever else is wrong with it.

    Args:
        root: None: the folder of the json, or the one above it.

    Raises:
        ManifestError: for what is no json of instances.
    """
    instances = read_instances(path)
    found = Listing(os.path.dirname(path) or os.curdir)
    for base in [root] if root is not None else [found.base, os.path.join(found.base, os.pardir)]:
        found = Listing(base)
        for image in instances.images:
            found.add(image["file_name"], image["file_name"], "")
        folder = _subfolder(found, path)
        found.paths = [os.path.join(folder, name) for name in found.ids]
        found = keep_existing(found)
        if found.ids:
            break
    return found


def is_coco(path: str, format: str | None) -> bool:
    """Whether an annotation is a json of COCO's, told by its name where its `format` is not given."""
    return format == "coco" or (format is None and path.lower().endswith(".json"))


def checked_entries(path: str, format: str | None) -> tuple[list[tuple[str, str, str]], dict[str, tuple[int, int]]]:
    """Of a json of COCO's (where, kind, reason) of every wrong entry, boxes that are cut last; sizes by file name.

    Sizes are (height, width). Both are empty of anything else.
    """
    if not is_coco(path, format):
        return [], {}
    instances = read_instances(path)
    found = [(fault.where, fault.kind, fault.reason) for fault in instances.faults]
    found += [(where, "cut", f"{reason}: it is cut there") for where, reason in _partly_outside(instances)]
    return found, {image["file_name"]: (image["height"], image["width"]) for image in instances.images}


def _subfolder(listing: Listing, path: str) -> str:
    """Below data.root: where the images are. COCO's own layout has a folder named as the end of the json's name."""
    split = os.path.splitext(os.path.basename(path))[0].rpartition("_")[2]

    def num_there(folder: str) -> int:
        some = listing.ids[:: 1 + len(listing.ids) // _SAMPLE]
        return sum(os.path.exists(os.path.join(listing.base, folder, name)) for name in some)

    return max(("", split, "images", os.path.join("images", split)), key=num_there)


@lru_cache(maxsize=4)
def _read(path: str, mtime_ns: int, size: int) -> Instances:
    del mtime_ns, size  # which tell versions of the file apart
    try:
        with open(path, "rb") as file:
            content = file.read()
        tree = json.loads(content, parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(f"{path}: {str(error)[:120]}; give the json of instances") from None
    if not isinstance(tree, dict) or not all(isinstance(tree.get(section), list) for section in _SECTIONS):
        raise ManifestError(f"{path}: no lists of {', '.join(_SECTIONS)}; give a json of COCO's instances")
    return _instances(path, tree, hashlib.sha256(content).hexdigest())


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _instances(path: str, tree: dict[str, Any], digest: str) -> Instances:
    where, faults = "categories", list[Fault]()

    def refuse(kind: str, reason: str) -> None:
        faults.append(Fault(where, kind, reason, refused=True))

    try:
        categories: dict[int, str] = {}
        for place, category in enumerate(tree["categories"]):
            where = f"categories[{place}]"
            number, name = _whole(category["id"]), str(category["name"])
            where = f"category {number}"
            if number in categories or name in categories.values():
                refuse("duplicate", f"its id or its name {name!r} is there twice")
            categories[number] = name
        images: dict[int, dict[str, Any]] = {}
        names: set[str] = set()
        for place, image in enumerate(tree["images"]):
            where = f"images[{place}]"
            number, name = _whole(image["id"]), str(image["file_name"])
            where, height, width = f"image {number}", int(image["height"]), int(image["width"])
            if number in images or name in names:
                refuse("duplicate", f"its id or its file {name} is there twice")
            if min(height, width) < 1:
                refuse("no size", f"{width}x{height} pixels")
            images[number] = {**image, "file_name": name, "height": height, "width": width}
            names.add(name)
        objects: dict[int, list[dict[str, Any]]] = {}
        tested: dict[int, list[dict[str, Any]]] = {}
        seen: set[int] = set()
        for place, annotation in enumerate(tree["annotations"]):
            where = f"annotations[{place}]"
            number, of_image, category = (_whole(annotation[key]) for key in ("id", "image_id", "category_id"))
            where = f"annotation {number}"
            if number in seen:
                refuse("duplicate", "its id is there twice")
            seen.add(number)
            if of_image not in images:
                refuse("unknown image", f"there is no image {of_image}")
                continue
            if category not in categories:
                refuse("unknown category", f"there is no category {category}")
                continue
            fault = _fault(where, annotation, images[of_image])
            faults += [] if fault is None else [fault]
            if fault is None or fault.tested:
                tested.setdefault(of_image, []).append(annotation)
            if fault is None and not annotation.get("iscrowd", 0):
                objects.setdefault(of_image, []).append(annotation)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ManifestError(
            f"{path}: {where} lacks what COCO's instances have, or has it in another form ({error!r}); images have id, "
            "file_name, height, width, annotations id, image_id, category_id, bbox, segmentation"
        ) from None
    if not categories:
        raise ManifestError(f"{path}: no categories; give a json of COCO's instances")
    return Instances(tuple(images.values()), categories, objects, tested, tuple(faults), digest)


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no whole number")
    return value


def _fault(where: str, annotation: dict[str, Any], image: dict[str, Any]) -> Fault | None:
    """Why an object can't be learnt, None where it can."""
    form = annotation["segmentation"]
    if isinstance(form, list) and any(len(polygon) < _LEAST_POLYGON or len(polygon) % 2 for polygon in form):
        reason = f"{min(map(len, form)) // 2} points"  # which pycocotools takes for a box
        return Fault(where, "a polygon of fewer than three points", reason)
    size = (image["height"], image["width"])
    if not form or (isinstance(form, dict) and tuple(form.get("size", ())) != size):
        return Fault(where, "no mask of its image's size", "its segmentation is empty or of another size")
    if not (_are_points(form) if isinstance(form, list) else fills_image(form, math.prod(size))):
        kind = "polygons that are not numbers" if isinstance(form, list) else "a mask that does not fill its image"
        return Fault(where, kind, "its segmentation is damaged")
    shown = [round(float(v), 2) for v in annotation["bbox"]]
    if not all(map(math.isfinite, shown)):
        return Fault(where, "a box that is not finite", f"bbox {shown}")
    left, top, right, bottom = clipped_box(annotation, image)
    if right <= left or bottom <= top:
        kind = "outside of its image" if min(shown[2:]) > 0 else "a box without an area"
        return Fault(where, kind, f"bbox {shown}", tested=True)
    return None


def _are_points(polygons: list[Any]) -> bool:
    try:
        return all(all(map(math.isfinite, polygon)) for polygon in polygons)
    except (TypeError, OverflowError):
        return False


def fills_image(mask: Any, num_pixels: int) -> bool:
    """Whether the runs of a mask, as numbers or as COCO packs them, are as many pixels as its image has.

    Packed are five bits a character, the lowest first, with a sixth for "more of this number" and the last one's
    highest for its sign; from the fourth number on each is the difference to the one before the last.
    """
    counts = mask.get("counts") if isinstance(mask, dict) else None
    if isinstance(counts, str):
        runs, value, shift = list[int](), 0, 0
        for character in counts:
            bits = ord(character) - 48
            if not 0 <= bits < 64:
                return False
            value, shift = value | (bits & 31) << shift, shift + 5
            if not bits & 32:
                value -= (bits >> 4 & 1) << shift
                runs.append(value + (runs[-2] if len(runs) > 2 else 0))
                value = shift = 0
        if shift:
            return False
        counts = runs
    if not isinstance(counts, list) or not all(isinstance(run, int) and run >= 0 for run in counts):
        return False
    return sum(counts) == num_pixels


def clipped_box(annotation: dict[str, Any], image: dict[str, Any]) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) in pixels, inside the image."""
    left, top, width, height = (float(v) for v in annotation["bbox"])
    limits = (image["width"], image["height"])
    corners = (left, top, left + width, top + height)
    x0, y0, x1, y1 = (min(max(corner, 0.0), float(limits[i % 2])) for i, corner in enumerate(corners))
    return x0, y0, x1, y1


def _partly_outside(instances: Instances) -> Iterator[tuple[str, str]]:
    """Objects whose boxes leave their image by more than a pixel."""
    sizes = {image["id"]: image for image in instances.images}
    for objects in instances.objects.values():
        for annotation in objects:
            left, top, width, height = (float(v) for v in annotation["bbox"])
            image = sizes[annotation["image_id"]]
            beyond = max(-left, -top, left + width - image["width"], top + height - image["height"])
            if beyond > 1:
                yield f"annotation {annotation['id']}", f"bbox {beyond:.0f} pixels outside of its image"
