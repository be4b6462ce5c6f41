"""Does pretraining help? Kvasir-SEG, U-Net on EfficientNet-Lite0: ImageNet's weights against from scratch.

    python -m benchmarks.pretraining --root=KVASIR --pretrained=weights/efficientnet_lite0 --output=runs/pretraining

Trains every arm with 20, 50 and all images and three seeds (the seed draws the images too), the same number of steps,
and scores the same held-out fold; then prints the table and writes OUTPUT/pretraining.{csv,png}. Finished runs stay, so
that the command goes on where it stopped. Arms: scratch; pretrained (all layers learn alike); frozen (the encoder stays
as it is, its statistics too); layerwise (the encoder's rates are 0.1 to 0.3 of the decoder's).
"""

import csv
import json
import pathlib
import subprocess
import sys
import time

import numpy as np
from absl import app, flags

ROOT = flags.DEFINE_string("root", None, "Folder of Kvasir-SEG: images/ and masks/.", required=True)
PRETRAINED = flags.DEFINE_string("pretrained", None, "Converted EfficientNet-Lite0.", required=True)
OUTPUT = flags.DEFINE_string("output", "runs/pretraining", "Where the runs go.")
STEPS = flags.DEFINE_integer("steps", 150, "Training steps of every run.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds an arm.")
CASES = flags.DEFINE_list("cases", ["20", "50", "0"], "Training images; 0: all of the training folds.")
ARMS = flags.DEFINE_list("arms", ["scratch", "pretrained", "frozen", "layerwise"], "Which arms to run.")

STAGED = '(("^backbone/(stem|stage_[012])",0.1),("^backbone",0.3))'
OPTIONS = {
    "scratch": [],
    "pretrained": [],
    "frozen": [],
    "layerwise": [f"--config.optim.lr_factors={STAGED}"],
}


def folder_of(arm: str, cases: int, seed: int) -> pathlib.Path:
    """Where one run lies."""
    return pathlib.Path(OUTPUT.value) / f"{arm}_{cases or 'all'}_{seed}"


def run(arm: str, cases: int, seed: int) -> None:
    """Trains and scores one run, unless that is done."""
    folder = folder_of(arm, cases, seed)
    if (folder / "evaluation" / "summary.json").exists():
        return
    argument = "" if arm == "scratch" else f":pretrained={PRETRAINED.value}"
    if arm == "frozen":
        argument += ",frozen"
    command = [
        sys.executable, "launch.py", f"--config=configs/kvasir.py{argument}", f"--config.data.root={ROOT.value}",
        f"--config.data.store={pathlib.Path(OUTPUT.value) / 'prepared'}", f"--workdir={folder}",
        f"--config.seed={seed}", f"--config.data.train_cases={cases}", f"--config.train.total_steps={STEPS.value}",
        f"--config.train.eval_steps={STEPS.value}", "--config.train.eval_cases=1", "--config.evaluate.overlays=2",
        *OPTIONS[arm],
    ]  # fmt: skip
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print(f"{folder.name}: {time.monotonic() - began:.0f} s", flush=True)


def dice_of(arm: str, cases: int, seed: int) -> float:
    """Mean Dice over the held-out images."""
    summary = json.loads((folder_of(arm, cases, seed) / "evaluation" / "summary.json").read_text())
    return summary["classes"]["polyp"]["dice"]["mean"]


def main(_) -> None:
    """Runs what is missing, then prints, writes and draws the table."""
    sizes, seeds = [int(size) for size in CASES.value], range(SEEDS.value)
    for seed in seeds:
        for cases in sizes:
            for arm in ARMS.value:
                run(arm, cases, seed)
    table = {(arm, n): [dice_of(arm, n, seed) for seed in seeds] for arm in ARMS.value for n in sizes}
    rows = [
        {"arm": arm, "images": n or "all", **{f"seed_{s}": round(d, 4) for s, d in enumerate(found)}}
        for (arm, n), found in table.items()
    ]
    output = pathlib.Path(OUTPUT.value)
    with (output / "pretraining.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print("| images | " + " | ".join(ARMS.value) + " |\n|" + " --- |" * (len(ARMS.value) + 1))
    for n in sizes:
        cells = [f"{np.mean(table[arm, n]):.3f} ± {np.std(table[arm, n], ddof=1):.3f}" for arm in ARMS.value]
        print(f"| {n or 'all'} | " + " | ".join(cells) + " |")
    draw(table, sizes, output / "pretraining.png")


def draw(table: dict, sizes: list[int], path: pathlib.Path) -> None:
    """One line an arm: mean over seeds, every seed a dot."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
    for number, arm in enumerate(ARMS.value):
        found = np.array([table[arm, n] for n in sizes])
        axes.plot(range(len(sizes)), found.mean(1), label=arm, color=f"C{number}")
        axes.plot(range(len(sizes)), found, ".", color=f"C{number}", alpha=0.5)
    axes.set(xticks=range(len(sizes)), xticklabels=[n or "all" for n in sizes])
    axes.set(xlabel="training images", ylabel="held-out Dice", title=f"Kvasir-SEG, {STEPS.value} steps")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    app.run(main)
