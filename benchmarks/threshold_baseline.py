"""The best two-threshold classifier of the quickstart's slices, scored on the same held-out slices as the network.

    python -m benchmarks.threshold_baseline --workdir runs/quickstart
    python launch.py --mode compare --input runs/quickstart_thresholds --input runs/quickstart

Below the first threshold is class 0, between them class 1, above the second class 2. All pairs of thresholds are tried
on the training slices; the pair with the best mean Dice of both tissues is scored.
"""

import argparse
import pathlib

import numpy as np

from jaxseg import evaluate, metrics
from jaxseg.cli import build, splitting, workdir


def best_thresholds(samples) -> tuple[int, int]:
    """Returns (low, high): class 1 is low <= value < high, class 2 is high <= value; exhaustive over 0..255."""
    table = np.zeros((3, 257))  # voxels of each class with a value below v
    for sample in samples:
        for label in range(3):
            values = sample.image.data[..., 0][sample.label.data == label]
            table[label, 1:] += np.bincount(values.astype(int), minlength=256).cumsum()
    grey, white = table[1, -1], table[2, -1]
    low, high = np.meshgrid(np.arange(257), np.arange(257), indexing="ij")
    total = table.sum(0)
    dice_grey = 2 * (table[1, high] - table[1, low]) / np.maximum(grey + total[high] - total[low], 1)
    dice_white = 2 * (white - table[2, high]) / np.maximum(white + total[-1] - total[high], 1)
    score = np.where(low < high, dice_grey + dice_white, -1.0)
    return tuple(int(value) for value in np.unravel_index(score.argmax(), score.shape))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/quickstart"))
    folder = parser.parse_args().workdir
    config = workdir.stored_config(folder)
    dataset = build.dataset(config)
    training, held_out = splitting.split(config, dataset.cases)
    low, high = best_thresholds(map(dataset.load, training))
    rows = []
    for case in held_out:
        sample = dataset.load(case)
        values = sample.image.data[..., 0]
        labels = (values >= low).astype(np.int16) + (values >= high)
        found = metrics.case_rows(labels, sample.label.data, classes=dataset.classes, spacing_mm=sample.image.spacing)
        rows += [{"case": case.name, **row} for row in found]
    target = folder.with_name(folder.name + "_thresholds")
    summary = metrics.aggregate(rows)
    evaluate.write(target, rows, summary)
    print(
        f"thresholds {low} and {high} (0..255), chosen on {len(training)} slices, scored on {len(held_out)}: {target}"
    )
    print(evaluate.summary_table(summary, metrics=("dice", "iou", "hd95_mm")))


if __name__ == "__main__":
    main()
