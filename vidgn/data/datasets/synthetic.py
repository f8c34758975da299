"""A motion set whose classes can't be told from one frame, written once as H.264 files in Kinetics layout.

The targets are warm-coloured ellipses on a torus; what they do, each at its own speed, is the class. Place, angle and
size of each are uniform and independent of the class in every single frame (motion wraps around), so one frame holds
no information about the label. Distractors in cold colours move otherwise, over a blocky background, under noise.
"""

import csv
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from vidgn.config.schema import DataConfig, SyntheticConfig
from vidgn.data.decode.write import write_video
from vidgn.errors import ConfigError, ManifestError
from vidgn.processes import num_cores
from vidgn.rng_streams import Tag, stream
from vidgn.terminal import bar_stream

_FPS = 24
_VERSION = 2  # of the files: part of the folder's name
_SPLITS = ("train", "val")


@dataclass(frozen=True)
class Motion:
    """What the targets do: pixels a frame for size 64 along a direction, turns and growth in unit speed."""

    name: str
    right: float = 0.0
    down: float = 0.0
    turn: float = 0.0
    growth: float = 0.0


_DIAGONAL = 0.5**0.5
MOTIONS = (
    Motion("moving right", right=1),
    Motion("moving left", right=-1),
    Motion("moving up", down=-1),
    Motion("moving down", down=1),
    Motion("moving up right", right=_DIAGONAL, down=-_DIAGONAL),
    Motion("moving up left", right=-_DIAGONAL, down=-_DIAGONAL),
    Motion("moving down right", right=_DIAGONAL, down=_DIAGONAL),
    Motion("moving down left", right=-_DIAGONAL, down=_DIAGONAL),
    Motion("turning clockwise", turn=1),
    Motion("turning anticlockwise", turn=-1),
    Motion("growing", growth=1),
    Motion("shrinking", growth=-1),
)
_TARGETS = 4  # that do the same
_SPEED = (0.8, 1.4)  # pixels a frame at size 64
_TURN = (0.08, 0.16)  # radians a frame
_GROWTH = (0.03, 0.06)  # of the range of sizes, a frame
_SIZES = (0.1, 0.16)  # long half axis, fraction of the picture's size
_FLATNESS = 0.8  # short half axis / long half axis
_WARM = ((200, 255), (60, 140), (20, 70))  # ranges of R, G, B
_BACKGROUND = (100, 130)  # grey levels of its blocks: a texture louder than the targets hides them for long
_COLD = ((20, 80), (80, 170), (170, 255))


def check_synthetic(data: DataConfig) -> tuple[SyntheticConfig, str]:
    """Check that a set can be made.

    Returns:
        Its settings, and the folder to make it in.

    Raises:
        ConfigError: for settings no set can be made of.
    """
    config = data.synthetic
    if config is None:
        raise ConfigError("data.format=synthetic needs the keys under data.synthetic: write data=synthetic")
    if data.root is None:
        raise ConfigError("data.format=synthetic needs a place for its videos: write data.root=FOLDER")
    if not 2 <= config.num_classes <= len(MOTIONS):
        rule = f"there are {len(MOTIONS)} motions; use 2 to {len(MOTIONS)}"
        raise ConfigError(f"data.synthetic.num_classes={config.num_classes}: {rule}")
    if config.size % 2 or config.size < 16:
        raise ConfigError(f"data.synthetic.size={config.size}: H.264 wants an even size; use 16 or more, even")
    for name, least in {"num_frames": 1, "distractors": 0, "noise": 0, "seed": 0}.items():
        if getattr(config, name) < least:
            raise ConfigError(f"data.synthetic.{name}={getattr(config, name)}: must be {least} or more")
    if not 0 < config.speed <= 10:
        raise ConfigError(f"data.synthetic.speed={config.speed:g}: must lie above 0 and be 10 or less")
    for name in ("num_train", "num_val"):
        if getattr(config, name) < config.num_classes:
            rule = f"each of {config.num_classes} classes needs one; use {config.num_classes} or more"
            raise ConfigError(f"data.synthetic.{name}={getattr(config, name)}: {rule}")
    return config, data.root


def ensure_synthetic(data: DataConfig) -> DataConfig:
    """Generates the set of `data.synthetic` below `data.root` unless it is there; the same data as format `kinetics`.

    Safe when several processes ask at once: one writes, the others wait for it.

    Raises:
        ConfigError: a key, a value or a combination can't be run.
        ManifestError: where `data.root` can't be written.
    """
    config, root = check_synthetic(data)
    folder = os.path.join(root, folder_name(config))
    if not os.path.isdir(folder):
        try:
            os.makedirs(root, exist_ok=True)
            _generate_once(config, folder)
        except OSError as error:
            raise ManifestError(f"data.root={root}: {error}; give a folder that can be written") from None
    train, val = (os.path.join(folder, f"{split}.csv") for split in _SPLITS)
    return replace(data, format="kinetics", root=folder, train=train, val=val)


def folder_name(config: SyntheticConfig) -> str:
    """Says every setting: another set never lies in the same folder."""
    counts = f"{config.num_train}+{config.num_val}x{config.num_frames}"
    look = f"{config.size}px_x{config.speed:g}_d{config.distractors}_n{config.noise:g}"
    return f"motion{config.num_classes}_{counts}_{look}_s{config.seed}_v{_VERSION}"


def render_video(config: SyntheticConfig, split: int, label: int, item: int) -> np.ndarray:
    """One video: uint8 (T, H, W, 3). A pure function of its arguments.

    Args:
        split: 0 train, 1 val.
    """
    random = stream(Tag.SYNTHETIC, config.seed, split, label, item)
    size, length = config.size, config.num_frames
    blocks = random.uniform(*_BACKGROUND, (8, 8, 3)).astype(np.float32)
    grid = np.arange(size) * 8 // size
    video_THWC = np.repeat(blocks[grid][:, grid][None], length, axis=0)
    others = [motion for motion in MOTIONS[: config.num_classes] if motion is not MOTIONS[label]]
    for _ in range(config.distractors):
        _paint(video_THWC, others[int(random.integers(len(others)))], config.speed, random, colours=_COLD)
    for _ in range(_TARGETS):
        _paint(video_THWC, MOTIONS[label], config.speed, random, colours=_WARM)
    video_THWC += config.noise * random.standard_normal(video_THWC.shape, np.float32)
    return np.clip(np.rint(video_THWC), 0, 255).astype(np.uint8)


def _paint(
    video_THWC: np.ndarray,
    motion: Motion,
    speed: float,
    random: np.random.Generator,
    *,
    colours: Sequence[tuple[int, int]],
) -> None:
    """Paints an ellipse that does `motion` over the frames, with a soft edge, in place."""
    length, size = video_THWC.shape[:2]
    t_T1 = speed * np.arange(length)[:, None]
    way_T1 = random.uniform(*_SPEED) * size / 64 * t_T1
    x_T1 = random.uniform(0, size) + motion.right * way_T1
    y_T1 = random.uniform(0, size) + motion.down * way_T1
    angle_T11 = (random.uniform(0, np.pi) + motion.turn * random.uniform(*_TURN) * t_T1)[..., None]
    phase_T11 = ((random.uniform() + motion.growth * random.uniform(*_GROWTH) * t_T1) % 1)[..., None]
    colour = np.array([random.uniform(*limits) for limits in colours], np.float32)
    long_T11 = (_SIZES[0] + phase_T11 * (_SIZES[1] - _SIZES[0])) * size
    # Only the square around the ellipse is computed; rows and columns wrap around.
    reach = min(int(np.ceil(_SIZES[1] * size)) + 1, (size - 1) // 2)
    columns_TK, rows_TK = (np.floor(centre).astype(int) + np.arange(-reach, reach + 1) for centre in (x_T1, y_T1))
    dx_T1K = (columns_TK + 0.5 - x_T1)[:, None, :]
    dy_TK1 = (rows_TK + 0.5 - y_T1)[:, :, None]
    along_TKK = (dx_T1K * np.cos(angle_T11) + dy_TK1 * np.sin(angle_T11)) / long_T11
    across_TKK = (dy_TK1 * np.cos(angle_T11) - dx_T1K * np.sin(angle_T11)) / (long_T11 * _FLATNESS)
    cover_TKK1 = np.clip((1 - np.hypot(along_TKK, across_TKK)) * long_T11 + 0.5, 0, 1)[..., None]
    where = np.arange(length)[:, None, None], rows_TK[:, :, None] % size, columns_TK[:, None, :] % size
    video_THWC[where] += cover_TKK1 * (colour - video_THWC[where])


def _generate_once(config: SyntheticConfig, folder: str) -> None:
    parent, name = os.path.split(folder)
    with open(os.path.join(parent, f".{name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.isdir(folder):
            return
        work = tempfile.mkdtemp(prefix=f".{name}.", dir=parent)
        try:
            _write_set(config, work)
            os.chmod(work, 0o755)
            os.rename(work, folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _write_set(config: SyntheticConfig, folder: str) -> None:
    jobs = []
    for split, count in enumerate((config.num_train, config.num_val)):
        rows = [(item % config.num_classes, item // config.num_classes) for item in range(count)]
        for label in range(config.num_classes):
            os.makedirs(os.path.join(folder, _SPLITS[split], MOTIONS[label].name))
        with open(os.path.join(folder, f"{_SPLITS[split]}.csv"), "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["label", "youtube_id", "time_start", "time_end", "split", "is_cc"])
            for label, item in rows:
                name = MOTIONS[label].name
                id = f"{_SPLITS[split]}_{label:02d}_{item:05d}"
                writer.writerow([name, id, 0, 1, _SPLITS[split], 0])
                jobs.append((os.path.join(folder, _SPLITS[split], name, f"{id}_000000_000001.mp4"), split, label, item))

    def write(job: tuple[str, int, int, int]) -> None:
        path, *which = job
        write_video(path, render_video(config, *which), fps=_FPS)

    with ThreadPoolExecutor(min(8, num_cores())) as pool:
        for _ in _progress(pool.map(write, jobs), len(jobs)):
            pass


def _progress(items: Iterable[None], total: int) -> Iterable[None]:
    from tqdm import tqdm

    bar = sys.stderr.isatty()
    if not bar:
        print(f"writing {total} synthetic videos", file=sys.stderr, flush=True)
    return tqdm(items, total=total, desc="writing synthetic videos", unit="video", disable=not bar, file=bar_stream())
