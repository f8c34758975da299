"""`vidgn doctor`: what this machine has and what would not work on it, in the form that an issue report asks for."""

import argparse
import fcntl
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

SUMMARY = "what this machine has, and what would not work on it and why"

_EPILOG = """Each decoder reads a video that is written on the spot. Put the output into an issue report.
Exit code 1 if something that every run needs does not work.
"""
_LEAST_SHARED_BYTES = 512 << 20  # a batch of 8 clips of 64 x 224 x 224 takes 77 MB, and several lie ready


@dataclass(frozen=True)
class Finding:
    """One line. `absent`: nothing is broken, but something can't be used; `broken`: no run works."""

    what: str
    text: str
    state: Literal["ok", "absent", "broken"] = "ok"
    remedy: str | None = None


def run(argv: list[str]) -> int:
    """Print the findings.

    Returns:
        0, or 1 where something is broken.
    """
    parser = argparse.ArgumentParser(
        prog="vidgn doctor",
        description=SUMMARY,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs-dir", default="runs", metavar="DIR", help="where runs would be written (runs)")
    parser.add_argument("--json", action="store_true", help="for machines")
    arguments = parser.parse_args(argv)
    findings = list(examine(Path(arguments.runs_dir)))
    if arguments.json:
        print(json.dumps([asdict(f) for f in findings], indent=1))
    else:
        width = max(len(f.what) for f in findings)
        for finding in findings:
            print(f"{finding.what:<{width}}  {finding.text}")
        faults = [f for f in findings if f.state != "ok"]
        print("\nWould not work here:" if faults else "\nEverything works here.")
        for finding in faults:
            print(f"  {finding.what}: {finding.text}; {finding.remedy}")
    return int(any(f.state == "broken" for f in findings))


def examine(runs_dir: Path) -> Iterator[Finding]:
    """All that is looked at, in order."""
    from vidgn import __version__

    yield Finding("vidgn", f"{__version__}, {Path(__file__).resolve().parents[1]}")
    yield Finding("python", f"{platform.python_version()}, {sys.executable}")
    yield Finding("system", f"{platform.platform()}, {platform.machine()}")
    yield from _packages()
    yield from _decoders()
    yield from _gpus()
    yield from _machine()
    yield _locks(runs_dir)
    yield from _launchers()


def _packages() -> Iterator[Finding]:
    """Every package that vidgn asks for, at the version that is there."""
    try:
        asked = requires("vidgn") or []
    except PackageNotFoundError:
        yield Finding("packages", "vidgn is not installed, so what it asks for is not known", "absent", "pip install .")
        return
    names = sorted({re.split(r"[\[<>=!~; ]", line)[0] for line in asked if "extra ==" not in line})
    found, missing = [], []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    yield Finding("packages", ", ".join(found))
    for name in missing:
        if name != "decord":  # of one platform only; its decoder is tried below
            yield Finding(name, "is not installed", "broken", f"pip install {name}")


def _decoders() -> Iterator[Finding]:
    """Whether each of them reads a video."""
    import numpy as np

    from vidgn.data.decode import DECODERS, open_video
    from vidgn.data.decode.base import Box, ResolvedClip
    from vidgn.data.decode.write import write_video
    from vidgn.errors import VidgnError

    with tempfile.TemporaryDirectory(prefix="vidgn-doctor-") as folder:
        path = os.path.join(folder, "video.mp4")
        write_video(path, np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), np.uint8))
        clip = ResolvedClip((0, 5), Box(0, 0, 32, 32), 32, 32, flip=False)
        for name in DECODERS[1:]:
            what = f"decoder {name}"
            try:
                with open_video(path, decoder=name) as reader:
                    reader.read([clip])
                    used = reader.decoder
            except VidgnError as error:
                message, _, remedy = str(error).partition("; ")
                yield Finding(what, message, "broken" if name == "pyav" else "absent", remedy or "reinstall it")
                continue
            if used == name:
                yield Finding(what, f"reads H.264, {_libraries(name)}")
            else:
                yield Finding(what, f"gives way to {used}", "absent", "use data.decoder=pyav")


def _libraries(decoder: str) -> str:
    """FFmpeg's version as a decoder has it."""
    if decoder == "pyav":
        from vidgn.data.decode.container import libraries

        return libraries()
    return f"{decoder} {version(decoder)}"


def _gpus() -> Iterator[Finding]:
    import torch

    build = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
    if not torch.cuda.is_available():
        yield Finding("GPU", f"none, {build}", "absent", "trainer.device=cpu trains small nets; check nvidia-smi")
        return
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        kind = f"{gpu.name}, {gpu.total_memory / 2**30:.1f} GiB, sm_{gpu.major}{gpu.minor}"
        yield Finding(f"GPU {index}", f"{kind}, bf16 {'yes' if gpu.major >= 8 else 'no'}, {build}")
    yield _triton()


def _triton() -> Finding:
    """Whether norms can run by Triton's kernels, which it compiles on this machine."""
    try:
        found = version("triton")
    except PackageNotFoundError:
        return Finding("Triton", "none: norms run by torch's kernels, which are slower", "absent", "pip install triton")
    if not any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))):
        text = f"{found} finds no C compiler: norms run by torch's kernels, which are slower"
        return Finding("Triton", text, "absent", "apt-get install gcc")
    return Finding("Triton", found)


def _machine() -> Iterator[Finding]:
    from vidgn.processes import num_cores

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Finding("cores", f"{num_cores()} of {os.cpu_count()} may be used, {memory:.0f} GiB of memory")
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError as error:
        yield Finding("/dev/shm", f"{error.strerror}", "absent", "data.workers=0 reads without it")
        return
    text = f"{free / 2**30:.2f} GiB free"
    if free < _LEAST_SHARED_BYTES:
        remedy = "give the container more, as in docker run --shm-size=8g, or write data.workers=0"
        yield Finding("/dev/shm", f"{text}, where readers put their clips", "absent", remedy)
    else:
        yield Finding("/dev/shm", text)


def _locks(runs_dir: Path) -> Finding:
    """Whether files below `runs_dir` can be written and locked; nothing is left of the trial."""
    place = next(p for p in (runs_dir.absolute(), *runs_dir.absolute().parents) if p.is_dir())
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".vidgn-doctor-") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return Finding(
            "runs", f"{place}: {error.strerror}", "broken", "give a folder that can be written: runs_dir=DIR"
        )
    free = shutil.disk_usage(place).free / 2**30
    return Finding("runs", f"{place} can be written and locked, {free:.1f} GiB free")


def _launchers() -> Iterator[Finding]:
    from vidgn.cli.launchers import check_plugin
    from vidgn.errors import ConfigError

    for name in ("joblib", "submitit_slurm"):
        try:
            check_plugin(name)
        except ConfigError as error:
            message, _, remedy = str(error).partition(": ")
            yield Finding(f"hydra/launcher={name}", message.partition(" ")[2], "absent", remedy)
            continue
        if name == "submitit_slurm" and shutil.which("sbatch") is None:
            remedy = "sweep on a node of the cluster, where sbatch is"
            yield Finding(f"hydra/launcher={name}", "is installed, Slurm is not", "absent", remedy)
        else:
            yield Finding(f"hydra/launcher={name}", "ok")
