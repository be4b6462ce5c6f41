"""What benchmarks of segmentation networks share: a small network on hippocampus slices, Dice by case over seeds."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from jaxseg.evaluate import files

# A network of slices that one core trains in a minute, its last checkpoint, no flips.
HIPPOCAMPUS_SLICES = [
    "--config=configs/unet3d_hippocampus.py", "--config.model.ndim=2", "--config.data.patch_size=(40,32)",
    "--config.data.batch_size=16", "--config.model.convs=(2,2,2)", "--config.model.decoder_convs=(2,2)",
    "--config.optim.ema=0.0", "--config.data.foreground=0.5", "--config.predict.batch_size=32",
    "--config.model.features=(8,16,32)", "--config.model.deep_supervision=False", "--config.predict.tta=False",
    "--config.predict.checkpoint=latest", "--config.train.eval_cases=1", "--config.evaluate.overlays=2",
    "--config.evaluate.surfaces=False", "--config.data.normalize=zscore", "--config.data.crop=False",
]  # fmt: skip


def short(name: str) -> str:
    """An arm's name as a part of a folder's."""
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def dice_of(run: pathlib.Path) -> dict[tuple[str, str], float]:
    """(case, class) -> Dice of a run; what is on neither side is left out."""
    rows = files.read_cases(run / files.FOLDER / files.CASES)
    found = {(row["case"], row["class"]): float(row["dice"]) for row in rows}
    return {key: value for key, value in found.items() if np.isfinite(value)}


def average(runs: Sequence[pathlib.Path]) -> list[dict]:
    """Rows of every case and class that all runs score, with the mean Dice of the runs (seeds)."""
    found = [dice_of(run) for run in runs]
    return [
        {"case": case, "class": label, "dice": float(np.mean([one[case, label] for one in found]))}
        for case, label in found[0]
        if all((case, label) in one for one in found)
    ]


def spread(values: Sequence[float], *, digits: int = 3) -> str:
    """Mean and standard deviation over seeds, as tables have it; of one seed its value."""
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else mean


def difference(gap: Mapping[str, float], *, digits: int = 3) -> str:
    """What `metrics.compare` found, as tables have it: the mean difference and its 95 % interval."""
    mean, low, high = (f"{gap[name]:+.{digits}f}" for name in ("mean_difference", "low", "high"))
    return f"{mean} ({low} to {high})"
