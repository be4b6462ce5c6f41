"""Do ensembles pay? One network, five, and the ways to make one of them, at equal members and at equal total updates.

    taskset -c 0 python -m benchmarks.ensembles --set=isbi --root=ISBI2012_EM --output=runs/ensembles_isbi
    taskset -c 1 python -m benchmarks.ensembles --set=hippocampus --root=MSD_HIPPOCAMPUS --output=runs/ensembles_hip
    taskset -c 0 python -m benchmarks.ensembles --set=drive --root=DRIVE --output=runs/ensembles_drive

Every arm is `launch.py` with `--config.ensemble.*`; a small 2D U-Net, its last checkpoint, no flips. STEPS is the
duration of one network; every ensemble trains 5 STEPS updates in all, and so does the one network that is trained five
times as long (stacking: twelve trainings of 5/12 STEPS). Dice is the mean over cases and classes of the held-out fold.
The difference to the one network is paired: each case's Dice is averaged over the seeds first, and the interval is over
cases. Finished runs stay, so that the command goes on where it stopped.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
from absl import app, flags

from benchmarks import paired
from jaxseg import metrics
from jaxseg.evaluate import files

SET = flags.DEFINE_enum("set", "isbi", ["isbi", "hippocampus", "drive"], "Which data set.")
ROOT = flags.DEFINE_string("root", None, "Its folder.", required=True)
OUTPUT = flags.DEFINE_string("output", "runs/ensembles", "Where the runs go.")
STEPS = flags.DEFINE_integer("steps", 250, "Updates of one network.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds an arm.")
ARMS = flags.DEFINE_multi_string("arms", [], "An arm to run, by its name in the table; may be repeated; none: all.")

ONE, LONG = "one network", "one network, five times as long"
MEMBERS = 5
AT_ONCE = ["--config.ensemble.together=unroll"]
SWA = "snapshots, weights averaged (SWA)"
SETS = {
    "isbi": [
        "--config=configs/unet2d_isbi.py", "--config.data.patch_size=(64,64)", "--config.data.batch_size=4",
        "--config.evaluate.background=False",
    ],
    # 20 training volumes of the fold's 176: where data are few, ensembles have something to win
    "hippocampus": [
        "--config=configs/unet3d_hippocampus.py", "--config.model.ndim=2", "--config.data.patch_size=(40,32)",
        "--config.data.batch_size=16", "--config.data.train_cases=20", "--config.model.convs=(2,2,2)",
        "--config.model.decoder_convs=(2,2)", "--config.augment=rotate_scale|brightness|gamma",
        "--config.optim.ema=0.0", "--config.data.foreground=0.5", "--config.predict.batch_size=32",
    ],
    "drive": [
        "--config=configs/drive.py", "--config.data.patch_size=(96,96)", "--config.data.batch_size=4",
        "--config.evaluate.curves=False", "--config.evaluate.background=False",
    ],
}  # fmt: skip
COMMON = [
    "--config.model.features=(8,16,32)", "--config.model.deep_supervision=False", "--config.predict.tta=False",
    "--config.predict.checkpoint=latest", "--config.train.eval_cases=1", "--config.evaluate.overlays=2",
    "--config.evaluate.surfaces=False", "--config.evaluate.certainty=True", "--config.optim.warmup_steps=10",
]  # fmt: skip
NETWORKS = {
    "isbi": "('unet(features=(8,16,32))','segnet(width=8)','deeplabv3plus','pixel_features')",
    "hippocampus": "('unet(features=(8,16,32))','unetplusplus(features=(8,16,32))','deeplabv3plus','pixel_features')",
    "drive": "('unet(features=(8,16,32))','segnet(width=8)','deeplabv3plus','pixel_features')",
}


def arms() -> dict[str, tuple[int, int, list[str]]]:
    """Arm -> (updates of one training, updates in all, flags); the order is that of the table."""
    steps, whole = STEPS.value, MEMBERS * STEPS.value
    found: dict[str, tuple[int, int, list[str]]] = {ONE: (steps, steps, [])}
    found[LONG] = (whole, whole, [])
    for kind in ("seeds", "bagging", "boosting", "gradient_boosting"):
        own = [f"--config.ensemble.kind={kind}", f"--config.ensemble.members={MEMBERS}", "--config.ensemble.patience=0"]
        found[kind] = (steps, whole, own + AT_ONCE if kind in ("seeds", "bagging") else own)
    found["snapshots"] = (whole, whole, ["--config.ensemble.kind=snapshots", f"--config.ensemble.members={MEMBERS}"])
    found[SWA] = (whole, whole, [*found["snapshots"][2], "--config.ensemble.combine=weights"])
    soup = ["--config.ensemble.kind=soup", f"--config.ensemble.members={MEMBERS}", "--config.ensemble.trunk=0.5"]
    found["greedy soup"] = (round(whole / 3), whole, soup + AT_ONCE)  # half in common, then five halves
    four = ["--config.ensemble.kind=stacking", f"--config.ensemble.networks={NETWORKS[SET.value]}"]
    found["stacking of 4 kinds, 3 folds"] = (whole // 12, whole, four)
    return {name: arm for name, arm in found.items() if not ARMS.value or name in ARMS.value}


def folder_of(name: str, seed: int) -> pathlib.Path:
    """Where one run lies."""
    return pathlib.Path(OUTPUT.value) / f"{paired.short(name)}_{seed}"


def run(name: str, seed: int, updates: int, options: list[str]) -> None:
    """Trains and scores one run, unless that is done."""
    folder = folder_of(name, seed)
    if (folder / "seconds.json").exists():
        return
    if name == SWA and not folder.exists():  # the same training, otherwise combined: its seconds are those of that
        shutil.copytree(folder_of("snapshots", seed), folder)
    command = [
        sys.executable, "launch.py", *SETS[SET.value], f"--config.data.root={ROOT.value}", f"--workdir={folder}",
        f"--config.data.store={pathlib.Path(OUTPUT.value) / 'prepared'}", *COMMON, *options,
        f"--config.seed={seed}", f"--config.train.total_steps={updates}", f"--config.train.eval_steps={updates}",
    ]  # fmt: skip
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    (folder / "seconds.json").write_text(json.dumps(seconds))
    print(f"{folder.name}: {seconds:.0f} s, Dice {np.mean(list(dice_of(name, seed).values())):.4f}", flush=True)


def dice_of(name: str, seed: int) -> dict[tuple[str, str], float]:
    """(case, class) -> Dice of a run."""
    return paired.dice_of(folder_of(name, seed))


def average(name: str) -> list[dict]:
    """Rows of every case and class with the mean Dice of the seeds."""
    return paired.average([folder_of(name, seed) for seed in range(SEEDS.value)])


def certainty_of(name: str, seed: int) -> dict:
    """What a run says of its own certainty."""
    return json.loads((folder_of(name, seed) / files.FOLDER / "certainty.json").read_text())


def correlation(found: dict, of: str) -> float:
    """Mean over the classes of the rank correlation between a figure without the truth and the measured Dice."""
    classes = [entry["spearman"] for entry in (found.get(of) or {}).values() if entry["spearman"] is not None]
    return float(np.mean(classes)) if classes else float("nan")


def difference(base: str, name: str) -> str:
    """Mean difference of the Dice, paired by case, with its interval; seeds averaged first."""
    if base == name:
        return ""
    return paired.difference(metrics.compare(average(base), average(name)))


def row(name: str, references: list[str]) -> str:
    """One line of the table: means over the seeds."""
    seeds = range(SEEDS.value)
    dice = [float(np.mean(list(dice_of(name, seed).values()))) for seed in seeds]
    found = [certainty_of(name, seed) for seed in seeds]
    errors = [f"{np.mean([one[field] for one in found]):.3f}" for field in ("ece", "ece_scaled")]
    ranks = [f"{np.mean([correlation(one, of) for one in found]):.2f}" for of in ("quality", "agreement")]
    seconds = [json.loads((folder_of(name, seed) / "seconds.json").read_text()) for seed in seeds]
    cells = [
        name,
        paired.spread(dice),
        *(difference(base, name) for base in references),
        *errors,
        *ranks,
        f"{np.mean(seconds):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main(_) -> None:
    """Runs what is missing, then prints the table."""
    chosen = arms()
    for seed in range(SEEDS.value):
        for name, (updates, _, options) in chosen.items():
            run(name, seed, updates, options)
    references = [name for name in (ONE, LONG) if name in chosen]
    against = [f"against {name} (95 %)" for name in references]
    head = ["arm", "Dice", *against, "ECE", "scaled", "quality", "agreement", "s"]
    print(f"\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for name in chosen:
        print(row(name, references))
    cases = {case for case, _ in dice_of(next(iter(chosen)), 0)}
    print(f"\nn = {len(cases)} held-out cases, {SEEDS.value} seeds, {STEPS.value} updates; quality, agreement: rank")
    print("correlation with the measured Dice, mean over classes and seeds")


if __name__ == "__main__":
    app.run(main)
