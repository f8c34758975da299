"""The gap between GN and BN at a large and a small batch per GPU, on generated videos: the paper's question in small.

    python examples/gap.py --epochs 8 --number 640 --seeds 3

The defaults are too short for an answer, and the last column says so. A run that is there is not trained again, so
--seeds 3 after --seeds 2 trains the third seed alone.
"""

import argparse

import vidgn

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=float, default=2, help="passes over the training videos (default: 2)")
parser.add_argument("--number", type=int, default=128, help="of training videos (default: 128)")
parser.add_argument("--seeds", type=int, default=2, help="runs of each arm; two and more give an interval (default: 2)")
given = parser.parse_args()

for seed in range(given.seeds):
    for clips_per_gpu in (8, 2):  # clips that share BN's statistics
        for norm in ("bn", "gn"):
            config = vidgn.load_config(
                "study=gap",
                "model=i3d_tiny",
                "data=synthetic",
                f"data.synthetic.num_train={given.number}",
                "data.synthetic.num_val=40",
                "data.crop=40",
                "data.short_side=[40,48]",
                "data.synthetic.size=48",
                "frames=8",
                "span=16",
                "gpus=2",
                f"clips_per_gpu={clips_per_gpu}",
                f"norm={norm}",
                f"seed={seed}",
                "optim=cosine",
                "optim.lr_per_clip=6.25e-4",
                f"trainer.epochs={given.epochs:g}",
                "trainer.eval_every=0",
                "views=curve",
                "bn_stats_steps=8",
            )
            result = vidgn.train(config)
            print(f"{config.run_dir.name}: top-1 {result['top1']:.1f} %")

for gap in vidgn.study("runs/gap").gaps():
    interval = "no interval" if gap["low"] is None else f"95 % interval {gap['low']:+.1f} to {gap['high']:+.1f}"
    arms = f"{gap['arm']} - {gap['baseline']}"
    print(f"{gap['clips_per_gpu']} clips/GPU: {arms} = {gap['points']:+.1f} points, {interval}: {gap['state']}")
