"""Our hippocampus run against nnU-Net's published five-fold run, case by case, on nnU-Net's own split.

    python -m benchmarks.hippocampus_nnunet split --reference percase.csv --data DIR --output splits.json
    python launch.py --config configs/unet3d_hippocampus.py --config.data.root=DIR --config.data.subjects= \\
        --config.data.split_file=splits.json --config.train.total_steps=5000 --workdir runs/fold0
    python -m benchmarks.hippocampus_nnunet compare --reference percase.csv --workdir runs/fold0

`percase.csv` has a row a case: case, fold, plain_dice1, plain_dice2, resM_dice1, ... as AutoNNUnet's zips have them.
Cases that DIR lacks are left out of every fold: where it holds 220 of the 260, our network learns from fewer cases.
"""

import argparse
import csv
import json
import pathlib

from jaxseg import evaluate, metrics
from jaxseg.data.fingerprint import write_json

PLANNERS = ("plain", "resM", "resL")
PARTS = ("1", "2")  # anterior, posterior


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("split", "compare"))
    parser.add_argument("--reference", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--workdir", type=pathlib.Path)
    arguments = parser.parse_args()
    with arguments.reference.open() as file:
        rows = list(csv.DictReader(file))
    if arguments.action == "split":
        write_json(arguments.output, split(rows, arguments.data))
    else:
        compare(rows, arguments.workdir)


def split(rows: list[dict[str, str]], data: pathlib.Path) -> list[dict[str, list[str]]]:
    """Returns nnU-Net's folds of the cases that are there."""
    pairs = json.loads((data / "dataset.json").read_text())["training"]
    here = {pathlib.Path(pair["image"]).name.removesuffix(".nii.gz") for pair in pairs}
    there = [row for row in rows if row["case"] in here]
    folds = sorted({row["fold"] for row in there})
    return [
        {
            "train": sorted(row["case"] for row in there if row["fold"] != fold),
            "val": sorted(row["case"] for row in there if row["fold"] == fold),
        }
        for fold in folds
    ]


def compare(rows: list[dict[str, str]], workdir: pathlib.Path) -> None:
    """Prints mean Dice of both and the paired difference (ours minus theirs) with its interval, for each planner."""
    ours = evaluate.read_cases(workdir / evaluate.files.FOLDER / evaluate.files.CASES)
    names = list(dict.fromkeys(row["class"] for row in ours))
    print("| nnU-Net's planner | class | nnU-Net | ours | ours - nnU-Net (95 % interval) | n |")
    print("| --- | --- | --- | --- | --- | --- |")
    for planner in PLANNERS:
        theirs = [
            {"case": row["case"], "class": name, "dice": float(row[f"{planner}_dice{part}"])}
            for row in rows
            for name, part in zip(names, PARTS, strict=True)
        ]
        found = metrics.compare(theirs, ours)
        for name, values in {**found["classes"], "mean": found}.items():
            print(
                f"| {planner} | {name} | {values['mean_a']:.4f} | {values['mean_b']:.4f} | "
                f"{values['mean_difference']:+.4f} ({values['low']:+.4f} to {values['high']:+.4f}) | {values['n']} |"
            )


if __name__ == "__main__":
    main()
