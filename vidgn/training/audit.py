"""The proof that arms differ in the norm and in nothing else: parameters by role, with count, decay and first value."""

from typing import Any

import torch
from torch import nn

from vidgn.config.schema import Config
from vidgn.models.i3d import parameter_roles
from vidgn.models.norms.layers import norm_layers
from vidgn.training.optim import weight_decay


def audit(model: nn.Module, config: Config) -> dict[str, Any]:
    """Parameters of a freshly built model by role. Arms of one gap agree in all but `kind`.

    `initial`: the value where all are equal, else mean and standard deviation.
    """
    roles = parameter_roles(model)
    by_role: dict[str, dict[str, Any]] = {}
    values: dict[str, list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        role = roles[name]
        row = by_role.setdefault(role, {"role": role, "tensors": 0, "parameters": 0})
        row["tensors"] += 1
        row["parameters"] += parameter.numel()
        row["trained"] = parameter.requires_grad
        row["weight_decay"] = weight_decay(config.optim, role)
        values.setdefault(role, []).append(parameter.detach().double().flatten())
    for role, row in by_role.items():
        flat = torch.cat(values[role])
        same = bool((flat == flat[0]).all())
        row["initial"] = f"{flat[0]:g}" if same else f"mean {flat.mean():.3g}, std {flat.std():.3g}"
    return {
        "kind": config.norm.kind,
        "num_norms": len(norm_layers(model)),
        "parameters": sum(p.numel() for p in model.parameters()),
        "by_role": list(by_role.values()),
    }


def audit_table(audited: dict[str, Any]) -> str:
    """The audit as a few aligned lines."""
    lines = [f"norm {audited['kind']}: {audited['num_norms']} layers, {audited['parameters']:,} parameters in all"]
    lines.append(f"  {'role':<16} {'tensors':>7} {'parameters':>12} {'decay':>8}  initial value")
    for row in audited["by_role"]:
        note = "" if row["trained"] else "  (fixed)"
        numbers = f"{row['tensors']:>7} {row['parameters']:>12,} {row['weight_decay']:>8g}"
        lines.append(f"  {row['role']:<16} {numbers}  {row['initial']}{note}")
    return "\n".join(lines)
