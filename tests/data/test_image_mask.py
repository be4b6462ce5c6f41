"""The layout of plain folders where masks are missing on purpose, and where every channel has a file of its own."""

import nibabel
import numpy as np
import pytest

from jaxseg.data import datasets
from jaxseg.data.datasets import image_mask
from jaxseg.typing import UserError

SHAPE = (6, 5, 4)  # x, y, z
CHANNELS = ("T1", "T2")


def scan(path, data, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, np.diag([1.0, 2, 3, 1]) if affine is None else affine), path)


def noise(seed, shape=SHAPE):
    return np.random.RandomState(seed).randint(0, 999, shape).astype(np.int16)


@pytest.fixture
def folders(tmp_path):
    """Two cases with a file a channel, in folders by channel and again in folders by patient, and their masks."""
    for i, name in enumerate(("b", "a")):
        for channel, letter in enumerate(("t1", "t2")):
            scan(tmp_path / letter / f"{name}.nii.gz", noise(2 * i + channel))
            scan(tmp_path / "patients" / name / f"{letter.upper()}W.nii.gz", noise(2 * i + channel))
        mask = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 2
        scan(tmp_path / "patients" / name / "drawn.nii.gz", mask.astype(np.uint8))
    return tmp_path


def load(root, images, **options):
    return datasets.load("image_mask", root=root, images=images, **options)


def test_images_alone_have_no_label_and_no_class_but_background(folders):
    dataset = load(folders, "t1")
    assert [(case.name, case.label, case.roi) for case in dataset.cases] == [("a", None, None), ("b", None, None)]
    assert dataset.classes == ("background",) and dataset.label_values == (0,) and dataset.regions is None
    assert dataset.channels == ("grey",) and not datasets.is_labelled(dataset)
    sample = dataset.load(dataset.cases[1])
    assert sample.label is None
    np.testing.assert_array_equal(sample.image.data[..., 0], noise(0).transpose(2, 1, 0))
    assert datasets.check(dataset) == []  # nothing is missing


@pytest.mark.parametrize(
    "images, labels",
    [
        ("t1/{stem}.nii.gz;t2/{stem}.nii.gz", None),
        ("t1; t2", None),
        ("patients/{stem}/T1W.nii.gz;patients/{stem}/T2W.nii.gz", None),
        ("patients/{stem}/T1W.nii.gz;patients/{stem}/T2W.nii.gz", "patients/{stem}/drawn.nii.gz"),
    ],
)
def test_every_channel_has_a_file_of_its_own_in_the_order_of_their_names(folders, images, labels):
    values = None if labels is None else (0, 1)
    dataset = load(folders, images, labels=labels, label_values=values, channels=CHANNELS)
    assert [case.name for case in dataset.cases] == ["a", "b"] and dataset.channels == CHANNELS
    sample = dataset.load(dataset.cases[0])
    expected = np.stack([noise(2), noise(3)], axis=-1).transpose(2, 1, 0, 3)
    np.testing.assert_array_equal(sample.image.data, expected)
    assert sample.image.spacing == (3.0, 2.0, 1.0)
    assert datasets.is_labelled(dataset) is (labels is not None) is (sample.label is not None)
    if sample.label is not None:
        assert sample.label.data.sum() == np.prod(SHAPE) / 2
    turned = load(folders, ";".join(reversed(images.split(";"))), channels=CHANNELS)
    np.testing.assert_array_equal(turned.load(turned.cases[0]).image.data, expected[..., ::-1])
    assert turned.digest(turned.cases[0]) != dataset.digest(dataset.cases[0])


def test_missing_channel_files_are_named_together(folders):
    (folders / "t2" / "a.nii.gz").unlink()
    (folders / "t1" / "b.nii.gz").unlink()
    with pytest.raises(UserError) as caught:
        load(folders, "t1/{stem}.nii.gz;t2/{stem}.nii.gz", channels=CHANNELS)
    message = str(caught.value)
    assert f"{folders / 't1' / 'a.nii.gz'} has no file in t2/{{stem}}.nii.gz, the channel T2" in message
    assert f"{folders / 't2' / 'b.nii.gz'} has no file in t1/{{stem}}.nii.gz, the channel T1" in message
    assert message.startswith("Images in ") and "masks" not in message


def test_channels_keep_to_their_masks(folders):
    patterns = "patients/{stem}/T1W.nii.gz;patients/{stem}/T2W.nii.gz"
    options = {"labels": "patients/{stem}/drawn.nii.gz", "label_values": (0, 1), "channels": CHANNELS}
    (folders / "patients" / "a" / "drawn.nii.gz").unlink()
    with pytest.raises(UserError, match=r"Images and masks .*a/T1W\.nii\.gz has no file in labels"):
        load(folders, patterns, **options)
    scan(folders / "patients" / "a" / "drawn.nii.gz", np.zeros(SHAPE, np.uint8))
    scan(folders / "patients" / "c" / "drawn.nii.gz", np.zeros(SHAPE, np.uint8))
    with pytest.raises(UserError, match=r"c/drawn\.nii\.gz has no image"):
        load(folders, patterns, **options)


@pytest.mark.parametrize(
    "channels, words",
    [(None, "that is not set"), (("T1",), r"that is \('T1',\)"), (("T1", "T1"), "each channel once")],
)
def test_several_patterns_need_as_many_names(folders, channels, words):
    with pytest.raises(UserError, match=words) as caught:
        load(folders, "t1;t2", channels=channels)
    assert "data.images gives 2" in str(caught.value) and "data.channels" in str(caught.value)
    with pytest.raises(UserError, match=r"correct data\.images"):
        load(folders, "t1;", channels=CHANNELS)
    with pytest.raises(UserError, match=r"data\.images \(.*t3.* matches no image file"):
        load(folders, "t1/{stem}.nii.gz;t3/{stem}.nii.gz", channels=CHANNELS)


@pytest.mark.parametrize(
    "data, affine, words",
    [
        (noise(1, (6, 5, 3)), None, r"t2.*shape"),
        (noise(1), np.diag([1.0, 2, 3.1, 1]), r"t2.*0\.3 mm apart"),
        (noise(1, (*SHAPE, 2)), None, "2 channel.*has 3"),
    ],
)
def test_channels_on_other_grids_are_refused(folders, data, affine, words):
    scan(folders / "t2" / "a.nii.gz", data, affine)
    dataset = load(folders, "t1;t2", channels=CHANNELS)
    with pytest.raises(UserError, match=words):
        dataset.load(dataset.cases[0])
    assert dataset.load(dataset.cases[1]).image.data.shape == (4, 5, 6, 2)


@pytest.mark.parametrize(
    "options",
    [{"label_values": (0, 1)}, {"label_threshold": 0.5, "roi": "t2"}, {"classes": ("a", "b")}, {"ignore_value": 9}],
)
def test_options_of_labels_without_labels_are_refused(folders, options):
    with pytest.raises(UserError, match=r"data\.labels is not set, but ") as caught:
        load(folders, "t1", **options)
    assert all(f"data.{name}" in str(caught.value) for name in options)
    assert set(options) <= set(image_mask.OF_LABELS)


@pytest.mark.realdata
def test_patients_with_a_file_a_sequence(data_root):
    patterns = "{stem}/T1W.nii.gz;{stem}/T2W.nii.gz;{stem}/FLAIR.nii.gz"
    options = {"images": patterns, "channels": ("T1", "T2", "FLAIR")}
    root = data_root / "open_ms_multicontrast"
    dataset = datasets.load("image_mask", root=root, **options)
    assert [case.name for case in dataset.cases] == ["patient07", "patient19"] and not datasets.is_labelled(dataset)
    sample = dataset.load(dataset.cases[0])
    flair = np.asanyarray(nibabel.load(root / "patient07" / "FLAIR.nii.gz").dataobj)
    np.testing.assert_array_equal(sample.image.data[..., 2], flair.transpose(2, 1, 0))
    labelled = datasets.load(
        "image_mask", root=root, labels="{stem}/consensus_gt.nii.gz", label_values=(0, 1), **options
    )
    assert labelled.load(labelled.cases[0]).label.data.max() == 1
