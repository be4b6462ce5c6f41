"""Which files a case leaves, for each format that is asked for and each kind of input."""

import functools
import pathlib

import dicom_out_series as made
import highdicom
import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxseg import predict
from jaxseg.data import readers
from jaxseg.data.dicom.described import Description, Label
from jaxseg.data.dicom.source import Unfit
from jaxseg.data.volume import identity_affine
from jaxseg.predict import Prediction, formats
from jaxseg.terms import UNSPECIFIED
from jaxseg.typing import Case, UserError, Volume

LABELS = (Label(1, "shell", (86, 180, 233), UNSPECIFIED), Label(2, "core", (230, 159, 0), UNSPECIFIED))
OUTPUTS = formats.Outputs(("same",), (0, 10, 20), Description(LABELS, "1.2.3", "0123456789abcdef"), (0, 1, 2))
PROBABILITIES = np.random.default_rng(0).random((3, 5, 7, 3)).astype(np.float32)
PREDICTION = Prediction(made.labels(), None)
RICH = Prediction(made.labels(), PROBABILITIES, {"entropy": PROBABILITIES[..., 0]})


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    return made.write(tmp_path_factory.mktemp("scans") / "thorax")


def write(volume, folder, *names, prediction=PREDICTION, **options):
    outputs = OUTPUTS._replace(formats=names, **options)
    return formats.write(case_of(volume), prediction, volume, folder, outputs=outputs)


def case_of(volume):
    return Case(readers.stem(volume.path), (volume.path,))


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def flat(name):
    return Volume(np.zeros((3, 5, 7, 1), np.float32), (1.0, 1.0, 1.0), identity_affine(3), None, name)


@pytest.mark.parametrize(
    "names, left",
    [
        (("same",), ["thorax.dcm", "thorax.nii.gz"]),
        (("nifti",), ["thorax.nii.gz"]),
        (("dicom_seg",), ["thorax.dcm"]),
        (("rtstruct",), ["thorax_rtstruct.dcm"]),
        (("nifti", "rtstruct", "dicom_seg"), ["thorax.dcm", "thorax.nii.gz", "thorax_rtstruct.dcm"]),
    ],
)
def test_a_series_leaves_the_files_that_are_asked_for(series, tmp_path, names, left):
    assert write(series, tmp_path / "out", *names) == []
    assert files(tmp_path / "out") == left
    assert sorted(formats.file_names(case_of(series), names)) == left
    if "thorax.nii.gz" in left:  # the user's own values, on the grid of the series
        mask = readers.read_label(tmp_path / "out" / "thorax.nii.gz")
        assert_array_equal(mask.data, 10 * PREDICTION.labels)
        assert_allclose(mask.affine, series.affine, atol=1e-5)
    if "thorax.dcm" in left:
        assert highdicom.seg.segread(tmp_path / "out" / "thorax.dcm").segment_numbers == [1, 2]


def test_probabilities_and_maps_stand_beside_the_mask(series, tmp_path):
    write(series, tmp_path / "same", "same", prediction=RICH)
    assert files(tmp_path / "same") == [
        "thorax.dcm", "thorax.nii.gz", "thorax_entropy.nii.gz", "thorax_probabilities.nii.gz"
    ]  # fmt: skip
    write(series, tmp_path / "seg", "dicom_seg", prediction=RICH)
    assert files(tmp_path / "seg") == ["thorax.dcm", "thorax_entropy.nii.gz", "thorax_probabilities.dcm"]
    found = highdicom.seg.segread(tmp_path / "seg" / "thorax_probabilities.dcm")
    uids = [pydicom.dcmread(name).SOPInstanceUID for name in series.header.files]
    assert_allclose(found.get_pixels_by_source_instance(uids), PROBABILITIES[..., 1:], atol=0.5 / 255 + 1e-6)
    write(series, tmp_path / "contours", "rtstruct", prediction=RICH)
    assert files(tmp_path / "contours") == [
        "thorax_entropy.nii.gz", "thorax_probabilities.nii.gz", "thorax_rtstruct.dcm"
    ]  # fmt: skip


def test_probabilities_of_regions_bear_the_name_of_their_class(series, tmp_path):
    regions = RICH._replace(probabilities=PROBABILITIES[..., :2], maps={})
    write(series, tmp_path, "dicom_seg", prediction=regions, channels=(2, 1))
    found = highdicom.seg.segread(tmp_path / "thorax_probabilities.dcm")
    assert [found.get_segment_description(number).segment_label for number in (1, 2)] == ["core", "shell"]


@pytest.mark.parametrize("name, left", [("a.nii.gz", "a.nii.gz"), ("a.nii", "a.nii"), ("a.nrrd", "a.nii.gz")])
def test_nifti_of_other_files(tmp_path, name, left):
    write(flat(name), tmp_path / "out", "nifti")
    assert files(tmp_path / "out") == [left]
    write(flat(name), tmp_path / "same", "same")
    assert files(tmp_path / "same") == [name]


def test_objects_are_refused_where_there_is_no_series(tmp_path):
    with pytest.raises(UserError, match=r"predict.format asks for rtstruct, but a.nii.gz is not DICOM: there is no"):
        formats.file_names(Case("a", ("a.nii.gz",)), ("nifti", "rtstruct"))
    with pytest.raises(Unfit, match=r"a\.nii\.gz is not DICOM"):
        write(flat("a.nii.gz"), tmp_path, "dicom_seg")
    assert files(tmp_path) == []


def test_a_series_that_lacks_a_reference_still_gives_its_nifti(tmp_path):
    lost = made.write(tmp_path / "lost", FrameOfReferenceUID=None)
    (reason,) = write(lost, tmp_path / "out", "same")
    assert "lacks the FrameOfReferenceUID" in reason and files(tmp_path / "out") == ["lost.nii.gz"]
    with pytest.raises(Unfit, match="lacks the FrameOfReferenceUID"):
        write(lost, tmp_path / "out", "dicom_seg")


def test_nothing_is_overwritten_and_a_scan_never(series, tmp_path):
    (tmp_path / "thorax_rtstruct.dcm").write_bytes(b"precious")
    with pytest.raises(UserError, match=r"thorax_rtstruct\.dcm exists already"):
        write(series, tmp_path, "dicom_seg", "rtstruct")
    assert files(tmp_path) == ["thorax_rtstruct.dcm"]
    write(series, tmp_path, "dicom_seg", "rtstruct", overwrite=True)
    assert pydicom.dcmread(tmp_path / "thorax_rtstruct.dcm").Modality == "RTSTRUCT"
    scan = pathlib.Path(series.header.files[0])
    before = scan.read_bytes()
    outputs = OUTPUTS._replace(formats=("dicom_seg",), overwrite=True)
    with pytest.raises(UserError, match="is a file of the input series"):
        formats.write(Case(scan.stem, (series.path,)), PREDICTION, series, scan.parent, outputs=outputs)
    assert scan.read_bytes() == before


def test_a_folder_is_checked_before_the_first_case(series, tmp_path):
    (tmp_path / "thorax.dcm").write_bytes(b"precious")
    run = functools.partial(
        predict.predict_folder,
        lambda volume: pytest.fail("predicted in vain"),
        [case_of(series)],
        tmp_path,
        read=lambda case: series,
        label_values=(0, 10, 20),
    )
    with pytest.raises(UserError, match=r"thorax\.dcm exists already"):
        run(outputs=lambda case: formats.file_names(case, ("same",)))
    with pytest.raises(UserError, match="would both be written"):
        run(outputs=lambda case: ["a.dcm", "a.dcm"])
