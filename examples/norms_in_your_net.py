"""vidgn's norms in a network of torchvision: what a clip's output depends on.

    python examples/norms_in_your_net.py

In training BN's output of a clip depends on the clips beside it; `group_clips` says which those are, as on a GPU of so
many clips. GN's does not depend on them.
"""

import argparse

import torch
import torchvision

import vidgn

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--size", type=int, default=32, help="pixels a side of the clips (default: 32)")
given = parser.parse_args()

torch.manual_seed(0)
clips_NCTHW = torch.randn(4, 3, 8, given.size, given.size)
others_NCTHW = torch.cat([clips_NCTHW[:2], torch.randn_like(clips_NCTHW[2:])])  # the last two are others

for name, arguments in {
    "bn over 4 clips": {"norm": "bn"},
    "bn over groups of 2": {"norm": "bn", "group_clips": 2},
    "gn, 32 groups": {"norm": "gn", "groups": 32},
}.items():
    torch.manual_seed(0)
    net = torchvision.models.video.r3d_18(num_classes=5)
    replaced = vidgn.replace_norms(net, **arguments)  # in place; gamma, beta and statistics are taken over
    before, after = net(clips_NCTHW), net(others_NCTHW)
    changed = (before[0] - after[0]).abs().max().item()
    loss = torch.nn.functional.cross_entropy(before, torch.tensor([0, 1, 2, 3]))
    loss.backward()  # and they train as torch's own do
    depends = "depends" if changed > 1e-4 else "does not depend"
    print(f"{name}: {len(replaced)} norms; the first clip's output {depends} on the last two (by {changed:.1e})")
