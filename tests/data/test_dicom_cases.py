"""DICOM is listed beside other formats: names that tell no patient, labels by name or by reference, three layouts."""

import json
import zipfile

import dicom_files as made
import nibabel
import numpy as np
import pytest

from jaxseg.data import datasets, readers
from jaxseg.data.datasets import inputs
from jaxseg.typing import UserError

SHAPE = (3, 5, 4)


def listed(place, **options):
    """Returns the path of each case by name, relative to the folder."""
    return {case.name: case.images[0].replace(f"{place}/", "") for case in inputs.list_inputs(place, **options)}


def scan(folder, name="series", seed=0, **tags):
    return made.series(folder, made.ramp(*SHAPE) + seed, name=name, **tags)


def nifti(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([0.6, 0.7, 2.5, 1])), path)


def test_cases_are_named_by_folders_and_keys_not_by_patients(tmp_path):
    scan(tmp_path / "in" / "p1", "one")
    scan(tmp_path / "in" / "p2" / "ct", "two")
    scan(tmp_path / "in" / "p2" / "mr", "three", SeriesNumber=5)
    made.series(tmp_path / "in" / "p2" / "mr", made.ramp(2, 5, 4), name="four", SeriesNumber=6, suffix=".ima")
    found = listed(tmp_path / "in")
    keys = sorted(name.rsplit("_", 1)[1] for name in found if "_mr_" in name)
    assert [key.split("-")[0] for key in keys] == ["s5", "s6"]
    expected = {"p1": "p1", "p2_ct": "p2/ct"} | {f"p2_mr_{key}": f"p2/mr#{key}" for key in keys}
    assert found == expected
    for case in inputs.list_inputs(tmp_path / "in"):
        assert inputs.output_name(case) == f"{case.name}.nii.gz" and "Doe" not in case.name
        assert readers.read(case.images[0]).data.shape[1:] == (5, 4, 1)


def test_a_folder_that_is_a_series_bears_its_own_name(tmp_path):
    folder = scan(tmp_path / "patient_7")
    assert listed(folder) == {"patient_7": str(folder)}
    made.series(folder / "deeper", made.ramp(4, 5, 3), name="third", SeriesNumber=9)
    ((name, path),) = listed(folder / "02.dcm").items()  # one file stands for its series
    assert name == "patient_7" and path.startswith(f"{folder}#s3-") and readers.read(path).data.shape == (*SHAPE, 1)
    made.series(folder, made.ramp(2, 5, 4), name="other", suffix="")
    assert len(listed(folder)) == 3
    (name,) = listed(folder / "02")
    assert len(inputs.read_case(inputs.list_inputs(folder / "02")[0]).data) == 2 and name.startswith("patient_7_s3-")
    assert len(listed(f"{folder}#{name.split('_')[-1]}")) == 1


def test_multi_frame_files_and_projections_bear_the_names_of_their_files(tmp_path):
    made.enhanced(tmp_path / "in" / "a.dcm", made.ramp(*SHAPE), places=made.positions(3))
    made.series(
        tmp_path / "in" / "chest",
        made.ramp(2, 5, 4),
        Modality="DX",
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
    )
    assert listed(tmp_path / "in") == {"a": "a.dcm", "chest_02": "chest/02.dcm", "chest_07": "chest/07.dcm"}


def test_dicom_archives_and_other_formats_are_listed_together(tmp_path):
    scan(tmp_path / "in" / "p1", "one")
    nifti(tmp_path / "in" / "n.nii.gz", made.ramp(4, 5, 3))
    nifti(tmp_path / "in" / "deep" / "never.nii.gz", made.ramp(4, 5, 3))  # other formats are not looked for in folders
    with zipfile.ZipFile(tmp_path / "in" / "z.zip", "w") as archive:
        for file in scan(tmp_path / "z", "zipped").iterdir():
            archive.write(file, file.name)
    with zipfile.ZipFile(tmp_path / "in" / "code.zip", "w") as archive:
        archive.writestr("main.py", "pass")
    assert listed(tmp_path / "in") == {"n": "n.nii.gz", "p1": "p1", "z": "z.zip"}
    assert listed(tmp_path / "in" / "z.zip") == {"z": str(tmp_path / "in" / "z.zip")}
    with zipfile.ZipFile(tmp_path / "in" / "z.zip", "a") as archive:
        for file in scan(tmp_path / "y", "more", SeriesNumber=8).iterdir():
            archive.write(file, f"y/{file.name}")
    two = listed(tmp_path / "in" / "z.zip")
    (one,) = inputs.list_inputs(next(iter(two.values())))
    assert one.name in two and one.images[0] in two.values()
    assert len(two) == 2 and all(name.startswith("z_s") and readers.read(path).data.shape for name, path in two.items())


def test_what_was_listed_before_is_listed_alike(tmp_path):
    for name in ("a_0000", "a_0001", "b_0000", "b_0001"):
        nifti(tmp_path / f"{name}.nii.gz", made.ramp(4, 5, 3))
    (tmp_path / "sub").mkdir()
    (tmp_path / "notes").write_text("x")
    cases = inputs.list_inputs(tmp_path)
    assert [(case.name, len(case.images)) for case in cases] == [("a", 2), ("b", 2)]
    with pytest.raises(UserError, match="suffix that no reader knows"):
        inputs.list_inputs(tmp_path / "notes")
    with pytest.raises(UserError, match="does not exist"):
        inputs.list_inputs(tmp_path / "gone.dcm")
    with pytest.raises(UserError, match="should hold images"):
        inputs.list_inputs(tmp_path / "sub")


def test_patients_are_named_only_when_asked_for(tmp_path):
    for name, number in (("one", 1), ("two", 2), ("three", 3)):
        scan(tmp_path / name, name, SeriesNumber=number, SeriesDescription="Thorax  (native)/1" if number < 3 else "b")
    assert sorted(listed(tmp_path)) == ["one", "three", "two"]
    found = sorted(listed(tmp_path, identify=True))
    assert found[2] == "MRN-4711_b"
    assert [name.rsplit("-", 1)[0] for name in found[:2]] == [f"MRN-4711_Thorax-native-1_s{n}" for n in (1, 2)]


def test_what_is_left_out_is_told_and_alone_it_is_refused(tmp_path):
    scan(tmp_path / "in" / "ct")
    made.series(tmp_path / "in" / "scout", made.ramp(1, 5, 4), name="s", ImageType=["DERIVED", "PRIMARY", "LOCALIZER"])
    scan(tmp_path / "in" / "lossy", "lossy", LossyImageCompression="01")
    told = []
    inputs.list_inputs(tmp_path / "in", tell=told.append)
    assert told[0] == "lossy was compressed with loss before it came here"
    assert told[1] == f"left out {tmp_path / 'in' / 'scout' / '02.dcm'}: is a localiser"
    with pytest.raises(UserError, match=r"hold none .*is a localiser"):
        inputs.list_inputs(tmp_path / "in" / "scout")


def test_two_channels_of_dicom_in_folders_are_one_case(tmp_path):
    for channel in ("0000", "0001"):
        scan(tmp_path / f"a_{channel}", channel, seed=int(channel))
    (case,) = inputs.list_inputs(tmp_path, channels=2)
    assert case.name == "a" and inputs.read_case(case).data.shape == (*SHAPE, 2)


def test_a_segmentation_as_an_input_is_refused_as_what_it_is(tmp_path):
    made.segmentation(tmp_path / "seg.dcm", np.ones((1, 5, 4)), segments=[1], places=made.positions(1))
    for place in (tmp_path, tmp_path / "seg.dcm"):
        with pytest.raises(UserError, match=r"a segmentation \(SEG\), which can be a label but no image"):
            inputs.list_inputs(place)


def labelled(root):
    """Writes two scans and a label each: SEG by name, RTSTRUCT by the series it was drawn on."""
    mask = np.zeros((1, 5, 4), bool)
    mask[0, 1:3, 1:4] = True
    for name, seed in (("p1", 0), ("p2", 1)):
        scan(root / "images" / name, name, seed=seed)
    made.segmentation(
        root / "labels" / "p1.dcm", mask, segments=[2], places=made.positions(3)[1:2], names={2: "Tumor"}, refers=["p1"]
    )
    corners = np.array([(0.5, 0.5), (3.5, 0.5), (3.5, 2.5), (0.5, 2.5)]) * made.SPACING[::-1]  # x, y
    contour = np.column_stack([corners, np.full(4, 2.5)]) + np.array([-11, 5, 7])
    made.structures(root / "labels" / "drawn.dcm", {"tumor": [contour], "body": [contour]}, refers="p2")
    expected = np.zeros(SHAPE, int)
    expected[1, 1:3, 1:4] = 1
    return expected


def test_labels_pair_by_name_or_by_the_series_they_name(tmp_path):
    labelled(tmp_path)
    cases = inputs.with_labels(
        inputs.list_inputs(tmp_path / "images"), inputs.list_inputs(tmp_path / "labels", labels=True), place="--labels"
    )
    assert [(case.name, case.label.rsplit("/", 1)[1]) for case in cases] == [("p1", "p1.dcm"), ("p2", "drawn.dcm")]
    (tmp_path / "labels" / "drawn.dcm").unlink()
    with pytest.raises(UserError, match="no file for 1 of 2 images: p2"):
        inputs.with_labels(
            inputs.list_inputs(tmp_path / "images"),
            inputs.list_inputs(tmp_path / "labels", labels=True),
            place="--labels",
        )


def test_image_mask_takes_folders_of_dicom_with_seg_rtstruct_and_nifti(tmp_path):
    expected = labelled(tmp_path)
    (tmp_path / "labels" / "drawn.dcm").rename(tmp_path / "labels" / "p2.dcm")
    scan(tmp_path / "images" / "p3", "p3", seed=2)
    image = readers.read(tmp_path / "images" / "p3")
    affine = image.affine[:, [2, 1, 0, 3]]
    nibabel.save(nibabel.Nifti1Image(expected.T.astype(np.uint8), affine), tmp_path / "labels" / "p3.nii.gz")
    options = {"root": tmp_path, "images": "images", "labels": "labels"}
    dataset = datasets.load("image_mask", **options, classes=("background", "tumor"))
    assert [case.name for case in dataset.cases] == ["p1", "p2", "p3"] and datasets.check(dataset, threads=1) == []
    for case in dataset.cases:
        np.testing.assert_array_equal(dataset.load(case).label.data, expected)
    numbered = datasets.load("image_mask", **options, label_values=(0, 2), classes=("background", "lesion"))
    np.testing.assert_array_equal(numbered.load(numbered.cases[0]).label.data, expected)  # by its segment's number


def test_image_mask_patterns_match_folders_of_dicom(tmp_path):
    expected = labelled(tmp_path)
    for name in ("p1", "p2"):
        (tmp_path / "all" / name).mkdir(parents=True)
        (tmp_path / "images" / name).rename(tmp_path / "all" / name / "ct")
    (tmp_path / "labels" / "p1.dcm").rename(tmp_path / "all" / "p1" / "label")
    (tmp_path / "labels" / "drawn.dcm").rename(tmp_path / "all" / "p2" / "label")
    dataset = datasets.load(
        "image_mask", root=tmp_path / "all", images="{stem}/ct", labels="{stem}/label", classes=("background", "tumor")
    )
    for case in dataset.cases:
        np.testing.assert_array_equal(dataset.load(case).label.data, expected)


@pytest.mark.parametrize("explicit", [False, True])
def test_nnunet_raw_takes_folders_of_dicom(tmp_path, explicit):
    expected = labelled(tmp_path)
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "tumor": 1}, "file_ending": ".dcm"}
    names = {"p1": "p1.dcm", "p2": "drawn.dcm"}
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "labelsTr").mkdir()
    for name, label in names.items():
        (tmp_path / "images" / name).rename(tmp_path / "imagesTr" / (name if explicit else f"{name}_0000"))
        (tmp_path / "labels" / label).rename(tmp_path / "labelsTr" / f"{name}.dcm")
    if explicit:
        content["dataset"] = {n: {"images": [f"imagesTr/{n}"], "label": f"labelsTr/{n}.dcm"} for n in names}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    dataset = datasets.load("nnunet_raw", root=tmp_path)
    assert [case.name for case in dataset.cases] == ["p1", "p2"]
    for case in dataset.cases:
        np.testing.assert_array_equal(dataset.load(case).label.data, expected)
    (tmp_path / "labelsTr" / "p2.dcm").unlink()
    with pytest.raises(UserError, match="p2"):
        datasets.load("nnunet_raw", root=tmp_path)


def test_overlap_is_an_option_of_the_layout(tmp_path):
    masks = np.ones((2, 5, 4), bool)
    scan(tmp_path / "images" / "p1", "p1")
    made.segmentation(
        tmp_path / "labels" / "p1.dcm", masks, segments=[1, 2], places=made.positions(3)[[1, 1]], refers=["p1"]
    )
    options = {"root": tmp_path, "images": "images", "labels": "labels", "label_values": (0, 1, 2)}
    refusing = datasets.load("image_mask", **options)
    assert "data.overlap='later'" in datasets.check(refusing, threads=1)[0]
    later = datasets.load("image_mask", **options, overlap="later")
    assert set(np.unique(later.load(later.cases[0]).label.data)) == {0, 2}
    assert refusing.digest(refusing.cases[0]) != later.digest(later.cases[0])
    with pytest.raises(UserError, match=r"data.overlap should be refuse or later"):
        datasets.load("image_mask", **options, overlap="first")


def test_the_digest_of_a_case_changes_with_a_slice_and_with_the_names_of_classes(tmp_path):
    labelled(tmp_path)
    (tmp_path / "labels" / "drawn.dcm").rename(tmp_path / "labels" / "p2.dcm")
    options = {"root": tmp_path, "images": "images", "labels": "labels"}

    def digests(second):
        dataset = datasets.load("image_mask", **options, classes=("background", second))
        return [dataset.digest(case) for case in dataset.cases]

    before = digests("tumor")
    assert before == digests("tumor") and all(a != b for a, b in zip(before, digests("body"), strict=True))
    scan(tmp_path / "images" / "p1", "p1", seed=3)
    after = digests("tumor")
    assert before[0] != after[0] and before[1] == after[1]
