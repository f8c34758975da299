"""Train a small network on your own videos, test it, and ask it about one of them.

    python examples/own_videos.py --videos videos --epochs 20

`videos/train/CLASS/*.mp4` and `videos/val/CLASS/*.mp4` are class folders. Without --videos a small set is generated,
coloured ellipses whose motion is the class, and the whole takes minutes on two cores. Started again, it goes on
where it was stopped.
"""

import argparse
from pathlib import Path

import vidgn

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--videos", help="folder with train/CLASS and val/CLASS (default: a generated set)")
parser.add_argument("--epochs", type=float, default=8, help="passes over the training videos (default: 8)")
parser.add_argument("--number", type=int, default=640, help="of generated training videos (default: 640)")
parser.add_argument("--crop", type=int, default=56, help="pixels a side of a clip (default: 56; 112 for real videos)")
given = parser.parse_args()

if given.videos:
    data = ["data=folders", f"data.root={given.videos}"]
else:
    data = ["data=synthetic", f"data.synthetic.num_train={given.number}", "data.synthetic.num_val=40"]

config = vidgn.load_config(
    *data,
    "study=own_videos",
    "model=i3d_tiny",  # i3d_r50 and weights=FILE on a GPU
    "norm=gn",
    "frames=8",
    "span=16",  # every second frame
    "clips_per_gpu=8",
    "gpus=1",
    "data.workers=2",  # processes that decode; more on a machine with more cores
    f"data.crop={given.crop}",
    f"data.short_side=[{given.crop},{given.crop * 9 // 8}]",
    "optim=cosine",
    "optim.lr_per_clip=0.001",
    f"trainer.epochs={given.epochs:g}",
    "views=center",
)


def show(line: dict) -> None:
    """Print a point of the validation curve as it comes."""
    if line["kind"] == "curve":
        print(f"epoch {line['epoch']:g}: top-1 {100 - line['top1_error_percent']:.1f} % of the validation videos")


result = vidgn.train(config, progress=show)
print(f"test, 10 clips a video: top-1 {result['top1']:.1f} % of {result['num_videos']} videos")

predictor = vidgn.load(config.run_dir)
for path in sorted(Path(config.data.root or ".").rglob("*")):
    if path.is_file():  # what is no video is refused by name
        try:
            print(f"{path.name}:", ", ".join(f"{c.name} {c.score:.2f}" for c in predictor(path)[:3]))
            break
        except vidgn.VidgnError as error:
            print(error)
