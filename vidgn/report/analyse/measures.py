"""What results are judged by, a row for each kind of data, with the words that tables and pictures say it in."""

from dataclasses import dataclass

from vidgn.report.read import published
from vidgn.report.read.published import Published
from vidgn.report.read.study import HEADLINES


@dataclass(frozen=True)
class Measure:
    """One kind of result.

    Attributes:
        name: of the number that arms are compared by.
        keys: of result.json: that number, and the one beside it.
        heads: of their columns.
        title: of the table, where both or one of them stand.
        is_error: it is shown as what is left to 100, as the paper's tables of ImageNet are.
        unit: what a batch is made of.
        unit_tested: what a test is made of.
        num_classes: of the data that the published table is of.
        has_chance: whether there is an accuracy of guessing.
        caveat: of its intervals.
    """

    name: str
    keys: tuple[str, str]
    heads: tuple[str, str]
    title: str
    is_error: bool
    unit: str
    unit_tested: str
    published: tuple[Published, ...]
    published_title: str
    num_classes: int
    has_chance: bool = True
    caveat: str = ""

    @property
    def sign(self) -> int:
        """Of a difference as it is shown."""
        return -1 if self.is_error else 1

    def shown(self, value: float) -> float:
        """A number as it is shown, in percent."""
        return 100 - value if self.is_error else value


MEASURES = {  # by data.format; `video` is for all others
    "imagenet": Measure(
        "top-1 error",
        HEADLINES[0],
        ("top-1 (%)", "top-5 (%)"),
        "Validation error (%)",
        True,
        "images",
        "images",
        published.IMAGENET,
        published.IMAGENET_TITLE,
        1000,
    ),
    "coco": Measure(
        "box AP",
        HEADLINES[1],
        ("box AP", "mask AP"),
        "Box / mask AP",
        False,
        "images",
        "images",
        published.COCO,
        published.COCO_TITLE,
        80,
        has_chance=False,
        caveat=(
            "AP is no mean over images: *these networks* takes it anew for 500 resamples of them, the 95 % interval is "
            "of jackknife pseudo-values of at most 200 parts. Both want many images of each category, not a few dozen. "
            "*Decided otherwise*: images in which another number of objects is found, at an IoU of 0.5."
        ),
    ),
    "video": Measure(
        "top-1 accuracy",
        HEADLINES[0],
        ("top-1 (%)", "top-5 (%)"),
        "Top-1 / top-5 accuracy (%)",
        False,
        "clips",
        "videos",
        published.KINETICS,
        published.KINETICS_TITLE,
        400,
    ),
}
