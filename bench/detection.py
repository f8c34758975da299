"""Mask R-CNN on a few hundred real images of COCO, on CPUs: does it learn, and is a run the same whatever happens?

    python bench/detection.py FOLDER [--steps N] [--out DIR]      about 40 minutes on two cores, with 240 steps

FOLDER has images/ and annotations/instances_train.json and instances_val.json. Objects cut out of the training images
are the classes that resnet_tiny learns first, with BN and with GN; its weights start mask_rcnn_tiny_fpn. Then

  overfit   8 images with a few large objects each, trained and tested on: box AP above 50 says that the whole works
  sweep     frozen BN against GN, two seeds, on up to 32 such images, tested on them and on the images of the other json
  killed    one cell of it again, on 1 process and on 2, killed three times: the same bytes

Nothing here is long enough for what is not trained on: it is no comparison of norms, but one of the code with itself.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from PIL import Image

REPO = Path(__file__).resolve().parents[1]
SIDE = 128
LEAST = 32  # pixels of a side of an object that is cut out
CLASSES = 20
COMMON = ["trainer.device=cpu", "trainer.eval_every=0", "loggers=[]", "launch.threads=1", "data.workers=1"]
TINY = [
    *("model=mask_rcnn_tiny_fpn", "data=coco", "views=coco", "optim=detection", "frames=1", "span=1", "gpus=4"),
    *("clips_per_gpu=2", f"data.short_side=[{SIDE},{SIDE}]", f"data.long_side={SIDE * 5 // 3}", "model.freeze_at=1"),
    *("trainer.epochs=100000", "optim.warmup=0.05", "optim.lr_per_clip=0.004", "optim.milestones=[0.8,0.93]", *COMMON),
]
SIZE = "1f_2x4"
SIDE_BY_SIDE = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


def vidgn(*words: str) -> None:
    """One command; its last lines are shown where it fails."""
    done = subprocess.run([sys.executable, "-m", "vidgn", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"vidgn {' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def cut_out(folder: Path, out: Path) -> int:
    """Objects of the commonest categories as images in class folders, a fifth of the pictures for validation."""
    tree = json.loads((folder / "annotations/instances_train.json").read_text())
    files = {image["id"]: image["file_name"] for image in tree["images"]}
    names = {category["id"]: category["name"] for category in tree["categories"]}
    large = [a for a in tree["annotations"] if min(a["bbox"][2:]) >= LEAST and not a["iscrowd"]]
    common = [c for c, _ in Counter(a["category_id"] for a in large).most_common(CLASSES)]
    count = 0
    for annotation in large:
        if annotation["category_id"] in common:
            left, top, width, height = annotation["bbox"]
            split = "val" if annotation["image_id"] % 5 == 0 else "train"
            place = out / split / names[annotation["category_id"]].replace(" ", "_")
            place.mkdir(parents=True, exist_ok=True)
            with Image.open(folder / "images" / files[annotation["image_id"]]) as picture:
                part = picture.convert("RGB").crop((left, top, left + width, top + height)).resize((56, 56))
            part.save(place / f"{annotation['id']}.png")
            count += split == "train"
    return count


def pretrain(out: Path) -> None:
    """resnet_tiny on what was cut out: weights of frozen BN and of GN."""
    for kind, norm in (("frozen_bn", "bn"), ("gn", "gn")):
        vidgn(
            *("train", "model=resnet_tiny", "data=imagenet", "views=image", "frames=1", "span=1", "gpus=1"),
            *("clips_per_gpu=32", f"norm={norm}", f"data.root={out}/classes", "data.crop=48", "trainer.epochs=25"),
            *("data.short_side=[48,56]", "optim.lr_per_clip=0.002", "data.untrained_classes=allow", *COMMON),
            *(f"runs_dir={out}/runs", "study=classes", f"tag={kind}"),
        )
        run = out / f"runs/classes/resnet_tiny_1f_32x1_{norm}_{kind}_s0"
        shutil.copy(run / "model.safetensors", out / f"r_{kind}.safetensors")
        print(f"weights: {norm}, top-1 {result(run)['top1']:.1f} % of cut-out objects", flush=True)


def few_objects(folder: Path, out: Path, count: int) -> Path:
    """A json of images with one to four large objects each, all categories."""
    tree = json.loads((folder / "annotations/instances_train.json").read_text())
    found: dict[int, list[dict]] = {image["id"]: [] for image in tree["images"]}
    for annotation in tree["annotations"]:
        found[annotation["image_id"]].append(annotation)

    def is_simple(image: dict) -> bool:
        objects, area = found[image["id"]], image["width"] * image["height"]
        return 1 <= len(objects) <= 4 and all(not o["iscrowd"] and o["area"] > 0.04 * area for o in objects)

    images = [image for image in tree["images"] if is_simple(image)][:count]
    kept = [a for image in images for a in found[image["id"]]]
    place = out / f"{count}.json"
    place.write_text(json.dumps({"images": images, "annotations": kept, "categories": tree["categories"]}))
    return place


def result(run: Path) -> dict:
    return json.loads((run / "result.json").read_text())


def told(run: Path) -> str:
    r = result(run)
    return f"box AP {r['box_ap']:5.2f} (AP50 {r['box_ap50']:5.2f}), mask AP {r['mask_ap']:5.2f}"


def killed(words: list[str], run: Path, steps: int) -> None:
    """Train a cell with three kills at moments drawn, the number of processes changing at each start."""
    draws = random.Random(0)
    for start in range(3):
        processes = 1 + start % 2
        environment = {**os.environ, "PYTHONPATH": str(REPO)}
        command = [sys.executable, "-m", "vidgn", *words, f"launch.nproc_per_node={processes}"]
        going = subprocess.Popen(command, start_new_session=True, env=environment, stdout=subprocess.DEVNULL)
        wanted = (start + draws.random()) * steps / 3
        metrics = run / "metrics.jsonl"
        while going.poll() is None and (not metrics.exists() or metrics.read_text().count("\n") < wanted):
            time.sleep(0.2)
        os.killpg(going.pid, signal.SIGKILL)
        going.wait()
        print(f"  killed on {processes} after step {metrics.read_text().count(chr(10))}", flush=True)
    vidgn(*words, "launch.nproc_per_node=2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=240, help="of the sweep (default: 240; overfitting takes twice)")
    parser.add_argument("--out", type=Path, help="where the runs go (default: a folder that is removed)")
    arguments = parser.parse_args()
    out = arguments.out or Path(tempfile.mkdtemp())
    out.mkdir(exist_ok=True)
    images, annotations = arguments.folder / "images", arguments.folder / "annotations"
    print(f"{cut_out(arguments.folder, out / 'classes')} objects of {CLASSES} classes cut out", flush=True)
    pretrain(out)
    weights = f"weights='{out}/r_${{norm.kind}}.safetensors'"
    few, steps = few_objects(arguments.folder, out, 8), arguments.steps
    print(f"overfit: 8 images, {2 * steps} steps of 8", flush=True)
    words = [*TINY, "norm=frozen_bn,gn", weights, f"data.root={images}", f"data.train={few}", f"data.val={few}"]
    more = ["data.flip=false", f"trainer.max_steps={2 * steps}", f"runs_dir={out}/runs", "study=few"]
    vidgn("train", "-m", *words, *more, *SIDE_BY_SIDE)
    for norm in ("frozen_bn", "gn"):
        print(f"  {norm:10} {told(out / f'runs/few/mask_rcnn_tiny_fpn_{SIZE}_{norm}_s0')}", flush=True)
    train, val = few_objects(arguments.folder, out, 32), annotations / "instances_val.json"
    data = [f"data.root={images}", f"data.train={train}"]
    cell = ["train", *TINY, weights, *data, f"trainer.max_steps={steps}", "trainer.checkpoint_steps=20"]
    count = len(json.loads(train.read_text())["images"])
    print(f"sweep: {count} images, {steps} steps of 8; tested on them, and on {val.name}", flush=True)
    sweep = ["norm=frozen_bn,gn", "seed=0,1", f"data.val={train}", f"runs_dir={out}/runs", "study=all"]
    vidgn("train", "-m", *cell[1:], *sweep, *SIDE_BY_SIDE)
    for norm in ("frozen_bn", "gn"):
        for seed in (0, 1):
            run = out / f"runs/all/mask_rcnn_tiny_fpn_{SIZE}_{norm}_s{seed}"
            vidgn("evaluate", str(run), f"data.val={val}", "trainer.device=cpu")
            (other,) = (run / "tests").glob("coco-none-*.json")
            unseen = json.loads(other.read_text())
            print(f"  {norm:10} seed {seed}  {told(run)}; others: box AP {unseen['box_ap']:.2f}", flush=True)
    for gap in json.loads((out / "runs/all/report.json").read_text())["gaps"]:
        low, high = gap["interval"]["low"], gap["interval"]["high"]
        points = f"{gap['points']['mean']:+.2f} points of box AP"
        print(f"  gn - frozen_bn: {points}, 95 % [{low:+.2f}, {high:+.2f}]", flush=True)
    again = [*cell, "norm=gn", f"data.val={train}", f"runs_dir={out}/again", "study=all"]
    name = f"all/mask_rcnn_tiny_fpn_{SIZE}_gn_s0"
    print("killed: gn, seed 0, three times, on 1, 2, 1 and 2 processes", flush=True)
    killed(again, out / "again" / name, steps)
    for file in ("model.safetensors", "result.json", "tests/coco-none/segm.json", "tests/coco-none.npz"):
        same = (out / "runs" / name / file).read_bytes() == (out / "again" / name / file).read_bytes()
        print(f"  {file}: {'the same bytes' if same else 'DIFFERS'}", flush=True)
    if arguments.out is None:
        shutil.rmtree(out)


if __name__ == "__main__":
    main()
