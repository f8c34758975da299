"""The experiment and the machine it runs on, as frozen dataclasses. Values live in `conf/`, once, with their source.

Every key is declared as `Experiment` (another value makes another experiment), `Policy` (what is measured on the way,
and what is done when something goes wrong) or `Machine`; where a group is declared, all of its keys are. Policy and
machine keys may change between two starts of a run. What a file holds is of the experiment, its path of the machine.
Everything below vidgn/config and vidgn/cli takes these types and never sees Hydra.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from vidgn.config.norm_kinds import NORM_KINDS, NormKind, NormTraits

_Value = TypeVar("_Value")
Experiment = Annotated[_Value, "experiment"]
Policy = Annotated[_Value, "policy"]
Machine = Annotated[_Value, "machine"]

_Own = Literal["kinetics", "list", "csv", "folders", "frames", "synthetic", "imagenet", "coco"]
DataFormat = _Own | Literal["ucf101", "hmdb51", "ssv2", "jester", "diving48", "activitynet", "epic"]
BnStats = Literal["precise", "ema", "batch"]


@dataclass(frozen=True)
class PoolConfig:
    """A max pool over (T, H, W)."""

    kernel: tuple[int, int, int]
    stride: tuple[int, int, int]
    padding: tuple[int, int, int]


@dataclass(frozen=True)
class ModelConfig:
    """A bottleneck ResNet over (T, H, W). `temporal_kernels[i][j]`: kernel of the first conv of block j of stage i."""

    name: str
    width: int  # channels of conv1; stage i is `width * 2**i` inside and four times that outside
    conv1_kernel: tuple[int, int, int]
    conv1_stride: tuple[int, int, int]
    pool1: PoolConfig
    pool2: PoolConfig | None  # behind the first stage
    temporal_kernels: tuple[tuple[int, ...], ...]
    dropout: float
    zero_init_last: bool  # gamma 0 on the last norm of every block, whatever its kind
    norm_groups: int  # GN's groups where the norm names neither groups nor channels_per_group
    # Mask R-CNN out of the network; the defaults are those of a network that classifies.
    detector: Literal["fpn", "c4"] | None = None
    box_head: Literal["2fc", "4conv1fc"] = "4conv1fc"  # of fpn
    head_channels: int = 256  # of the pyramid and the heads' convolutions
    head_features: int = 1024  # of the box head's fc layers, of fpn
    smallest_anchor: int = 32  # pixels of the resized image; four more, each twice as large
    freeze_at: int = 0  # stages that are not trained, their norms included: 1 is conv1, 2 is conv1 and res2


@dataclass(frozen=True)
class NormConfig:
    """One arm. Roles, not kinds, decide everything else."""

    kind: NormKind
    groups: int | None
    channels_per_group: int | None
    eps: float
    momentum: float  # of running statistics, torch's sense; kinds with statistics only

    @property
    def traits(self) -> NormTraits:
        """What the kind implies."""
        return NORM_KINDS[self.kind]


@dataclass(frozen=True)
class SyntheticConfig:
    """The generated motion set (`data.format=synthetic`). Sizes in pixels, counts per split."""

    num_train: int
    num_val: int
    num_classes: int
    num_frames: int
    size: int
    speed: float  # of all motion, in multiples of its own; fast motion is lost between frames that lie far apart
    distractors: int
    noise: float  # standard deviation, grey levels
    seed: int


@dataclass(frozen=True)
class DataConfig:
    """Which videos, and how a clip is cut from one."""

    name: Experiment[str]
    format: Experiment[DataFormat]
    root: Machine[str | None]  # folder of the videos
    train: Machine[str | None]  # annotation file; null where folders are the annotation
    val: Machine[str | None]
    classes: Machine[str | None]  # file with one class name a line, in label order; null: from the annotation
    separator: Machine[str]  # of `list` files
    decoder: Policy[Literal["auto", "pyav", "decord", "torchcodec"]]
    workers: Machine[int]  # processes that decode, per rank
    missing: Policy[Literal["error", "skip"]]
    max_unreadable: Policy[int]  # training clips that may be replaced before the run stops
    timeout_seconds: Policy[float]  # for one video, then it counts as unreadable
    flip: Experiment[bool]
    short_side: Experiment[tuple[int, int]]  # scale augmentation, inclusive
    crop: Experiment[int]
    augment: Experiment[Literal["video", "image", "detection"]]  # image: random resized crop (area and aspect), flip
    clips_per_video: Experiment[int]
    mean: Experiment[tuple[float, float, float]]  # 0-255 RGB
    std: Experiment[tuple[float, float, float]]
    synthetic: Experiment[SyntheticConfig | None]
    # The defaults below are for runs of earlier versions; keys that have theirs are in no identity.
    fps: Experiment[float | None] = None  # frames a second at which videos are read, by their time stamps
    sampling: Experiment[Literal["clip", "segments"]] = "clip"
    flip_pairs: Experiment[tuple[tuple[str, str], ...]] = ()
    balance: Experiment[Literal["none", "class"]] = "none"
    first_label: Machine[int] = 0  # of the first class, in annotations whose labels are whole numbers
    label: Machine[str] = "verb_class"  # of EPIC-Kitchens: the column that holds the class
    cache_gb: Machine[float] = 0.0  # of decoded frames that are kept, in 10^9 bytes
    cache: Machine[str | None] = None  # folder of kept frames; null: ~/.cache/vidgn/frames
    fold: Machine[int | None] = None  # which of data.folds (from 0 on), or of an official data set's splits (from 1 on)
    folds: Machine[int | None] = None  # into which data.train (of class folders: data.root) is parted
    fold_seed: Machine[int] = 0
    group: Machine[str | None] = None  # a column of a csv: its videos stay in one fold
    untrained_classes: Policy[Literal["error", "allow"]] = "error"  # classes of validation that no training video has
    long_side: Experiment[int] = 1333  # of detection: the most that scaling to short_side may make of the longer side


@dataclass(frozen=True)
class ViewsConfig:
    """What is seen of a video at test. Its short side is round(data.crop * 256/224), and its crop where `scaled`."""

    name: Literal["paper", "center", "curve", "image", "coco"]
    clips: int
    crops: Literal[1, 3]
    crop: Literal["scaled", "training"]  # scaled: the 256 that goes with a training crop of 224
    plan: Literal["uniform", "training"]  # training: one clip under training augmentation


@dataclass(frozen=True)
class OptimConfig:
    """SGD with Nesterov momentum. lr of a step = lr_per_clip * gpus * clips_per_gpu * schedule."""

    lr_per_clip: float
    momentum: float
    nesterov: bool
    weight_decay: float
    norm_weight_decay: float  # on gamma and beta of every norm kind
    schedule: Literal["step", "cosine"]
    milestones: tuple[float, ...]  # fractions of training, for `step`
    gamma: float
    warmup: float  # fraction of training, linear from warmup_from, both schedules
    warmup_from: float = 0.0  # of the rate that it leads to
    bias_lr_factor: float = 1.0  # of biases that are none of a norm's
    bias_weight_decay: float | None = None  # of the same; null: weight_decay


@dataclass(frozen=True)
class TrainerConfig:
    """How long, and how this machine goes about it."""

    epochs: Experiment[float]
    max_steps: Experiment[int | None]  # ends training earlier; the schedule is that of the shorter run
    device: Machine[Literal["auto", "cpu", "cuda"]]
    precision: Experiment[Literal["fp32", "tf32", "bf16", "fp64"]]
    compile: Machine[bool]
    memory_format: Machine[Literal["auto", "contiguous", "channels_last"]]
    activation_memory: Machine[Literal["keep", "lean", "leaner", "block"]]
    clips_per_forward: Machine[int | Literal["auto"]]
    checkpoint_steps: Policy[int]
    keep: Policy[int]
    eval_every: Policy[float]  # epochs between points of the validation curve; 0: none
    deterministic: Machine[bool]
    on_nonfinite: Policy[Literal["stop", "skip"]]
    # Steps left out before the run stops; auto: 1 % of all, at least 10. The default is for runs of earlier versions.
    max_skipped: Policy[int | Literal["auto"]] = "auto"
    norm_kernels: Machine[Literal["auto", "triton", "torch"]] = "auto"  # what norms run by on CUDA
    cuda_graph: Machine[bool] = False
    summation: Machine[Literal["canonical", "fast"]] = "canonical"  # the order in which gradients are added


@dataclass(frozen=True)
class LaunchConfig:
    """Processes. Nothing here can change a result."""

    nproc_per_node: int
    nnodes: int
    max_restarts: int
    rendezvous: str | None  # host:port where several nodes meet
    timeout_seconds: float  # of a collective
    threads: int | Literal["auto"]  # per rank; auto: this machine's cores, divided


@dataclass(frozen=True)
class Config:
    """One cell: an experiment, and the machine's share of choices.

    Example:
        >>> import vidgn
        >>> config: vidgn.Config = vidgn.load_config("norm=bn", "clips_per_gpu=4")
        >>> config.norm.kind, config.clips_per_gpu
        ('bn', 4)
    """

    study: Machine[str]
    runs_dir: Machine[str]
    tag: Machine[str | None]
    seed: Experiment[int]
    frames: Experiment[int]
    span: Experiment[int]  # raw frames a clip covers
    clips_per_gpu: Experiment[int]
    gpus: Experiment[int]  # virtual
    bn_stats: Policy[BnStats]
    bn_stats_steps: Policy[int]
    weights: Machine[str | None]
    model: Experiment[ModelConfig]
    norm: Experiment[NormConfig]
    data: DataConfig
    views: Policy[ViewsConfig]
    optim: Experiment[OptimConfig]
    trainer: TrainerConfig
    launch: Machine[LaunchConfig]
    loggers: Machine[tuple[Literal["tensorboard", "wandb", "mlflow"], ...]] = ("tensorboard",)

    @property
    def stride(self) -> int:
        """Raw frames from one frame of a clip to the next."""
        return self.span // self.frames

    @property
    def slots_per_step(self) -> int:
        """Clips that make one optimizer update."""
        return self.gpus * self.clips_per_gpu

    @property
    def run_dir(self) -> Path:
        """Where this cell's files are: `runs_dir/study/run_name`."""
        return Path(self.runs_dir) / self.study / run_name(self)


def run_name(config: Any) -> str:
    """`{model}_{frames}f_{clips_per_gpu}x{gpus}_{norm}[_{tag}][_fold{fold}]_s{seed}`; of a Config or Hydra's node."""
    tag = full_tag(config.tag, config.data.fold)
    size = f"{config.frames}f_{config.clips_per_gpu}x{config.gpus}"
    return f"{config.model.name}_{size}_{config.norm.kind}{f'_{tag}' if tag else ''}_s{config.seed}"


def full_tag(tag: str | None, fold: int | None) -> str | None:
    """What tells cells apart beside net, size and norm: the tag, and the fold that is tested."""
    return "_".join(filter(None, (tag, None if fold is None else f"fold{fold}"))) or None
