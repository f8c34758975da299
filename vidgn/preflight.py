"""What can be known of a cell before a process starts or a file of the data is opened: whether it can be run."""

from importlib.util import find_spec

from vidgn.config.schema import Config
from vidgn.data.datasets.manifest import check_data
from vidgn.distributed.launcher import check_launch
from vidgn.distributed.ranks import world_size_of
from vidgn.errors import CheckpointError, ConfigError
from vidgn.geometry import choose_geometry, group_clips
from vidgn.memory.fit import check_fits, local_gpu_bytes
from vidgn.models.i3d import check_model, check_statistics
from vidgn.models.norms.layers import check_norm
from vidgn.models.weights.containers import resolve_path
from vidgn.runs.checkpoint import list_checkpoints


def check_before_start(config: Config, *, here: bool = True, is_test: bool = False) -> None:
    """Check all of a cell that can be checked before a process starts or a video is opened.

    Args:
        here: the cell runs on this machine. False where cells are sent to others, whose GPUs and ports can't be seen.
        is_test: a trained run is tested, which needs less memory than training.

    Raises:
        ConfigError: if the cell can't be run, or not on this machine.
        ManifestError: if there is no such data.
    """
    if config.model.detector and find_spec("pycocotools") is None:
        raise ConfigError(f"model={config.model.name} reads masks with pycocotools: pip install 'vidgn[detection]'")
    _check_experiment(config, world_size=world_size_of(config))
    if here:
        check_launch(config)
        gpu_bytes = local_gpu_bytes(config)
        if gpu_bytes is not None and not is_test and not config.model.detector:  # whose memory is not predicted
            check_fits(config, world_size=world_size_of(config), gpu_bytes=gpu_bytes)
    check_data(config.data)


def _check_experiment(config: Config, *, world_size: int) -> None:
    """Check what needs no data and no processes: clip size, norm groups, batch geometry, the weights file.

    Raises:
        ConfigError: if the clip, the norm, the layout and the weights do not go together.
    """
    check_model(config.model, config.norm, frames=config.frames, crop=config.data.crop)
    if config.model.detector == "fpn":
        check_norm(config.norm, channels=[config.model.head_channels], default_groups=config.model.norm_groups)
    choose_geometry(config, world_size=world_size)
    check_statistics(
        config.model, config.norm, frames=config.frames, crop=config.data.crop, group_clips=group_clips(config)
    )
    k = config.data.clips_per_video
    group = group_clips(config)
    if k > 1 and config.slots_per_step // k < group:
        raise ConfigError(
            f"data.clips_per_video={k} would put two clips of a video in one statistics group of {group}: "
            f"at most {config.slots_per_step // group} go with this batch and norm"
        )
    if config.weights is not None and not list_checkpoints(config.run_dir / "checkpoints"):
        try:
            resolve_path(config.weights)
        except CheckpointError as error:
            raise ConfigError(f"weights={error}") from None
