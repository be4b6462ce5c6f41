"""data.extra: made images are drawn with their share beside the real cases, in every fold, and are never held out."""

import json

import clinic
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from jaxseg.cli import build, extra, folds, prepare, splitting, train, workdir
from jaxseg.config import base_config
from jaxseg.data import store
from jaxseg.typing import UserError

SHAPE = (12, 14, 16)


def fake(place, *, count=3, value=2, shape=SHAPE):
    """Writes made volumes that are of class `value` all over, as no real patch is."""
    for number in range(count):
        image = np.random.default_rng(number).normal(100, 9, shape).astype(np.float32)
        clinic.write_nifti(place / "images" / f"{number}.nii.gz", image)
        clinic.write_nifti(place / "labels" / f"{number}.nii.gz", np.full(shape, value, np.uint8))
    return place


def configuration(root, *places, share=0.25):
    config = base_config()
    config.data.name, config.data.root, config.data.folds = "msd", str(root), 3
    config.data.patch_size, config.data.batch_size = (6, 7, 8), 4
    config.data.extra, config.data.extra_share = tuple(map(str, places)), share
    # A network that traces in a moment.
    config.model = ConfigDict({"name": "pixel_features", "ndim": 3, "features": (4,), "sigmas": (0.7,)})
    config.augment = "none"
    config.train.total_steps, config.train.eval_steps, config.train.eval_cases = 2, 2, 1
    return config


def arguments(config, folder):
    return workdir.Arguments(ConfigDict(config.to_dict(), type_safe=False), folder, (), None, None, False)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return clinic.msd(tmp_path_factory.mktemp("clinic") / "task")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return fake(folder / "a" / "fake"), fake(folder / "b" / "fake", count=2)


@pytest.fixture(scope="module")
def prepared(root, places, tmp_path_factory):
    """Config and workdir of a data set that is prepared with two folders of made images."""
    folder = tmp_path_factory.mktemp("run")
    config = configuration(root, *places)
    prepare.ensure(config, folder)
    return config, folder


def losses(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]


def test_made_cases_are_prepared_alike_but_are_not_of_the_data_set(prepared, root, tmp_path):
    config, folder = prepared
    real = store.open(folder / "prepared")
    assert [case.name for case in real] == [f"case_{number:02d}" for number in range(6)]
    made = extra.stored(config, folder)
    assert [case.name for case in made] == [*(f"made_fake_{n}" for n in range(3)), *(f"made2_fake_{n}" for n in "01")]
    assert {case.shape for case in made} == {SHAPE[::-1]} and made[0].counts == {2: int(np.prod(SHAPE))}
    image = np.asarray(made[0].image)
    assert abs(image.mean()) < 1e-4 and abs(image.std() - 1) < 1e-3  # z-scored, as the channel MRI is
    alone = prepare.ensure(configuration(root), tmp_path)[1]
    record = workdir.record(folder)
    assert "extra" not in alone and record["settings"] == json.loads(json.dumps(alone["settings"]))
    assert record["extra"] == {"folders": list(config.data.extra), "cases": 5}


@pytest.mark.parametrize("share", [0.25, 0.6])
def test_the_share_of_the_samples_comes_from_made_cases(prepared, share):
    config, folder = prepared
    config = ConfigDict(config.to_dict(), type_safe=False)
    config.data.extra_share = share
    training, _ = splitting.split(config, store.open(folder / "prepared"))
    drawn = extra.beside(config, folder, training)
    steps, found = 75, []
    stream = build.batches(config, drawn.cases, start_step=0, weights=drawn.weights)
    for _, batch in zip(range(steps), stream):
        found += (batch["label"] == 2).all(axis=(1, 2, 3)).tolist()
    stream.close()
    assert len(found) == 300
    deviation = np.sqrt(share * (1 - share) / len(found))
    assert abs(np.mean(found) - share) < 3 * deviation


def test_they_are_in_every_fold_and_never_held_out(prepared):
    config, folder = prepared
    stored = store.open(folder / "prepared")
    made = [case.name for case in extra.stored(config, folder)]
    for own in folds.each(arguments(config, folder)):
        training, held_out = splitting.split(own.config, stored)
        drawn = extra.beside(own.config, own.workdir, training)
        assert [case.name for case in drawn.cases] == [case.name for case in training] + made
        assert not {case.name for case in held_out} & {case.name for case in drawn.cases}
        assert drawn.words == " and beside them 5 made ones, 25 % of the samples"


def test_real_cases_keep_the_proportions_of_their_own_weights(prepared):
    config, folder = prepared
    training, _ = splitting.split(config, store.open(folder / "prepared"))
    sampling = {case.name: place + 1.0 for place, case in enumerate(training)}
    drawn = extra.beside(config, folder, training, sampling=sampling)
    np.testing.assert_allclose(drawn.weights, [*(0.75 * np.arange(1, 5) / 10), *([0.05] * 5)])
    twice = extra.beside(config, folder, [*training, training[0]])  # a bootstrap resample
    np.testing.assert_allclose(twice.weights, [0.15] * 5 + [0.05] * 5)


@pytest.mark.parametrize("change", [{"extra": ()}, {"extra_share": 0.0}])
def test_without_them_cases_are_drawn_as_ever(prepared, change):
    config, folder = prepared
    config = ConfigDict(config.to_dict(), type_safe=False)
    config.data.update(change)
    training, _ = splitting.split(config, store.open(folder / "prepared"))
    assert extra.beside(config, folder, training) == extra.Drawn(training, None, "")
    weights = {case.name: 2.0 for case in training}
    assert extra.beside(config, folder, training, sampling=weights).weights == [2.0] * len(training)


def test_only_what_has_changed_is_prepared_again(root, tmp_path, capsys):
    place = fake(tmp_path / "changing")
    config = configuration(root, place)
    prepare.ensure(config, tmp_path / "run")
    fake(place, count=1, value=1)  # the first case, with another label
    (place / "images" / "2.nii.gz").unlink()
    (place / "labels" / "2.nii.gz").unlink()
    capsys.readouterr()
    record = prepare.ensure(config, tmp_path / "run")[1]
    assert f"prepared 1 made cases of {place}, 1 were up to date" in capsys.readouterr().out
    assert record["extra"]["cases"] == 2
    assert [sorted(case.counts) for case in extra.stored(config, tmp_path / "run")] == [[1], [2]]


def test_trained_alone_or_folds_together_the_same_samples_are_drawn(prepared, tmp_path, capsys):
    config, folder = prepared
    config = ConfigDict(config.to_dict(), type_safe=False)
    config.data.store, config.data.folds, config.train.log_steps = str(folder / "prepared"), 2, 1
    config.train.total_steps, config.train.total_epochs = None, 2.0
    train.train(arguments(config, tmp_path / "alone"))
    said = capsys.readouterr().out
    assert "3 training cases and beside them 5 made ones, 25 % of the samples, 3 held out (fold 0)" in said
    record = workdir.record(tmp_path / "alone")
    assert record["extra"]["cases"] == 5
    named = [name for part in record["split"].values() for name in part]
    assert sorted(named) == [f"case_{number:02d}" for number in range(6)]
    config.data.fold, config.train.together = "all", "vmap"
    assert folds.train(arguments(config, tmp_path / "folds"))
    assert workdir.record(tmp_path / "folds" / "fold_0")["extra"] == record["extra"]
    alone, together = losses(tmp_path / "alone"), losses(tmp_path / "folds" / "fold_0")
    assert [step for step, _ in alone] == [1, 2]  # epochs are of the three real cases
    np.testing.assert_allclose(alone, together, rtol=1e-5)


def test_held_out_cases_that_made_the_images_are_told(prepared, tmp_path, capsys):
    place = fake(tmp_path / "fake", count=1)
    config, generator = configuration("unread", place), tmp_path / "gan"
    told = {"classes": [], "label_values": [], "channels": [], "workdir": str(generator)}
    (place / "provenance.json").write_text(json.dumps(told))
    extra.warn(config, ["case_01", "case_04"])  # nothing is known about the generator
    generator.mkdir()
    split = {"training": ["case_00", "case_01"], "held out": ["case_04"]}
    (generator / "config.json").write_text(json.dumps({"split": split}))
    extra.warn(config, ["case_04", "case_05"])
    assert not capsys.readouterr().out
    extra.warn(config, ["case_01", "case_04"])
    assert f"1 of 2 held-out cases, such as case_01, trained the network that made the images of {place}" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("change", [{"extra": ()}, {"extra_share": 0.5}])
def test_other_made_images_are_another_experiment(prepared, change):
    config, folder = prepared
    config = ConfigDict(config.to_dict(), type_safe=False)
    assert workdir.begin(folder, config)["extra"]["cases"] == 5
    config.data.update(change)
    with pytest.raises(UserError, match=f"data.{next(iter(change))} differ"):
        workdir.begin(folder, config)


def test_what_does_not_fit_is_told_before_anything_is_prepared(root, places, tmp_path):
    flat = tmp_path / "flat"
    for part, high in (("images", 200), ("labels", 2)):
        (flat / part).mkdir(parents=True)
        Image.fromarray((np.arange(30).reshape(5, 6) % high).astype(np.uint8)).save(flat / part / "x.png")
    for extras, words in (
        ((flat,), "whose images have 2 axes; the network takes 3"),
        ((places[0], tmp_path / "nowhere"), "nowhere does not exist"),
        ((places[0], f"{places[0]}/"), "twice; name each folder once"),
    ):
        config = configuration(root, *extras)
        config.data.extra = tuple(map(str, extras))
        with pytest.raises(UserError, match=words):
            prepare.ensure(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_real_cases_are_alone_after_a_share_of_the_updates():
    drawn = extra.Drawn(["real", "made"], [0.5, 0.5], alone=[1.0, 0.0])
    weights = drawn.by_step(0.7, 10)
    assert [weights(step) for step in (0, 6, 7, 9)] == [[0.5, 0.5], [0.5, 0.5], [1.0, 0.0], [1.0, 0.0]]
    assert drawn.by_step(1.0, 10) == [0.5, 0.5]  # to the end
    assert extra.Drawn(["real"], None).by_step(0.7, 10) is None  # there are none
