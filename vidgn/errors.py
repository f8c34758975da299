"""The one family of errors a user can cause. Each message has the value, the rule and the remedy, in one line."""

EXIT_AGAIN = 75  # stopped by a signal with everything saved: start me again (EX_TEMPFAIL of sysexits.h)


class VidgnError(ValueError):
    """Base of every error that input, configuration or files can cause. The command line prints it and exits 1.

    Example:
        >>> import vidgn
        >>> try:
        ...     vidgn.load_config("norm=gm")
        ... except vidgn.VidgnError as error:
        ...     print("one line:", len(str(error).splitlines()))
        one line: 1
    """


class ConfigError(VidgnError):
    """A key, a value or a combination of values that can't be run."""


class ManifestError(VidgnError):
    """Annotation files or video folders that can't be used."""


class GetError(VidgnError):
    """A file that can't be fetched, or is not what was published."""


class DecodeError(VidgnError):
    """A video that can't be read, or can't be read as asked."""


class CheckpointError(VidgnError):
    """A checkpoint or weights file that is torn, hostile, of another experiment or of a newer format."""


class NonFiniteError(VidgnError):
    """A loss or a gradient that is not a finite number."""


class StopRequested(Exception):  # noqa: N818  # not an error: everything is saved
    """Raised once the state is saved after a signal: start the run again and it goes on."""
