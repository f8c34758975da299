"""A verb that torchrun or srun may have started once per rank: one of them speaks."""

from collections.abc import Callable

from vidgn.errors import EXIT_AGAIN, StopRequested, VidgnError


def said_once(work: Callable[[], int]) -> int:
    """Do `work`, signals heard from the start; an error that another rank prints is but this one's exit code.

    Returns: the exit code of vidgn.cli.main. Raises: VidgnError, StopRequested where this rank is to print it.
    """
    from vidgn.engine.signals import Stop, heard

    try:
        with heard(Stop()):  # from here on a signal means the same as in training
            return work()
    except VidgnError as error:
        if _is_said_by_another_rank(error):
            return 1
        raise
    except StopRequested:
        if _is_said_by_another_rank(None):
            return EXIT_AGAIN
        raise


def _is_said_by_another_rank(error: VidgnError | None) -> bool:
    """Whether one of several ranks is enough to print this: all have it before they meet, then one and its echoes."""
    from vidgn.engine.environment import is_first_rank

    heard_of = getattr(error, "heard_of", None)
    return not is_first_rank() if heard_of is None else heard_of
