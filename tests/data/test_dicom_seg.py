"""Segmentation objects give the mask back, lie on their series and say what they should, and no more."""

import pathlib

import dicom_out_series as made
import highdicom
import numpy as np
import pydicom
import pytest
from dicom_out_series import read_back
from numpy.testing import assert_allclose, assert_array_equal

from jaxseg.data.dicom.described import Description, Label
from jaxseg.data.dicom.source import Unfit
from jaxseg.data.writers import dicom_seg
from jaxseg.terms import ANATOMY, UNSPECIFIED, Code, Term
from jaxseg.typing import UserError

LIVER = Term(ANATOMY, Code("SCT", "10200004", "Liver"))
LABELS = (Label(1, "shell", (86, 180, 233), UNSPECIFIED), Label(2, "liver", (230, 159, 0), LIVER))
DESCRIPTION = Description(LABELS, "1.2.3", "0123456789abcdef")


@pytest.mark.parametrize("several_frames", [False, True])
def test_the_mask_comes_back_on_the_slices_of_its_series(tmp_path, several_frames):
    volume = made.write(tmp_path / "series", several_frames=several_frames)
    labels = made.labels()
    labels[1] = 0  # a slice without anything has no frame
    path = dicom_seg.write(tmp_path / "out" / "case.dcm", labels, volume, description=DESCRIPTION)
    assert_array_equal(read_back(path, volume, {1: 1, 2: 2}), labels)
    found = highdicom.seg.segread(path)
    assert found.number_of_frames == 4 and found.segmentation_type.value == "BINARY"
    grid = found.get_volume(combine_segments=True)
    # highdicom's volume may run the other way; both say where each voxel lies
    for index in np.ndindex(grid.array.shape):
        there = (grid.affine @ [*index, 1]) * [-1, -1, 1, 1]
        here = np.rint(np.linalg.solve(volume.affine, there)[:3]).astype(int)
        assert grid.array[index] == labels[tuple(here)]
        assert_allclose(volume.affine @ [*here, 1], there, atol=1e-6)


def test_frames_lie_in_order_whatever_the_order_of_the_files(tmp_path):
    volume = made.write(tmp_path / "series", shape=(4, 5, 7))
    path = dicom_seg.write(tmp_path / "case.dcm", made.labels((4, 5, 7)), volume, description=DESCRIPTION)
    groups = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence
    index = [tuple(item.FrameContentSequence[0].DimensionIndexValues) for item in groups]
    assert index == [(segment, place) for segment in (1, 2) for place in (1, 2, 3, 4)]
    along = [np.dot(item.PlanePositionSequence[0].ImagePositionPatient, made.NEXT) for item in groups[:4]]
    assert_allclose(np.abs(np.diff(along)), 2.5)
    assert len(set(np.sign(np.diff(along)))) == 1


def test_segments_are_described_as_the_config_says(tmp_path):
    volume = made.write(tmp_path / "series")
    labels = np.where(made.labels() == 1, 2, 0)
    path = dicom_seg.write(tmp_path / "case.dcm", labels, volume, description=DESCRIPTION)
    found = highdicom.seg.segread(path)
    assert found.segment_numbers == [1]  # numbers begin at 1 and have no gaps; class 1 does not occur
    segment = found.get_segment_description(1)
    assert segment.segment_label == "liver" and segment.SegmentDescription == "class id 2"
    assert segment.segmented_property_type == highdicom.sr.CodedConcept("10200004", "SCT", "Liver")
    assert segment.segmented_property_category.value == "123037004"
    assert segment.SegmentAlgorithmType == "AUTOMATIC" and segment.SegmentAlgorithmName == "jaxseg"
    algorithm = segment.algorithm_identification
    assert (algorithm.name, algorithm.version) == ("jaxseg", "1.2.3")
    assert algorithm.parameters == {"run": "0123456789abcdef"}
    color = highdicom.color.CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue)
    assert_allclose(color.to_rgb(clip=True), (230, 159, 0), atol=1)
    assert_array_equal(read_back(path, volume, {1: 2}), labels)


def test_where_nothing_is_found_all_classes_are_named_and_empty(tmp_path):
    volume = made.write(tmp_path / "series")
    path = dicom_seg.write(tmp_path / "case.dcm", np.zeros((3, 5, 7), np.int16), volume, description=DESCRIPTION)
    found = highdicom.seg.segread(path)
    assert [found.get_segment_description(number).segment_label for number in (1, 2)] == ["shell", "liver"]
    assert found.number_of_frames == 6 and not found.pixel_array.any()


def test_the_object_finds_its_place_in_the_archive_and_says_what_it_is(tmp_path):
    volume = made.write(tmp_path / "series")
    found = pydicom.dcmread(dicom_seg.write(tmp_path / "case.dcm", made.labels(), volume, description=DESCRIPTION))
    image = pydicom.dcmread(volume.header.files[0])
    for name in (*made.PATIENT, "StudyInstanceUID", "FrameOfReferenceUID"):
        assert found[name].value == image[name].value, name
    assert found.SeriesInstanceUID != image.SeriesInstanceUID and found.SOPInstanceUID != image.SOPInstanceUID
    (series,) = found.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == image.SeriesInstanceUID and len(series.ReferencedInstanceSequence) == 3
    assert found.SoftwareVersions == "1.2.3" and found.SeriesDescription == "jaxseg segmentation"
    assert found.ContentDescription == "Automatic, not for clinical use"
    assert str(tmp_path).encode() not in (tmp_path / "case.dcm").read_bytes()


def test_a_header_with_gaps_is_filled_with_nothing(tmp_path):
    absent = {name: None for name in ("PatientBirthDate", "PatientSex", "StudyID", "SliceThickness", "AccessionNumber")}
    volume = made.write(tmp_path / "series", **absent)
    found = pydicom.dcmread(dicom_seg.write(tmp_path / "a.dcm", made.labels(), volume, description=DESCRIPTION))
    assert found.PatientID == "SECRET-4711" and not found.PatientBirthDate and not found.StudyID
    assert_array_equal(read_back(tmp_path / "a.dcm", volume, {1: 1, 2: 2}), made.labels())


def test_names_in_other_letters_do_not_cost_the_patient_its_own(tmp_path):
    volume = made.write(tmp_path / "series", PatientName="Müller^Jörg")
    greek = DESCRIPTION._replace(labels=(LABELS[0]._replace(name="ἧπαρ"), LABELS[1]))
    found = pydicom.dcmread(dicom_seg.write(tmp_path / "a.dcm", made.labels(), volume, description=greek))
    assert found.SegmentSequence[0].SegmentLabel == "ἧπαρ" and str(found.PatientName) == "Müller^Jörg"


def test_some_frames_of_a_multi_frame_object(tmp_path):
    volume = made.write(tmp_path / "series", several_frames=True, shape=(4, 5, 7))
    header = volume.header._replace(files=volume.header.files[1:], frames=(1, 2, 3))
    affine = volume.affine.copy()
    affine[:, 3] += affine[:, 0]
    part = volume._replace(data=volume.data[1:], affine=affine, header=header)
    dicom_seg.write(tmp_path / "a.dcm", made.labels(), part, description=DESCRIPTION)
    assert_array_equal(read_back(tmp_path / "a.dcm", part, {1: 1, 2: 2}), made.labels())


def test_probabilities_are_kept_to_a_255th(tmp_path):
    volume = made.write(tmp_path / "series")
    values = np.random.default_rng(3).random((3, 5, 7, 2)).astype(np.float32)
    path = dicom_seg.write_probabilities(tmp_path / "p.dcm", values, volume, description=DESCRIPTION)
    found = highdicom.seg.segread(path)
    assert found.SegmentationFractionalType == "PROBABILITY"
    uids = [pydicom.dcmread(name).SOPInstanceUID for name in volume.header.files]
    back = found.get_pixels_by_source_instance(uids)
    assert_allclose(back, values, atol=0.5 / 255 + 1e-6)
    with pytest.raises(ValueError, match="2 labels need as many channels, got 1"):
        dicom_seg.write_probabilities(tmp_path / "q.dcm", values[..., :1], volume, description=DESCRIPTION)


def test_what_cannot_be_referred_to_is_told_and_leaves_no_file(tmp_path):
    volume = made.write(tmp_path / "series")

    def refused(message, kind=Unfit, **changes):
        with pytest.raises(kind, match=message) as caught:
            dicom_seg.write(tmp_path / "out.dcm", made.labels(), volume._replace(**changes), description=DESCRIPTION)
        assert not any(secret in str(caught.value) for secret in ("Muster", "Grete", "4711", "1933", "ACC99"))
        assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []

    refused("scan.nii.gz is not DICOM: there is no series to refer to", header=None, path="scan.nii.gz")
    refused("does not lie on the grid of its DICOM series", affine=volume.affine + np.eye(4)[[1]].T * [0, 0, 0, 0.5])
    refused("does not lie on the grid", header=volume.header._replace(files=volume.header.files[:2]))
    refused("cannot be read again", header=volume.header._replace(files=("gone.dcm",) * 3))
    lost = made.write(tmp_path / "lost", FrameOfReferenceUID=None)
    refused("lacks the FrameOfReferenceUID", header=lost.header)
    with pytest.raises(ValueError, match=r"Class ids without a label: \[3\]"):
        dicom_seg.write(tmp_path / "out.dcm", made.labels(high=4), volume, description=DESCRIPTION)


def test_a_file_that_is_there_stays(tmp_path):
    volume = made.write(tmp_path / "series")
    (tmp_path / "a.dcm").write_bytes(b"precious")
    with pytest.raises(UserError, match="exists already"):
        dicom_seg.write(tmp_path / "a.dcm", made.labels(), volume, description=DESCRIPTION)
    assert (tmp_path / "a.dcm").read_bytes() == b"precious"
    dicom_seg.write(tmp_path / "a.dcm", made.labels(), volume, description=DESCRIPTION, overwrite=True)
    assert_array_equal(read_back(tmp_path / "a.dcm", volume, {1: 1, 2: 2}), made.labels())


def test_a_header_that_breaks_the_rules_is_mended_and_quoted_nowhere(tmp_path, recwarn, capfd):
    volume = made.write(tmp_path / "series", SpecificCharacterSet="", PatientName="Muster Grete")
    for name in map(pathlib.Path, volume.header.files):  # what anonymisation may leave
        raw = name.read_bytes()
        name.write_bytes(
            raw.replace(b"19331224", b"SECRET00").replace(b"101112", b"SECRET").replace(b"CS\2\0F ", b"CS\2\0U ")
        )
    found = pydicom.dcmread(dicom_seg.write(tmp_path / "a.dcm", made.labels(), volume, description=DESCRIPTION))
    assert found.PatientName == "Muster Grete" and found.PatientID == "SECRET-4711"
    assert not found.PatientBirthDate and not found.StudyTime and not found.PatientSex
    assert not any("SECRET" in str(one.message) for one in recwarn)
    assert not any("SECRET" in text or "Muster" in text for text in capfd.readouterr())


def test_what_highdicom_refuses_is_told_without_its_words(tmp_path, monkeypatch):
    volume = made.write(tmp_path / "series")
    monkeypatch.setattr(highdicom.seg, "Segmentation", lambda **options: int("Muster^Grete"))
    with pytest.raises(Unfit, match=r"of which no segmentation can be made \(ValueError\)") as caught:
        dicom_seg.write(tmp_path / "a.dcm", made.labels(), volume, description=DESCRIPTION)
    assert "Muster" not in str(caught.value) and not (tmp_path / "a.dcm").exists()


@pytest.mark.parametrize("own", [["", "ISO 2022 IR 87"], ["ISO 2022 IR 100", "ISO 2022 IR 87"]])
def test_a_character_set_of_several_parts_becomes_one(tmp_path, own):
    volume = made.write(tmp_path / "series", SpecificCharacterSet=own, PatientName="Yamada^Tarou=山田^太郎")
    found = pydicom.dcmread(dicom_seg.write(tmp_path / "a.dcm", made.labels(), volume, description=DESCRIPTION))
    assert found.SpecificCharacterSet == "ISO_IR 192" and str(found.PatientName) == "Yamada^Tarou=山田^太郎"
