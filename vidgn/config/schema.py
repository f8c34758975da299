"""The experiment and the machine it runs on, as frozen dataclasses. Values live in `conf/`, once, with their source.

Every key is declared as `Experiment` (another value makes another experiment), `Policy` (what is measured on the way,
and what is done when something goes wrong) or `Machine`; where a group is declared, all of its keys are. Policy and
machine keys may change between two starts of a run. What a file holds is of the experiment, its path of the machine.
What a key means, its unit and its choices stand behind its value in `conf/`; docs/reference.py puts both together.
Everything below vidgn/config and vidgn/cli takes these types and never sees Hydra.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from vidgn.config.norm_kinds import NORM_KINDS, NormKind, NormTraits

_Value = TypeVar("_Value")
Experiment = Annotated[_Value, "experiment"]
Policy = Annotated[_Value, "policy"]
Machine = Annotated[_Value, "machine"]
IN_IDENTITY = {"in_identity": True}  # metadata of a key whose default is no later addition

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
    width: int
    conv1_kernel: tuple[int, int, int]
    conv1_stride: tuple[int, int, int]
    pool1: PoolConfig
    pool2: PoolConfig | None
    temporal_kernels: tuple[tuple[int, ...], ...]
    dropout: float
    zero_init_last: bool
    norm_groups: int
    # Mask R-CNN out of the network; the defaults are those of a network that classifies.
    detector: Literal["fpn", "c4"] | None = None
    box_head: Literal["2fc", "4conv1fc"] = "4conv1fc"
    head_channels: int = 256
    head_features: int = 1024
    smallest_anchor: int = 32
    freeze_at: int = 0


@dataclass(frozen=True)
class NormConfig:
    """One arm. Roles, not kinds, decide everything else."""

    kind: NormKind
    eps: float
    # Keys of some kinds (`NormTraits.keys`), which conf/norm has for no other; in every identity, as they always were.
    groups: int | None = field(default=None, metadata=IN_IDENTITY)
    channels_per_group: int | None = field(default=None, metadata=IN_IDENTITY)
    momentum: float = field(default=0.1, metadata=IN_IDENTITY)

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
    speed: float
    distractors: int
    noise: float
    seed: int


@dataclass(frozen=True)
class DataConfig:
    """Which videos, and how a clip is cut from one."""

    name: Experiment[str]
    format: Experiment[DataFormat]
    root: Machine[str | None]
    train: Machine[str | None]
    val: Machine[str | None]
    classes: Machine[str | None]
    separator: Machine[str]
    decoder: Policy[Literal["auto", "pyav", "decord", "torchcodec"]]
    workers: Machine[int]
    missing: Policy[Literal["error", "skip"]]
    max_unreadable: Policy[int]
    timeout_seconds: Policy[float]
    flip: Experiment[bool]
    short_side: Experiment[tuple[int, int]]
    crop: Experiment[int]
    augment: Experiment[Literal["video", "image", "detection"]]
    clips_per_video: Experiment[int]
    mean: Experiment[tuple[float, float, float]]
    std: Experiment[tuple[float, float, float]]
    synthetic: Experiment[SyntheticConfig | None]
    # The defaults below are for runs of earlier versions; keys that have theirs are in no identity.
    fps: Experiment[float | None] = None
    sampling: Experiment[Literal["clip", "segments"]] = "clip"
    flip_pairs: Experiment[tuple[tuple[str, str], ...]] = ()
    balance: Experiment[Literal["none", "class"]] = "none"
    first_label: Machine[int] = 0
    label: Machine[str] = "verb_class"
    cache_gb: Machine[float] = 0.0
    cache: Machine[str | None] = None
    fold: Machine[int | None] = None
    folds: Machine[int | None] = None
    fold_seed: Machine[int] = 0
    group: Machine[str | None] = None
    untrained_classes: Policy[Literal["error", "allow"]] = "error"
    long_side: Experiment[int] = 1333


@dataclass(frozen=True)
class ViewsConfig:
    """What is seen of a video at test. Its short side is round(data.crop * 256/224), and its crop where `scaled`."""

    name: Literal["paper", "center", "curve", "image", "coco"]
    clips: int
    crops: Literal[1, 3]
    crop: Literal["scaled", "training"]
    plan: Literal["uniform", "training"]


@dataclass(frozen=True)
class OptimConfig:
    """SGD with Nesterov momentum. lr of a step = lr_per_clip * gpus * clips_per_gpu * schedule."""

    lr_per_clip: float
    momentum: float
    nesterov: bool
    weight_decay: float
    norm_weight_decay: float
    schedule: Literal["step", "cosine"]
    milestones: tuple[float, ...]
    gamma: float
    warmup: float
    warmup_from: float = 0.0
    bias_lr_factor: float = 1.0
    bias_weight_decay: float | None = None


@dataclass(frozen=True)
class TrainerConfig:
    """How long, and how this machine goes about it."""

    epochs: Experiment[float]
    max_steps: Experiment[int | None]
    device: Machine[Literal["auto", "cpu", "cuda"]]
    precision: Experiment[Literal["fp32", "tf32", "bf16", "fp64"]]
    compile: Machine[bool]
    memory_format: Machine[Literal["auto", "contiguous", "channels_last"]]
    activation_memory: Machine[Literal["keep", "lean", "leaner", "block"]]
    clips_per_forward: Machine[int | Literal["auto"]]
    checkpoint_steps: Policy[int]
    keep: Policy[int]
    eval_every: Policy[float]
    deterministic: Machine[bool]
    on_nonfinite: Policy[Literal["stop", "skip"]]
    # Steps left out before the run stops; auto: 1 % of all, at least 10. The default is for runs of earlier versions.
    max_skipped: Policy[int | Literal["auto"]] = "auto"
    norm_kernels: Machine[Literal["auto", "triton", "torch"]] = "auto"
    cuda_graph: Machine[bool] = False
    summation: Machine[Literal["canonical", "fast"]] = "canonical"


@dataclass(frozen=True)
class LaunchConfig:
    """Processes. Nothing here can change a result."""

    nproc_per_node: int
    nnodes: int
    max_restarts: int
    rendezvous: str | None
    timeout_seconds: float
    threads: int | Literal["auto"]


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
    span: Experiment[int]
    clips_per_gpu: Experiment[int]
    gpus: Experiment[int]
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
