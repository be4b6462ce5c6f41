"""Do made images help where real ones are few? N real cases, with and without augmentation, with made images beside.

    taskset -c 1 python -m benchmarks.synthesis --root=MSD_HIPPOCAMPUS --output=runs/synthesis

For every N and seed one generator (configs/synthesis_hippocampus.py) learns from the same N cases that the segmentation
networks learn from, and makes --made images of label maps bent at random; a second one, "consistent", also learns to
show the segmentation network of the same N cases the label map. All arms train the same small 2D U-Net with
as many updates and are scored on the same held-out volumes of fold 0; differences are paired by case, seeds
averaged first. A segmentation network trained on all real training cases says how well made images keep their labels.
Finished runs stay, so that the command goes on where it stopped.
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
OUTPUT = flags.DEFINE_string("output", "runs/synthesis", "Where the runs go.")
NUMBERS = flags.DEFINE_list("cases", ["5", "10", "20"], "How many real cases.")
CHOSEN = flags.DEFINE_list("generators", ["plain", "consistent"], "Kinds of generators whose images are tried.")
ONLY = flags.DEFINE_multi_string("arms", [], "An arm to run, by its name in the table; may be repeated; none: all.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of every arm.")
STEPS = flags.DEFINE_integer("steps", 1500, "Updates of a segmentation network.")
GENERATOR_STEPS = flags.DEFINE_integer("generator_steps", 1200, "Updates of a generator.")
CONSISTENCY = flags.DEFINE_float("consistency", 10.0, "adversarial.label_consistency of the consistent generator.")
MADE = flags.DEFINE_integer("made", 300, "Images that a generator makes.")

STRONG = "--config.augment=rotate_scale|brightness|gamma"
SEGMENTATION = [*paired.HIPPOCAMPUS_SLICES, "--config.optim.warmup_steps=10"]
BASE = "real, augmented"
PERCEPTUAL, SHARE = 2.0, 0.5
UNTIL = "--config.data.extra_until=0.5"
GENERATORS = {"plain": "made", "consistent": "consistent"}  # kind of generator -> folder of its images
# Arm -> (kind of generator that half of the images come from, flags)
ARMS: dict[str, tuple[str, list[str]]] = {
    "real": ("", ["--config.augment=none"]),
    BASE: ("", [STRONG]),
    "real + made, augmented": ("plain", [STRONG]),
    "real + made, real at the end, augmented": ("plain", [STRONG, UNTIL]),
    "real + made consistently, augmented": ("consistent", [STRONG]),
    "real + made consistently, real at the end, augmented": ("consistent", [STRONG, UNTIL]),
}


def folder(name: str, number: int, seed: int) -> pathlib.Path:
    """Where one run lies."""
    return pathlib.Path(OUTPUT.value) / f"{paired.short(name)}_{number}_{seed}"


def launch(place: pathlib.Path, *options: str) -> None:
    """Runs a command unless its folder says that it has been done."""
    done = place.with_suffix(".seconds.json")
    if done.exists():
        return
    began = time.monotonic()
    command = [sys.executable, "launch.py", *options]
    log = place.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        subprocess.run(command, check=True, stdout=file, stderr=subprocess.STDOUT)
    done.write_text(json.dumps(time.monotonic() - began))
    print(f"{place.name}: {time.monotonic() - began:.0f} s", flush=True)


def segment(place: pathlib.Path, updates: int, number: int, seed: int, *options: str) -> None:
    """Trains and scores a segmentation network."""
    launch(
        place, *SEGMENTATION, f"--config.data.root={ROOT.value}", f"--workdir={place}", f"--config.seed={seed}",
        f"--config.data.store={pathlib.Path(OUTPUT.value) / 'prepared'}", f"--config.data.train_cases={number}",
        f"--config.train.total_steps={updates}", f"--config.train.eval_steps={updates}", *options,
    )  # fmt: skip


def generate(kind: str, number: int, seed: int, judge: pathlib.Path) -> pathlib.Path:
    """Trains a generator on N cases and returns the folder of what it has made.

    Its perceptual loss has the features of the segmentation network that was trained on the same N cases.
    """
    plain = kind == "plain"
    place = folder("generator" if plain else f"generator {kind}", number, seed)
    made, steps = folder(GENERATORS[kind], number, seed), GENERATOR_STEPS.value
    own = [] if plain else [f"--config.adversarial.label_consistency={CONSISTENCY.value}"]
    launch(
        place, "--mode=train", f"--config=configs/synthesis_hippocampus.py:cases={number},steps={steps}",
        f"--config.data.root={ROOT.value}", f"--workdir={place}", f"--config.seed={seed}",
        f"--config.data.store={pathlib.Path(OUTPUT.value) / 'prepared'}", f"--config.train.eval_steps={steps // 2}",
        f"--config.adversarial.perceptual={PERCEPTUAL}", f"--config.adversarial.network={folder(BASE, number, seed)}",
        *own,
    )  # fmt: skip
    launch(
        made, "--mode=synthesize", f"--workdir={place}", f"--output={made}", f"-n={MADE.value}", "--overwrite",
        f"--set=synthesis.segmenter={judge}", f"--set=synthesis.seed={seed}",
    )  # fmt: skip
    return made


def run(number: int, seed: int, judge: pathlib.Path) -> None:
    """Runs all arms of one N and seed."""
    segment(folder(BASE, number, seed), STEPS.value, number, seed, *ARMS[BASE][1])
    made = {kind: generate(kind, number, seed, judge) for kind in CHOSEN.value}
    for name, (kind, options) in ARMS.items():
        if kind in ("", *made) and (not ONLY.value or name in ONLY.value):
            extra = [f"--config.data.extra=('{made[kind]}',)", f"--config.data.extra_share={SHARE}"] if kind else []
            segment(folder(name, number, seed), STEPS.value, number, seed, *options, *extra)


def table() -> None:
    """Prints what is finished."""
    print("\n| real cases | arm | seeds | Dice | against real, augmented (95 % interval) |\n|" + " --- |" * 5)
    for number in map(int, NUMBERS.value):
        for name in ARMS:
            done = [
                seed
                for seed in map(int, SEEDS.value)
                if all(folder(each, number, seed).with_suffix(".seconds.json").exists() for each in (name, BASE))
            ]
            if not done:
                continue
            dice = [np.mean(list(paired.dice_of(folder(name, number, seed)).values())) for seed in done]
            base, own = (paired.average([folder(each, number, seed) for seed in done]) for each in (BASE, name))
            gap = metrics.compare(base, own)
            against = "" if name == BASE else paired.difference(gap, digits=4)
            print(f"| {number} | {name} | {len(done)} | {paired.spread(dice, digits=4)} | {against} |")
    print("\n| real cases | generator | made images keep their labels: mean Dice of each seed |\n| --- | --- | --- |")
    for number in map(int, NUMBERS.value):
        for kind, name in GENERATORS.items():
            kept = []
            for seed in map(int, SEEDS.value):
                record = folder(name, number, seed) / "provenance.json"
                if record.exists():
                    rows = json.loads(record.read_text())["files"].values()
                    kept.append(np.mean([row["dice"] for row in rows if row["dice"] is not None]))
            print(f"| {number} | {kind} | {', '.join(f'{value:.3f}' for value in kept)} |")


def main(_) -> None:
    """Runs what is missing, then prints the tables."""
    judge = folder("judge", 0, 0)
    segment(judge, 2 * STEPS.value, 0, 0, *ARMS[BASE][1])
    for seed in map(int, SEEDS.value):
        for number in map(int, NUMBERS.value):
            run(number, seed, judge)
    table()


if __name__ == "__main__":
    app.run(main)
