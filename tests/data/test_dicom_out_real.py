"""Masks of real series through SEG and RTSTRUCT: compared with the objects that dcmqi has written of the same masks."""

import pathlib

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_out_series import filled, read_back
from numpy.testing import assert_array_equal

from jaxseg.data import readers
from jaxseg.data.dicom.described import Description, Label
from jaxseg.data.dicom.series import Series
from jaxseg.data.writers import dicom_seg, rtstruct
from jaxseg.terms import UNSPECIFIED
from jaxseg.typing import Volume

DESCRIPTION = Description(
    tuple(Label(number, f"class {number}", (10, 200, 30), UNSPECIFIED) for number in (1, 2, 3)), "1.2.3", "abc"
)
pytestmark = pytest.mark.realdata


def series_of(folder: pathlib.Path) -> Volume:
    """Reads a plain series with pydicom alone, by position along the normal."""
    images = {str(path): pydicom.dcmread(path) for path in folder.glob("*.dcm")}
    first = next(iter(images.values()))
    along, down = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(along, down)
    files = sorted(images, key=lambda name: np.dot(images[name].ImagePositionPatient, normal))
    positions = np.array([images[name].ImagePositionPatient for name in files], float)
    rows, columns = map(float, first.PixelSpacing)
    affine = np.eye(4)
    step = (positions[-1] - positions[0]) / (len(files) - 1)
    affine[:3] = np.column_stack([step, rows * down, columns * along, positions[0]])
    affine[:2] *= -1  # LPS -> RAS+
    data = np.stack([images[name].pixel_array for name in files])[..., None]
    spacing = (float(np.linalg.norm(step)), rows, columns)
    header = Series(first.SeriesInstanceUID, first.Modality, tuple(files), (0,) * len(files))
    return Volume(data, spacing, affine, header, str(folder))


def multi_frame(path: pathlib.Path) -> Volume:
    image = pydicom.dcmread(path)
    shared, frames = image.SharedFunctionalGroupsSequence[0], image.PerFrameFunctionalGroupsSequence

    def group(name):
        return (frames[0] if name in frames[0] else shared)[name].value[0]

    along, down = np.array(group("PlaneOrientationSequence").ImageOrientationPatient, float).reshape(2, 3)
    rows, columns = map(float, group("PixelMeasuresSequence").PixelSpacing)
    positions = np.array([frame.PlanePositionSequence[0].ImagePositionPatient for frame in frames], float)
    affine, step = np.eye(4), positions[1] - positions[0]
    affine[:3] = np.column_stack([step, rows * down, columns * along, positions[0]])
    affine[:2] *= -1  # LPS -> RAS+
    header = Series(image.SeriesInstanceUID, "CT", (str(path),) * len(frames), tuple(range(len(frames))))
    spacing = (float(np.linalg.norm(step)), rows, columns)
    return Volume(image.pixel_array[..., None], spacing, affine, header, str(path))


def onto(mask: Volume, volume: Volume) -> np.ndarray:
    """The mask's value at each voxel centre of the volume; both grids have the same centres."""
    shape = volume.data.shape[:3]
    indices = np.indices(shape).reshape(3, -1)
    there = np.linalg.solve(mask.affine, volume.affine @ np.vstack([indices, np.ones(indices.shape[1])]))[:3]
    places = np.rint(there).astype(int)
    assert np.abs(there - places).max() < 0.01
    return mask.data[tuple(places)].reshape(shape)


def blobs(shape, *, seed=0):
    """Three classes of smooth outline, with holes and empty slices."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=shape), (2, 5, 5))
    labels = np.digitize(smooth, np.quantile(smooth, [0.7, 0.8, 0.9])).astype(np.int16)
    labels[-1] = 0
    return labels


def test_the_liver_of_a_ct_equals_the_object_that_dcmqi_has_written(data_root, tmp_path):
    folder = data_root / "dicom_samples" / "ct_with_seg"
    volume = series_of(folder / "ct")
    labels = (onto(readers.read_label(folder / "nrrd" / "liver_seg.nrrd"), volume) > 0).astype(np.int16)
    assert labels.sum() > 1000
    path = dicom_seg.write(tmp_path / "liver.dcm", labels, volume, description=DESCRIPTION)
    uids = [pydicom.dcmread(name, stop_before_pixels=True).SOPInstanceUID for name in volume.header.files]
    ours, theirs = (highdicom.seg.segread(one) for one in (path, folder / "seg" / "liver.dcm"))
    assert_array_equal(ours.get_pixels_by_source_instance(uids)[..., 0], labels)
    # dcmqi does not say that the places of voxels are kept
    other = theirs.get_pixels_by_source_instance(uids, ignore_spatial_locations=True)
    assert_array_equal(ours.get_pixels_by_source_instance(uids), other)
    contours = pydicom.dcmread(rtstruct.write(tmp_path / "r.dcm", labels, volume, description=DESCRIPTION))
    assert_array_equal(filled(contours, volume), labels)


@pytest.mark.parametrize("name", ["23x38x3", "24x38x3"])
def test_a_multi_frame_ct(data_root, tmp_path, name):
    folder = data_root / "dicom_samples" / "tiny_multiframe" / name
    volume = multi_frame(folder / "multiframe" / "mf.dcm")
    labels = onto(readers.read_label(folder / "nrrd" / "label.nrrd"), volume)
    labels = np.searchsorted(np.unique(labels), labels).astype(np.int16)
    assert labels.any()
    path = dicom_seg.write(tmp_path / "s.dcm", labels, volume, description=DESCRIPTION)
    assert_array_equal(read_back(path, volume, {number: number for number in (1, 2, 3)}), labels)
    contours = pydicom.dcmread(rtstruct.write(tmp_path / "r.dcm", labels, volume, description=DESCRIPTION))
    assert_array_equal(filled(contours, volume), labels)


def test_an_mr_series_with_several_classes(data_root, tmp_path):
    volume = series_of(data_root / "dicom_samples" / "mr_series")
    labels = blobs(volume.data.shape[:3])
    path = dicom_seg.write(tmp_path / "s.dcm", labels, volume, description=DESCRIPTION)
    assert_array_equal(read_back(path, volume, {number: number for number in (1, 2, 3)}), labels)
    contours = pydicom.dcmread(rtstruct.write(tmp_path / "r.dcm", labels, volume, description=DESCRIPTION))
    assert_array_equal(filled(contours, volume), labels)
