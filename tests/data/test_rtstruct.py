"""Structure sets: filling the contours gives the mask back, and every reference leads to the series."""

import pathlib

import dicom_out_series as made
import numpy as np
import pydicom
import pytest
from dicom_out_series import filled
from numpy.testing import assert_allclose, assert_array_equal

from jaxseg.data.dicom.described import Description, Label
from jaxseg.data.dicom.source import Unfit
from jaxseg.data.writers import rtstruct
from jaxseg.terms import ANATOMY, UNSPECIFIED, Code, Term
from jaxseg.typing import UserError

LIVER = Term(ANATOMY, Code("SCT", "10200004", "Liver"))
LABELS = (Label(1, "shell", (86, 180, 233), UNSPECIFIED), Label(2, "liver", (230, 159, 0), LIVER))
DESCRIPTION = Description(LABELS, "1.2.3", "0123456789abcdef")


@pytest.mark.parametrize("several_frames", [False, True])
def test_filling_the_contours_gives_the_mask_back(tmp_path, several_frames):
    volume = made.write(tmp_path / "series", shape=(3, 11, 13), several_frames=several_frames)
    labels = made.labels((3, 11, 13))
    labels[1] = 0
    labels[0, 1:8, 2:9], labels[0, 3:6, 4:7], labels[0, 4, 5] = 1, 0, 1  # a ring with an island
    found = pydicom.dcmread(rtstruct.write(tmp_path / "r.dcm", labels, volume, description=DESCRIPTION))
    assert_array_equal(filled(found, volume), labels)


def test_a_tilted_gantry_keeps_its_place(tmp_path):
    step = made.NEXT + 0.25 * made.DOWN  # slices are shifted along their columns
    volume = made.write(tmp_path / "series", step=step, shape=(4, 9, 7))
    labels = made.labels((4, 9, 7))
    found = pydicom.dcmread(rtstruct.write(tmp_path / "r.dcm", labels, volume, description=DESCRIPTION))
    assert_array_equal(filled(found, volume), labels)


def test_a_square_stands_where_the_header_says(tmp_path):
    volume = made.write(tmp_path / "series")
    labels = np.zeros((3, 5, 7), np.int16)
    labels[2, 1, 3] = 2
    found = pydicom.dcmread(rtstruct.write(tmp_path / "r.dcm", labels, volume, description=DESCRIPTION))
    (contour,) = found.ROIContourSequence[0].ContourSequence
    centre = made.ORIGIN + 2 * 2.5 * made.NEXT + 1 * 0.75 * made.DOWN + 3 * 0.5 * made.ALONG
    points = np.array(contour.ContourData, float).reshape(4, 3)
    assert_allclose(points.mean(axis=0), centre, atol=1e-6)
    assert_allclose(points[1] - points[0], 0.5 * made.ALONG, atol=2e-6)
    assert_allclose(points[2] - points[1], 0.75 * made.DOWN, atol=2e-6)
    assert max(len(value.original_string) for value in contour.ContourData) <= 16


def test_every_reference_leads_to_the_series(tmp_path):
    volume = made.write(tmp_path / "series")
    labels = made.labels()
    found = pydicom.dcmread(rtstruct.write(tmp_path / "r.dcm", labels, volume, description=DESCRIPTION))
    images = [pydicom.dcmread(name, stop_before_pixels=True) for name in volume.header.files]
    uids = [image.SOPInstanceUID for image in images]
    (frame,) = found.ReferencedFrameOfReferenceSequence
    (study,) = frame.RTReferencedStudySequence
    (series,) = study.RTReferencedSeriesSequence
    assert frame.FrameOfReferenceUID == found.FrameOfReferenceUID == images[0].FrameOfReferenceUID
    assert study.ReferencedSOPInstanceUID == found.StudyInstanceUID == images[0].StudyInstanceUID
    assert series.SeriesInstanceUID == images[0].SeriesInstanceUID != found.SeriesInstanceUID
    assert [item.ReferencedSOPInstanceUID for item in series.ContourImageSequence] == uids
    for region in found.ROIContourSequence:
        for contour in region.ContourSequence:
            (item,) = contour.ContourImageSequence
            place = uids.index(item.ReferencedSOPInstanceUID)
            level = np.dot(made.ORIGIN + 2.5 * place * made.NEXT, made.NEXT)
            assert_allclose(np.dot([float(value) for value in contour.ContourData[:3]], made.NEXT), level, atol=1e-5)


def test_frames_of_one_object_are_told_by_number(tmp_path):
    volume = made.write(tmp_path / "series", several_frames=True)
    labels = np.zeros((3, 5, 7), np.int16)
    labels[2, 1, 3] = 1
    found = pydicom.dcmread(rtstruct.write(tmp_path / "r.dcm", labels, volume, description=DESCRIPTION))
    assert found.ROIContourSequence[0].ContourSequence[0].ContourImageSequence[0].ReferencedFrameNumber == 3


def test_regions_are_named_coloured_and_coded(tmp_path):
    volume = made.write(tmp_path / "series")
    labels = np.where(made.labels() == 1, 2, 0)
    found = pydicom.dcmread(rtstruct.write(tmp_path / "r.dcm", labels, volume, description=DESCRIPTION))
    (region,), (contours,), (observation,) = (
        found.StructureSetROISequence, found.ROIContourSequence, found.RTROIObservationsSequence,
    )  # fmt: skip
    assert region.ROINumber == contours.ReferencedROINumber == observation.ReferencedROINumber == 2
    assert region.ROIName == "liver" and region.ROIGenerationAlgorithm == "AUTOMATIC"
    assert region.ROIGenerationDescription == "jaxseg 1.2.3 0123456789abcdef"
    assert list(contours.ROIDisplayColor) == [230, 159, 0]
    assert observation.RTROIIdentificationCodeSequence[0].CodeValue == "10200004"
    assert found.Modality == "RTSTRUCT" and found.SeriesDescription == "jaxseg segmentation"
    assert found.StructureSetDescription == "Automatic, not for clinical use"
    assert found.ApprovalStatus == "UNAPPROVED" and found.SoftwareVersions == "1.2.3"
    for name, value in made.PATIENT.items():
        assert found[name].value == value, name
    assert str(tmp_path).encode() not in (tmp_path / "r.dcm").read_bytes()


def test_where_nothing_is_found_all_classes_are_named_without_contours(tmp_path):
    volume = made.write(tmp_path / "series", PatientSex=None)
    nothing = np.zeros((3, 5, 7), np.int16)
    found = pydicom.dcmread(rtstruct.write(tmp_path / "r.dcm", nothing, volume, description=DESCRIPTION))
    assert [region.ROIName for region in found.StructureSetROISequence] == ["shell", "liver"]
    assert not any("ContourSequence" in region for region in found.ROIContourSequence)
    assert found.PatientSex is None or found.PatientSex == ""


def test_contours_longer_than_a_short_length_field(tmp_path):
    # A comb has four points a tooth; 64 KiB of text are some 2,500 points.
    volume = made.write(tmp_path / "series", shape=(1, 4, 1799))
    labels = np.zeros((1, 4, 1799), np.int16)
    labels[0, 0], labels[0, :, ::2] = 1, 1
    found = pydicom.dcmread(rtstruct.write(tmp_path / "r.dcm", labels, volume, description=DESCRIPTION))
    (contour,) = found.ROIContourSequence[0].ContourSequence
    assert contour.NumberOfContourPoints * 3 == len(contour.ContourData) == 3 * 4 * 900


def test_names_in_other_letters_do_not_cost_the_patient_its_own(tmp_path):
    volume = made.write(tmp_path / "series", PatientName="Müller^Jörg")
    greek = DESCRIPTION._replace(labels=(LABELS[0]._replace(name="ἧπαρ"), LABELS[1]))
    found = pydicom.dcmread(rtstruct.write(tmp_path / "r.dcm", made.labels(), volume, description=greek))
    assert found.StructureSetROISequence[0].ROIName == "ἧπαρ" and str(found.PatientName) == "Müller^Jörg"


def test_what_cannot_be_written_is_told_without_the_patient(tmp_path, recwarn):
    volume = made.write(tmp_path / "series")
    with pytest.raises(Unfit, match="there is no series to refer to"):
        rtstruct.write(tmp_path / "r.dcm", made.labels(), volume._replace(header=None), description=DESCRIPTION)
    with pytest.raises(ValueError, match=r"Class ids without a label: \[3\]"):
        rtstruct.write(tmp_path / "r.dcm", made.labels(high=4), volume, description=DESCRIPTION)
    (tmp_path / "there.dcm").write_bytes(b"precious")
    with pytest.raises(UserError, match="exists already"):
        rtstruct.write(tmp_path / "there.dcm", made.labels(), volume, description=DESCRIPTION)
    assert (tmp_path / "there.dcm").read_bytes() == b"precious"
    for name in map(pathlib.Path, volume.header.files):  # letters in a date
        name.write_bytes(name.read_bytes().replace(b"19331224", b"SECRET00"))
    found = pydicom.dcmread(rtstruct.write(tmp_path / "r.dcm", made.labels(), volume, description=DESCRIPTION))
    assert found.PatientID == "SECRET-4711" and not found.PatientBirthDate
    assert not any("SECRET" in str(one.message) for one in recwarn)
