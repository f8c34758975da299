"""vidgn's clips in a plain PyTorch loop: any network, any optimizer, exact frames in a fixed order.

    python examples/clips_in_your_loop.py --steps 200 data=folders data.root=videos frames=8 span=16 data.crop=112 \
        'data.short_side=[128,160]'

Words as of `vidgn train` say which videos; without them a small set is generated. Which video, frames, crop and flip a
clip is, is a function of seed and position: any number of workers gives the same ones.
"""

import argparse

import torch
import torchvision

import vidgn

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=10, help="of training (default: 10)")
parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="as of vidgn train")
given = parser.parse_args()

generated = ["data=synthetic", "data.synthetic.num_train=64", "data.synthetic.num_val=16", "data.workers=1"]
config = vidgn.load_config("frames=8", "span=16", *(given.words or generated))
train, val = vidgn.Clips(config), vidgn.Clips(config, "val")

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
net = torchvision.models.video.r3d_18(num_classes=len(train.classes)).to(device)
optimizer = torch.optim.AdamW(net.parameters(), lr=3e-4)

with train.loader(batch=8, batches=given.steps) as batches:  # of the first epochs, read ahead in processes
    for step, batch in enumerate(batches):
        logits = net(train.to_model(batch.clip_NTHWC.to(device)))
        loss = torch.nn.functional.cross_entropy(logits, batch.label_N.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss.item():.3f}")

net.eval()
right = 0
with torch.no_grad():
    for clip_THWC, label in val:  # also a torch Dataset, for torch's DataLoader
        right += int(net(val.to_model(clip_THWC[None].to(device))).argmax().item() == label)
print(f"validation: {right} of {len(val)} clips are right")
