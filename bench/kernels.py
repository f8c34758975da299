"""What the Triton kernels of the norms compile to, without a GPU: registers, spills, shared memory, widths of access.

    python bench/kernels.py > bench/results/kernels.txt

For sm_80 (A100) and sm_90 (H100, H200), as they are launched on maps of the paper's net in bf16; ptxas and cuobjdump
come with Triton. The bytes behind an element are counted from the loads and stores of the kernels' main loops.
"""

import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vidgn.models.norms import program_cut, triton_source

MAP = (8, 256, 8, 28, 28)
MAPS = ("x", "y", "dy", "dx", "residual", "dresidual")
VECTORS = ("part", "of_clips", "sums", "mean", "var", "gamma", "beta", "dgamma", "dbeta")
FORMATS = {"NDHWC": torch.channels_last_3d, "NCDHW": torch.contiguous_format}
KINDS = {"gn": (8, 32), "bn": (1, 256), "ln": (8, 1)}  # rows, groups


def main() -> None:
    print(f"triton {triton.__version__}; map {MAP}, bf16; add and ReLU behind the norm where they cost most")
    print(
        f"{'kernel':17} {'for':6} {'kind':4} {'format':6} {'regs':>5} {'spills':>7} {'shared':>7}  widest access, bytes"
    )
    for target in (80, 90):
        for name, memory_format in FORMATS.items():
            for kind, (rows, groups) in KINDS.items():
                x = torch.empty(MAP, dtype=torch.bfloat16, device="meta").contiguous(memory_format=memory_format)
                cut = program_cut.cut(x, rows=rows, groups=groups)
                for kernel, constants in launches(cut):
                    print(compiled(kernel, constants, cut, target, f"{kind:4} {name:6}"), flush=True)


def launches(cut: program_cut.Cut) -> list[tuple[Any, dict[str, Any]]]:
    """The four kernels and their constants, with add and ReLU."""
    acc = triton_source.tl.float32
    flags = {"ACC": acc, "ADD": True, "RELU": True}
    by_group = {k: v for k, v in cut.by_group.items() if k.isupper() and k not in "CS"}
    shape = {"POSITIONS": cut.tile, "CHANNELS": cut.columns}
    width = program_cut.power_of_2(cut.group_channels)
    return [
        (
            triton_source.moments_kernel,
            {**by_group, "ACC": acc, "PARTIALS": cut.partials, "CLIPS": cut.clips // cut.rows},
        ),
        (triton_source.normalise_kernel, {**shape, **flags}),
        (triton_source.sums_kernel, {**shape, **flags, "PARTIALS": cut.partials, "CLIPS": cut.clips // cut.rows}),
        (
            triton_source.gradient_kernel,
            {**by_group, **flags, "RELU": False, "FIXED": False, "GROUP_WIDTH": width, "ROWS": min(16, cut.rows)},
        ),
    ]


def compiled(kernel: Any, constants: dict[str, Any], cut: program_cut.Cut, target: int, label: str) -> str:
    names = kernel.arg_names
    shape = cut.shape
    constants = dict(constants)
    constants |= {k: 1 for k in ("stride_s", "stride_c") if shape[k] == 1}
    signature = {name: type_of(name, constants) for name in names}
    divisible = {name for name in names if signature[name].startswith("*") and name not in constants}
    sizes = ("C", "S", "chunk", "stride_n", "stride_s", "stride_c")
    divisible |= {k for k in sizes if k not in constants and shape[k] % 16 == 0}
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in divisible}
    source = ASTSource(kernel, signature, constants, attributes)
    built = triton.compile(source, target=GPUTarget("cuda", target, 32), options={"num_warps": 4})
    usage = resources(built.asm["cubin"])
    widest = {kind: max(widths(built.asm["ptx"], kind), default=0) for kind in ("ld", "st")}
    spills = usage["STACK"] + usage["LOCAL"]
    return (
        f"{kernel.fn.__name__:17} sm_{target:<3} {label} {usage['REG']:5} {spills:7} {built.metadata.shared:7}"
        f"  load {widest['ld']}, store {widest['st']}"
    )


def type_of(name: str, constants: dict[str, Any]) -> str:
    if name in constants:
        return "constexpr"
    if name in MAPS:
        return "*bf16"
    if name in VECTORS:
        return "*fp32"
    return {"counters": "*i32", "eps": "fp32"}.get(name, "i32")


def resources(cubin: bytes) -> Counter[str]:
    """Of cuobjdump: REG, STACK, SHARED, LOCAL."""
    tool = next(Path(triton.__file__).parent.glob("backends/nvidia/bin/cuobjdump*"))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        out = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return Counter({k: int(v) for k, v in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", out)})


def widths(ptx: str, kind: str) -> list[int]:
    """Bytes of each global load (ld) or store (st)."""
    found = re.findall(rf"\b{kind}\.global(\S*)\.b(\d+)\b", ptx)
    return [int((re.search(r"\.v(\d)", how) or "11")[1]) * int(bits) // 8 for how, bits in found]


if __name__ == "__main__":
    main()
