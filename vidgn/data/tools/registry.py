"""Data sets that are given away: where their files lie, what is known of them, and on which terms."""

from dataclasses import dataclass

_CVDF = "https://s3.amazonaws.com/kinetics"
_KINETICS_TERMS = (
    "Kinetics' annotations are CC BY 4.0 (Google); the clips belong to who put them on YouTube. Host: CVDF. "
    "Cite Kay et al. 2017, arXiv:1705.06950"
)


@dataclass(frozen=True)
class RemoteFile:
    """One file. `num_bytes`, `sha256`: as published, None where they are not.

    `folder`: below that of the data set, where it belongs: an archive is unpacked there. `is_list`: a text file, a URL
    a line, of the archives that are wanted. `replaces`: its videos take the place of those with the same name.
    `class_of`: pattern of the names of its videos, whose group is the folder that each goes to.
    """

    url: str
    folder: str
    num_bytes: int | None = None
    sha256: str | None = None
    is_list: bool = False
    replaces: bool = False
    name: str | None = None  # if it is not to be called as in its URL
    class_of: str | None = None


@dataclass(frozen=True)
class DataSet:
    """`files`: of each split, and of both.

    `index`: words of `vidgn data index`; `use`: settings that train on it. {folder} and {split} stand in them.
    """

    terms: str
    files: dict[str, tuple[RemoteFile, ...]]
    index: tuple[str, ...]
    use: tuple[str, ...]


def _kinetics(part: str, stem: str, *, ending: str = "csv", more: tuple[RemoteFile, ...] = ()) -> DataSet:
    def of(split: str) -> tuple[RemoteFile, ...]:
        return (
            RemoteFile(f"{_CVDF}/{part}/annotations/{split}.{ending}", ".", name=f"{split}.csv"),
            RemoteFile(f"{_CVDF}/{part}/{split}/{stem}_{split}_path.txt", f"videos/{split}", is_list=True),
        )

    return DataSet(
        _KINETICS_TERMS,
        {"train": of("train"), "val": of("val"), "both": more},
        ("{folder}/{split}.csv", "--root", "{folder}/videos", "--split", "{split}"),
        (
            "data=kinetics400",
            "data.root={folder}/videos",
            "data.train={folder}/train.csv",
            "data.val={folder}/val.csv",
        ),
    )


_UCF101_LISTS = "{folder}/lists/ucfTrainTestlist"
_HMDB51_LISTS = "{folder}/lists/testTrainMulti_7030_splits"


def _by_folds(name: str, lists: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    index = (lists, "--format", name, "--fold", "1", "--root", "{folder}/videos", "--split", "{split}")
    return index, (f"data={name}", "data.root={folder}/videos", f"data.train={lists}", "data.fold=1")


DATA_SETS = {
    "kinetics400": _kinetics(
        "400",
        "k400",
        more=(RemoteFile(f"{_CVDF}/400/replacement_for_corrupted_k400.tgz", "videos", replaces=True),),
    ),
    "kinetics600": _kinetics("600", "k600", ending="txt"),
    "kinetics700": _kinetics("700_2020", "k700_2020"),
    "ucf101": DataSet(
        "UCF101: for research; the clips belong to who put them on YouTube. Host of the videos: Google's THUMOS 2014. "
        "Cite Soomro et al. 2012, arXiv:1212.0402",
        {
            "both": (  # sizes and checksums as TensorFlow Datasets publishes them
                RemoteFile(
                    "https://www.crcv.ucf.edu/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip",
                    "lists",
                    113_943,
                    "5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27",
                ),
                RemoteFile(
                    "https://storage.googleapis.com/thumos14_files/UCF101_videos.zip",
                    "videos",
                    6_960_400_115,
                    "dabf56f573cd19c79e096563529fec8126a2a34e18e10c72eb621dd687532b0d",
                    class_of=r"v_([A-Za-z]+)_g\d+_c\d+\.avi",
                ),
            )
        },
        *_by_folds("ucf101", _UCF101_LISTS),
    ),
    "hmdb51": DataSet(
        "HMDB51: CC BY 4.0. Host: Serre lab, Brown University. Cite Kuehne et al., ICCV 2011",
        {
            "both": (
                RemoteFile(
                    "https://serre-lab.clps.brown.edu/wp-content/uploads/2013/10/test_train_splits.rar", "lists"
                ),
                RemoteFile("https://serre-lab.clps.brown.edu/wp-content/uploads/2013/10/hmdb51_org.rar", "videos"),
            )
        },
        *_by_folds("hmdb51", _HMDB51_LISTS),
    ),
}
