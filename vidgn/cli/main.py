"""`vidgn VERB`: finds the verb's file, runs it, and turns what a user can cause into one line and an exit code."""

import difflib
import errno
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from vidgn.errors import EXIT_AGAIN, StopRequested, VidgnError
from vidgn.terminal import visible_streams

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_CODES = {
    0: "done",
    EXIT_ERROR: "an error, in one line that says what to do; of a sweep: a cell has failed, the others have run",
    EXIT_USAGE: "usage: no such verb or option",
    EXIT_AGAIN: "stopped, everything saved: start the same command again to go on",
    EXIT_INTERRUPTED: "interrupted at once: a run goes on from its last checkpoint",
}

# what a user can do about the operating system's refusal
_REMEDIES = {
    errno.ENOSPC: "free some space, then start again",
    errno.EDQUOT: "your share of the disk is used up: free some, then start again",
    errno.EACCES: "get the right to it, or give another path",
    errno.EROFS: "give a path that can be written",
    errno.ENOENT: "give a path that exists",
    errno.ENOTDIR: "a file is where a folder should be; move it away, or give another path",
    errno.EEXIST: "something else is where a folder should be; move it away, or give another path",
    errno.EISDIR: "a folder is where a file should be; move it away, or give another path",
}

# verb -> its module, which has SUMMARY and run(argv) -> exit code; or module:function, with SUMMARIES
_VERBS: dict[str, str | dict[str, str]] = {
    "train": "vidgn.cli.train",
    "evaluate": "vidgn.cli.evaluate",
    "status": "vidgn.cli.status",
    "memory": "vidgn.cli.memory",
    "report": "vidgn.cli.report",
    "predict": "vidgn.cli.predict",
    "convert": "vidgn.cli.convert",
    "doctor": "vidgn.cli.doctor",
    "data": {
        **{verb: f"vidgn.cli.data:{verb}" for verb in ("index", "check", "transcode", "synth", "bench")},
        "get": "vidgn.cli.data_get",
        "compare": "vidgn.cli.data_compare",
    },
}


def verbs() -> Iterator[str]:
    """Every verb as it is written, `data index` among them."""
    for name, found in _VERBS.items():
        yield from (name,) if isinstance(found, str) else (f"{name} {verb}" for verb in found)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        One of EXIT_CODES.
    """
    with visible_streams():
        return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    verb, arguments, name = _find_verb(arguments)
    if verb is None:
        return _usage(name, arguments)
    try:
        return _load(verb)[0](arguments)
    except VidgnError as error:
        if debug:
            raise
        print(f"vidgn {name}: {_single_line(error)}", file=sys.stderr)
        return EXIT_ERROR
    except StopRequested as stopped:
        print(f"vidgn {name}: {stopped}; start the same command again to go on", file=sys.stderr)
        return EXIT_AGAIN
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except OSError as error:
        if debug or error.errno not in _REMEDIES:
            raise
        where = "" if error.filename is None else f"{os.fspath(error.filename)}: "
        print(f"vidgn {name}: {where}{error.strerror}: {_REMEDIES[error.errno]}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print(f"vidgn {name}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _load(verb: str) -> tuple[Callable[[list[str]], int], str]:
    """A verb's function and its one-line summary."""
    name, _, function = verb.partition(":")
    module = importlib.import_module(name)
    return (getattr(module, function), module.SUMMARIES[function]) if function else (module.run, module.SUMMARY)


def _find_verb(arguments: list[str]) -> tuple[str | None, list[str], str]:
    table: Mapping[str, str | dict[str, str]] = _VERBS
    name = ""
    while arguments and not arguments[0].startswith("-") and arguments[0] in table:
        found = table[arguments[0]]
        name, arguments = f"{name} {arguments[0]}".strip(), arguments[1:]
        if isinstance(found, str):
            return found, arguments, name
        table = found
    return None, arguments, name


def _usage(name: str, arguments: Sequence[str]) -> int:
    table = _VERBS["data"] if name == "data" else _VERBS
    assert isinstance(table, dict)
    if arguments and "-h" not in arguments and "--help" not in arguments:
        close = difflib.get_close_matches(arguments[0], table, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        takes = f"{name + ' ' if name else ''}takes one of {', '.join(table)}"
        print(f"vidgn: no such verb: {arguments[0]}; {hint}{takes}", file=sys.stderr)
        return EXIT_USAGE
    group = f"{name} " if name else ""
    print(f"usage: vidgn {group}VERB ...   (vidgn {group}VERB --help for each)\n")
    for word, verb in table.items():
        summary = _load(verb)[1] if isinstance(verb, str) else "index, check, transcode, ..."
        print(f"  {word:<10} {summary}")
    print("\n--debug shows the traceback of an error. Exit codes: 0 done, 1 error, 2 usage, 75 stopped: start again.")
    return 0


def _single_line(error: BaseException) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
