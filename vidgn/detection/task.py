"""Detection as a task of the loop: images of a virtual GPU go through the network together, and share its losses."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidgn.config.schema import Config, ViewsConfig
from vidgn.data.datasets.listing import Split, annotation_path
from vidgn.data.datasets.manifest import Manifest
from vidgn.detection.image_order import image_plan
from vidgn.detection.images import Annotations, ImageBatch, TrainImages, read_ahead
from vidgn.detection.networks import Detector
from vidgn.detection.scores import DetectionScores, ImageDetections, found_in, score
from vidgn.errors import ConfigError, DecodeError
from vidgn.rng_streams import Tag
from vidgn.runs.directory import RunDirectory
from vidgn.training import bn_stats
from vidgn.training.setup import DTYPES, autocast
from vidgn.training.state import RunState
from vidgn.training.step import Layout, forward_positions, set_training_groups

LOSSES = ("loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg")


class DetectionForward:
    """A training forward: five losses, each the mean over the images that went through together."""

    def __init__(self, losses: dict[str, Tensor], num_images: int, num_right: Tensor, num_boxes: Tensor) -> None:
        self._losses = torch.stack([losses[name] for name in LOSSES]) * num_images
        self._boxes = torch.stack([num_right, num_boxes.to(num_right.device)])

    def loss_sum(self) -> Tensor:
        """All five, summed over the images."""
        return self._losses.sum()

    def counts(self) -> Tensor:
        """Each loss summed over the images, the boxes named right, and all boxes that the heads were shown: (7,)."""
        return torch.cat([self._losses.detach().double(), self._boxes.double()])


class DetectionTask:
    """Images with boxes and masks."""

    def __init__(
        self,
        config: Config,
        model: Detector,
        *,
        train: Manifest,
        val: Manifest,
        layout: Layout,
        run: RunDirectory,
        state: RunState,
        input_mean: tuple[float, ...] | None,
    ) -> None:
        """See ClipsTask. No image is read yet."""
        self.config, self.model, self.train_rows, self.val_rows = config, model, train, val
        self._layout, self._run, self._state = layout, run, state
        self._dtype = DTYPES[config.trainer.precision]
        self._annotations: dict[Split, Annotations] = {}
        if input_mean is not None:
            model.set_mean(input_mean)

    @property
    def input_mean(self) -> tuple[float, ...]:
        """What is subtracted from 0-255 RGB."""
        return self.model.input_mean

    @property
    def num_rows(self) -> int:
        """Images of the training set."""
        return len(self.train_rows)

    # -- training ---------------------------------------------------------------------------------------------------

    def batches(self, steps: range) -> AbstractContextManager[Iterator[ImageBatch]]:
        """This rank's training batches for the forwards of `steps`, read ahead."""
        return self._batches(steps, Tag.CLIP, Tag.ORDER)

    def inputs(self, batch: ImageBatch, *, step: int, slots: range) -> tuple[Any, ...]:
        """Images, targets, and what is drawn for them."""
        return batch.images, batch.targets, [plan.short_side for plan in batch.plans], step, slots

    def made_up(self, clips: int) -> tuple[Any, ...]:
        """Black images with one object each."""
        image = torch.zeros(3, 96, 96, dtype=torch.uint8)
        mask = torch.zeros(1, 96, 96, dtype=torch.uint8)
        mask[:, 16:80, 16:80] = 1
        boxes, labels = torch.tensor([[16.0, 16, 80, 80]]), torch.ones(1, dtype=torch.int64)
        target = {"boxes": boxes, "labels": labels, "masks": mask}
        sides = [self.config.data.short_side[0]] * clips
        return [image] * clips, [target] * clips, sides, 0, range(clips)

    def forward(self, module: nn.Module, inputs: tuple[Any, ...]) -> DetectionForward:
        """Images through the network, with their targets."""
        images, targets, short_sides, step, slots = inputs
        self.model.plan(seed=self.config.seed, step=step, slots=slots, short_sides=short_sides)
        losses = module([self._pixels(image) for image in images], [self._placed(target) for target in targets])
        heads = self.model.roi_heads
        return DetectionForward(losses, len(images), heads.num_right, heads.num_boxes)

    def numbers(self, counts: list[float], slots: int) -> dict[str, float]:
        """The losses, and the percent of boxes that were named right."""
        *losses, num_right, num_boxes = counts
        return {
            **{name: loss / slots for name, loss in zip(LOSSES, losses, strict=True)},
            "top1_boxes": 100 * num_right / max(1, num_boxes),
        }

    def describe(self, batch: ImageBatch) -> list[dict[str, Any]]:
        """Position, id and plan of each image."""
        return [
            {"position": p, "id": i, "plan": vars(image_plan(self.config.data, self.config.seed, p))}
            for p, i in zip(batch.positions, batch.ids, strict=True)
        ]

    # -- tests ------------------------------------------------------------------------------------------------------

    def curve_point(self) -> dict[str, Any]:
        """AP and counts of the validation split."""
        with self.tested(self.config.views) as scores:
            pass
        return {**scores.numbers, "num_videos": scores.num_videos, "num_unreadable": len(scores.unreadable)}

    @contextmanager
    def tested(self, views: ViewsConfig) -> Generator[DetectionScores]:
        """Scores of the validation split; inside, the model still has the statistics it was tested with."""
        del views  # whole images: there is one way
        precise = bn_stats.statistics_used(self.config) == "precise"
        statistics = self._precise_statistics() if precise else None
        with bn_stats.statistics_at_test(self.model, statistics):
            yield score(self.val_rows, self._of("val"), self._detected())

    def state(self) -> dict[str, Any]:
        """The input mean, which may have come with the first weights."""
        return {"input_mean": list(self.input_mean)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over the input mean of a checkpoint."""
        self.model.set_mean(state["input_mean"])

    def check_classes(self, state: dict[str, Any], run_dir: Path) -> None:
        """Raise ConfigError where the model in a checkpoint has other classes than the data."""
        trained = len(state["model"]["roi_heads.box_predictor.cls_score.bias"]) - 1
        if trained != len(self.val_rows.classes):
            raise ConfigError(
                f"{run_dir} was trained on {trained} classes, and this data has {len(self.val_rows.classes)}: give the "
                "data.train the run was started with"
            )

    def _detected(self) -> list[ImageDetections]:
        """What is found in every image of the validation split, each on one rank by itself."""
        ranks, rows, annotations = self._layout.ranks, self.val_rows, self._of("val")

        def read(index: int) -> tuple[int, Tensor | None, str | None]:
            try:
                return index, annotations.read(rows[index]), None
            except DecodeError as error:
                return index, None, str(error)

        found: list[ImageDetections] = []
        mine = range(ranks.rank, len(rows), ranks.world_size)
        calls = -(-len(rows) // ranks.world_size)
        with (
            read_ahead(read, mine, workers=self.config.data.workers) as images,
            self._run.progress(0, len(rows), "image") as progress,
            torch.no_grad(),
            autocast(self.config, ranks.device),
        ):
            for index, image_CHW, error in images:
                entries = []
                if image_CHW is not None:
                    (output,) = self.model([self._pixels(image_CHW)])
                    image_id = annotations.images[rows[index].id]["id"]
                    entries = found_in(output, image_id=image_id, annotations=annotations)
                found.append(ImageDetections(index, entries, error))
                progress.set(len(found) * ranks.world_size)
                self._state.stop_if_asked(ranks, self._run)
            for _ in range(calls - len(mine)):
                self._state.stop_if_asked(ranks, self._run)
        everything = [d for part in ranks.gather(found) for d in part]
        return sorted(everything, key=lambda d: d.index)

    def _precise_statistics(self) -> bn_stats.Statistics:
        """Of BN over training forwards that are drawn for it, as training makes them; the same on every rank."""
        set_training_groups(self.model, self._layout)
        one_epoch = -(-len(self.train_rows) // self.config.slots_per_step)
        steps = range(min(self.config.bn_stats_steps, one_epoch))
        forwards_per_step = self._layout.geometry.forwards_per_step
        with (
            self._batches(steps, Tag.BN_STATS, Tag.BN_STATS_ORDER) as batches,
            self._run.progress(0, len(steps) * forwards_per_step, "BN statistics") as progress,
            autocast(self.config, self._layout.ranks.device),
        ):

            def run(place: tuple[int, ImageBatch]) -> None:
                number, batch = place
                step, index = divmod(number, forwards_per_step)
                self._state.stop_if_asked(self._layout.ranks, self._run)
                slots = self._layout.geometry.slots(self._layout.ranks.rank, index)
                self.model.train()
                self.forward(self.model, self.inputs(batch, step=step, slots=slots))
                progress.advance()

            return bn_stats.precise_statistics(
                self.model, enumerate(batches), self._layout.ranks, forwards_per_step=forwards_per_step, run=run
            )

    # -- both -------------------------------------------------------------------------------------------------------

    def _batches(self, steps: range, tag: Tag, order_tag: Tag) -> AbstractContextManager[Iterator[ImageBatch]]:
        config = self.config
        source = TrainImages(
            self.train_rows,
            self._of("train"),
            config.data,
            seed=config.seed,
            group=config.clips_per_gpu,
            tag=tag,
            order_tag=order_tag,
        )
        positions: Iterator[Sequence[int]] = forward_positions(self._layout, steps)
        return read_ahead(source.batch, positions, workers=config.data.workers)

    def _of(self, split: Split) -> Annotations:
        if split not in self._annotations:
            rows = self.train_rows if split == "train" else self.val_rows
            self._annotations[split] = Annotations(annotation_path(self.config.data, split), rows)
        return self._annotations[split]

    def _pixels(self, image_CHW: Tensor) -> Tensor:
        return image_CHW.to(self._layout.ranks.device, non_blocking=True).to(self._dtype)

    def _placed(self, target: dict[str, Tensor]) -> dict[str, Tensor]:
        placed = {name: tensor.to(self._layout.ranks.device) for name, tensor in target.items()}
        return {**placed, "boxes": placed["boxes"].to(self._dtype)}
