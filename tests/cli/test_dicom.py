"""Commands on folders of DICOM: trained on SEG labels, predicted, scored; and no word of the patient anywhere."""

import shutil
import zipfile

import clinic
import dicom_files as made
import nibabel
import numpy as np
import pytest

from jaxseg.data import readers
from jaxseg.data.dicom.labels import Choice

PATIENT = (b"Doe^Jane", b"MRN-4711")


def scan(root, name, number):
    """Writes a series of a bright ellipsoid and a SEG of it; returns the label map `(z, y, x)`."""
    image, label = clinic.volume(number, shape=(12, 11, 10))
    image, label = np.rint(image).astype(np.int16), label.astype(np.uint8)
    made.series(
        root / "images" / name, image, name=name, RescaleSlope=1, RescaleIntercept=-100, SeriesDescription="Abdomen"
    )
    places = made.positions(len(image))
    frames = [(value, place) for value in (1, 2) for place in range(len(image)) if (label[place] == value).any()]
    made.segmentation(
        root / "labels" / f"{name}.dcm",
        np.stack([label[place] == value for value, place in frames]),
        segments=[value for value, _ in frames],
        places=[places[place] for _, place in frames],
        names={1: "shell", 2: "core"},
        refers=[name],
    )
    return label


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("dicom")
    for number in range(4):
        scan(root, f"case_{number}", number)
    return root


@pytest.fixture(scope="module")
def run(root):
    """A run that was prepared and trained on DICOM."""
    workdir = root / "run"
    done = clinic.launch(
        "--config", clinic.config_file(root), "--config.data.name=image_mask", f"--config.data.root={root}",
        "--config.data.images=images", "--config.data.labels=labels",
        "--config.data.classes=('background','shell','core')", f"--workdir={workdir}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "prepared 4 cases" in done.stdout
    return workdir


def texts(folder):
    """Returns names of all files under a folder and contents of those that are no DICOM, which names its patient."""
    return b"\0".join(
        str(file.relative_to(folder)).encode()
        + (file.read_bytes() if file.is_file() and file.suffix != ".dcm" else b"")
        for file in folder.rglob("*")
    )


def test_a_run_on_dicom_holds_no_word_of_the_patient(run):
    assert (run / "report.html").exists() and (run / "evaluation" / "cases.csv").exists()
    content = texts(run)
    assert not any(word in content for word in PATIENT)


def test_predict_writes_masks_on_the_grid_of_each_series_named_by_folder(root, run, tmp_path):
    place = tmp_path / "in"
    shutil.copytree(root / "images" / "case_0", place / "deep" / "er")
    with zipfile.ZipFile(place / "packed.zip", "w") as archive:
        for file in (root / "images" / "case_1").iterdir():
            archive.write(file, file.name)
    made.series(place / "scout", made.ramp(1, 5, 4), name="scout", ImageType=["DERIVED", "PRIMARY", "LOCALIZER"])
    done = clinic.launch("--mode=predict", f"--workdir={run}", f"--input={place}", f"--output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "02.dcm: is a localiser" in done.stdout
    written = {readers.stem(file) for file in (tmp_path / "out").iterdir()}
    assert written == {"deep_er", "packed"} and (tmp_path / "out" / "deep_er.nii.gz").exists()
    image, mask = readers.read(place / "packed.zip"), readers.read_label(tmp_path / "out" / "packed.nii.gz")
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-4)
    assert mask.data.shape == image.data.shape[:3]
    assert nibabel.load(tmp_path / "out" / "packed.nii.gz").header.get_xyzt_units()[0] == "mm"
    classes = Choice((("shell", 1), ("core", 2)))
    object_ = readers.read_label(tmp_path / "out" / "packed.dcm", like=image, choice=classes)
    np.testing.assert_array_equal(object_.data, mask.data)  # the segmentation that predict wrote beside
    everything = texts(tmp_path / "out") + (done.stdout + done.stderr).encode()
    assert not any(word in everything for word in PATIENT)


def test_patients_are_named_when_report_identify_asks_for_it(root, run, tmp_path):
    done = clinic.launch(
        "--mode=predict", f"--workdir={run}", f"--input={root / 'images' / 'case_0'}", f"--output={tmp_path}",
        "--set=report.identify=True",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {readers.stem(file) for file in tmp_path.iterdir()} == {"MRN-4711_Abdomen"}


def test_evaluate_scores_a_folder_of_dicom_against_seg_and_nifti(root, run, tmp_path):
    image = readers.read(root / "images" / "case_2")
    labels = tmp_path / "labels"
    labels.mkdir()
    shutil.copy(root / "labels" / "case_0.dcm", labels / "any name.dcm")  # found by the series that it names
    shutil.copy(root / "labels" / "case_1.dcm", labels / "case_1.dcm")
    shutil.copy(root / "labels" / "case_3.dcm", labels / "case_3.dcm")
    turned = readers.read_label(root / "labels" / "case_2.dcm", like=image).data[:, ::-1].transpose(2, 1, 0)
    back = np.eye(4)
    back[1, 1], back[1, 3] = -1, turned.shape[1] - 1
    affine = image.affine[:, [2, 1, 0, 3]] @ back
    nibabel.save(nibabel.Nifti1Image(turned.astype(np.uint8), affine), labels / "case_2.nii.gz")
    output = tmp_path / "scores"
    done = clinic.launch(
        "--mode=evaluate", f"--workdir={run}", f"--input={root / 'images'}", f"--labels={labels}", f"--output={output}"
    )
    assert done.returncode == 0, done.stderr
    rows = (output / "cases.csv").read_text().splitlines()
    assert sorted({row.split(",")[0] for row in rows[1:]}) == [f"case_{number}" for number in range(4)]
    assert not any(word in texts(output) for word in PATIENT)


def test_a_gap_is_one_sentence_and_the_other_cases_are_written(root, run, tmp_path):
    place = tmp_path / "in"
    shutil.copytree(root / "images" / "case_0", place / "whole")
    shutil.copytree(root / "images" / "case_1", place / "gap")
    next(file for file in (place / "gap").iterdir() if file.name == "27.dcm").unlink()
    done = clinic.launch("--mode=predict", f"--workdir={run}", f"--input={place}", f"--output={tmp_path / 'out'}")
    assert done.returncode == 2 and "lacks slices" in done.stderr and "Traceback" not in done.stderr
    assert {readers.stem(file) for file in (tmp_path / "out").iterdir()} == {"whole"}
