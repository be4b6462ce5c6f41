"""Nuclei of the 2018 Data Science Bowl: finished runs beside Otsu's threshold with watershed, on the same cases.

    python -m benchmarks.nuclei --run=runs/dsb2018_nuclei --run=runs/nuclei2

Every run is a workdir of configs/dsb2018_nuclei.py that has been evaluated; the held-out cases must be the same. The
baseline needs no training: `predict.otsu_watershed` at its default settings; --baseline=DIR keeps its scores, so that
`--mode compare` takes it as a run.
"""

import json
import pathlib

import numpy as np
from absl import app, flags

from jaxseg import metrics, predict
from jaxseg.cli import build
from jaxseg.cli.workdir import record, stored_config
from jaxseg.data import instances
from jaxseg.evaluate import files
from jaxseg.evaluate.instances import together

RUN = flags.DEFINE_multi_string("run", None, "Evaluated workdirs.", required=True)
BASELINE = flags.DEFINE_string("baseline", None, "Where to write the baseline's scores.")
SHOWN = ("dsb_score", "f1_50", "f1_75", "pq", "aji")


def line(name: str, summary: dict) -> str:
    """One row of the table."""
    entries = next(iter(summary["classes"].values()))
    cells = [
        f"{entries[key]['mean']:.3f} ({entries[key]['low']:.3f} to {entries[key]['high']:.3f})" for key in SHOWN[:1]
    ]
    cells += [f"{entries[key]['mean']:.3f}" for key in SHOWN[1:]]
    coco = summary["coco"]
    cells += [f"{coco['mask']['AP']:.3f}", f"{coco['mask']['AP50']:.3f}", f"{coco['mask_AP50_unlimited']:.3f}"]
    return f"| {name} | " + " | ".join(cells) + " |"


def baseline(folder: pathlib.Path) -> dict:
    """Summary of Otsu's threshold and watershed on the run's held-out cases."""
    config, held_out = stored_config(folder), set(record(folder)["split"]["held out"])
    dataset = build.dataset(config, target="objects", border_width=None)
    rows, pred, true = [], [], []
    for case in dataset.cases:
        if case.name not in held_out:
            continue
        sample = dataset.load(case)
        pred.append(predict.otsu_watershed(np.asarray(sample.image.data, np.float32)))
        true.append(instances.to_instances(sample.label.data, sample.objects, num_classes=2))
        found = metrics.instance_rows(pred[-1], true[-1], classes=dataset.classes)
        rows += [{"case": case.name, **row} for row in found]
    summary = {**metrics.aggregate(rows), "coco": together(pred, true)}
    if BASELINE.value:
        files.write_results(pathlib.Path(BASELINE.value) / files.FOLDER, rows, summary)
    return summary


def main(_) -> None:
    """Prints the table."""
    folders = [pathlib.Path(run) for run in RUN.value]
    splits = {tuple(sorted(record(folder)["split"]["held out"])) for folder in folders}
    if len(splits) > 1:
        raise app.UsageError("The runs held out different cases; compare runs of one fold.")
    head = ("", "DSB score (95 %)", "F1 50", "F1 75", "PQ", "AJI", "mask AP", "AP50", "AP50 unlimited")
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for folder in folders:
        print(line(folder.name, json.loads((folder / "evaluation" / "summary.json").read_text())))
    print(line("Otsu + watershed", baseline(folders[0])), flush=True)


if __name__ == "__main__":
    app.run(main)
