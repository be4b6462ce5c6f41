"""Is a translated image as good as a real one? To another contrast, with and without pairs, and segmented there.

    taskset -c 0 python -m benchmarks.translation --root=MSD_HIPPOCAMPUS --output=runs/translation

Real pairs of many patients are not at hand, so the second contrast is made by formula from the real T1 scans of the
hippocampus: inverted, with a power law, a smooth field and noise. Its anatomy is real, its physics is not. Networks
learn T1 to this contrast from training cases: pix2pix from pairs, CycleGAN from two halves that share no subject.
Held-out cases are compared with their true image, beside the identity and histogram matching. A segmentation network
that has only ever seen the second contrast is then scored on real images of it, on translated ones, and on T1 itself.
"""

import json
import pathlib
import shutil
import subprocess
import sys

import nibabel
import numpy as np
import scipy.ndimage
from absl import app, flags

from benchmarks import paired
from jaxseg import metrics
from jaxseg.evaluate import files

ROOT = flags.DEFINE_string("root", None, "Folder of the data set.", required=True)
OUTPUT = flags.DEFINE_string("output", "runs/translation", "Where data and runs go.")
CASES = flags.DEFINE_integer("cases", 100, "Scans to use.")
STEPS = flags.DEFINE_integer("steps", 1200, "Updates of a translation.")

SEGMENTATION = [
    *paired.HIPPOCAMPUS_SLICES, "--config.augment=rotate_scale|brightness|gamma", "--config.train.eval_steps=1500",
]  # fmt: skip
TRANSLATION = [
    "--config.translation.target=('simulated',)",
    "--config.data.patch_size=(48,40)", "--config.predict.window=(48,40)", "--config.data.batch_size=8",
    "--config.data.normalize=zscore", "--config.data.crop=False", "--config.data.foreground=0.3",
    "--config.predict.batch_size=16", "--config.train.eval_cases=4", "--config.predict.checkpoint=latest",
]  # fmt: skip
KINDS = {
    "pairs (pix2pix)": ["--config=configs/translation_t1_t2.py", "--config.model.n_downs=3"],
    "no pairs (CycleGAN)": [
        "--config=configs/translation_t1_t2.py:unpaired", "--config.model.downs=1", "--config.model.blocks=3",
        "--config.optim.lr=4e-4", "--config.adversarial.identity=0.0",  # the contrasts are inverse: nothing to leave
    ],
}  # fmt: skip


def simulate(image: np.ndarray, seed: int) -> np.ndarray:
    """Returns the second contrast of a scan: dark where it is bright, by a power law, with a field and noise."""
    draw = np.random.default_rng(seed)
    low, high = np.percentile(image, (0.5, 99.5))
    unit = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    field = scipy.ndimage.gaussian_filter(draw.standard_normal(image.shape), 12, mode="wrap")
    field = 1 + 0.1 * field / field.std()
    return (1000 * (1 - unit) ** 1.5 * field + 20 * draw.standard_normal(image.shape)).astype(np.float32)


def make_data(pairs: pathlib.Path, target: pathlib.Path, source: pathlib.Path) -> None:
    """Writes nnU-Net folders: both contrasts, the second alone, and T1 alone, unless that is done."""
    if (target / "dataset.json").exists():
        return
    root = pathlib.Path(ROOT.value)
    labels = {"background": 0, "Anterior": 1, "Posterior": 2}
    for folder in (pairs, target):
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True, exist_ok=True)
    source.mkdir(parents=True, exist_ok=True)
    for seed, path in enumerate(sorted((root / "imagesTr").glob("hippocampus*.nii.gz"))[: CASES.value]):
        stem, scan = path.name.removesuffix(".nii.gz"), nibabel.load(path)
        made = nibabel.Nifti1Image(simulate(np.asarray(scan.dataobj, np.float32), seed), scan.affine)
        shutil.copy(path, pairs / "imagesTr" / f"{stem}_0000.nii.gz")
        shutil.copy(path, source / path.name)
        nibabel.save(made, pairs / "imagesTr" / f"{stem}_0001.nii.gz")
        nibabel.save(made, target / "imagesTr" / f"{stem}_0000.nii.gz")
        for folder in (pairs, target):
            shutil.copy(root / "labelsTr" / path.name, folder / "labelsTr" / path.name)
    for folder, names in ((pairs, ["T1", "simulated"]), (target, ["simulated"])):
        shutil.copy(root / "subjects.csv", folder / "subjects.csv")
        channels = {str(place): name for place, name in enumerate(names)}
        content = {"channel_names": channels, "labels": labels, "numTraining": CASES.value, "file_ending": ".nii.gz"}
        (folder / "dataset.json").write_text(json.dumps(content))


def launch(*options: str) -> None:
    """Runs a command of the house."""
    print(" ".join(options)[:160], flush=True)
    subprocess.run([sys.executable, "launch.py", *options], check=True, stdout=subprocess.DEVNULL)


def dice(folder: pathlib.Path) -> list[dict]:
    """Rows of an evaluation."""
    return files.read_cases(folder / files.CASES)


def main(_) -> None:
    """Trains what is missing, scores everything, prints two tables."""
    out = pathlib.Path(OUTPUT.value)
    pairs, target, source = out / "contrasts", out / "target", out / "source"
    make_data(pairs, target, source)
    judge = out / "segmentation"
    if not (judge / "report.html").exists():
        launch(
            *SEGMENTATION, "--config.data.name=nnunet_raw", f"--config.data.root={target}", f"--workdir={judge}",
            "--config.train.total_steps=1500",
        )  # fmt: skip
    held = sorted({row["case"] for row in dice(judge / files.FOLDER)})
    shown = {"real images of the second contrast": dice(judge / files.FOLDER)}
    inputs = {"T1, as it is": source}
    for name, options in KINDS.items():
        short = name.split()[0]
        run, made = out / f"run_{short}", out / f"made_{short}"
        if not (run / "report.html").exists():
            launch(
                *options, *TRANSLATION, f"--config.data.root={pairs}", f"--workdir={run}",
                f"--config.data.store={out / 'prepared'}", f"--config.train.total_steps={STEPS.value}",
            )  # fmt: skip
        launch("--mode=predict", f"--workdir={run}", f"--input={source}", f"--output={made}", "--overwrite")
        inputs[f"translated, {name}"] = made
    for name, folder in inputs.items():
        score = out / f"score_{paired.short(name)}"
        chosen, truth = score.with_suffix(".images"), score.with_suffix(".labels")
        for place, origin in ((chosen, folder), (truth, target / "labelsTr")):
            place.mkdir(exist_ok=True)
            for case in held:
                shutil.copy(origin / f"{case}.nii.gz", place / f"{case}.nii.gz")
        launch("--mode=evaluate", f"--workdir={judge}", f"--input={chosen}", f"--labels={truth}", f"--output={score}")
        shown[name] = dice(score)
    print(f"\n| segmented | Dice, {len(held)} held-out scans | against real (95 % interval) |\n| --- | --- | --- |")
    base = next(iter(shown.values()))
    for name, rows in shown.items():
        mean = np.nanmean([float(row["dice"]) for row in rows])
        gap = metrics.compare(base, rows)
        against = paired.difference(gap)
        print(f"| {name} | {mean:.3f} | {against if rows is not base else ''} |")
    print("\nImage quality: evaluation/summary.json of each translation; its command prints the table.")


if __name__ == "__main__":
    app.run(main)
