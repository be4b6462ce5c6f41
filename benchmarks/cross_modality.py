"""Does a network trained on one MRI contrast help with another? BraTS 2013: T1c, then FLAIR with few labelled slices.

    python -m benchmarks.cross_modality --root=BRATS --output=runs/cross_modality

Slices of patient 4 train, those of patient 6 are scored. A U-Net learns all T1c slices of patient 4; then FLAIR with
3, 10 or 30 of its slices, from those weights or from scratch, the same number of steps, three seeds (the seed draws
the slices too). `transferred, untrained` is the T1c network on FLAIR as it is. Finished runs stay.
"""

import functools
import json
import pathlib
import subprocess
import sys

import numpy as np
from absl import app, flags

ROOT = flags.DEFINE_string("root", None, "Folder of brats2013_subset.", required=True)
OUTPUT = flags.DEFINE_string("output", "runs/cross_modality", "Where slices and runs go.")
STEPS = flags.DEFINE_integer("steps", 150, "Training steps of every run.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds an arm.")
SLICES = flags.DEFINE_list("slices", ["3", "10", "30"], "Labelled FLAIR slices.")

PATIENTS = {"train": "brats_2013_pat0004_1", "test": "brats_2013_pat0006_1"}
CONTRASTS = {"flair": "Flair_subtrMeanDivStd.nii.gz", "t1c": "T1c_subtrMeanDivStd.nii.gz"}
LEAST_TUMOUR = 100  # pixels; slices with less are left out


def write_slices(output: pathlib.Path) -> None:
    """Writes OUTPUT/slices/{train,test}/{flair,t1c}/{images,labels}/z.tif."""
    import nibabel
    import tifffile

    for part, patient in PATIENTS.items():
        label = np.asarray(nibabel.load(pathlib.Path(ROOT.value) / patient / "OTMultiClass.nii.gz").dataobj) > 0
        chosen = [z for z in range(label.shape[2]) if label[..., z].sum() >= LEAST_TUMOUR]
        for contrast, file in CONTRASTS.items():
            image = np.asarray(nibabel.load(pathlib.Path(ROOT.value) / patient / file).dataobj, np.float32)
            folder = output / "slices" / part / contrast
            for kind, volume in (("images", image), ("labels", label.astype(np.uint8))):
                (folder / kind).mkdir(parents=True, exist_ok=True)
                for z in chosen:
                    tifffile.imwrite(folder / kind / f"{z:03d}.tif", volume[..., z].T)


def launch(*arguments: str) -> None:
    """Runs one command of launch.py."""
    subprocess.run([sys.executable, "launch.py", *arguments], check=True, stdout=subprocess.DEVNULL)


def run(output: pathlib.Path, name: str, contrast: str, *, seed: int, slices: int = 0, init: str = "") -> pathlib.Path:
    """Trains one run unless it is done."""
    workdir, slice_root = output / name, output / "slices"
    if not (workdir / "report.html").exists():
        launch(
            f"--config=configs/brats_slices.py{f':init={init}' if init else ''}", f"--workdir={workdir}",
            f"--config.data.root={slice_root / 'train' / contrast}", f"--config.data.train_cases={slices}",
            f"--config.data.store={output / 'prepared' / contrast}", f"--config.seed={seed}",
            f"--config.train.total_steps={STEPS.value}",
        )  # fmt: skip
    return workdir


def score(output: pathlib.Path, workdir: pathlib.Path, contrast: str) -> float:
    """Mean Dice over the test patient's slices."""
    folder, test = workdir / f"test_{contrast}", output / "slices" / "test" / contrast
    if not (folder / "summary.json").exists():
        launch(
            "--mode=evaluate", f"--workdir={workdir}", f"--input={test / 'images'}", f"--labels={test / 'labels'}",
            f"--output={folder}", "--set=evaluate.overlays=2",
        )  # fmt: skip
    return json.loads((folder / "summary.json").read_text())["classes"]["tumour"]["dice"]["mean"]


def main(_) -> None:
    """Runs what is missing, then prints the table."""
    output = pathlib.Path(OUTPUT.value)
    if not (output / "slices").exists():
        write_slices(output)
    seeds, sizes = range(SEEDS.value), [int(n) for n in SLICES.value]
    one = functools.partial(run, output)
    sources = [one(f"t1c_{seed}", "t1c", seed=seed) for seed in seeds]
    found: dict[str, list[list[float]]] = {"from scratch": [], "transferred from T1c": []}
    for n in sizes:
        for arm in found:
            inits = [str(source) if "transferred" in arm else "" for source in sources]
            short = "transfer" if "transferred" in arm else "scratch"
            runs = [one(f"{short}_{n}_{s}", "flair", seed=s, slices=n, init=init) for s, init in zip(seeds, inits)]
            found[arm].append([score(output, folder, "flair") for folder in runs])
    print("| FLAIR slices | " + " | ".join(found) + " |\n|" + " --- |" * (len(found) + 1))
    untrained = [score(output, source, "flair") for source in sources]
    print(f"| 0 | | {np.mean(untrained):.3f} ± {np.std(untrained, ddof=1):.3f} |")
    for place, n in enumerate(sizes):
        cells = [f"{np.mean(rows[place]):.3f} ± {np.std(rows[place], ddof=1):.3f}" for rows in found.values()]
        print(f"| {n} | " + " | ".join(cells) + " |")
    own = [score(output, source, "t1c") for source in sources]
    print(f"T1c network on the test patient's T1c: {np.mean(own):.3f} ± {np.std(own, ddof=1):.3f}")


if __name__ == "__main__":
    app.run(main)
