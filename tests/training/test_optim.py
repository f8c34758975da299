"""The schedule and the decay, against the recipe's own numbers."""

import math
from itertools import pairwise

import pytest

from vidgn.config.compose import load_config
from vidgn.models.i3d import parameter_roles
from vidgn.training.audit import audit
from vidgn.training.optim import learning_rate, make_optimizer
from vidgn.training.setup import make_model

SMALL = ["model=i3d_tiny", "frames=8", "span=8", "data.crop=32", "data.short_side=[32,32]"]


def rates(*overrides: str, total: int, slots: int = 64) -> list[float]:
    optim = load_config(overrides).optim
    return [learning_rate(optim, step=s, total_steps=total, slots_per_step=slots) for s in range(total)]


def test_the_paper_s_steps():
    """0.01 for 150k of 400k steps, a tenth to 300k, a hundredth to the end; half of all that at 32 clips a step."""
    lr = rates(total=400)
    assert lr[0] == lr[149] == pytest.approx(0.01)
    assert lr[150] == lr[299] == pytest.approx(0.001)
    assert lr[300] == lr[399] == pytest.approx(0.0001)
    assert rates(total=800, slots=32)[::2] == pytest.approx([r / 2 for r in lr])


def test_cosine_with_warm_up():
    lr = rates("optim=cosine", "optim.lr_per_clip=0.015625", "optim.warmup=0.1", total=100)
    assert lr[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert lr[10] == pytest.approx(1.0)
    assert lr[55] == pytest.approx(0.5)
    assert lr[99] == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))
    assert all(a >= b for a, b in pairwise(lr[10:]))


@pytest.mark.parametrize("kind", ["bn", "gn", "ln", "in"])
@pytest.mark.parametrize("norm_decay", [0.0, 1e-4])
def test_decay_goes_by_role_for_every_norm_alike(kind, norm_decay):
    config = load_config([*SMALL, f"norm={kind}", f"optim.norm_weight_decay={norm_decay}"])
    model = make_model(config, num_classes=5)
    decays = {p: g["weight_decay"] for g in make_optimizer(model, config).param_groups for p in g["params"]}
    roles = parameter_roles(model)
    for name, parameter in model.named_parameters():
        assert decays[parameter] == (norm_decay if roles[name].startswith("norm") else 1e-4)


def test_audits_differ_in_the_kind_alone():
    audits = []
    for kind in ("bn", "gn", "ln", "in", "sync_bn"):
        config = load_config([*SMALL, f"norm={kind}", "model.zero_init_last=true"])
        audits.append(audit(make_model(config, num_classes=5), config))
    assert [a.pop("kind") for a in audits] == ["bn", "gn", "ln", "in", "sync_bn"]
    assert all(a == audits[0] for a in audits)
    rows = {row["role"]: row for row in audits[0]["by_role"]}
    assert (rows["norm_gamma"]["initial"], rows["norm_gamma_last"]["initial"], rows["norm_beta"]["initial"]) == (
        "1",
        "0",
        "0",
    )
    assert sum(row["parameters"] for row in rows.values()) == audits[0]["parameters"]
