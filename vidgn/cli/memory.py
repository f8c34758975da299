"""vidgn memory: what a configuration needs of a GPU, predicted without one and measured where there is one."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidgn.errors import ConfigError

if TYPE_CHECKING:
    from vidgn.config.schema import Config

SUMMARY = "what a configuration needs of a GPU, predicted, and measured where there is one"

_HELP = """Memory of one process of a run on a CUDA GPU: parameters, gradients, optimizer, DDP's buckets, activations
kept for backward, what is alive beside them, and the peak. One step runs on tensors without values, so neither a GPU
nor the videos are needed. Writes memory.csv, memory.md and memory.png, and prints the table."""

_EXAMPLES = """examples
  vidgn memory norm=bn trainer.precision=bf16
  vidgn memory -m frames=8,16,32,64 norm=bn,gn                      by clip length, the paper's columns marked
  vidgn memory -m trainer.activation_memory=keep,lean,leaner,block trainer.precision=bf16
  vidgn memory norm=gn --gpu-memory 24GB                            the most clips a forward may hold there
  vidgn memory -m frames=32,64 norm=bn,gn --gpu-memory 16GB,24GB    the same as a table (memory_fit.md)

trainer.clips_per_forward says how many clips a forward holds; with auto it is clips_per_gpu, or with --gpu-memory the
most that fits. GB is 10^9 bytes, GiB 2^30.
"""


def run(argv: list[str]) -> int:
    """Exit code 0 once the files are written, also where a cell does not fit or runs out of memory."""
    parser = argparse.ArgumentParser(
        prog="vidgn memory",
        description=_HELP,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as in vidgn train")
    parser.add_argument("-m", "--multirun", action="store_true", help="every combination of values given with commas")
    parser.add_argument("--gpu-memory", metavar="SIZE", help="24GB, several with commas, or own: that of the GPU here")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where the files go (default: runs_dir/study)")
    parser.add_argument("--no-measure", action="store_true", help="predict only, also where there is a GPU")
    arguments = parser.parse_intermixed_args(argv)

    from vidgn.config.compose import compose_all

    configs = compose_all(arguments.overrides, multirun=arguments.multirun, are_run=False).configs
    folder = arguments.out or Path(configs[0].runs_dir) / configs[0].study
    sizes = _sizes(arguments.gpu_memory, configs[0])
    folder.mkdir(parents=True, exist_ok=True)
    if len(sizes) > 1:
        return _write_fit(configs, sizes, folder)
    return _write_rows(configs, next(iter(sizes.values()), None), folder, is_measured=not arguments.no_measure)


def _write_rows(configs: "Sequence[Config]", gpu_bytes: int | None, folder: Path, *, is_measured: bool) -> int:
    from vidgn.memory.fit import local_gpu_bytes, memory_row
    from vidgn.report.read.memory_rows import read_memory
    from vidgn.report.show.memory_page import memory_markdown, write_memory

    has_gpu = all(local_gpu_bytes(c) is not None for c in configs)
    rows = [memory_row(c, gpu_bytes=gpu_bytes, is_measured=is_measured and has_gpu) for c in configs]
    paths = write_memory(folder, rows)
    print(memory_markdown(read_memory(folder)))
    if not (is_measured and has_gpu):
        print("Not measured: " + ("--no-measure was given." if has_gpu else "there is no GPU here."))
    print(", ".join(map(str, paths)))
    return 0


def _write_fit(configs: "Sequence[Config]", sizes: dict[str, int], folder: Path) -> int:
    text = fit_markdown(configs, sizes)
    path = folder / "memory_fit.md"
    path.write_text(text, encoding="utf-8")
    print(text)
    print(path)
    return 0


def fit_markdown(configs: "Sequence[Config]", sizes: dict[str, int]) -> str:
    """What clips_per_forward=auto takes for each cell on GPUs of `sizes` (name: bytes), as a markdown table.

    An entry is `clips (peak | next legal clips: peak)`, peaks in GiB.
    """
    from vidgn.memory.fit import fit, usable_bytes
    from vidgn.report.show.markdown import table

    body, refusals = [], []
    for config in configs:
        cell = f"{config.norm.kind}, {config.frames}f × {config.clips_per_gpu}, {config.trainer.precision}, "
        row = [cell + config.trainer.activation_memory]
        for name, gpu_bytes in sizes.items():
            entry = fit(config, gpu_bytes=gpu_bytes)
            row.append(_entry(entry))
            if entry.refusal is not None:
                refusals.append(f"- {row[0]}, {name}: {entry.refusal}")
        body.append(row)
    header = ["cell", *(f"{name} ({_gib(usable_bytes(num_bytes))})" for name, num_bytes in sizes.items())]
    return "\n\n".join([table(header, body), *(["\n".join(refusals)] if refusals else [])]) + "\n"


def _entry(entry: Any) -> str:
    above = "" if entry.next is None else f"{entry.next.clips_per_forward}: {_gib(entry.next.peak_bytes)}"
    if entry.taken is None:
        return f"none ({above})"
    taken = f"{entry.taken.clips_per_forward} ({_gib(entry.taken.peak_bytes)}"
    return f"{taken}; {above})" if above else f"{taken})"


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f}"


def _sizes(text: str | None, config: "Config") -> dict[str, int]:
    """Bytes by name as written: `24GB,40GB` or `own`."""
    if text is None:
        return {}
    from vidgn.memory.fit import local_gpu_bytes, parse_bytes

    if text == "own":
        own = local_gpu_bytes(config)
        if own is None:
            raise ConfigError("--gpu-memory own: there is no GPU here; write a size, for example --gpu-memory 24GB")
        return {"own": own}
    return {part.strip(): parse_bytes(part) for part in text.split(",")}
