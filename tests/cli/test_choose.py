"""--mode choose as a user runs it: two runs of all folds, singly and together, on cases that each had not seen."""

import json
import shlex

import clinic
import nibabel
import numpy as np
import pytest

from jaxseg.predict import choice
from jaxseg.typing import IGNORE


def launch(root, folder, *flags):
    return clinic.launch(
        "--config", clinic.config_file(root.parent), f"--config.data.root={root}", "--config.data.folds=2",
        "--config.data.fold=all", f"--workdir={folder}", *flags,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    root = clinic.msd(folder / "task", cases=4)
    for name, spacing in (("fine", "keep"), ("coarse", "2,2,2")):
        done = launch(root, folder / name, f"--config.data.spacing={spacing}")
        assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def chosen(runs):
    flags = [f"--input={runs / name}" for name in ("fine", "coarse")]
    done = clinic.launch("--mode=choose", *flags, f"--output={runs / 'choice.json'}", cwd=runs, fresh=True)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    return done.stdout, json.loads((runs / "choice.json").read_text())


def test_single_runs_score_as_their_evaluation_says(runs, chosen):
    _, found = chosen
    assert len(found["dice"]) == 3
    for name in ("fine", "coarse"):
        summary = json.loads((runs / name / "evaluation" / "summary.json").read_text())
        for part in ("shell", "core"):
            assert found["dice"][str(runs / name)][part] == pytest.approx(summary["classes"][part]["dice"]["mean"])


def test_the_best_is_the_best_and_its_command_works(runs, chosen):
    said, found = chosen
    means = {name: np.mean(list(values.values())) for name, values in found["dice"].items()}
    assert " + ".join(found["best"]) == max(means, key=means.get)
    assert found["command"] in said
    both = f"--mode predict --workdir {runs / 'fine'} --average {runs / 'coarse'}"
    scan = runs / "task" / "imagesTr" / "case_01.nii.gz"
    masks, probabilities = {}, {}
    for name, words in (("best", found["command"].partition("launch.py ")[2]), ("both", both)):
        done = clinic.launch(
            *shlex.split(words), f"--input={scan}", f"--output={runs / name}", "--set=predict.probabilities=True"
        )
        assert done.returncode == 0, done.stderr
        masks[name] = np.asarray(nibabel.load(runs / name / "case_01.nii.gz").dataobj)
        probabilities[name] = nibabel.load(runs / name / "case_01_probabilities.nii.gz").get_fdata()
    assert masks["both"].shape == nibabel.load(scan).shape
    # the average of two kinds of network is that of their probabilities on the grid of the file
    singles = []
    for name in ("fine", "coarse"):
        out = runs / f"only_{name}"
        clinic.launch(
            "--mode=predict", f"--workdir={runs / name}", f"--input={scan}", f"--output={out}",
            "--set=predict.probabilities=True",
        )  # fmt: skip
        singles.append(nibabel.load(out / "case_01_probabilities.nii.gz").get_fdata())
    np.testing.assert_allclose(probabilities["both"], np.mean(singles, axis=0), atol=1e-6)
    np.testing.assert_array_equal(masks["both"], probabilities["both"].argmax(-1))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("{runs}/fine",), "needs at least two workdirs"),
        (("{runs}/fine", "{runs}/fine/fold_0"), "should be a semantic run with data.fold=all"),
        (("{runs}/fine", "{runs}/nothing"), "is not the workdir of a run"),
    ],
)
def test_what_cannot_be_compared(runs, flags, message):
    done = clinic.launch("--mode=choose", *(f"--input={flag.format(runs=runs)}" for flag in flags))
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_regions_are_scored_as_sets_of_classes():
    true = np.array([[0, 1, 2, 2, IGNORE]])
    pred = np.array([[0, 1, 1, 2, 1]])
    found = choice.measure(pred, true, num_classes=3, regions=((1, 2), (2,)))
    assert found == {"": [1.0, pytest.approx(2 / 3)]}
