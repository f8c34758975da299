"""The paper's batch geometry on 1, 2, 4 and 8 devices: what each layout does and what it sends. Prints a table.

    python bench/geometry.py

Bytes are those each process hands to collectives in one step, fp32. They do not depend on what runs it.
"""

from vidgn.config.compose import load_config
from vidgn.distributed.scaling import traffic
from vidgn.geometry import Geometry, group_clips, legal_clips_per_forward
from vidgn.models.i3d import assemble_model

MOST_CLIPS = (8, 2)  # that fit a GPU at once: the paper's, and a small card's


def layouts(slots: int, group: int, world_size: int) -> list[Geometry]:
    """The layout that `auto` takes for each size of GPU; the smallest legal one where none fits."""
    legal = legal_clips_per_forward(slots, group, world_size)
    chosen = {max((m for m in legal if m <= most), default=legal[0]) for most in MOST_CLIPS}
    return [Geometry(slots, group, world_size, clips) for clips in sorted(chosen, reverse=True)]


def main() -> None:
    """Print the table of bench/README.md."""
    heads = ("gpus x clips", "norm", "devices", "clips/forward", "forwards/step", "groups/forward", "ranks/group")
    print("| " + " | ".join([*heads, "gradients, MB", "BN statistics, kB"]) + " |")
    print("|---" * (len(heads) + 2) + "|")
    for clips_per_gpu in (8, 4):
        for kind in ("bn", "sync_bn", "gn"):
            config = load_config([f"norm={kind}", f"clips_per_gpu={clips_per_gpu}"])
            size = {"num_classes": 400, "frames": config.frames, "crop": config.data.crop}
            model = assemble_model(config.model, config.norm, **size)
            for world_size in (1, 2, 4, 8):
                for g in layouts(config.slots_per_step, group_clips(config), world_size):
                    sent = traffic(model, g)
                    row = (
                        world_size,
                        g.clips_per_forward,
                        g.forwards_per_step,
                        g.groups_per_forward,
                        g.ranks_per_group,
                    )
                    numbers = (f"{sent.gradient_bytes / 1e6:.1f}", f"{sent.statistics_bytes / 1e3:.0f}")
                    print("| " + " | ".join(map(str, (f"8 x {clips_per_gpu}", kind, *row, *numbers))) + " |")


if __name__ == "__main__":
    main()
