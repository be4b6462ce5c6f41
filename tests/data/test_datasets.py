"""Each layout lists the right cases, loads class ids on the image's grid, and refuses what does not fit."""

import json
import os
import pickle
import shutil

import nibabel
import numpy as np
import pytest
from PIL import Image

from jaxseg.data import datasets, splits
from jaxseg.data.datasets import layouts, nnunet_raw
from jaxseg.typing import Case, UserError

SHAPE = (6, 5, 4)  # x, y, z


def scan(path, data, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, np.diag([1.0, 2, 3, 1]) if affine is None else affine), path)


def noise(seed, shape=SHAPE):
    return np.random.RandomState(seed).randint(0, 999, shape).astype(np.int16)


def mask(high=3, shape=SHAPE):
    return (np.arange(np.prod(shape)).reshape(shape) % high).astype(np.uint8)


@pytest.fixture
def raw(tmp_path):
    """A folder as nnU-Net has it: two cases, two channels, three classes and an ignore label."""
    for i, name in enumerate(("b", "a_1")):
        for channel in range(2):
            scan(tmp_path / "imagesTr" / f"{name}_{channel:04d}.nii.gz", noise(2 * i + channel))
        scan(tmp_path / "labelsTr" / f"{name}.nii.gz", mask(4))
    describe(tmp_path)
    return tmp_path


def describe(root, **changes):
    content = {
        "channel_names": {"0": "T1", "1": "CT"},
        "labels": {"background": 0, "kidney left": 1, "kidney right": 2, "ignore": 3},
        "file_ending": ".nii.gz",
        "numTraining": 2,
    } | changes
    (root / "dataset.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def test_nnunet_raw(raw):
    (raw / "imagesTr" / "._b_0000.nii.gz").write_bytes(b"macOS")
    dataset = datasets.load("nnunet_raw", root=raw, subjects=None, label_values=None)
    assert [case.name for case in dataset.cases] == ["a_1", "b"]
    assert dataset.channels == ("T1", "CT") and dataset.classes == ("background", "kidney left", "kidney right")
    assert dataset.label_values == (0, 1, 2) and dataset.regions is None and dataset.flip_pairs == ((1, 2),)
    sample = dataset.load(dataset.cases[1])
    expected = np.stack([noise(0), noise(1)], axis=-1).transpose(2, 1, 0, 3)
    np.testing.assert_array_equal(sample.image.data, expected)
    truth = mask(4).transpose(2, 1, 0).astype(int)
    np.testing.assert_array_equal(sample.label.data, np.where(truth == 3, -1, truth))
    assert sample.label.data.dtype == np.int16 and sample.image.spacing == (3.0, 2.0, 1.0)
    again = pickle.loads(pickle.dumps(dataset))  # prepare sends it to other processes
    np.testing.assert_array_equal(again.load(again.cases[1]).label.data, sample.label.data)


def test_nnunet_regions(raw):
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
    describe(raw, labels=labels, regions_class_order=[1, 2, 3])
    dataset = datasets.load("nnunet_raw", root=raw)
    assert dataset.classes == ("background", "whole", "core", "enhancing")
    assert dataset.regions == ((1, 2, 3), (2, 3), (3,))
    assert dataset.load(dataset.cases[0]).label.data.max() == 3
    for order in (None, [1, 2], [0, 2, 3], [3, 3, 3]):
        describe(raw, labels=labels, regions_class_order=order)
        with pytest.raises(UserError, match="regions_class_order"):
            datasets.load("nnunet_raw", root=raw)


def test_nnunet_regions_paint_first_id():
    parsed = nnunet_raw.parse_labels({"background": 0, "all": [1, 5], "part": 5}, [1, 5], "dataset.json")
    assert parsed == ((0, 1, 5), ("background", "all", "part"), None, ((1, 2), (2,)))


def test_nnunet_with_explicit_paths(raw):
    listed = {"x": {"images": ["imagesTr/b_0000.nii.gz", "imagesTr/b_0001.nii.gz"], "label": "labelsTr/b.nii.gz"}}
    describe(raw, dataset=listed)
    dataset = datasets.load("nnunet_raw", root=raw)
    assert [case.name for case in dataset.cases] == ["x"] and dataset.load(dataset.cases[0]).image.data.shape[-1] == 2
    describe(raw, dataset={"x": {"images": ["no_0000.nii.gz"], "label": "labelsTr/b.nii.gz"}})
    with pytest.raises(UserError, match="x lists 1 images"):
        datasets.load("nnunet_raw", root=raw)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"channel_names": {"0": "T1"}}, "2 channel files"),
        ({"channel_names": {"0": "T1", "1": "T2", "2": "CT"}}, "a_1_0002.nii.gz is missing"),
        ({"channel_names": {"1": "T1"}}, "channel_names"),
        ({"channel_names": None}, "channel_names"),
        ({"labels": None}, '"labels"'),
        ({"labels": {"background": 0}}, "another class"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "named twice"),
        ({"labels": {"background": 0, "a": "1"}}, "whole numbers"),
        ({"file_ending": None}, "file_ending"),
        ({"file_ending": ".png"}, "CASE_0000.png"),
    ],
)
def test_nnunet_refusals(raw, changes, words):
    describe(raw, **changes)
    with pytest.raises(UserError, match=words) as caught:
        datasets.load("nnunet_raw", root=raw)
    assert "dataset.json" in str(caught.value) or "imagesTr" in str(caught.value)


def test_missing_partners_are_listed_together(raw):
    (raw / "labelsTr" / "b.nii.gz").unlink()
    (raw / "imagesTr" / "a_1_0001.nii.gz").unlink()
    scan(raw / "labelsTr" / "c.nii.gz", mask())
    with pytest.raises(UserError) as caught:
        datasets.load("nnunet_raw", root=raw)
    for words in ("b has no label", "a_1_0001.nii.gz is missing", "c.nii.gz has no image"):
        assert words in str(caught.value)


@pytest.mark.parametrize("layout", ["nnunet_raw", "msd", "image_mask", "tfds"])
def test_roots(tmp_path, layout):
    options = {"images": "images", "labels": "labels"} if layout == "image_mask" else {}
    for root, words in [(None, "data.root"), (tmp_path / "no", "does not exist"), (tmp_path, "is empty")]:
        with pytest.raises(UserError, match=words):
            datasets.load(layout, root=root, **options)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"notes\.txt|root"):
        datasets.load(layout, root=tmp_path, **options)


def test_names_and_options(raw):
    with pytest.raises(UserError, match="nnunet_raw"):
        datasets.load("nnunet", root=raw)
    with pytest.raises(UserError, match="subjects"):
        datasets.load("nnunet_raw", root=raw, roi="x")
    (raw / "dataset.json").write_text("{")
    with pytest.raises(UserError, match="JSON"):
        datasets.load("nnunet_raw", root=raw)
    assert set(datasets.names()) == {"coco", "image_mask", "instance_masks", "mni", "msd", "nnunet_raw", "tfds"}
    assert datasets.load("jaxseg.data.datasets.mni:load", step=40).classes[2] == "white matter"


@pytest.fixture
def decathlon(tmp_path):
    pairs = []
    for i in range(3):
        scan(tmp_path / "imagesTr" / f"c_{i}.nii.gz", noise(i, (*SHAPE, 2)).astype(np.float32))
        scan(tmp_path / "labelsTr" / f"c_{i}.nii.gz", (mask() * 5).astype(np.float32))
        pairs.append({"image": f"./imagesTr/c_{i}.nii.gz", "label": f"./labelsTr/c_{i}.nii.gz"})
    pairs.append({"image": "./imagesTr/._c_0.nii.gz", "label": "./labelsTr/._c_0.nii.gz"})
    content = {
        "modality": {"0": "T1", "1": "T2"},
        "labels": {"0": "background", "5": "a", "10": "b"},
        "training": pairs,
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    return tmp_path


def test_msd(decathlon):
    dataset = datasets.load("msd", root=decathlon)
    assert [case.name for case in dataset.cases] == ["c_0", "c_1", "c_2"] and dataset.label_values == (0, 5, 10)
    sample = dataset.load(dataset.cases[2])
    np.testing.assert_array_equal(sample.label.data, mask().transpose(2, 1, 0))
    np.testing.assert_array_equal(sample.image.data[..., 1], noise(2, (*SHAPE, 2))[..., 1].transpose(2, 1, 0))
    (decathlon / "labelsTr" / "c_1.nii.gz").unlink()
    with pytest.raises(UserError, match=r"c_1\.nii\.gz \(label\)"):
        datasets.load("msd", root=decathlon)


def bare(dataset):
    """Whether the layout lists images alone."""
    return dataset.classes == ("background",) and all(case.label is None for case in dataset.cases)


@pytest.mark.parametrize("labels", [None, {}])
def test_nnunet_images_alone(raw, labels):
    describe(raw, labels=labels)
    with pytest.raises(UserError, match='"labels"'):  # what the files in labelsTr mean should be said
        datasets.load("nnunet_raw", root=raw)
    shutil.rmtree(raw / "labelsTr")
    dataset = datasets.load("nnunet_raw", root=raw)
    assert bare(dataset) and dataset.channels == ("T1", "CT") and dataset.label_values == (0,)
    sample = dataset.load(dataset.cases[1])
    assert sample.label is None
    np.testing.assert_array_equal(sample.image.data[..., 1], noise(1).transpose(2, 1, 0))
    describe(raw)
    with pytest.raises(UserError, match=r"expects the folder .*labelsTr"):  # classes are named, so labels are missed
        datasets.load("nnunet_raw", root=raw)
    (raw / "imagesTr" / "a_1_0001.nii.gz").unlink()
    describe(raw, labels=labels)
    with pytest.raises(UserError, match=r"the channel a_1_0001\.nii\.gz is missing"):
        datasets.load("nnunet_raw", root=raw)


def test_nnunet_images_alone_with_explicit_paths(raw):
    listed = {"x": {"images": ["imagesTr/b_0000.nii.gz", "imagesTr/b_0001.nii.gz"]}}
    describe(raw, dataset=listed, labels=None)
    dataset = datasets.load("nnunet_raw", root=raw)
    assert bare(dataset) and [case.name for case in dataset.cases] == ["x"]
    describe(raw, dataset=listed)
    with pytest.raises(UserError, match="should list"):
        datasets.load("nnunet_raw", root=raw)
    listed["y"] = listed["x"] | {"label": "labelsTr/b.nii.gz"}
    describe(raw, dataset=listed, labels=None)
    with pytest.raises(UserError, match='"labels"'):
        datasets.load("nnunet_raw", root=raw)


def test_msd_images_alone(decathlon):
    content = json.loads((decathlon / "dataset.json").read_text())
    pairs = content["training"]

    def listing(training, **changes):
        (decathlon / "dataset.json").write_text(json.dumps(content | {"training": training} | changes))
        return datasets.load("msd", root=decathlon)

    for labels in (None, {}):
        for training in ([pair["image"] for pair in pairs], [{"image": pair["image"]} for pair in pairs]):
            dataset = listing(training, labels=labels)
            assert bare(dataset) and [case.name for case in dataset.cases] == ["c_0", "c_1", "c_2"]
    sample = dataset.load(dataset.cases[2])
    assert sample.label is None and sample.image.data.shape == (4, 5, 6, 2)
    with pytest.raises(UserError, match="name its labels"):
        listing(pairs, labels=None)
    with pytest.raises(UserError, match='"training"'):
        listing([pairs[0], pairs[1]["image"]])  # one without its label among labelled ones
    with pytest.raises(UserError, match=r"no\.nii\.gz \(image\)"):
        listing(["./imagesTr/no.nii.gz"], labels=None)


def test_subjects(decathlon):
    (decathlon / "subjects.csv").write_text("case,subject\nc_0,s1\nc_1,s1\nc_2,s2\n")
    assert [case.subject for case in datasets.load("msd", root=decathlon).cases] == ["s1", "s1", "s2"]
    (decathlon / "other.csv").write_text("case,subject\nc_0,s1\n")
    with pytest.raises(UserError, match="c_1, c_2"):
        datasets.load("msd", root=decathlon, subjects="other.csv")
    (decathlon / "other.csv").write_text("id,subject\nc_0,s1\n")
    with pytest.raises(UserError, match="id, subject"):
        datasets.load("msd", root=decathlon, subjects="other.csv")
    with pytest.raises(UserError, match=r"no\.csv"):
        datasets.load("msd", root=decathlon, subjects="no.csv")


def test_flip_pairs():
    classes = ("background", "kidney_left", "Lung Right", "lung left", "kidney_right", "cleft", "bright spot")
    assert layouts.find_flip_pairs(classes) == ((1, 4), (2, 3))
    assert layouts.find_flip_pairs(classes, ()) == ()
    assert layouts.find_flip_pairs(classes, [("cleft", "bright spot")]) == ((5, 6),)
    for bad in ([("cleft", "no")], ["cleft"], [("cleft", "cleft")]):
        with pytest.raises(UserError, match="flip_pairs"):
            layouts.find_flip_pairs(classes, bad)


@pytest.fixture
def pictures(tmp_path):
    for i in (9, 10, 11):
        for folder, name, data in [
            ("images", f"{i}_scan.png", noise(i, (5, 6, 3)) % 256),
            ("masks", f"{i}_drawn.gif", (mask(2, (5, 6)) * 255)),
            ("view", f"{i}.png", np.pad(np.full((4, 5), 255), ((1, 0), (0, 1)))),
        ]:
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(data.astype(np.uint8)).save(tmp_path / folder / name)
    return tmp_path


PATTERNS = {"images": "images/{stem}_scan.png", "labels": "masks/{stem}_drawn.gif"}


def test_image_mask(pictures):
    dataset = datasets.load(
        "image_mask", root=pictures, **PATTERNS, roi="view", label_values=(0, 255), classes=("other",)
    )
    assert {case.name for case in dataset.cases} == {"9", "10", "11"}
    assert dataset.channels == ("red", "green", "blue") and dataset.classes == ("other", "class_1")
    case = next(case for case in dataset.cases if case.name == "10")
    sample = dataset.load(case)
    expected = mask(2, (5, 6)).astype(int)
    expected[0], expected[:, 5] = -1, -1
    np.testing.assert_array_equal(sample.label.data, expected)
    np.testing.assert_array_equal(sample.image.data, noise(10, (5, 6, 3)) % 256)
    parts = splits.blocks([c.name for c in dataset.cases], [c.subject for c in dataset.cases], n_folds=3)
    assert [part[1] for part in parts] == [("9",), ("10",), ("11",)]  # neighbours in number, not in spelling


def test_image_mask_thresholds_and_values(pictures):
    values = datasets.load("image_mask", root=pictures, **PATTERNS, label_threshold=127)
    assert values.label_values == (0, 255) and values.classes == ("background", "class_1")
    np.testing.assert_array_equal(values.load(values.cases[0]).label.data, mask(2, (5, 6)))
    turned = datasets.load("image_mask", root=pictures, **PATTERNS, label_values=(255, 0))
    np.testing.assert_array_equal(turned.load(turned.cases[0]).label.data, 1 - mask(2, (5, 6)))
    ignored = datasets.load("image_mask", root=pictures, **PATTERNS, label_values=(0, 1), ignore_value=255)
    assert set(np.unique(ignored.load(ignored.cases[0]).label.data)) == {-1, 0}
    with pytest.raises(UserError, match="values 0, 255"):
        datasets.load("image_mask", root=pictures, **PATTERNS)
    for bad in ({"label_values": (0, 0)}, {"label_values": (0, 1, 2), "label_threshold": 5}, {"classes": ("a",)}):
        with pytest.raises(UserError, match="label_values"):
            datasets.load("image_mask", root=pictures, **PATTERNS, **bad)
    unknown = datasets.load("image_mask", root=pictures, **PATTERNS, classes=("a", "b"))
    with pytest.raises(UserError, match=r"0 \(a\), 1 \(b\), but also holds 255 in 15 voxels"):
        unknown.load(unknown.cases[0])


def test_image_mask_pairs(pictures):
    shutil.copy(pictures / "images" / "9_scan.png", pictures / "images" / "8_scan.png")
    with pytest.raises(UserError, match=r"8_scan\.png has no file in labels"):
        datasets.load("image_mask", root=pictures, **PATTERNS, label_threshold=127)
    (pictures / "images" / "8_scan.png").unlink()
    shutil.copy(pictures / "masks" / "9_drawn.gif", pictures / "masks" / "7_drawn.gif")
    with pytest.raises(UserError, match=r"7_drawn\.gif has no image"):
        datasets.load("image_mask", root=pictures, **PATTERNS, label_threshold=127)
    (pictures / "masks" / "7_drawn.gif").unlink()
    (pictures / "images" / "notes.txt").write_text("x")
    any_suffix = {"images": "images/{stem}_scan.*", "labels": "masks/{stem}_*.gif"}
    assert len(datasets.load("image_mask", root=pictures, **any_suffix, label_threshold=127).cases) == 3
    shutil.copy(pictures / "images" / "9_scan.png", pictures / "images" / "9_scan.bmp")
    with pytest.raises(UserError, match="9 is the stem of"):
        datasets.load("image_mask", root=pictures, **any_suffix, label_threshold=127)
    for images, words in [("no", "no folder"), ("images/{stem}.jpg", "matches no image file")]:
        with pytest.raises(UserError, match=words):
            datasets.load("image_mask", root=pictures, images=images, labels="masks", label_threshold=127)


def test_one_stem_twice_in_a_pattern(tmp_path):
    for name in ("p1", "p2"):
        scan(tmp_path / name / f"{name}_t1.nii.gz", noise(1))
        scan(tmp_path / name / f"{name}_seg.nii.gz", mask(2))
    places = {"images": "{stem}/{stem}_t1.nii.gz", "labels": "{stem}/{stem}_seg.nii.gz"}
    dataset = datasets.load("image_mask", root=tmp_path, **places, label_values=(0, 1))
    assert [case.name for case in dataset.cases] == ["p1", "p2"]


def load_changed(raw, name="b"):
    dataset = datasets.load("nnunet_raw", root=raw)
    return dataset.load(next(case for case in dataset.cases if case.name == name))


@pytest.mark.parametrize(
    "file, data, affine, words",
    [
        ("labelsTr/b.nii.gz", mask(3, (6, 5, 3)), None, r"shape \(4, 5, 6\).*has \(3, 5, 6\)"),
        ("labelsTr/b.nii.gz", mask(), np.diag([1.0, 2, 3.1, 1]), "0.3 mm apart"),
        ("labelsTr/b.nii.gz", mask(7), None, "4, 5, 6 in"),
        ("labelsTr/b.nii.gz", mask() / 2, None, "whole numbers"),
        ("imagesTr/b_0001.nii.gz", noise(1, (6, 5, 3)), None, "b_0001.*shape"),
        ("imagesTr/b_0001.nii.gz", np.where(mask() == 1, np.nan, 1.0), None, "b_0001.*40 of 120 values are NaN"),
        ("imagesTr/b_0001.nii.gz", noise(1, (*SHAPE, 2)), None, "2 channel.*has 3"),
    ],
)
def test_bad_cases(raw, file, data, affine, words):
    scan(raw / file, data, affine)
    with pytest.raises(UserError, match=words):
        load_changed(raw)
    assert load_changed(raw, "a_1").image.data.shape == (4, 5, 6, 2)


def test_constant_images(raw):
    scan(raw / "imagesTr" / "b_0001.nii.gz", np.full(SHAPE, 7, np.int16))
    assert load_changed(raw).image.data[..., 1].max() == 7  # one blank channel is allowed
    scan(raw / "imagesTr" / "b_0000.nii.gz", np.full(SHAPE, 3, np.int16))
    with pytest.raises(UserError, match="constant: every voxel holds 3, 7"):
        load_changed(raw)


def test_affine_tolerance(raw):
    scan(raw / "labelsTr" / "b.nii.gz", mask(), np.diag([1.0, 2, 3.1, 1]))
    dataset = datasets.load("nnunet_raw", root=raw, affine_tolerance_mm=0.5)
    assert dataset.load(dataset.cases[1]).label.data.shape == (4, 5, 6)


def test_digest_follows_content_and_label_options(pictures):
    def digests(**options):
        dataset = datasets.load("image_mask", root=pictures, **PATTERNS, **options)
        return [dataset.digest(case) for case in dataset.cases]

    first = digests(label_values=(0, 255))
    assert first == digests(label_values=(0, 255), classes=("a", "b")) and len(set(first)) == 3
    assert not set(first) & set(digests(label_values=(255, 0)))
    assert not set(first) & set(digests(label_threshold=127))
    assert not set(first) & set(digests(label_values=(0, 255), roi="view"))
    os.utime(pictures / "images" / "9_scan.png", (1, 1))
    assert first == digests(label_values=(0, 255))
    shutil.copy(pictures / "images" / "10_scan.png", pictures / "images" / "9_scan.png")
    assert sum(a != b for a, b in zip(first, digests(label_values=(0, 255)), strict=True)) == 1
    (pictures / "masks" / "9_drawn.gif").unlink()
    with pytest.raises(UserError, match=r"9_drawn\.gif"):
        layouts.digest_case(
            Case("9", (), str(pictures / "masks" / "9_drawn.gif")), rule=layouts.LabelRule((0, 1), (), 3)
        )


def test_inputs(raw, tmp_path):
    cases = datasets.list_inputs(raw / "imagesTr")
    assert [(case.name, len(case.images)) for case in cases] == [("a_1", 2), ("b", 2)]
    assert datasets.output_name(cases[0]) == "a_1.nii.gz"
    assert datasets.read_case(cases[0]).data.shape == (4, 5, 6, 2)
    assert datasets.list_inputs(raw / "imagesTr" / "b_0000.nii.gz")[0].images == cases[1].images
    assert [case.name for case in datasets.list_inputs(raw / "labelsTr")] == ["a_1", "b"]
    (raw / "imagesTr" / "b_0001.nii.gz").unlink()
    with pytest.raises(UserError, match=r"b \(1\)"):
        datasets.list_inputs(raw / "imagesTr")
    for path, words in [(raw / "no", "does not exist"), (raw / "dataset.json", "suffix"), (raw, r"dataset\.json")]:
        with pytest.raises(UserError, match=words):
            datasets.list_inputs(path)


def test_inputs_that_only_look_like_channels(tmp_path):
    for i in range(3):
        Image.fromarray(noise(i, (4, 5)).astype(np.uint8)).save(tmp_path / f"frame_{i:04d}.png")
    assert [case.name for case in datasets.list_inputs(tmp_path)] == ["frame"]
    assert len(datasets.list_inputs(tmp_path, channels=1)) == 3
    (tmp_path / "frame_0000.png").unlink()
    assert [case.name for case in datasets.list_inputs(tmp_path)] == ["frame_0001", "frame_0002"]
    shutil.copy(tmp_path / "frame_0001.png", tmp_path / "frame_0001.bmp")
    with pytest.raises(UserError, match=r"frame_0001\.bmp"):
        datasets.list_inputs(tmp_path)


def test_colours_in_one_channel_file(tmp_path):
    for name in ("a", "b"):
        Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / f"{name}_0000.png")
    cases = datasets.list_inputs(tmp_path, channels=3)
    assert [(case.name, len(case.images)) for case in cases] == [("a", 1), ("b", 1)]


def test_inputs_pairs(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(noise(0), np.eye(4)), tmp_path / "x.hdr")
    (tmp_path / "README.md").write_text("x")
    cases = datasets.list_inputs(tmp_path)
    assert [(case.name, datasets.output_name(case)) for case in cases] == [("x", "x.nii")]


def test_mni():
    dataset = datasets.load("mni")
    assert dataset.classes == ("other", "grey matter", "white matter") and len(dataset.cases) > 140
    case = next(case for case in dataset.cases if case.name == "slice_060")
    assert case.subject == "block_03"
    image, label, _ = dataset.load(case)
    assert image.data.shape == (192, 144, 1) and image.data.dtype == np.uint8 and image.spacing == (1.0, 1.0)
    assert label.data.shape == (192, 144) and set(np.unique(label.data)) == {0, 1, 2}
    values = [float(np.median(image.data[label.data == number])) for number in range(3)]
    assert values[0] < values[1] < values[2]  # in a T1 image white matter is brightest
    assert all(label.any() for label in (dataset.load(case).label.data for case in dataset.cases))
    small = datasets.load("mni", step=20, downsample=2)
    assert len(small.cases) < 9 and small.load(small.cases[2]).image.data.shape == (96, 80, 1)
    digests = {dataset.digest(case), small.digest(case), dataset.digest(dataset.cases[0])}
    assert len(digests) == 3 and dataset.digest(case) in digests
    with pytest.raises(UserError, match="step"):
        datasets.load("mni", step=0)


@pytest.mark.realdata
def test_hippocampus(data_root):
    dataset = datasets.load("msd", root=data_root / "msd_hippocampus")
    assert len(dataset.cases) == 220 and len({case.subject for case in dataset.cases}) == 150
    assert dataset.classes == ("background", "Anterior", "Posterior") and dataset.channels == ("MRI",)
    assert dataset.cases[1].subject == dataset.cases[2].subject == "002"
    sample = dataset.load(dataset.cases[0])
    source = nibabel.load(data_root / "msd_hippocampus" / "labelsTr" / "hippocampus_001.nii.gz")
    np.testing.assert_array_equal(sample.label.data, np.asanyarray(source.dataobj).transpose(2, 1, 0))
    assert sample.image.spacing == (1.0, 1.0, 1.0)


@pytest.mark.realdata
@pytest.mark.parametrize(
    "name, words", [("label_shifted_affine", "6.164 mm apart"), ("label_wrong_shape", r"has \(35, 51, 33\)")]
)
def test_made_labels_are_refused(data_root, tmp_path, name, words):
    image = data_root / "msd_hippocampus" / "imagesTr" / "hippocampus_001.nii.gz"
    label = data_root / "nifti_edge_cases" / "made" / f"{name}.nii.gz"
    pair = {"image": str(image), "label": str(label)}
    content = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "a", "2": "b"}, "training": [pair]}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    dataset = datasets.load("msd", root=tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        dataset.load(dataset.cases[0])
    assert name in str(caught.value)


@pytest.mark.realdata
def test_nan_image_is_refused_by_name(data_root):
    case = datasets.list_inputs(data_root / "nifti_edge_cases" / "resampled_anat_moved.nii")[0]
    with pytest.raises(UserError, match=r"resampled_anat_moved\.nii .*153 of 1071"):
        datasets.read_case(case)


@pytest.mark.realdata
def test_drive(data_root):
    dataset = datasets.load(
        "image_mask",
        root=data_root / "drive",
        images="training/images/{stem}_training.tif",
        labels="training/1st_manual/{stem}_manual1.gif",
        roi="training/mask/{stem}_training_mask.gif",
        label_values=(0, 255),
        classes=("background", "vessel"),
    )
    assert [case.name for case in dataset.cases] == [str(number) for number in range(21, 41)]
    sample = dataset.load(dataset.cases[0])
    assert sample.image.data.shape == (584, 565, 3) and sample.image.data.dtype == np.uint8
    mean = {number: float((sample.label.data == number).mean()) for number in (-1, 0, 1)}
    assert 0.28 < mean[-1] < 0.35 and 0.06 < mean[1] < 0.12  # outside the view; vessels, 12 % of the view


@pytest.mark.realdata
def test_em_and_lungs(data_root):
    em = datasets.load(
        "image_mask", root=data_root / "isbi2012_em", images="image", labels="label", label_values=(0, 255)
    )
    assert len(em.cases) == 24 and em.channels == ("grey",)
    shares = [float((em.load(case).label.data == 1).mean()) for case in em.cases]
    assert abs(np.mean(shares) - 0.78) < 0.02
    held_out = splits.blocks([case.name for case in em.cases], [case.subject for case in em.cases], n_folds=6)[2][1]
    assert set(held_out) == {"8", "9", "10", "11"}
    lungs = datasets.load(
        "image_mask", root=data_root / "jsrt_lungs", images="images", labels="masks", label_threshold=127
    )
    assert len(lungs.cases) == 100
    shares = [float(lungs.load(case).label.data.mean()) for case in lungs.cases[:20]]
    assert abs(np.mean(shares) - 0.30) < 0.05


@pytest.mark.realdata
def test_nrrd_and_organs(data_root, tmp_path):
    rois = datasets.load(
        "image_mask",
        root=data_root / "tumour_roi_nrrd",
        images="{stem}_image.nrrd",
        labels="{stem}_label.nrrd",
        label_values=(0, 1),
    )
    voxels = [int((rois.load(case).label.data == 1).sum()) for case in rois.cases]
    assert [case.name for case in rois.cases] == ["brain1", "brain2", "breast1"] and voxels == [4137, 453, 143]
    organs = data_root / "ct_mr_organ_sample"
    for image, label, present in [("ct_sm", "seg", 41), ("mr_sm", "seg_mr", 23)]:
        options = {"images": f"example_{image}.nii.gz", "labels": f"example_{label}.nii.gz"}
        folder = tmp_path / image
        folder.mkdir()
        for old, new in ((options["images"], "image"), (options["labels"], "label")):
            shutil.copy(organs / old, folder / f"x_{new}.nii.gz")
        places = {"images": "{stem}_image.nii.gz", "labels": "{stem}_label.nii.gz"}
        dataset = datasets.load("image_mask", root=folder, **places, label_values=tuple(range(118)))
        sample = dataset.load(dataset.cases[0])
        assert len(np.unique(sample.label.data)) in (present, present + 1)
        np.testing.assert_allclose(sample.image.spacing, (3, 3, 3), rtol=1e-3)


def test_mni_as_scanned():
    from jaxseg.data.datasets.mni import as_scanned

    image = np.full((40, 30), 100, np.uint8)
    np.testing.assert_array_equal(as_scanned(image, seed=1, noise=0.0, bias=0.0), image)
    shaded = as_scanned(image, seed=1, noise=0.0, bias=0.3)
    assert 100 * np.exp(-0.3) - 1 <= shaded.min() < shaded.max() <= 100 * np.exp(0.3) + 1
    assert np.abs(np.diff(shaded.astype(int), axis=0)).max() <= 5  # smooth
    noisy = as_scanned(image, seed=1, noise=0.05, bias=0.0)
    np.testing.assert_allclose(noisy.std(), 0.05 * 255, rtol=0.1)
    np.testing.assert_array_equal(noisy, as_scanned(image, seed=1, noise=0.05, bias=0.0))
    assert not np.array_equal(noisy, as_scanned(image, seed=2, noise=0.05, bias=0.0))
    with pytest.raises(UserError, match="not be negative"):
        datasets.load("mni", noise=-1.0)
