"""Does a critic of masks help a segmentation network? Neuronal membranes (ISBI 2012), with and without one.

    taskset -c 0 python -m benchmarks.critic --root=ISBI2012_EM --output=runs/critic

The same small 2D U-Net, updates and seeds; the arms differ in the weight of the adversarial loss and in what the
critic compares. Dice is that of membranes in the held-out slices of fold 0; differences are paired by slice, seeds
averaged first. Finished runs stay.
"""

import json
import pathlib
import subprocess
import sys
import time

import numpy as np
from absl import app, flags

from benchmarks import paired
from jaxseg import metrics

ROOT = flags.DEFINE_string("root", None, "Folder of the data set.", required=True)
OUTPUT = flags.DEFINE_string("output", "runs/critic", "Where the runs go.")
STEPS = flags.DEFINE_integer("steps", 400, "Updates of a network.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds an arm.")

BASE = "no critic"
CRITIC = ["--config.adversarial.discriminator=patch_gan(features=16,layers=2,spectral=True)"]
ARMS = {
    BASE: [],
    "critic, weight 0.01": ["--config.adversarial.weight=0.01", *CRITIC],
    "critic, weight 0.1": ["--config.adversarial.weight=0.1", *CRITIC],
    "critic, weight 0.01, feature matching": [
        "--config.adversarial.weight=0.01", "--config.adversarial.feature_matching=0.1", *CRITIC,
    ],
}  # fmt: skip
COMMON = [
    "--config=configs/unet2d_isbi.py", "--config.data.patch_size=(64,64)", "--config.data.batch_size=4",
    "--config.evaluate.background=False", "--config.model.features=(8,16,32)", "--config.predict.tta=False",
    "--config.model.deep_supervision=False", "--config.predict.checkpoint=latest", "--config.train.eval_cases=1",
    "--config.evaluate.overlays=2", "--config.evaluate.surfaces=False", "--config.optim.warmup_steps=10",
]  # fmt: skip


def folder(name: str, seed: int) -> pathlib.Path:
    """Where one run lies."""
    return pathlib.Path(OUTPUT.value) / f"{paired.short(name)}_{seed}"


def run(name: str, seed: int) -> None:
    """Trains and scores one run, unless that is done."""
    place = folder(name, seed)
    if (place / "seconds.json").exists():
        return
    began = time.monotonic()
    command = [
        sys.executable, "launch.py", *COMMON, *ARMS[name], f"--config.data.root={ROOT.value}", f"--workdir={place}",
        f"--config.data.store={pathlib.Path(OUTPUT.value) / 'prepared'}", f"--config.seed={seed}",
        f"--config.train.total_steps={STEPS.value}", f"--config.train.eval_steps={STEPS.value}",
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (place / "seconds.json").write_text(json.dumps(time.monotonic() - began))
    print(f"{place.name}: {time.monotonic() - began:.0f} s", flush=True)


def main(_) -> None:
    """Runs what is missing, then prints the table."""
    for seed in range(SEEDS.value):
        for name in ARMS:
            run(name, seed)
    print("\n| arm | Dice of membranes | against no critic (95 % interval) | seconds |\n|" + " --- |" * 4)
    for name in ARMS:
        base, own = ([folder(each, seed) for seed in range(SEEDS.value)] for each in (BASE, name))
        dice = [np.mean(list(paired.dice_of(run).values())) for run in own]
        gap = metrics.compare(paired.average(base), paired.average(own))
        seconds = [json.loads((folder(name, seed) / "seconds.json").read_text()) for seed in range(SEEDS.value)]
        shown = "" if name == BASE else paired.difference(gap, digits=4)
        print(f"| {name} | {paired.spread(dice, digits=4)} | {shown} | {np.mean(seconds):.0f} |")


if __name__ == "__main__":
    app.run(main)
