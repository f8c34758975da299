"""Images with their boxes and masks, read ahead by threads: decoders of images let go of Python's lock."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from pycocotools import mask as rle
from torch import Tensor

from vidgn.config.schema import DataConfig
from vidgn.data.clips.plan import substitute_row
from vidgn.data.datasets.coco import clipped_box, read_instances
from vidgn.data.datasets.manifest import Manifest, Row
from vidgn.data.decode.image import ImageReader
from vidgn.data.loading.batches import Substitution
from vidgn.detection.image_order import ImageOrder, ImagePlan, image_digest, image_plan
from vidgn.errors import DecodeError, ManifestError
from vidgn.rng_streams import Tag

Target = dict[str, Tensor]  # boxes (n, 4), labels (n,) from 1, masks (n, H, W)
_Item = TypeVar("_Item")
_Read = TypeVar("_Read")
_DIGEST_MODULUS = 2**128
_MAX_ATTEMPTS = 100


class Annotations:
    """What a json says of the images of a split, by file name."""

    def __init__(self, path: str, rows: Manifest) -> None:
        """`rows`: what the run began with, of this json.

        Raises:
            ManifestError: if it is no json of instances, or not the one that the rows are of any more.
        """
        self.instances = read_instances(path)
        if self.instances.digest != rows.content:
            raise ManifestError(f"{path} has changed since the run began: put it back, or begin anew with tag=NAME")
        self.images = {image["file_name"]: image for image in self.instances.images}
        numbers = {name: number for number, name in enumerate(rows.classes, start=1)}
        self.label_of = {id: numbers[name] for id, name in self.instances.categories.items()}
        self.category_of = {label: id for id, label in self.label_of.items()}

    def read(self, row: Row) -> Tensor:
        """The image of a row: uint8 (3, H, W).

        Raises:
            DecodeError: if it can't be read, or has another size than the json says.
        """
        image = self.images[row.id]
        wanted = (image["height"], image["width"])
        pixels_HWC = _pixels(row.path)
        if pixels_HWC.shape[:2] != wanted and pixels_HWC.shape[:2] == wanted[::-1]:  # boxes are of it as it is stored
            pixels_HWC = _pixels(row.path, as_stored=True)
        if pixels_HWC.shape[:2] != wanted:
            height, width = pixels_HWC.shape[:2]
            raise DecodeError(
                f"{row.path}: has {width}x{height} pixels, and its annotation says {wanted[1]}x{wanted[0]}: its boxes "
                "are of another image; mend the json, or fetch the file again"
            )
        return torch.from_numpy(pixels_HWC).permute(2, 0, 1).contiguous()

    def target(self, row: Row) -> Target:
        """Boxes in pixels, labels and masks of the objects that are learnt."""
        image = self.images[row.id]
        objects = self.instances.objects.get(image["id"], [])
        height, width = image["height"], image["width"]
        masks = [_mask(o["segmentation"], height, width) for o in objects]
        masks_NHW = np.stack(masks) if masks else np.zeros((0, height, width), np.uint8)
        boxes = [clipped_box(o, image) for o in objects]
        return {
            "boxes": torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
            "labels": torch.tensor([self.label_of[o["category_id"]] for o in objects], dtype=torch.int64),
            "masks": torch.from_numpy(masks_NHW),
        }

    def is_wide(self, rows: Manifest) -> np.ndarray:
        """(rows,) booleans: whether an image is at least as wide as high."""
        images = [self.images[rows[index].id] for index in range(len(rows))]
        return np.array([image["width"] >= image["height"] for image in images])


def _pixels(path: str, *, as_stored: bool = False) -> np.ndarray:
    with ImageReader(path, as_stored=as_stored) as reader:
        return reader.image_HWC.copy()


def _mask(form: Any, height: int, width: int) -> np.ndarray:
    if isinstance(form, list):
        return rle.decode(rle.merge(rle.frPyObjects(form, height, width)))
    return rle.decode(rle.frPyObjects(form, height, width) if isinstance(form["counts"], list) else form)


def flipped(image_CHW: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Both mirrored, left for right."""
    boxes_N4 = target["boxes"].clone()
    boxes_N4[:, [0, 2]] = image_CHW.shape[-1] - boxes_N4[:, [2, 0]]
    return image_CHW.flip(-1), {**target, "boxes": boxes_N4, "masks": target["masks"].flip(-1)}


@dataclass
class ImageBatch:
    """The images of one forward, of one virtual GPU. `digest`: sum of their plan digests modulo 2**128."""

    images: list[Tensor]  # uint8 (3, H, W), each of its own size
    targets: list[Target]
    plans: tuple[ImagePlan, ...]
    ids: tuple[str, ...]
    positions: tuple[int, ...]
    digest: int
    substitutions: tuple[Substitution, ...]

    def without_tensors(self) -> "ImageBatch":
        """What is left to know of it once it is trained on."""
        return replace(self, images=[], targets=[])


class TrainImages:
    """Batches by position. An image that can't be read is replaced by another, drawn for its position."""

    def __init__(
        self,
        rows: Manifest,
        annotations: Annotations,
        data: DataConfig,
        *,
        seed: int,
        group: int,
        tag: Tag = Tag.CLIP,
        order_tag: Tag = Tag.ORDER,
    ) -> None:
        """`group`: images of a virtual GPU."""
        self._rows, self._annotations, self._data, self._seed, self._tag = rows, annotations, data, seed, tag
        self._order = ImageOrder(annotations.is_wide(rows), group=group, seed=seed, tag=order_tag)

    def batch(self, positions: Sequence[int]) -> ImageBatch:
        """The images at `positions`.

        Raises:
            DecodeError: if a hundred images drawn for a position can't be read.
        """
        images, targets, plans, ids, digest, substitutions = [], [], [], [], 0, list[Substitution]()
        for position in positions:
            row, image_CHW, failures = self._first_readable(position)
            names = [*(id for id, _ in failures), row.id]
            for (id, reason), instead in zip(failures, names[1:], strict=True):
                substitutions.append(Substitution(position, id, reason, instead))
            plan = image_plan(self._data, self._seed, position, tag=self._tag)
            target = self._annotations.target(row)
            digest += image_digest(position, row.id, plan, (image_CHW.shape[1], image_CHW.shape[2]))
            if plan.flip:
                image_CHW, target = flipped(image_CHW, target)
            images.append(image_CHW)
            targets.append(target)
            plans.append(plan)
            ids.append(row.id)
        return ImageBatch(
            images, targets, tuple(plans), tuple(ids), tuple(positions), digest % _DIGEST_MODULUS, tuple(substitutions)
        )

    def _first_readable(self, position: int) -> tuple[Row, Tensor, list[tuple[str, str]]]:
        """Row and pixels of a position, and (id, reason) of each that was drawn for it before and can't be read."""
        number, failures, tried = self._order.row(position), list[tuple[str, str]](), set[int]()
        for attempt in range(_MAX_ATTEMPTS):
            row = self._rows[number]
            if number not in tried:
                tried.add(number)
                try:
                    return row, self._annotations.read(row), failures
                except DecodeError as error:
                    failures.append((row.id, str(error)))
            number = substitute_row(self._seed, position, attempt, len(self._rows))
        raise DecodeError(
            f"position {position}: {len(failures)} images drawn for it can't be read (last: {failures[-1][1]}); "
            f"run `vidgn data check {self._data.train} --format coco`"
        )


@contextmanager
def read_ahead(read: Callable[[_Item], _Read], items: Iterable[_Item], *, workers: int) -> Generator[Iterator[_Read]]:
    """`read` of each item, in order, by `workers` threads some items ahead; 0: when it is asked for."""
    if workers == 0:
        yield map(read, items)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="vidgn-images") as pool:
        pending: deque[Future[_Read]] = deque()

        def in_order() -> Iterator[_Read]:
            for item in items:
                pending.append(pool.submit(read, item))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

        try:
            yield in_order()
        finally:
            for future in pending:
                future.cancel()
