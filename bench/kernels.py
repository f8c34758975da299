"""What the Triton kernels of the norms compile to, without a GPU: registers, spills, shared memory, widths of access.

    python bench/kernels.py > bench/results/kernels.txt
    python bench/kernels.py --every-form                  # that kinds, types, formats, maps of one position compile

For sm_80 (A100) and sm_90 (H100, H200), as they are launched on maps of the paper's net in bf16; ptxas and cuobjdump
come with Triton. The bytes behind an element are counted from the loads and stores of the kernels' main loops.
"""

import argparse
import itertools
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vidgn.models.norms import kernels_triton, triton_source

MAP = (8, 256, 8, 28, 28)
FORMATS = {"NDHWC": torch.channels_last_3d, "NCDHW": torch.contiguous_format}
ROWS_AND_GROUPS: dict[str, Callable[[int, int], tuple[int, int]]] = {
    "gn": lambda clips, channels: (clips, 32 if channels % 32 == 0 else 4),
    "bn": lambda clips, channels: (1, channels),
    "ln": lambda clips, channels: (clips, 1),
}
TYPES = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
}
Launch = tuple[Any, dict[str, Any], int]  # a kernel, its arguments by name, warps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every-form", action="store_true", help="compile every form for sm_90 and count them")
    if parser.parse_args().every_form:
        spilled = {key: spills(compile_(launch, 90)) for key, launch in every_form()}
        print(
            f"{len(spilled)} forms compile; spills:", *(f"{n} bytes {key}" for key, n in spilled.items() if n), sep="\n"
        )
        return
    print(f"triton {triton.__version__}; map {MAP}, bf16; add and ReLU behind the norm where they cost most")
    print(
        f"{'kernel':17} {'for':6} {'kind':4} {'format':6} {'regs':>5} {'spills':>7} {'shared':>7}  widest access, bytes"
    )
    for target, fmt, kind in itertools.product((80, 90), FORMATS, ("gn", "bn", "ln")):
        for launch in launches(kind, MAP, torch.bfloat16, fmt, adds=True, relu=True):
            print(line(launch, target, f"{kind:4} {fmt:6}"), flush=True)


def every_form(
    kinds: Sequence[str] = (*ROWS_AND_GROUPS, "frozen_bn"),
    shapes: Sequence[tuple[int, ...]] = ((4, 40, 2, 5, 5), (4, 16, 4, 4, 4), (5, 8, 1, 1, 1)),
    dtypes: Sequence[torch.dtype] = (torch.float64, torch.float32, torch.bfloat16, torch.float16),
) -> Iterator[tuple[str, Launch]]:
    """Launches that are compiled apart from each other, with what tells them apart."""
    seen = set()
    behind = ((False, False), (False, True), (True, True))
    for kind, shape, dtype, fmt, (adds, relu) in itertools.product(kinds, shapes, dtypes, FORMATS, behind):
        for launch in launches(kind, shape, dtype, fmt, adds=adds, relu=relu):
            key = str((launch[0].fn.__name__, *signature(launch)))
            if key not in seen:
                seen.add(key)
                yield key, launch


class Recorder:
    """Stands where kernels_triton.py has triton_source: kernels are noted with their arguments, and not run."""

    def __init__(self) -> None:
        self.launches: list[Launch] = []

    def __getattr__(self, name: str) -> Any:
        kernel, noted = getattr(triton_source, name), self.launches

        class Kernel:
            def __getitem__(self, grid: Any) -> Callable[..., None]:
                def launch(*args: Any, num_warps: int, **named: Any) -> None:
                    noted.append((kernel, dict(zip(kernel.arg_names, args, strict=False)) | named, num_warps))

                return launch

        return Kernel() if name.endswith("_kernel") else kernel


def launches(
    kind: str, shape: tuple[int, ...], dtype: torch.dtype, fmt: str, *, adds: bool, relu: bool
) -> list[Launch]:
    """What kernels_triton.py launches for a norm, forward and backward, on a map that is not there."""
    x = torch.empty(shape, dtype=dtype, device="meta").contiguous(memory_format=FORMATS[fmt])
    rows, groups = ROWS_AND_GROUPS.get(kind, ROWS_AND_GROUPS["bn"])(*shape[:2])
    recorder, is_frozen = Recorder(), kind == "frozen_bn"
    kernels_triton.source = recorder
    mean, var = kernels_triton.moments(x, rows=rows, groups=groups)
    if is_frozen:
        recorder.launches.clear()
    gamma, beta = mean.new_empty(2, shape[1])
    vectors: dict[str, Tensor] = {"mean": mean, "var": var, "gamma": gamma, "beta": beta}
    y = kernels_triton.normalise(x, **vectors, eps=1e-5, residual=x if adds else None, relu=relu)
    flags: dict[str, Any] = {"adds": adds, "is_affine": not is_frozen, "over_ranks": None, "eps": 1e-5}
    kernels_triton.gradient(x, x, y=y if relu else None, **vectors, count=None if is_frozen else 1, **flags)
    kernels_triton.source = triton_source
    return recorder.launches


def signature(launch: Launch) -> tuple[dict[str, str], dict[str, Any], list[str]]:
    """Types, constants and which arguments are multiples of 16, as Triton tells them apart when it launches."""
    kernel, values, _ = launch
    types, constants, multiples = {}, {}, []
    for parameter in kernel.params:
        name, value = parameter.name, values[parameter.name]
        is_told = not parameter.do_not_specialize
        if isinstance(value, Tensor):
            types[name] = TYPES[value.dtype]
            multiples.append(name)
        elif parameter.is_constexpr or (value == 1 and is_told):
            types[name], constants[name] = "constexpr", value
        else:
            types[name] = "i32"
            if value % 16 == 0 and is_told:
                multiples.append(name)
    return types, constants, multiples


def compile_(launch: Launch, target: int) -> Any:
    """By Triton's own compiler."""
    kernel, _, num_warps = launch
    types, constants, multiples = signature(launch)
    attributes = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in multiples}
    source = ASTSource(kernel, types, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options={"num_warps": num_warps})


def line(launch: Launch, target: int, label: str) -> str:
    """Of the table."""
    built = compile_(launch, target)
    widest = {kind: max(widths(built.asm["ptx"], kind), default=0) for kind in ("ld", "st")}
    return (
        f"{launch[0].fn.__name__:17} sm_{target:<3} {label} {resources(built)['REG']:5} {spills(built):7} "
        f"{built.metadata.shared:7}  load {widest['ld']}, store {widest['st']}"
    )


def spills(built: Any) -> int:
    """Bytes of registers that are kept in memory."""
    usage = resources(built)
    return usage["STACK"] + usage["LOCAL"]


def resources(built: Any) -> Counter[str]:
    """Of cuobjdump: REG, STACK, SHARED, LOCAL."""
    tool = next(Path(triton.__file__).parent.glob("backends/nvidia/bin/cuobjdump*"))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        out = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return Counter({k: int(v) for k, v in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", out)})


def widths(ptx: str, kind: str) -> list[int]:
    """Bytes of each global load (ld) or store (st)."""
    found = re.findall(rf"\b{kind}\.global(\S*)\.b(\d+)\b", ptx)
    return [int((re.search(r"\.v(\d)", how) or "11")[1]) * int(bits) // 8 for how, bits in found]


if __name__ == "__main__":
    main()
