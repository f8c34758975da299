"""COCO's instances: which images a split has, and what is wrong with the json. Masks are vidgn/detection's affair.

A json that contradicts itself is refused, since whoever reads it would silently take one of two; an object without an
area, or outside its image, is left out with a line. In training so are images without objects; a test has them all.
"""

import hashlib
import json
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
    """What is wrong with one entry. `refused`: the json can't be used; else the object is left out."""

    where: str
    kind: str
    reason: str
    refused: bool


@dataclass(frozen=True)
class Instances:
    """A json of instances. `objects`: of each image the annotations that can be learnt; `crowds`: those that can't."""

    images: tuple[dict[str, Any], ...]
    categories: dict[int, str]  # id -> name
    objects: dict[int, list[dict[str, Any]]]
    crowds: dict[int, list[dict[str, Any]]]
    faults: tuple[Fault, ...]
    digest: str  # sha256 of the file

    def all_of(self, image_id: int) -> list[dict[str, Any]]:
        """Objects and crowds of an image, which a test is about."""
        return [*self.objects.get(image_id, []), *self.crowds.get(image_id, [])]


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
    kinds = Counter(fault.kind for fault in instances.faults)
    for kind, count in sorted(kinds.items()):
        first = next(fault for fault in instances.faults if fault.kind == kind)
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
    return keep_existing(listing)


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
            found.add(str(image["file_name"]), str(image["file_name"]), "")
        folder = _subfolder(found, path)
        found.paths = [os.path.join(folder, name) for name in found.ids]
        found = keep_existing(found)
        if found.ids:
            break
    return found


def sizes_by_name(path: str) -> dict[str, tuple[int, int]]:
    """(height, width) of each image as a json has it, by file name."""
    return {str(i["file_name"]): (int(i["height"]), int(i["width"])) for i in read_instances(path).images}


def faults_of(path: str) -> list[tuple[str, str, str]]:
    """(where, kind, reason) of everything that is wrong with the entries of a json; boxes that are cut last."""
    instances = read_instances(path)
    found = [(fault.where, fault.kind, fault.reason) for fault in instances.faults]
    return found + [(where, "cut", f"{reason}: it is cut there") for where, reason in _partly_outside(instances)]


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
        tree = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(f"{path}: {str(error)[:120]}; give the json of instances") from None
    if not isinstance(tree, dict) or not all(isinstance(tree.get(section), list) for section in _SECTIONS):
        raise ManifestError(f"{path}: no lists of {', '.join(_SECTIONS)}; give a json of COCO's instances")
    try:
        return _instances(tree, hashlib.sha256(content).hexdigest())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ManifestError(
            f"{path}: an entry lacks what COCO's instances have, or has it in another form ({error!r}); images have "
            "id, file_name, height, width, annotations id, image_id, category_id, bbox, segmentation"
        ) from None


def _instances(tree: dict[str, Any], digest: str) -> Instances:
    faults: list[Fault] = []

    def refuse(where: str, kind: str, reason: str) -> None:
        faults.append(Fault(where, kind, reason, refused=True))

    categories: dict[int, str] = {}
    for category in tree["categories"]:
        number, name = int(category["id"]), str(category["name"])
        if number in categories or name in categories.values():
            refuse(f"category {number}", "duplicate", f"its id or its name {name!r} is there twice")
        categories[number] = name
    images: dict[int, dict[str, Any]] = {}
    names: set[str] = set()
    for image in tree["images"]:
        number, name = image["id"], str(image["file_name"])
        if number in images or name in names:
            refuse(f"image {number}", "duplicate", f"its id or its file {name} is there twice")
        if min(int(image["height"]), int(image["width"])) < 1:
            refuse(f"image {number}", "no size", f"{image['width']}x{image['height']} pixels")
        images[number] = image
        names.add(name)
    objects: dict[int, list[dict[str, Any]]] = {}
    crowds: dict[int, list[dict[str, Any]]] = {}
    seen: set[int] = set()
    for annotation in tree["annotations"]:
        number, where = annotation["id"], f"annotation {annotation['id']}"
        if number in seen:
            refuse(where, "duplicate", "its id is there twice")
        seen.add(number)
        if annotation["image_id"] not in images:
            refuse(where, "unknown image", f"there is no image {annotation['image_id']}")
        elif annotation["category_id"] not in categories:
            refuse(where, "unknown category", f"there is no category {annotation['category_id']}")
        elif (fault := _unusable(annotation, images[annotation["image_id"]])) is not None:
            faults.append(Fault(where, *fault, refused=False))
        else:
            of = crowds if annotation.get("iscrowd", 0) else objects
            of.setdefault(annotation["image_id"], []).append(annotation)
    if not categories:
        raise ValueError("no categories")
    return Instances(tuple(images.values()), categories, objects, crowds, tuple(faults), digest)


def _unusable(annotation: dict[str, Any], image: dict[str, Any]) -> tuple[str, str] | None:
    """Kind and reason why an object can't be learnt, None where it can."""
    box = clipped_box(annotation, image)
    shown = [round(float(v), 2) for v in annotation["bbox"]]
    if box[2] <= box[0] or box[3] <= box[1]:
        has_area = min(shown[2:]) > 0
        return ("outside of its image" if has_area else "a box without an area"), f"bbox {shown}"
    form = annotation["segmentation"]
    if isinstance(form, list) and any(len(polygon) < _LEAST_POLYGON or len(polygon) % 2 for polygon in form):
        return "a polygon of fewer than three points", f"{min(map(len, form)) // 2} points"
    if not form or (isinstance(form, dict) and list(form.get("size", ())) != [image["height"], image["width"]]):
        return "no mask of its image's size", "its segmentation is empty or of another size"
    return None


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
