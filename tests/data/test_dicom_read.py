"""A DICOM series becomes the volume that SimpleITK makes of it, or is refused with a sentence."""

import pathlib
import zipfile

import dicom_files as made
import numpy as np
import pydicom
import pytest
import SimpleITK

from jaxseg.data import readers, writers
from jaxseg.data.dicom.series import Series, headers
from jaxseg.typing import UserError

WHEEL = pathlib.Path(pydicom.__file__).parent / "data" / "test_files"
SAMPLES = "dicom_samples"


def reference(folder):
    """Returns what SimpleITK reads: values `(z, y, x)`, spacing in that order, and an affine in RAS+."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return itk_parts(reader.Execute())


def itk_parts(image):
    spacing = np.array(image.GetSpacing())
    affine = np.eye(4)
    affine[:3, :3] = (np.array(image.GetDirection()).reshape(3, 3) * spacing)[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image), spacing[::-1], np.diag([-1.0, -1, 1, 1]) @ affine


def assert_same(volume, parts):
    values, spacing, affine = parts
    np.testing.assert_allclose(volume.data[..., 0], values, rtol=1e-6)
    np.testing.assert_allclose(volume.spacing, spacing, rtol=1e-6)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)


def refused(path, *words, read=readers.read):
    """Asserts that reading ends in one sentence with the words and without the patient."""
    with pytest.raises(UserError) as caught:
        read(path)
    text = str(caught.value)
    assert "\n" not in text and "Doe" not in text and "4711" not in text
    for word in words:
        assert word in text, text


@pytest.mark.parametrize("orientation", [made.AXIAL, (0, 1, 0, 0, 0, -1), (0, 1, 0, 1, 0, 0), made.oblique()])
def test_a_series_in_any_orientation_is_that_of_simpleitk(tmp_path, orientation):
    folder = made.series(
        tmp_path / "scan", made.ramp(5, 4, 3), orientation=orientation, RescaleSlope=2, RescaleIntercept=-50
    )
    volume = readers.read(folder)
    assert volume.data.shape == (5, 4, 3, 1) and volume.data.dtype == np.int16
    assert_same(volume, reference(folder))
    assert isinstance(volume.header, Series) and volume.header.modality == "CT"
    assert volume.path == str(folder)


def test_slices_follow_their_positions_not_their_names(tmp_path):
    array = made.ramp(5, 4, 3)
    places = made.positions(5)
    folder = made.series(tmp_path / "scan", array[[3, 0, 4, 1, 2]], places=places[[3, 0, 4, 1, 2]])
    volume = readers.read(folder)
    np.testing.assert_array_equal(volume.data[..., 0], array)
    found = [header.ImagePositionPatient[2] for header in headers(volume.header)]
    assert found == sorted(found) and len(found) == 5


def test_values_that_are_not_whole_are_float32_and_whole_ones_stay_integers(tmp_path):
    array = made.ramp(2, 4, 3, dtype=np.uint16)
    plain = readers.read(made.series(tmp_path / "plain", array))
    assert plain.data.dtype == np.uint16
    scaled = readers.read(made.series(tmp_path / "scaled", array, RescaleSlope=(0.5, 0.25), RescaleIntercept=1))
    assert scaled.data.dtype == np.float32  # each slice has a slope of its own, as in PET
    np.testing.assert_allclose(scaled.data[0, ..., 0], array[0] * 0.5 + 1)
    np.testing.assert_allclose(scaled.data[1, ..., 0], array[1] * 0.25 + 1)
    large = readers.read(made.series(tmp_path / "large", array, RescaleSlope=300, RescaleIntercept=0))
    assert large.data.dtype == np.int32 and large.data.max() == 300 * int(array.max())


def test_small_values_that_are_bright_are_turned_round(tmp_path):
    array = made.ramp(2, 4, 3, dtype=np.uint16)
    folder = made.series(tmp_path / "scan", array, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11)
    volume = readers.read(folder)
    np.testing.assert_array_equal(volume.data[..., 0], 4095 - array)
    assert_same(volume, reference(folder))


def test_an_enhanced_object_is_one_volume_sorted_by_the_positions_of_its_frames(tmp_path):
    array, places = made.ramp(4, 5, 3), made.positions(4, orientation=made.oblique())
    order = [2, 0, 3, 1]
    slopes = [{"PixelValueTransformationSequence": made.item(RescaleSlope=1 + n, RescaleIntercept=0)} for n in order]
    path = made.enhanced(
        tmp_path / "all.dcm", array[order], places=places[order], orientation=made.oblique(), groups=slopes
    )
    volume = readers.read(path)
    np.testing.assert_array_equal(volume.data[..., 0], array * np.arange(1, 5)[:, None, None])
    np.testing.assert_allclose(volume.affine @ [3, 0, 0, 1], [*(-places[3][:2]), places[3][2], 1], atol=1e-6)
    np.testing.assert_allclose(volume.spacing, (2.5, *made.SPACING))
    assert volume.header.frames == (1, 3, 0, 2) and set(volume.header.files) == {str(path)}


def test_a_series_in_a_zip_archive_is_the_same_volume(tmp_path):
    folder = made.series(tmp_path / "scan", made.ramp(4, 5, 3))
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"inside/{file.name}")
        archive.writestr("__MACOSX/inside/._02.dcm", b"x")
        archive.writestr("readme.md", "a note")
    inside, outside = readers.read(tmp_path / "scan.zip"), readers.read(folder)
    np.testing.assert_array_equal(inside.data, outside.data)
    np.testing.assert_array_equal(inside.affine, outside.affine)
    assert inside.header.archive == str(tmp_path / "scan.zip") and inside.header.files[0].startswith("inside/")
    assert [header.InstanceNumber for header in headers(inside.header)] == [1, 2, 3, 4]


def test_files_need_no_suffix(tmp_path):
    folder = made.series(tmp_path / "scan", made.ramp(3, 5, 4), suffix="")
    (folder / "notes.md").write_text("not DICOM")
    (folder / ".hidden").write_bytes((folder / "02").read_bytes())
    assert readers.read(folder).data.shape == (3, 5, 4, 1)
    assert readers.read(folder / "02").data.shape == (1, 5, 4, 1)  # one file alone
    assert readers.kind(folder) == readers.kind(folder / "02") == ".dcm" and readers.kind(folder / "notes.md") == ""


def test_a_single_slice_is_as_thick_as_its_header_says(tmp_path):
    folder = made.series(tmp_path / "scan", made.ramp(1, 5, 4))
    np.testing.assert_allclose(readers.read(folder).spacing, (4.0, *made.SPACING))
    folder = made.series(tmp_path / "between", made.ramp(1, 5, 4), SpacingBetweenSlices=3.0)
    np.testing.assert_allclose(readers.read(folder).spacing, (3.0, *made.SPACING))


def test_a_tilted_gantry_is_a_shear_of_the_affine_and_comes_back_in_nifti(tmp_path):
    places = made.positions(4, shear=(0.0, 0.9))
    folder = made.series(tmp_path / "scan", made.ramp(4, 5, 3), places=places)
    volume = readers.read(folder)
    for number, place in enumerate(places):
        np.testing.assert_allclose(volume.affine @ [number, 0, 0, 1], [*(-place[:2]), place[2], 1], atol=1e-6)
    np.testing.assert_allclose(volume.spacing[0], np.hypot(2.5, 0.9))
    written = writers.write(tmp_path / "mask.nii.gz", (volume.data[..., 0] > 50).astype(np.uint8), volume)
    again = readers.read_label(written)
    np.testing.assert_allclose(again.affine, volume.affine, atol=1e-5)
    np.testing.assert_array_equal(again.data, volume.data[..., 0] > 50)


def test_positions_rounded_by_the_scanner_are_no_tilt(tmp_path):
    places = made.positions(4)
    places[3, :2] += 0.05
    places[1:3, 2] += (0.1, -0.1)
    volume = readers.read(made.series(tmp_path / "scan", made.ramp(4, 5, 3), places=places))
    np.testing.assert_allclose(volume.affine[:3, 0], (0, 0, 2.5), atol=1e-12)


def test_nifti_of_a_series_says_millimetres_and_scanner_coordinates(tmp_path):
    import nibabel

    volume = readers.read(made.series(tmp_path / "scan", made.ramp(4, 5, 3), orientation=made.oblique()))
    path = writers.write(tmp_path / "mask.nii.gz", (volume.data[..., 0] > 50).astype(np.uint8), volume)
    header = nibabel.load(path).header
    assert header.get_xyzt_units()[0] == "mm" and (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    np.testing.assert_allclose(readers.read_label(path).affine, volume.affine, atol=1e-5)
    assert readers.output_name("case.dcm") == readers.output_name("case.IMA") == "case.nii.gz"


def test_missing_slices_are_refused_with_the_gap_in_mm(tmp_path):
    keep = [0, 1, 2, 4, 5]
    places = made.positions(6)[keep]
    refused(made.series(tmp_path / "scan", made.ramp(5, 4, 3), places=places), "lacks slices", "2.5 mm", "12 to 17 mm")


def test_uneven_slices_are_refused(tmp_path):
    places = made.positions(5)
    places[2, 2] += 0.6
    refused(made.series(tmp_path / "scan", made.ramp(5, 4, 3), places=places), "evenly spaced", "1.9 to 3.1 mm")


def test_slices_that_are_shifted_at_random_are_refused(tmp_path):
    places = made.positions(4)
    places[2, 0] += 3
    refused(made.series(tmp_path / "scan", made.ramp(4, 5, 3), places=places), "shifted in their plane", "3 mm")


def test_copies_of_a_slice_count_once_and_differing_ones_are_refused(tmp_path):
    array = made.ramp(3, 5, 4)
    folder = made.series(tmp_path / "scan", array)
    (folder / "copy.dcm").write_bytes((folder / "02.dcm").read_bytes())
    np.testing.assert_array_equal(readers.read(folder).data[..., 0], array)
    twice = np.concatenate([array, array[1:2] + 1])
    places = made.positions(3)[[0, 1, 2, 1]]
    refused(made.series(tmp_path / "twice", twice, places=places), "one slice at each position", "differ")


def test_a_series_without_pixel_spacing_is_refused(tmp_path):
    refused(made.series(tmp_path / "scan", made.ramp(3, 5, 4), PixelSpacing=None), "PixelSpacing")


def test_files_without_a_place_are_left_out_with_the_reason(tmp_path):
    folder = made.series(tmp_path / "scan", made.ramp(3, 5, 4), ImagePositionPatient=None)
    refused(folder, "does not say where it lies")
    capture = made.series(tmp_path / "screen", made.ramp(1, 5, 4), kind=made.CAPTURE, ImagePositionPatient=None)
    refused(capture, "secondary capture")
    refused(
        made.series(tmp_path / "scout", made.ramp(1, 5, 4), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "localiser"
    )
    refused(WHEEL / "rtdose.dcm", "RTDOSE")
    refused(WHEEL / "reportsi.dcm", "holds no image")
    refused(WHEEL / "rtstruct.dcm", "can be a label but no image")


def test_a_projection_is_one_upright_slice(tmp_path):
    folder = made.series(
        tmp_path / "chest",
        made.ramp(2, 5, 4),
        kind="1.2.840.10008.5.1.4.1.1.1",
        Modality="CR",
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
        PixelSpacing=None,
        ImagerPixelSpacing=[0.2, 0.1],
    )
    volume = readers.read(folder / "02.dcm")
    np.testing.assert_array_equal(volume.data[0, ..., 0], made.ramp(2, 5, 4)[0])
    assert volume.spacing == (1.0, 0.2, 0.1) and (volume.affine[:3, :3] >= 0).all()


@pytest.mark.parametrize(
    "name",
    ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_bigendian.dcm",
     "MR_small_implicit.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "examples_overlay.dcm"],
)  # fmt: skip
def test_compressed_and_foreign_transfer_syntaxes_give_the_values_of_simpleitk(name):
    volume = readers.read(WHEEL / name)
    values, spacing, affine = itk_parts(SimpleITK.ReadImage(str(WHEEL / name)))
    np.testing.assert_array_equal(volume.data[..., 0], values)
    np.testing.assert_allclose(volume.spacing[1:], spacing[1:])
    # SimpleITK takes a slice to be 1 mm thick where nothing says how far the next one is
    np.testing.assert_allclose(volume.affine[:, 1:], affine[:, 1:], atol=1e-6)


def test_colours_are_three_channels(tmp_path):
    volume = readers.read(WHEEL / "examples_rgb_color.dcm")
    expected = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(WHEEL / "examples_rgb_color.dcm")))
    np.testing.assert_array_equal(volume.data, expected)
    assert volume.data.shape == (1, 240, 320, 3)


def test_damaged_files_are_refused_by_name(tmp_path):
    refused(WHEEL / "MR_truncated.dcm", "MR_truncated.dcm", "cannot", "less than expected")
    (tmp_path / "none.dcm").write_bytes(b"not DICOM at all")
    refused(tmp_path / "none.dcm", "none.dcm", "no complete DICOM file")
    whole = made.series(tmp_path / "scan", made.ramp(1, 5, 4)) / "02.dcm"
    (tmp_path / "half.dcm").write_bytes(whole.read_bytes()[:400])
    refused(tmp_path / "half.dcm", "half.dcm")
    (tmp_path / "empty.dcm").touch()
    refused(tmp_path / "empty.dcm", "0 bytes")
    refused(tmp_path / "gone.dcm", "no such file")
    refused(tmp_path / "gone#s3", "no such file")


def test_odd_header_values_are_not_printed(tmp_path, recwarn, capfd, monkeypatch):
    monkeypatch.setattr(pydicom.config.settings, "writing_validation_mode", pydicom.config.IGNORE)
    folder = made.series(tmp_path / "scan", made.ramp(2, 5, 4), PatientBirthDate="Doe born 1970", StudyDate="Doe")
    readers.read(folder)
    captured = capfd.readouterr()
    assert not any("Doe" in str(one.message) for one in recwarn.list)
    assert "Doe" not in captured.out + captured.err


@pytest.mark.realdata
@pytest.mark.parametrize(
    "name", ["mr_series", "oriented_ct", "ct_with_seg/ct", "tiny_multiframe/23x38x3/image", "rtstruct"]
)
def test_real_series_are_those_of_simpleitk(data_root, name):
    folder = data_root / SAMPLES / name
    assert_same(readers.read(folder), reference(folder))


@pytest.mark.realdata
@pytest.mark.parametrize("size", ["23x38x3", "24x38x3"])
def test_a_real_multi_frame_object_is_the_series_it_was_made_of(data_root, size):
    folder = data_root / SAMPLES / "tiny_multiframe" / size
    one, many = readers.read(folder / "multiframe" / "mf.dcm"), readers.read(folder / "image")
    np.testing.assert_array_equal(one.data, many.data)
    np.testing.assert_allclose(one.affine, many.affine, atol=1e-6)
