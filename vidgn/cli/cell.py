"""What Hydra runs for each cell, in this process or in a launcher's."""

from typing import Any

from omegaconf import DictConfig

from vidgn.errors import VidgnError


def run_cell(node: DictConfig) -> dict[str, Any]:
    """Train and test the cell that Hydra composed.

    Returns: its result. Raises: whatever made it fail, after leaving it in the cell's error.txt; never exits the process.
    """
    from vidgn.config.compose import to_config
    from vidgn.engine.run import run
    from vidgn.engine.rundir import StopRequested, write_error

    config = to_config(node)
    try:
        return run(config)
    except StopRequested:
        raise
    except VidgnError as error:
        write_error(config.run_dir, " ".join(str(error).split()))
        raise
    except Exception as error:
        write_error(config.run_dir, f"{type(error).__name__}: {' '.join(str(error).split())}")
        raise
