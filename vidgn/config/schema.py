"""The experiment and the machine it runs on, as frozen dataclasses. Values live in `conf/`, once, with their source.

Everything below vidgn/config and vidgn/cli takes these types and never sees Hydra.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vidgn.config.norm_kinds import NORM_KINDS, NormKind, NormTraits

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

    name: str
    format: Literal["kinetics", "list", "csv", "folders", "synthetic", "imagenet"]
    root: str | None  # folder of the videos
    train: str | None  # annotation file; null where folders are the annotation
    val: str | None
    classes: str | None  # file with one class name a line, in label order; null: from the annotation
    separator: str  # of `list` files
    decoder: Literal["auto", "pyav", "decord", "torchcodec"]
    workers: int  # processes that decode, per rank
    missing: Literal["error", "skip"]
    max_unreadable: int  # training clips that may be replaced before the run stops
    timeout_seconds: float  # for one video, then it counts as unreadable
    flip: bool
    short_side: tuple[int, int]  # scale augmentation, inclusive
    crop: int
    augment: Literal["video", "image"]  # image: random resized crop (area and aspect), flip
    clips_per_video: int
    mean: tuple[float, float, float]  # 0-255 RGB
    std: tuple[float, float, float]
    synthetic: SyntheticConfig | None


@dataclass(frozen=True)
class ViewsConfig:
    """What is seen of a video at test. Its short side is round(data.crop * 256/224), and its crop where `scaled`."""

    name: Literal["paper", "center", "curve", "image"]
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
    warmup: float  # fraction of training, linear from 0, both schedules


@dataclass(frozen=True)
class TrainerConfig:
    """How long, and how this machine goes about it."""

    epochs: float
    max_steps: int | None  # ends training earlier; the schedule is that of the shorter run
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["fp32", "tf32", "bf16", "fp64"]
    compile: bool
    memory_format: Literal["auto", "contiguous", "channels_last"]
    activation_memory: Literal["keep", "lean", "leaner", "block"]
    clips_per_forward: int | Literal["auto"]
    checkpoint_steps: int
    keep: int
    eval_every: float  # epochs between points of the validation curve; 0: none
    deterministic: bool
    on_nonfinite: Literal["stop", "skip"]


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
    """One cell: an experiment, and the machine's share of choices."""

    study: str
    runs_dir: str
    tag: str | None
    seed: int
    frames: int
    span: int  # raw frames a clip covers
    clips_per_gpu: int
    gpus: int  # virtual
    bn_stats: BnStats
    bn_stats_steps: int
    weights: str | None
    model: ModelConfig
    norm: NormConfig
    data: DataConfig
    views: ViewsConfig
    optim: OptimConfig
    trainer: TrainerConfig
    launch: LaunchConfig

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
    """`{model}_{frames}f_{clips_per_gpu}x{gpus}_{norm}[_{tag}]_s{seed}`, of a Config or of Hydra's node alike."""
    tag = f"_{config.tag}" if config.tag else ""
    size = f"{config.frames}f_{config.clips_per_gpu}x{config.gpus}"
    return f"{config.model.name}_{size}_{config.norm.kind}{tag}_s{config.seed}"
