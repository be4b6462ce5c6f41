"""config.ensemble as a user runs it: one command trains, scores and reports several networks as one."""

import csv
import json

import clinic
import nibabel
import numpy as np
import pytest

from jaxseg import validation
from jaxseg.cli import inference, workdir
from jaxseg.cli import predict as prediction
from jaxseg.config import base_config
from jaxseg.data import readers
from jaxseg.data.datasets import inputs
from jaxseg.train import checkpoint
from jaxseg.transfer import stored
from jaxseg.typing import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return clinic.msd(tmp_path_factory.mktemp("clinic") / "task")


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    """Returns `(kind, *flags) -> (workdir, what was printed)`; all runs share the prepared data."""
    place = tmp_path_factory.mktemp("ensembles")
    config = clinic.config_file(place)

    def launch(name, *flags, status=0):
        options = [f"--config.ensemble.{flag}" if not flag.startswith("--") else flag for flag in flags]
        done = clinic.launch(
            "--config", config, f"--config.data.root={root}", f"--config.data.store={place / 'prepared'}",
            *options, f"--workdir={place / name}",
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        assert status or not done.stderr, done.stderr
        return place / name, done.stdout + done.stderr

    return launch


@pytest.fixture(scope="module")
def bagged(run):
    """No case is held out: each is scored by the members whose resample left it out."""
    return run("bagging", "kind=bagging", "members=3", "--config.data.fold=none")


def loaded(folder):
    """A workdir as `--mode predict` sees it, in this process."""
    return inference.load(folder, workdir.stored_config(folder))


def arguments_of(folder, config):
    return workdir.Arguments(config, folder, (), None, None, False)


def record(folder):
    return json.loads((folder / "config.json").read_text())


def rows_of(folder):
    with (folder / "cases.csv").open() as file:
        return list(csv.DictReader(file))


def params_of(folder):
    step = max(int(path.name) for path in (folder / checkpoint.FOLDER).glob("[0-9]*"))
    return stored.read_tree(folder / checkpoint.FOLDER / str(step) / "state")


def kernel(tree):
    return np.asarray(tree["params"]["model"]["head"]["kernel"])


def test_out_of_bag_scores_without_a_held_out_set(bagged):
    folder, printed = bagged
    members = [record(folder / f"member_{number}")["split"] for number in range(3)]
    assert all(len(split["training"]) == 6 for split in members)  # as many as there are, some of them twice
    assert all(
        set(split["training"]) | set(split["held out"]) == {f"case_{n:02d}" for n in range(6)} for split in members
    )
    assert all(not set(split["training"]) & set(split["held out"]) for split in members)
    unseen = sorted({name for split in members for name in split["held out"]})
    assert sorted({row["case"] for row in rows_of(folder / "evaluation")}) == unseen
    assert "out-of-bag" in printed and "calibration error" in printed
    table = json.loads((folder / "evaluation" / "members.json").read_text())
    assert [one["name"] for one in table["members"]] == ["member_0", "member_1", "member_2"]
    assert table["kind"] == "bagging" and set(table["ensemble"]) == {"shell", "core"}
    found = json.loads((folder / "evaluation" / "certainty.json").read_text())
    assert found["n_pixels"] == sum(found["bins"]["count"]) > 0 and 0 <= found["ece"] <= 1
    page = (folder / "report.html").read_text()
    assert "<h2>Members</h2>" in page and "<h2>Certainty</h2>" in page


def test_the_members_at_once_are_the_members_one_by_one(run, bagged):
    """Their seeds, resamples and augmentation are their own; the batches and the key of each are those it has alone."""
    flags = ("kind=bagging", "members=3", "--config.data.fold=none", "together=unroll", "--mode=train")
    together, _ = run("together", *flags)
    kernels = []
    for number in range(3):
        alone, at_once = (params_of(folder / f"member_{number}") for folder in (bagged[0], together))
        np.testing.assert_allclose(kernel(at_once), kernel(alone), atol=2e-5)
        kernels.append(kernel(alone))
    assert not np.allclose(kernels[0], kernels[1]) and not np.allclose(kernels[1], kernels[2])


def test_predict_gives_the_mean_and_its_uncertainty(root, bagged, tmp_path):
    folder, _ = bagged
    scan = root / "imagesTr" / "case_00.nii.gz"
    flags = ("--mode=predict", f"--input={scan}", "--set=predict.probabilities=True")
    maps = "--set=predict.uncertainty=entropy,mutual_information,disagreement"
    done = clinic.launch(*flags, maps, f"--workdir={folder}", f"--output={tmp_path / 'all'}")
    assert done.returncode == 0, done.stderr
    volume = readers.read(scan)
    alone = [loaded(folder / f"member_{number}").predict(volume, keep_probabilities=True) for number in range(3)]
    each = [one.probabilities.transpose(2, 1, 0, 3) for one in alone]  # as nibabel has them
    mean = nibabel.load(tmp_path / "all" / "case_00_probabilities.nii.gz").get_fdata()
    np.testing.assert_allclose(mean, np.mean(each, axis=0), atol=1e-6)
    own = nibabel.load(scan)
    maps = {
        name: nibabel.load(tmp_path / "all" / f"case_00_{name}.nii.gz") for name in ("entropy", "mutual_information")
    }
    for image in maps.values():
        assert image.shape == own.shape and np.array_equal(image.affine, own.affine)
    entropy = -(mean * np.log(np.maximum(mean, 1e-12))).sum(-1) / np.log(3)
    np.testing.assert_allclose(maps["entropy"].get_fdata(), entropy, atol=1e-5)
    within = np.mean([-(p * np.log(np.maximum(p, 1e-12))).sum(-1) / np.log(3) for p in each], axis=0)
    np.testing.assert_allclose(maps["mutual_information"].get_fdata(), np.maximum(entropy - within, 0), atol=1e-5)
    assert (tmp_path / "all" / "case_00_disagreement.nii.gz").exists()
    one = loaded(folder / "member_0")
    one.config.predict.uncertainty = "disagreement"
    with pytest.raises(UserError, match="members cannot differ"):
        prediction._finder(arguments_of(folder / "member_0", one.config), one)


def test_the_same_command_trains_nothing_again_and_combines_otherwise(run, bagged):
    folder, _ = bagged
    before = {path: path.stat().st_mtime_ns for path in folder.glob("member_*/checkpoints/*/state")}
    again, _ = run("bagging", "kind=bagging", "members=3", "--config.data.fold=none", "combine=staple")
    assert again == folder and record(folder)["ensemble"]["combine"] == "staple"
    assert {path: path.stat().st_mtime_ns for path in folder.glob("member_*/checkpoints/*/state")} == before


def test_boosting_draws_the_hard_cases_more_often(run):
    folder, printed = run("boosting", "kind=boosting", "members=3", "patience=0", "validation=0.25")
    found = record(folder)["ensemble"]
    assert found["combine"] == "logits" and len(found["members"]) == len(found["weights"]) >= 1
    assert all(weight >= 0 for weight in found["weights"]) and "training cases" in printed
    held_out = set(record(folder)["split"]["held out"])
    split = record(folder / "member_0")["split"]
    assert not held_out & {*split["training"], *split["held out"]}  # chosen on cases set aside, not on the fold
    assert {row["case"] for row in rows_of(folder / "evaluation")} == held_out


def test_gradient_boosting_adds_to_the_frozen_sum(run):
    folder, _ = run("gradient", "kind=gradient_boosting", "members=2", "patience=0", "validation=0.25")
    first, second = (params_of(folder / f"member_{number}") for number in range(2))
    earlier = second["extra"]["earlier"]["0"]["params"]["head"]["kernel"]
    np.testing.assert_array_equal(earlier, kernel(first))
    assert not np.allclose(kernel(second), kernel(first))
    found = record(folder)["ensemble"]
    scores = [entry["validation"] for entry in found["rounds"]]
    assert "Each adds to the sum of those before it" in (folder / "report.html").read_text()
    assert found["members"] == [f"member_{int(np.argmax(scores))}"] and len(scores) == 2
    assert (folder / "evaluation" / "certainty.json").exists()


def test_snapshots_go_on_from_each_other_and_average_their_weights(run):
    folder, _ = run("snapshots", "kind=snapshots", "members=2", "combine=weights", "--config.train.total_steps=8")
    kernels = [kernel(params_of(folder / f"member_{number}")) for number in range(2)]
    np.testing.assert_allclose(kernel(params_of(folder / "averaged")), np.mean(kernels, axis=0), atol=1e-7)
    assert record(folder / "member_1")["config"]["train"]["total_steps"] == 4
    _, printed = run("snapshots", "kind=snapshots", "members=3", "--config.train.total_steps=8", status=2)
    assert "ensemble.members" in printed


def test_a_soup_keeps_what_helps(run):
    folder, printed = run("soup", "kind=soup", "members=2", "validation=0.25", "together=unroll")
    found = record(folder)["ensemble"]
    assert found["combine"] == "greedy" and found["averaged"] == "averaged" and "greedy soup of" in printed
    assert record(folder / "trunk")["config"]["optim"]["schedule"] == "constant"
    chosen = [kernel(params_of(folder / name)) for name in found["kept"]]
    np.testing.assert_allclose(kernel(params_of(folder / "averaged")), np.mean(chosen, axis=0), atol=1e-7)


def test_stacking_never_sees_what_it_is_judged_by(run):
    flags = ("kind=stacking", "folds=2", "networks=('pixel_features(features=(4,),sigmas=(0.7,))','logistic')")
    folder, printed = run("stacking", *flags)
    whole = record(folder)["split"]
    seen = []
    for number in range(4):  # network 0 of folds 0 and 1, then network 1
        split = record(folder / f"member_{number}")["split"]
        assert sorted(split["training"] + split["held out"]) == sorted(whole["training"])
        assert not set(split["training"]) & set(split["held out"])
        seen.append(split["held out"])
    assert seen[:2] == seen[2:] and sorted(seen[0] + seen[1]) == sorted(whole["training"])
    shares = record(folder)["ensemble"]["shares"]
    assert sum(shares.values()) == pytest.approx(1) and "weights of the networks" in printed
    assert json.loads((folder / "learner" / "model.json").read_text())["model"] == "logistic"
    table = json.loads((folder / "evaluation" / "members.json").read_text())
    assert [one["weight"] for one in table["members"]] == pytest.approx(list(shares.values()))
    run("stacking", *flags, "learner=convolutional")
    assert json.loads((folder / "learner" / "model.json").read_text())["model"] == "stacking_conv"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "bogging"}, "ensemble.kind must be one of seeds"),
        ({"kind": "seeds", "combine": "greedy"}, "ensemble.combine of seeds must be auto or one of"),
        ({"kind": "seeds", "members": 1}, "ensemble.members must be at least 2"),
        ({"kind": "stacking", "networks": ("unet",)}, "at least two networks"),
        ({"kind": "boosting", "together": "vmap"}, "ensemble.together is for seeds, bagging, soup"),
        ({"kind": "soup", "trunk": 1.0}, "ensemble.trunk between 0 and 1"),
        ({"kind": "boosting", "validation": 0.0}, "ensemble.validation must be a share"),
    ],
)
def test_settings_that_contradict_each_other(fields, message):
    config = base_config()
    config.data.name, config.train.total_steps = "msd", 4
    validation.validate(config)
    config.ensemble.update(fields)
    with pytest.raises(UserError, match=message):
        validation.validate(config)


def test_options_of_prediction_that_are_wrong():
    config = base_config()
    config.data.name, config.train.total_steps, config.data.fold = "msd", 4, "all"
    config.ensemble.kind, config.predict.uncertainty, config.predict.temperature = "seeds", "entropie", "-1"
    with pytest.raises(UserError) as caught:
        validation.validate(config)
    for part in ("one fold at a time", "uncertainty takes entropy", "temperature must be auto or a positive number"):
        assert part in str(caught.value)


def test_a_network_that_there_is_not(run, tmp_path):
    _, printed = run(tmp_path / "wrong", "kind=stacking", "networks=('unet','unett')", status=2)
    assert "ensemble.networks names 'unett'" in printed and "Traceback" not in printed


def test_an_unfinished_ensemble_says_so(run, bagged):
    folder, _ = run("only", "kind=seeds", "members=2", "--mode=prepare")
    with pytest.raises(UserError, match="no finished ensemble"):
        loaded(folder)
    with pytest.raises(UserError, match="leave out --average"):
        inference.load(bagged[0], workdir.stored_config(bagged[0]), others=[str(folder)])


def test_overlapping_regions_an_ignore_label_and_a_temperature(tmp_path):
    root = clinic.nnunet_raw(tmp_path / "raw")
    config = ("--config", clinic.config_file(tmp_path), "--config.data.name=nnunet_raw")
    common = (*config, f"--config.data.root={root}", f"--workdir={tmp_path / 'run'}")
    kind = ("--config.ensemble.kind=seeds", "--config.ensemble.members=2")
    wrong = clinic.launch(*common, *kind, "--config.ensemble.combine=vote")
    assert wrong.returncode == 2 and "ensemble.combine='vote' needs exclusive classes" in wrong.stderr
    done = clinic.launch(*common, *kind, "--config.ensemble.combine=logits")
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    found = json.loads((tmp_path / "run" / "evaluation" / "certainty.json").read_text())
    assert (
        set(found["quality"])
        == set(found["agreement"])
        == {row["class"] for row in rows_of(tmp_path / "run" / "evaluation")}
    )
    temperature = record(tmp_path / "run")["temperature"]
    assert temperature == found["temperature"] and temperature > 0
    flags = (
        "--mode=predict",
        f"--workdir={tmp_path / 'run'}",
        f"--input={root / 'imagesTr'}",
        "--set=predict.probabilities=True",
    )
    out = clinic.launch(*flags, f"--output={tmp_path / 'scaled'}", "--set=predict.temperature='auto'")
    assert out.returncode == 0, out.stderr
    cases = {case.name: case for case in inputs.list_inputs(str(root / "imagesTr"), channels=2)}
    plain = loaded(tmp_path / "run").predict(inputs.read_case(cases["p0"]), keep_probabilities=True)
    scaled = nibabel.load(tmp_path / "scaled" / "p0_probabilities.nii.gz").get_fdata()
    images = [image.clip(1e-6, 1 - 1e-6) for image in (plain.probabilities.transpose(2, 1, 0, 3), scaled)]
    odds = [np.log(image / (1 - image)) for image in images]
    inside = np.abs(odds[0]) < 8 * min(1.0, temperature)  # beyond, probabilities are too near 0 or 1 for float32
    np.testing.assert_allclose(odds[1][inside], odds[0][inside] / temperature, rtol=1e-3, atol=1e-3)
    found = nibabel.load(tmp_path / "scaled" / "p0.nii.gz").get_fdata()
    np.testing.assert_array_equal(found, plain.labels.transpose(2, 1, 0))  # the file's values are the class ids
