"""The kinds of norm, one entry each. Whatever goes by kind reads this table: schema, factory, geometry, tests, report.

A new kind is an entry here, a file conf/norm/KIND.yaml, and a layer in vidgn/models/norms if those there do not do.
"""

from dataclasses import dataclass
from typing import Literal, get_args

NormKind = Literal["bn", "sync_bn", "frozen_bn", "gn", "ln", "in"]


@dataclass(frozen=True)
class NormTraits:
    """What is true of a kind.

    Attributes:
        shares_over: the clips that one set of batch statistics is taken over: those of a virtual GPU, those of a step,
            those of one clip; or none, where statistics are constants.
        family: `batch` normalises each channel over clips, `clip` groups of channels within a clip.
        groups: how many groups of channels a kind of the family `clip` has: the configured number, one, or one for
            each channel.
    """

    shares_over: Literal["gpu", "step", "clip", "none"]
    family: Literal["batch", "clip"]
    groups: Literal["configured", "one", "channels"] = "channels"

    @property
    def has_running_statistics(self) -> bool:
        """Whether training keeps up running statistics, so that there is a choice of those to test with."""
        return self.shares_over in ("gpu", "step")

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of NormConfig that mean something to the kind: those of its file in conf/norm."""
        groups = ("groups", "channels_per_group") if self.groups == "configured" else ()
        return ("kind", *groups, "eps", *(("momentum",) if self.has_running_statistics else ()))

    @property
    def is_group_free(self) -> bool:
        """Whether no statistics are taken over clips, so that a result does not depend on how a step is divided."""
        return self.shares_over in ("clip", "none")


NORM_KINDS: dict[str, NormTraits] = {  # in the order of tables
    "bn": NormTraits("gpu", "batch"),
    "sync_bn": NormTraits("step", "batch"),
    "frozen_bn": NormTraits("none", "batch"),
    "gn": NormTraits("clip", "clip", "configured"),
    "ln": NormTraits("clip", "clip", "one"),
    "in": NormTraits("clip", "clip", "channels"),
}
assert tuple(NORM_KINDS) == get_args(NormKind)
