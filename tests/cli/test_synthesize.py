"""--mode synthesize with a generator that paints by hand: what is written, from which label maps, what is refused."""

import json
import sys

import clinic
import numpy as np
import pytest
from absl import flags
from PIL import Image

from jaxseg import config as configs
from jaxseg import predict, validation
from jaxseg.cli import build, inference, kept_labels, label_source, main, prepare, synthesize, workdir
from jaxseg.data import made, preprocess, readers, store
from jaxseg.data.datasets import image_mask
from jaxseg.typing import IGNORE, UserError, Volume

VALUES = np.array([[-1.5], [0.0], [1.5]], np.float32)  # standard deviations that the generator gives each class


def paint(segmentation, style):
    """Classes at their values, and some noise that the style decides."""
    noise = np.random.default_rng(np.abs(style * 1e6).astype(np.uint32).ravel()).normal(0, 0.1, segmentation.shape[:-1])
    return segmentation @ VALUES + noise[..., None].astype(np.float32)


def find(volume):
    """A segmenter that knows those values."""
    return predict.Prediction(np.digitize(volume.data[..., 0], (-0.75, 0.75)).astype(np.int16), None)


def generator(ndim, sample=paint):
    return synthesize.Generator(sample, 4, (8,) * ndim, 40)


def trained(folder, root, *, ndim, **fields):
    """A workdir with prepared cases, of which all but the last are trained on; nothing is trained."""
    config = configs.base_config()
    config.data.name, config.data.root = "msd", str(root)
    config.data.patch_size, config.model.ndim, config.model.features = (8,) * ndim, ndim, (4, 8)
    config.data.normalize, config.data.crop = "zscore", False
    config.train.total_steps = 1
    config.synthesis.labels = "recombine|elastic(magnitude=1.0, sigma=4.0)"
    with config.unlocked():
        for path, value in fields.items():
            group, name = path.split("__")
            config[group][name] = value
    prepare.ensure(config, folder)
    names = [case.name for case in store.open(folder / "prepared")]
    workdir.update_record(folder, split={"training": names[:-1], "held out": names[-1:]})
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return clinic.msd(tmp_path_factory.mktemp("data"), cases=4)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory, root):
    return trained(tmp_path_factory.mktemp("volumes"), root, ndim=3)


@pytest.fixture(scope="module")
def slices(tmp_path_factory, root):
    return trained(tmp_path_factory.mktemp("slices"), root, ndim=2)


def arguments(folder, output, *, pairs=2, labels=None, overwrite=False, text=None, **options):
    config = workdir.stored_config(folder)
    config.synthesis.labels = text or config.synthesis.labels
    for name, value in options.items():
        config.synthesis[name] = value
    return workdir.Arguments(
        config, folder, (), str(output) if output else None, str(labels) if labels else None, overwrite, pairs=pairs
    )


def content(folder):
    """The bytes of each file but the record, which says when it was made."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name.startswith(("images", "labels"))}


def record_of(folder):
    return json.loads((folder / "provenance.json").read_text())


def test_volumes_come_with_spacing_labels_and_a_whole_record(volumes, tmp_path, capsys):
    synthesize.make(arguments(volumes, tmp_path / "out"), generator(3))
    names = ["synthetic_000000", "synthetic_000001"]
    cases = {case.name: case for case in store.open(volumes / "prepared")}
    training = sorted(cases)[:-1]
    median = np.median([cases[name].shape for name in training], axis=0).astype(int)
    for name in names:
        image = readers.read(tmp_path / f"out/images/{name}.nii.gz")
        label = readers.read_label(tmp_path / f"out/labels/{name}.nii.gz")
        assert image.data.dtype == np.float32 and image.data.shape[:-1] == label.data.shape == tuple(median)
        assert image.spacing == pytest.approx((1.2, 1.0, 1.5))  # clinic's files have it in x, y, z
        assert set(np.unique(label.data)) == {0, 1, 2}
        # -1.5, 0 and 1.5 of the 3 standard deviations that stand for 1
        np.testing.assert_allclose(image.data[..., 0], label.data / 2 - 0.5, atol=0.25)
    record = record_of(tmp_path / "out")
    assert record["synthetic"] is True and "real patient" in record["what"]
    assert record["training_cases"] == training and record["workdir"] == str(volumes)
    assert (record["step"], record["seed"], record["pairs"]) == (40, 0, 2)
    assert record["labels"] == "recombine|elastic(magnitude=1.0, sigma=4.0)"
    assert record["classes"] == ["background", "shell", "core"] and record["label_values"] == [0, 1, 2]
    assert record["channels"] == ["MRI"] and record["normalize"] == ["zscore"] and record["created"]
    assert record["files"] == {name: {"label_from": record["labels"], "dice": None, "tries": 1} for name in names}
    assert f"2 images with labels in {tmp_path / 'out'} (checkpoint 40 of {volumes})" in capsys.readouterr().out


def test_what_is_written_is_a_data_set_for_training(volumes, tmp_path):
    synthesize.make(arguments(volumes, tmp_path / "out"), generator(3))
    dataset = image_mask.load(root=tmp_path / "out", images="images", labels="labels", label_values=(0, 1, 2))
    sample = dataset.load(dataset.cases[1])
    assert sample.image.data.shape[:-1] == sample.label.data.shape


def test_a_2d_generator_makes_pictures_from_slices_with_foreground(slices, tmp_path):
    synthesize.make(arguments(slices, tmp_path / "out", pairs=3), generator(2))
    assert sorted(content(tmp_path / "out"))[:2] == ["images/synthetic_000000.png", "images/synthetic_000001.png"]
    label = readers.read_label(tmp_path / "out/labels/synthetic_000002.png").data
    image = readers.read(tmp_path / "out/images/synthetic_000002.png").data[..., 0]
    assert label.shape == image.shape and label.ndim == 2 and label.any()
    np.testing.assert_allclose(image, (label / 2 + 0.5) / 2 * 255, atol=20)
    with Image.open(tmp_path / "out/images/synthetic_000002.png") as file:
        assert file.text["Description"] == "synthetic (jaxseg)"


def test_the_same_command_gives_the_same_bytes_and_more_begin_with_fewer(slices, volumes, tmp_path):
    for folder, ndim in ((slices, 2), (volumes, 3)):
        outputs = [tmp_path / f"{ndim}_{name}" for name in ("first", "again", "more", "other")]
        for output, pairs, seed in zip(outputs, (2, 2, 3, 2), (0, 0, 0, 1)):
            synthesize.make(arguments(folder, output, pairs=pairs, seed=seed), generator(ndim))
        first, again, more, other = map(content, outputs)
        assert first == again and len(first) == 4
        assert len(more) == 6 and first.items() <= more.items()
        assert not first.items() & other.items()


def test_label_maps_of_the_user_are_used_in_order_with_new_styles(slices, tmp_path):
    (tmp_path / "mine").mkdir()
    maps = {name: np.zeros((10, 13), np.uint8) for name in ("b", "a", "c")}
    maps["a"][2:5, 3:9], maps["b"][1:4, 2:4] = 1, 2
    for name, label in maps.items():
        Image.fromarray(label).save(tmp_path / "mine" / f"{name}.png")
    given = arguments(slices, tmp_path / "out", pairs=4, labels=tmp_path / "mine")
    synthesize.make(given, generator(2))
    for number, name in enumerate("abca"):
        written = readers.read_label(tmp_path / f"out/labels/synthetic_{number:06d}.png").data
        np.testing.assert_array_equal(written, maps[name])
    files = record_of(tmp_path / "out")["files"]
    assert [row["label_from"] for row in files.values()] == ["a.png", "b.png", "c.png", "a.png"]
    images = [readers.read(tmp_path / f"out/images/synthetic_00000{n}.png").data for n in (0, 3)]
    assert (images[0] != images[1]).any()
    assert record_of(tmp_path / "out")["labels"] == str(tmp_path / "mine")


def test_background_maps_are_told_once_with_their_number(slices, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    for name in "ab":
        Image.fromarray(np.zeros((9, 8), np.uint8)).save(tmp_path / "mine" / f"{name}.png")
    synthesize.make(arguments(slices, tmp_path / "out", labels=tmp_path / "mine"), generator(2))
    assert capsys.readouterr().out.count(f"2 of the label maps in {tmp_path / 'mine'} show background only") == 1


def test_repeated_pairs_of_a_generator_without_style_are_told(slices, tmp_path, capsys):
    label = np.eye(9, dtype=np.uint8)
    Image.fromarray(label).save(tmp_path / "a.png")
    seen = []

    def sample(segmentation, style):
        seen.append(style.shape)
        return segmentation @ VALUES

    for pairs in (1, 3):
        given = arguments(slices, tmp_path / f"out{pairs}", pairs=pairs, labels=tmp_path / "a.png")
        synthesize.make(given, generator(2, sample)._replace(style_features=0))
    assert seen == [(1, 0)] * 4
    assert capsys.readouterr().out.count("takes no style, so after 1 pairs the same ones follow again") == 1


def test_volumes_of_the_user_are_turned_as_in_training_and_cut_for_a_2d_generator(slices, volumes, tmp_path, capsys):
    label = np.zeros((9, 11, 12), np.int16)  # x, y, z
    label[2:4, 3:8, 4:6] = 1
    clinic.write_nifti(tmp_path / "mine" / "v.nii.gz", label[::-1], spacing=(-2.0, 1.0, 3.0))  # left to right
    synthesize.make(arguments(volumes, tmp_path / "whole", pairs=1, labels=tmp_path / "mine"), generator(3))
    written = readers.read_label(tmp_path / "whole/labels/synthetic_000000.nii.gz")
    np.testing.assert_array_equal(written.data, label.transpose(2, 1, 0))
    assert written.spacing == (3.0, 1.0, 2.0)
    synthesize.make(arguments(slices, tmp_path / "cut", pairs=3, labels=tmp_path / "mine"), generator(2))
    found = record_of(tmp_path / "cut")["files"]
    assert [row["label_from"] for row in found.values()] == [f"v.nii.gz, slice {n}" for n in (4, 5, 4)]
    np.testing.assert_array_equal(
        readers.read_label(tmp_path / "cut/labels/synthetic_000001.png").data, label[:, :, 5].T
    )


def test_an_axis_order_is_undone_in_files(root, tmp_path):
    folder = trained(tmp_path / "w", root, ndim=3, data__axis_order=(2, 0, 1))
    label = np.zeros((9, 11, 12), np.int16)
    label[2:4, 3:8, 4:6] = 1
    clinic.write_nifti(tmp_path / "mine" / "v.nii.gz", label, spacing=(2.0, 1.0, 3.0))
    seen = []

    def sample(segmentation, style):
        seen.append(segmentation.shape)
        return paint(segmentation, style)

    given = arguments(folder, tmp_path / "out", pairs=1, labels=tmp_path / "mine")
    synthesize.make(given, generator(3, sample))
    assert seen == [(1, 16, 16, 16, 3)]
    written = readers.read_label(tmp_path / "out/labels/synthetic_000000.nii.gz")
    np.testing.assert_array_equal(written.data, label.transpose(2, 1, 0))
    assert written.spacing == (3.0, 1.0, 2.0)


def test_a_voxel_size_that_was_not_trained_at_is_told(root, tmp_path, capsys):
    folder = trained(tmp_path / "w", root, ndim=3, data__spacing="1,1,1")
    label = np.ones((9, 8, 8), np.int16)
    clinic.write_nifti(tmp_path / "mine" / "v.nii.gz", label, spacing=(1.0, 1.0, 3.0))
    synthesize.make(arguments(folder, tmp_path / "out", pairs=1, labels=tmp_path / "mine"), generator(3))
    assert "1 of the label maps" in (said := capsys.readouterr().out) and "another voxel size" in said


def test_values_of_the_user_come_back_with_what_may_not_count(tmp_path):
    root = clinic.nnunet_raw(tmp_path / "data", cases=5)
    config = configs.base_config()
    config.data.name, config.data.root, config.data.patch_size = "nnunet_raw", str(root), (8, 8, 8)
    config.data.normalize, config.train.total_steps = "zscore", 1
    prepare.ensure(config, tmp_path / "w")
    known = build.stored_facts(workdir.record(tmp_path / "w"))
    assert known.ignore_value == 9 and len(known.channels) == 2
    seen = []

    def sample(segmentation, style):
        seen.append(segmentation)
        return np.concatenate([paint(segmentation, style), -paint(segmentation, style)], axis=-1)

    given = arguments(tmp_path / "w", tmp_path / "out", pairs=1, labels=root / "labelsTr" / "p0.nii.gz")
    synthesize.make(given, generator(3, sample))
    truth = readers.read_label(root / "labelsTr" / "p0.nii.gz").data
    written = readers.read_label(tmp_path / "out/labels/synthetic_000000.nii.gz").data
    np.testing.assert_array_equal(written, truth)
    assert (written == 9).any() and not seen[0][0][:, :, 0].any()  # x = 0, which nobody labelled
    assert readers.read(tmp_path / "out/images/synthetic_000000.nii.gz").data.shape[-1] == 2
    cases = store.open(tmp_path / "w" / "prepared")
    assert all((np.asarray(case.label.read().result()) == IGNORE).any() for case in cases)
    assert all(label.min() == 0 for label in label_source.stored_maps(cases, ndim=3))  # background to samplers


def test_many_slices_are_thinned_evenly(slices, monkeypatch, capsys):
    cases = store.open(slices / "prepared")
    everything = label_source.stored_maps(cases[:1], ndim=2)
    monkeypatch.setattr(label_source, "MOST_MAPS", 3)
    few = label_source.stored_maps(cases[:1], ndim=2)
    assert f"made of 3 of {len(everything)} maps" in capsys.readouterr().out
    for label, place in zip(few, (0, (len(everything) - 1) // 2, len(everything) - 1), strict=True):
        np.testing.assert_array_equal(label, everything[place])


@pytest.mark.parametrize("axes", [2, 3])
def test_the_dice_of_a_segmenter_is_of_the_foreground_that_is_there(axes):
    label = np.zeros((6, 8), np.int16)
    label[1:3, 2:6] = 2
    volumes = []

    def half(volume):
        volumes.append(volume)
        labels = np.zeros(volume.data.shape[:-1], np.int16)
        labels[..., 1:2, 2:6] = 2
        labels[..., 0, 0] = 1  # a class that the map does not have
        return predict.Prediction(labels, None)

    settings = preprocess.Settings(normalize=("ct",), statistics=({"std": 100.0, "mean": 40.0},))
    score = kept_labels.of(half, 3, settings, spacing=(5.0, 2.0, 1.0), axes=axes)
    image = np.full((6, 8, 1), 0.5, np.float32)
    assert score(image, made.Drawn(label, "a")) == pytest.approx(2 * 4 / (4 + 8))
    assert volumes[0].spacing == (5.0, 2.0, 1.0)[-axes:] and volumes[0].data.shape == (1, 6, 8, 1)[3 - axes :]
    np.testing.assert_allclose(volumes[0].data, 90.0)
    assert score(image, made.Drawn(np.zeros_like(label), "b")) is None and len(volumes) == 1


def segmenter(monkeypatch, volumes, find=find, **changes):
    """Makes a workdir count as a trained run that segments by `find`."""
    record = workdir.record(volumes)
    known = build.stored_facts(record)._replace(**changes)
    config = workdir.stored_config(volumes)
    monkeypatch.setattr(inference, "load", lambda *_: inference.Trained(config, record, known, (), 9, find))
    return str(volumes)


def test_images_that_lose_their_labels_are_made_anew(slices, tmp_path, monkeypatch, capsys):
    calls = []

    def often(segmentation, style):
        calls.append(len(calls))
        return paint(segmentation, style) + (1.5 if len(calls) % 3 else 0)  # two of three look like the next class

    place = segmenter(monkeypatch, slices)
    given = arguments(slices, tmp_path / "out", segmenter=place, min_dice=0.9)
    synthesize.make(given, generator(2, often))
    record = record_of(tmp_path / "out")
    assert [row["tries"] for row in record["files"].values()] == [3, 3] and len(calls) == 6
    assert all(row["dice"] > 0.95 for row in record["files"].values())
    assert (record["segmenter"], record["min_dice"]) == (place, 0.9)
    said = capsys.readouterr().out
    mean = np.mean([row["dice"] for row in record["files"].values()])
    assert f"synthetic images keep their labels: mean Dice {mean:.3f} (n = 2); 2 were made anew" in said
    real = dice_of_held_out_slices(slices)
    assert record["real_dice"] == pytest.approx(np.mean(real), rel=1e-6)
    assert f"real held-out images by the same measure: mean Dice {np.mean(real):.3f} (n = {len(real)})" in said


def test_made_images_are_scored_alone_where_the_prepared_cases_are_gone(slices, tmp_path, monkeypatch, capsys):
    maps = tmp_path / "maps"
    maps.mkdir()
    Image.fromarray(np.repeat(np.uint8([[0, 1, 2]]), 8, 0).repeat(8, 1)).save(maps / "one.png")
    given = arguments(slices, tmp_path / "out", labels=maps, pairs=1, segmenter=segmenter(monkeypatch, slices))
    given.config.data.store = str(tmp_path / "gone")
    synthesize.make(given, generator(2))
    said = capsys.readouterr().out
    assert "no real image is scored beside them: " in said and "real held-out images" not in said
    assert record_of(tmp_path / "out")["real_dice"] is None


def dice_of_held_out_slices(folder):
    """What `find` makes of each slice of the last case that shows a class: the mean over its classes."""
    case = store.open(folder / "prepared")[-1]
    image, label = store.read_patch(case, (0,) * 3, case.shape)
    found, scores = find(Volume(image, (1.0, 1.0, 1.0), np.eye(4))).labels, []
    for own, true in zip(found, label):
        classes = [c for c in (1, 2) if (true == c).any()]
        overlaps = [2 * ((own == c) & (true == c)).sum() / ((own == c).sum() + (true == c).sum()) for c in classes]
        scores += [np.mean(overlaps)] if classes else []
    return scores


def test_a_failure_in_the_middle_leaves_nothing(slices, tmp_path, monkeypatch):
    calls = []

    def fails(segmentation, style):
        calls.append(style)
        return paint(segmentation, style) if len(calls) < 3 else np.full((*segmentation.shape[:-1], 1), np.nan)

    with pytest.raises(UserError, match="not finite; take an earlier checkpoint"):
        synthesize.make(arguments(slices, tmp_path / "out", pairs=5), generator(2, fails))
    assert len(calls) == 3 and not list(tmp_path.iterdir())
    given = arguments(slices, tmp_path / "out", segmenter=segmenter(monkeypatch, slices), min_dice=0.9)
    with pytest.raises(UserError, match=r"synthetic_000000: 10 images in a row do not keep their labels"):
        synthesize.make(given, generator(2, lambda *given: paint(*given) + 1.5))
    assert not list(tmp_path.iterdir())


def test_segmenters_that_do_not_fit_are_refused(slices, volumes, tmp_path, monkeypatch):
    def refused(place, words):
        with pytest.raises(UserError, match=words):
            synthesize.make(arguments(slices, tmp_path / "out", segmenter=place), generator(2))

    refused(str(tmp_path / "absent"), "absent is not the workdir of a run")
    refused(str(volumes), "segments volumes, but made are 2D images; name a 2D run")
    refused(str(slices), "holds no trained model")
    refused(segmenter(monkeypatch, slices, channels=("CT",)), "other channels or classes")
    assert not list(tmp_path.iterdir())


def test_flags_and_folders_are_checked_before_anything_is_made(slices, tmp_path):
    def refused(words, folder=slices, output=tmp_path / "out", task="synthesis", **other):
        given = arguments(folder, output, **other)
        given.config.task = task
        with pytest.raises(UserError, match=words) as caught:
            synthesize.synthesize(given)
        assert "\n" not in str(caught.value)

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    refused("needs -n, how many images to make, 1 or more; got 0", pairs=0)
    refused("1 or more; got -3", pairs=-3)
    refused("needs --output, a new folder", output=None)
    refused("full is not empty", output=tmp_path / "full")
    refused(r"holds notes\.txt, which --mode synthesize did not write", output=tmp_path / "full", overwrite=True)
    refused("holds a run of task='semantic', which makes no images", task="semantic")
    refused("There is no label sampler named 'elastc'; did you mean elastic", text="elastc(sigma=3.0)")
    refused("min_dice needs synthesis.segmenter", min_dice=0.5)
    refused("holds no trained generator")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_label_folders_that_cannot_be_used_are_refused(slices, volumes, tmp_path):
    def refused(words, labels, folder=slices, ndim=2):
        with pytest.raises(UserError, match=words):
            synthesize.make(arguments(folder, tmp_path / "out", labels=labels), generator(ndim))
        assert not (tmp_path / "out").exists()

    (tmp_path / "mine").mkdir()
    refused("absent does not exist; name a folder of label maps", tmp_path / "absent")
    refused("mine holds no label maps", tmp_path / "mine")
    label = np.zeros((12, 9), np.uint8)
    Image.fromarray(label).save(tmp_path / "mine" / "a.png")
    refused("has 2 axes, but the generator makes images of 3", tmp_path / "mine", volumes, 3)
    label[0, 0] = 77
    Image.fromarray(label).save(tmp_path / "mine" / "b.png")
    refused(r"b\.png should hold only the label values 0 \(background\).*but also holds 77", tmp_path / "mine")
    Image.fromarray(label[:3].clip(max=1)).save(tmp_path / "mine" / "b.png")
    refused(r"b\.png is 3 x 9, but the generator needs at least 4 x 4", tmp_path / "mine")


def test_a_normalisation_without_a_range_is_refused(root, tmp_path):
    folder = trained(tmp_path / "w", root, ndim=2, data__normalize="none")
    with pytest.raises(UserError, match="normalisation of known range"):
        synthesize.make(arguments(folder, tmp_path / "out"), generator(2))


def test_options_of_synthesis_are_validated():
    for name, value, words in (
        ("labels", "elastic(3)", "synthesis.labels should read"),
        ("labels", "elastic||affine", "synthesis.labels should read"),
        ("seed", -1, "synthesis.seed must be a whole number from 0 on, got -1"),
        ("min_dice", 1.5, "synthesis.min_dice is a Dice from 0 to 1, got 1.5"),
    ):
        config = configs.base_config()
        config.data.name, config.train.total_steps = "msd", 1
        validation.validate(config)
        config.synthesis[name] = value
        with pytest.raises(UserError, match=words):
            validation.validate(config)


def test_set_changes_synthesis_and_nothing_of_the_training(slices):
    config = workdir.stored_config(slices)
    main._set(config, "synthesis.labels=recombine|elastic(magnitude=2.0)")
    main._set(config, "synthesis.seed=3")
    assert (config.synthesis.labels, config.synthesis.seed) == ("recombine|elastic(magnitude=2.0)", 3)
    with pytest.raises(UserError, match=r"one of .*synthesis\.min_dice"):
        main._set(config, "optim.lr=1")


def test_the_flags_reach_the_mode(slices, monkeypatch):
    words = ["launch.py", "--mode=synthesize", f"--workdir={slices}", "-n", "7", "--output=o", "--set=synthesis.seed=3"]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", words)
        flags.FLAGS.unparse_flags()
        flags.FLAGS(words)
        given = main._arguments()
        assert main._runner(given.config) == "jaxseg.cli.synthesize:synthesize"
    flags.FLAGS.unparse_flags()
    assert (given.pairs, given.output, given.config.synthesis.seed) == (7, "o", 3)
