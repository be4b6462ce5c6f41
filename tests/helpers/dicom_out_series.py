"""Made-up DICOM series on disk, with the `Volume` that a reader would make of them: its affine is known beforehand."""

import pathlib

import numpy as np
import pydicom
from matplotlib.path import Path
from numpy.testing import assert_allclose
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from jaxseg.data.dicom.series import Series
from jaxseg.typing import Volume

PATIENT = {
    "PatientName": "Muster^Grete",
    "PatientID": "SECRET-4711",
    "PatientBirthDate": "19331224",
    "PatientSex": "F",
    "AccessionNumber": "ACC99",
    "StudyID": "77",
    "StudyDate": "20200102",
    "StudyTime": "101112",
    "ReferringPhysicianName": "Doktor^Vera",
}
CT, LEGACY = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.2"
# Oblique unit vectors (LPS) along a row, along a column and from slice to slice.
ALONG, DOWN = np.array([0.8, 0.6, 0.0]), np.array([-0.48, 0.64, 0.6])
NEXT = np.cross(ALONG, DOWN)
ORIGIN = np.array([-31.25, 12.5, 40.0])


def write(
    folder: pathlib.Path,
    *,
    shape=(3, 5, 7),
    spacing=(2.5, 0.75, 0.5),
    several_frames=False,
    step=NEXT,
    **changes,
) -> Volume:
    """Writes a CT series of `shape` (slices, rows, columns) and returns its image as a volume.

    `spacing` is in the order of the axes, mm; `changes` are attributes that replace the patient's or the image's, None
    to leave one out. Files are numbered against the order of their slices.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(-100, 100, shape).astype(np.int16)
    positions = [ORIGIN + spacing[0] * place * step for place in range(shape[0])]
    common = _common(shape, spacing, **changes)
    if several_frames:
        path = folder / "all.dcm"
        _save(path, _enhanced(common, values, positions, spacing))
        files, frames = (str(path),) * shape[0], tuple(range(shape[0]))
    else:
        files = tuple(str(folder / f"{shape[0] - place}.dcm") for place in range(shape[0]))
        frames = (0,) * shape[0]
        for place, path in enumerate(files):
            _save(pathlib.Path(path), _single(common, values[place], positions[place], spacing, place))
    affine = np.eye(4)
    affine[:3] = np.column_stack([spacing[0] * step, spacing[1] * DOWN, spacing[2] * ALONG, ORIGIN])
    affine[:2] *= -1  # LPS -> RAS+
    header = Series(common.SeriesInstanceUID, "CT", files, frames)
    return Volume(values[..., None].astype(np.float32), tuple(spacing), affine, header, str(folder))


def _common(shape, spacing, **changes) -> Dataset:
    image = Dataset()
    attributes = {
        **PATIENT,
        "SpecificCharacterSet": "ISO_IR 100",
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "FrameOfReferenceUID": generate_uid(),
        "Modality": "CT",
        "Manufacturer": "scanner",
        "SeriesNumber": 3,
        "Rows": shape[1],
        "Columns": shape[2],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "RescaleIntercept": 0,
        "RescaleSlope": 1,
        "SliceThickness": spacing[0],
        **changes,
    }
    for name, value in attributes.items():
        if value is not None:
            setattr(image, name, value)
    return image


def _single(common: Dataset, values, position, spacing, place: int) -> Dataset:
    image = Dataset()
    image.update(common)
    image.SOPClassUID, image.SOPInstanceUID = CT, generate_uid()
    image.InstanceNumber = place + 1
    image.ImagePositionPatient = position.tolist()
    image.ImageOrientationPatient = [*ALONG.tolist(), *DOWN.tolist()]
    image.PixelSpacing = [spacing[1], spacing[2]]
    image.PixelData = values.tobytes()
    return image


def _enhanced(common: Dataset, values, positions, spacing) -> Dataset:
    image, shared, orientation, measures = Dataset(), Dataset(), Dataset(), Dataset()
    image.update(common)
    image.SOPClassUID, image.SOPInstanceUID, image.InstanceNumber = LEGACY, generate_uid(), 1
    image.NumberOfFrames = len(positions)
    orientation.ImageOrientationPatient = [*ALONG.tolist(), *DOWN.tolist()]
    measures.PixelSpacing, measures.SliceThickness = [spacing[1], spacing[2]], spacing[0]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    image.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for position in positions:
        frame, plane = Dataset(), Dataset()
        plane.ImagePositionPatient = position.tolist()
        frame.PlanePositionSequence = [plane]
        frames.append(frame)
    image.PerFrameFunctionalGroupsSequence = frames
    image.PixelData = values.tobytes()
    return image


def _save(path: pathlib.Path, image: Dataset) -> None:
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.save_as(path, enforce_file_format=True)


def labels(shape=(3, 5, 7), *, high=3, seed=1) -> np.ndarray:
    """Returns class ids below `high`, all of them in use."""
    return np.random.default_rng(seed).integers(0, high, shape).astype(np.int16)


def read_back(path, volume, values):
    """Puts each frame where the source image that it refers to lies, by pydicom alone: segment number -> `values`."""
    found = pydicom.dcmread(path)
    shared = found.SharedFunctionalGroupsSequence[0]
    series, places = volume.header, {}
    for place, (name, frame) in enumerate(zip(series.files, series.frames)):
        image = pydicom.dcmread(name, stop_before_pixels=True)
        places[image.SOPInstanceUID, frame + 1 if "NumberOfFrames" in image else None] = place
    result = np.zeros(volume.data.shape[:3], int)
    frames = found.pixel_array.reshape(-1, *result.shape[1:])
    for pixels, item in zip(frames, found.PerFrameFunctionalGroupsSequence):
        origin = item.DerivationImageSequence[0].SourceImageSequence[0]
        place = places[origin.ReferencedSOPInstanceUID, origin.get("ReferencedFrameNumber")]
        # where all frames have a thing in common it stands in the shared group
        segment = (item if "SegmentIdentificationSequence" in item else shared).SegmentIdentificationSequence[0]
        result[place][pixels > 0] = values[segment.ReferencedSegmentNumber]
        position = np.array(item.PlanePositionSequence[0].ImagePositionPatient, float)
        first = volume.affine @ [place, 0, 0, 1]
        assert_allclose(position * [-1, -1, 1], first[:3], atol=1e-6)
    return result


def filled(found, volume):
    """Even-odd fill at pixel centres, in millimetres of the patient, without a look at how the contours were made."""
    depth, rows, columns = volume.data.shape[:3]
    result = np.zeros((depth, rows, columns), int)
    indices = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(-1, 2)
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    down, along = (to_lps[:3, axis] / np.linalg.norm(to_lps[:3, axis]) for axis in (1, 2))
    normal = np.cross(along, down)
    for region in found.ROIContourSequence:
        for contour in region.get("ContourSequence", ()):
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            assert len(points) == contour.NumberOfContourPoints and contour.ContourGeometricType == "CLOSED_PLANAR"
            levels = [(to_lps @ [place, 0, 0, 1])[:3] @ normal for place in range(depth)]
            place = int(np.argmin(np.abs(levels - points[0] @ normal)))
            assert_allclose(points @ normal, levels[place], atol=1e-5)
            centres = np.column_stack([np.full(len(indices), place), indices, np.ones(len(indices))]) @ to_lps.T
            polygon = np.vstack([points, points[:1]])
            flat = Path(np.column_stack([polygon @ along, polygon @ down]))
            inside = flat.contains_points(np.column_stack([centres[:, :3] @ along, centres[:, :3] @ down]))
            # a class owns its pixels alone, so that odd counts of different classes never meet
            result[place] ^= np.where(inside.reshape(rows, columns), int(region.ReferencedROINumber), 0)
    return result
