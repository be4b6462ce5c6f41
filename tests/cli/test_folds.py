"""data.fold="all" as a user runs it: one command, resumable, one table of all cases, one predictor."""

import csv
import json

import clinic
import nibabel
import numpy as np
import pytest


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return clinic.msd(tmp_path_factory.mktemp("clinic") / "task")


def launch(root, folder, *flags):
    return clinic.launch(
        "--config", clinic.config_file(root.parent), f"--config.data.root={root}", "--config.data.fold=all",
        "--config.train.total_steps=2", f"--workdir={folder}", *flags,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "all"
    done = launch(root, folder)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    return folder, done


def rows_of(folder):
    with (folder / "evaluation" / "cases.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_case_is_held_out_once(trained):
    folder, done = trained
    assert (
        "fold 2 of 0 to 2" in done.stdout
        and "all 3 folds, each case by the networks that had not seen it" in done.stdout
    )
    rows = rows_of(folder)
    assert sorted(row["case"] for row in rows if row["class"] == "core") == [f"case_{n:02d}" for n in range(6)]
    assert rows == [row for number in range(3) for row in rows_of(folder / f"fold_{number}")]
    summary = json.loads((folder / "evaluation" / "summary.json").read_text())
    assert summary["classes"]["core"]["dice"]["n"] == 6
    assert list((folder / "evaluation" / "overlays").glob("worst_01_*.png"))
    assert (folder / "report.html").exists() and not (folder / "fold_0" / "prepared").exists()
    stores = {json.loads((folder / f"fold_{n}" / "config.json").read_text())["store"] for n in range(3)}
    assert stores == {str(folder / "prepared")}
    card = (folder / "model_card.md").read_text()
    assert "6 cases, each by the networks that had not been trained on it" in card
    assert "in each of 3 networks" in card and "Cases: 6 cases; in turn each was held out" in card


def test_post_processing_is_chosen_on_all_cases(root, trained, tmp_path):
    folder, done = trained
    assert "post-processing that helps: " in done.stdout and "keep_largest(together=True): " in done.stdout
    chosen = json.loads((folder / "config.json").read_text())["postprocess"]
    trials = [json.loads((folder / f"fold_{n}" / "evaluation" / "postprocess.json").read_text()) for n in range(3)]
    assert sum(map(len, trials)) == 6
    dice = {row["case"]: float(row["dice"]) for row in rows_of(folder) if row["class"] == "core"}
    for name, found in {**trials[0], **trials[1], **trials[2]}.items():
        assert found[""][1] == pytest.approx(dice[name], abs=1e-6)
    common = ("--mode=predict", f"--workdir={folder}", f"--input={root / 'imagesTr' / 'case_00.nii.gz'}")
    masks = []
    for name, chain in (("auto", "auto"), ("named", chosen)):
        out = clinic.launch(*common, f"--output={tmp_path / name}", f"--set=predict.postprocess={chain}")
        assert out.returncode == 0, out.stderr
        masks.append(nibabel.load(tmp_path / name / "case_00.nii.gz").get_fdata())
    np.testing.assert_array_equal(*masks)


def test_the_same_command_goes_on(root, trained):
    folder, _ = trained
    record = folder / "fold_1" / "config.json"
    content = json.loads(record.read_text())
    del content["evaluated"]  # as if it had been stopped before its scores were written
    record.write_text(json.dumps(content))

    def scored():
        return {path.parts[-3]: path.stat().st_mtime_ns for path in sorted(folder.glob("fold_*/evaluation/cases.csv"))}

    before = scored()
    done = launch(root, folder)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    assert [name for name, time in scored().items() if time != before[name]] == ["fold_1"]
    again = clinic.launch("--mode=evaluate", f"--workdir={folder}", f"--average={folder / 'fold_0'}")
    assert again.returncode == 2 and "leave out --average" in again.stderr


def test_predict_averages_the_folds(root, trained, tmp_path):
    folder, _ = trained
    scan = root / "imagesTr" / "case_00.nii.gz"
    common = ("--mode=predict", f"--input={scan}", "--set=predict.probabilities=True")
    done = clinic.launch(*common, f"--workdir={folder}", f"--output={tmp_path / 'all'}")
    assert done.returncode == 0, done.stderr
    more = [f"--average={folder / f'fold_{number}'}" for number in (1, 2)]
    again = clinic.launch(*common, f"--workdir={folder / 'fold_0'}", *more, f"--output={tmp_path / 'each'}")
    assert again.returncode == 0, again.stderr
    first, second = (nibabel.load(tmp_path / name / "case_00.nii.gz").get_fdata() for name in ("all", "each"))
    np.testing.assert_array_equal(first, second)


def test_folder_without_a_trained_fold(root, tmp_path):
    done = launch(root, tmp_path, "--mode=prepare")
    assert done.returncode == 0, done.stderr
    for mode, message in (("evaluate", "fold_0 holds no trained model"), ("predict", "holds no trained fold")):
        flags = (f"--mode={mode}", f"--workdir={tmp_path}")
        where = (f"--input={root / 'imagesTr'}", f"--output={tmp_path / 'out'}") if mode == "predict" else ()
        wrong = clinic.launch(*flags, *where)
        assert wrong.returncode == 2 and message in wrong.stderr, wrong.stderr


def test_all_folds_at_once_are_the_folds_one_by_one(root, trained, tmp_path):
    """Then gone on with for a longer duration, from what every fold has stored."""
    alone, _ = trained
    folder = tmp_path / "together"
    done = launch(root, folder, "--config.train.together=vmap")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trained 2 steps of 3 networks together" in done.stdout
    for number in range(3):
        ours, theirs = (rows_of(run / f"fold_{number}") for run in (folder, alone))
        assert [row["case"] for row in ours] == [row["case"] for row in theirs]
        np.testing.assert_allclose([float(r["dice"]) for r in ours], [float(r["dice"]) for r in theirs], atol=2e-3)
        logs = [
            [json.loads(line) for line in (run / f"fold_{number}" / "metrics.jsonl").read_text().splitlines()]
            for run in (folder, alone)
        ]
        for ours, theirs in zip(*logs, strict=True):
            assert ours.keys() == theirs.keys() and ours["step"] == theirs["step"]
            for name in {"train/loss", "val/dice"} & ours.keys():
                assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-4)
    more = launch(root, folder, "--config.train.together=vmap", "--config.train.total_steps=4", "--mode=train")
    assert more.returncode == 0, more.stderr
    assert "resuming all folds at step 2 of 4" in more.stdout and "trained 4 steps of 3 networks" in more.stdout
    assert all((folder / f"fold_{number}" / "checkpoints" / "4").exists() for number in range(3))
