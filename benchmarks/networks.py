"""One table of networks on three 2D sets: Dice, parameters, FLOPs of a training step, seconds a step.

    python -m benchmarks.networks --data=DATA --output=runs/networks

DATA holds drive, isbi2012_em and jsrt_lungs. Every network of jaxseg.config.NETWORKS that is named trains on each set
for the same number of steps at batch 4. Beside them: the best threshold of the grey value (chosen on the training
cases) and the majority class. Finished runs stay, so that the command goes on where it stopped.
"""

import json
import math
import pathlib
import subprocess
import sys

import jax
import numpy as np
from absl import app, flags

from jaxseg import losses, models, tasks
from jaxseg.cli import build
from jaxseg.cli.workdir import record
from jaxseg.config import network
from jaxseg.data import store

DATA = flags.DEFINE_string("data", None, "Folder of the data sets.", required=True)
OUTPUT = flags.DEFINE_string("output", "runs/networks", "Where the runs go.")
STEPS = flags.DEFINE_integer("steps", 250, "Training steps of every run.")
NETWORKS = flags.DEFINE_list(
    "networks", ["unet", "deeplabv3plus", "segnet", "fcn"], "Entries of jaxseg.config.NETWORKS."
)
SETS = flags.DEFINE_list("sets", ["drive", "isbi", "jsrt"], "Which data sets.")

# config file, folder, class, patch and channels of a training batch
KNOWN = {
    "drive": ("drive.py", "drive", "vessel", (160, 160), 3),
    "isbi": ("unet2d_isbi.py", "isbi2012_em", "membrane", (160, 160), 1),
    "jsrt": ("jsrt_lungs.py", "jsrt_lungs", "lung", (224, 224), 3),
}


def run(data: str, name: str) -> pathlib.Path:
    """Trains and scores one run, unless that is done."""
    config, folder, *_ = KNOWN[data]
    workdir = pathlib.Path(OUTPUT.value) / f"{data}_{name}"
    if not (workdir / "evaluation" / "summary.json").exists():
        command = [
            sys.executable, "launch.py", f"--config=configs/{config}:network={name},steps={STEPS.value}",
            f"--config.data.root={pathlib.Path(DATA.value) / folder}", f"--workdir={workdir}",
            f"--config.data.store={pathlib.Path(OUTPUT.value) / f'prepared_{data}'}",
            f"--config.train.eval_steps={STEPS.value}", "--config.train.eval_cases=1", "--config.evaluate.overlays=2",
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return workdir


def scores(workdir: pathlib.Path, name: str) -> str:
    """Dice with its interval, and the ROC area where the run has one."""
    found = json.loads((workdir / "evaluation" / "summary.json").read_text())["classes"][name]
    dice = found["dice"]
    area = found.get("roc_area", {}).get("mean")
    text = f"{dice['mean']:.3f} ({dice['low']:.3f} to {dice['high']:.3f})"
    return text if area is None else f"{text}, ROC area {area:.3f}"


def seconds(workdir: pathlib.Path) -> float:
    """Median seconds of a training step."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return float(np.median([row["seconds_a_step"] for row in rows[2:] if "seconds_a_step" in row]))


def costs(name: str, patch: tuple[int, ...], channels: int) -> tuple[int, float]:
    """Parameters, and FLOPs of loss and gradient for a batch of 4, as XLA counts them for an accelerator's program."""
    fields = network(name).to_dict()
    model = models.create(fields.pop("name"), num_classes=2, **fields)
    task = tasks.semantic(model, losses.from_string("dice_loss + cross_entropy"), num_classes=2)
    image = jax.ShapeDtypeStruct((4, *patch, channels), np.float32)
    params, extra = jax.eval_shape(task.init, jax.random.key(0), image)
    batch = {"image": image, "label": jax.ShapeDtypeStruct((4, *patch), np.int32)}
    step = jax.jit(jax.grad(lambda p, e, b, k: task.losses["model"](p, e, b, k)[0]))
    analysis = step.lower(params, extra, batch, jax.random.key(0)).cost_analysis()
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)), float(analysis["flops"])


def baselines(workdir: pathlib.Path) -> tuple[float, float]:
    """Mean Dice of the best threshold of the grey value, and of the class that most pixels have."""
    stored = record(workdir)
    known, split = build.stored_facts(stored), stored["split"]
    cases = {case.name: case for case in store.open(pathlib.Path(stored["store"]))}
    assert len(known.classes) == 2

    def load(names):
        for name in names:
            image, label = store.read_patch(cases[name], (0,) * len(cases[name].shape), cases[name].shape)
            yield image.mean(-1)[label >= 0], label[label >= 0]

    training, held_out = list(load(split["training"])), list(load(split["held out"]))
    levels = np.quantile(np.concatenate([values for values, _ in training]), np.linspace(0.01, 0.99, 99))

    def dice(sign: int, level: float, values, labels) -> float:
        found = sign * values > sign * level
        return 2 * (found & (labels == 1)).sum() / max(1, found.sum() + (labels == 1).sum())

    choices = [(sign, level) for sign in (-1, 1) for level in levels]
    best = max(choices, key=lambda choice: np.mean([dice(*choice, *pair) for pair in training]))
    share = np.mean([(labels == 1).mean() for _, labels in training])
    everything = np.mean([2 * (labels == 1).mean() / (1 + (labels == 1).mean()) for _, labels in held_out])
    return float(np.mean([dice(*best, *pair) for pair in held_out])), float(everything if share > 0.5 else 0.0)


def main(_) -> None:
    """Runs what is missing, then prints one table a data set."""
    for data in SETS.value:
        _, _, label, patch, channels = KNOWN[data]
        folders = {name: run(data, name) for name in NETWORKS.value}
        print(f"\n| {data}: {label} | Dice (95 % interval) | parameters | GFLOP a step | s a step |\n|" + " --- |" * 5)
        for name, folder in folders.items():
            count, flops = costs(name, patch, channels)
            print(f"| {name} | {scores(folder, label)} | {count:,} | {flops / 1e9:.1f} | {seconds(folder):.2f} |")
        threshold, majority = baselines(next(iter(folders.values())))
        print(f"| best threshold | {threshold:.3f} | | | |\n| majority class | {majority:.3f} | | | |", flush=True)


if __name__ == "__main__":
    app.run(main)
