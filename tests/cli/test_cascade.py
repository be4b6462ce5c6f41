"""data.previous as a user runs it: all folds at first, then a network that sees what they say of unseen cases."""

import json

import clinic
import nibabel
import numpy as np
import pytest

from jaxseg.cli import cascade, inference, workdir
from jaxseg.data import readers, store


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return clinic.msd(tmp_path_factory.mktemp("clinic") / "task", cases=4)


def launch(root, folder, *flags):
    return clinic.launch(
        "--config", clinic.config_file(root.parent), f"--config.data.root={root}", "--config.data.folds=2",
        f"--workdir={folder}", *flags,
    )  # fmt: skip


@pytest.fixture(scope="module")
def stages(root, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    first = launch(root, runs / "low", "--config.data.fold=all", "--config.data.spacing=2,2,2", "--mode=train")
    assert first.returncode == 0 and not first.stderr, first.stdout + first.stderr
    second = launch(root, runs / "cascade", f"--config.data.previous={runs / 'low'}")
    assert second.returncode == 0 and not second.stderr, second.stdout + second.stderr
    return runs / "low", runs / "cascade", second.stdout


def test_every_case_comes_with_the_map_of_the_fold_that_had_not_seen_it(root, stages):
    low, second, said = stages
    assert "previous stage: 4 class maps of" in said
    (maps,) = (second / "prepared" / cascade.FOLDER).iterdir()
    settings = store.stored_settings(second / "prepared")
    cases = {case.name: case for case in store.add_previous(store.open(second / "prepared"), maps)}
    for fold in (low / "fold_0", low / "fold_1"):
        trained = inference.load(fold, workdir.stored_config(fold))
        for name in trained.held_out:
            case = cases.pop(name)
            volume = readers.read(root / "imagesTr" / f"{name}.nii.gz")
            expected = inference.class_map(trained, volume, case.record, settings)
            np.testing.assert_array_equal(store.read_previous(case, (0, 0, 0), case.shape), expected)
            assert expected.shape == case.shape
    assert not cases


def test_the_network_has_a_channel_more_for_each_class(stages):
    _, second, _ = stages
    record = json.loads((second / "config.json").read_text())
    assert len(record["dataset"]["channels"]) == 1
    summary = json.loads((second / "evaluation" / "summary.json").read_text())
    assert summary["classes"]["core"]["dice"]["n"] == 2


def test_other_scans_are_predicted_after_the_average_of_the_folds(root, stages, tmp_path):
    _, second, _ = stages
    scan = root / "imagesTr" / "case_01.nii.gz"
    done = clinic.launch("--mode=predict", f"--workdir={second}", f"--input={scan}", f"--output={tmp_path}")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert nibabel.load(tmp_path / "case_01.nii.gz").shape == nibabel.load(scan).shape


def test_the_same_command_predicts_nothing_again(root, stages):
    low, second, _ = stages
    done = launch(root, second, f"--config.data.previous={low}", "--mode=train")
    assert done.returncode == 0 and "previous stage:" not in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--config.data.previous=nowhere",), "nowhere is not the workdir of a run"),
        (("--config.data.previous={low}/fold_0",), "fold_0 should be a run of all folds"),
        (("--config.data.previous={low}", "--config.data.fold=none"), "data.previous holds cases out fold by fold"),
    ],
)
def test_runs_that_cannot_go_before(root, stages, tmp_path, flags, message):
    low, *_ = stages
    done = launch(root, tmp_path / "run", *(flag.format(low=low) for flag in flags))
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_cases_that_no_fold_has_held_out_are_named(stages, tmp_path):
    low, *_ = stages
    more = clinic.msd(tmp_path / "task", cases=5)
    done = launch(more, tmp_path / "run", f"--config.data.previous={low}")
    assert done.returncode == 2 and "has not held out 1 of 5 cases, such as case_04" in done.stderr
