"""Made-up DICOM files for tests: series of slices, enhanced objects, segmentations and structure sets."""

import pathlib

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
SEG, LABELMAP = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"
RTSTRUCT, CAPTURE = "1.2.840.10008.5.1.4.1.1.481.3", "1.2.840.10008.5.1.4.1.1.7"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SPACING = (0.7, 0.6)  # between rows, between columns
PATIENT = "Doe^Jane"


def uid(*entropy: object) -> str:
    """Returns the same UID for the same words."""
    return generate_uid(entropy_srcs=[str(word) for word in entropy])


def oblique(angle: float = 0.3) -> tuple[float, ...]:
    """Returns an orientation whose plane is turned about two axes."""
    c, s = np.cos(angle), np.sin(angle)
    row = np.array([c, s, 0.0])
    column = np.array([-s * c, c * c, s])
    return (*row, *column)


def dataset(kind: str, *, series: str = "series", name: str = "0", modality: str = "CT", **tags: object) -> Dataset:
    """Returns a dataset with what every object has; a tag that is None is left out."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = kind
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = uid(series, name)
    data.SeriesInstanceUID, data.StudyInstanceUID = uid(series), uid("study")
    data.FrameOfReferenceUID = uid("frame of reference")
    data.PatientName, data.PatientID, data.Modality = PATIENT, "MRN-4711", modality
    put(data, tags)
    return data


def put(data: Dataset, tags: dict[str, object]) -> None:
    """Sets tags of a dataset; None removes one."""
    for keyword, value in tags.items():
        if value is not None:
            setattr(data, keyword, value)
        elif keyword in data:
            delattr(data, keyword)


def set_pixels(data: Dataset, array: np.ndarray) -> None:
    """Sets rows, columns and pixels: `(y, x)`, or `(N, y, x)` of several frames."""
    data.Rows, data.Columns = array.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, data.get("PhotometricInterpretation", "MONOCHROME2")
    bits = array.dtype.itemsize * 8
    data.BitsAllocated = data.BitsStored = bits
    data.HighBit, data.PixelRepresentation = bits - 1, int(array.dtype.kind == "i")
    if array.ndim == 3:
        data.NumberOfFrames = len(array)
    data.PixelData = array.tobytes() + b"\0" * (array.nbytes % 2)
    data["PixelData"].VR = "OW" if bits > 8 else "OB"


def save(data: Dataset, path: pathlib.Path) -> pathlib.Path:
    """Writes a file with its preamble; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def positions(count: int, *, orientation=AXIAL, origin=(-11.0, 5.0, 7.0), step=2.5, shear=(0.0, 0.0)) -> np.ndarray:
    """Returns `(N, 3)` positions along the normal; `shear` is the mm along rows and columns from slice to slice."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    way = np.cross(row, column) * step + row * shear[0] + column * shear[1]
    return np.array(origin) + np.arange(count)[:, None] * way


def ramp(*shape: int, dtype=np.int16) -> np.ndarray:
    return (np.arange(np.prod(shape)) * 7 % 1000).reshape(shape).astype(dtype)


def series(
    folder: pathlib.Path,
    array: np.ndarray,
    *,
    places=None,
    orientation=AXIAL,
    name="series",
    kind=CT,
    suffix=".dcm",
    **tags,
) -> pathlib.Path:
    """Writes slices `(z, y, x)` in a folder, named so that the names' order is not that of the positions.

    A tag given as a tuple holds a value for each slice.
    """
    places = positions(len(array), orientation=orientation) if places is None else places
    for number, (plane, place) in enumerate(zip(array, places, strict=True)):
        own = {key: value[number] if isinstance(value, tuple) else value for key, value in tags.items()}
        data = dataset(
            kind,
            series=name,
            name=str(number),
            InstanceNumber=number + 1,
            SeriesNumber=3,
            ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
            ImagePositionPatient=[float(f"{value:.10g}") for value in place],
            ImageOrientationPatient=[float(f"{value:.10g}") for value in orientation],
            PixelSpacing=list(SPACING),
            SliceThickness=4.0,
        )
        set_pixels(data, plane)
        put(data, own)
        save(data, folder / f"{(number * 5 + 2) % 97:02d}{suffix}")
    return folder


def item(**tags: object) -> Dataset:
    """Returns an item of a sequence."""
    data = Dataset()
    put(data, tags)
    return data


def frame(place, **groups: Dataset) -> Dataset:
    """Returns the functional groups of one frame: its position, and others by keyword."""
    own = {keyword: [value] for keyword, value in groups.items()}
    if place is not None:
        own["PlanePositionSequence"] = [item(ImagePositionPatient=[float(f"{value:.10g}") for value in place])]
    return item(**own)


def shared(orientation=AXIAL, **groups: Dataset) -> list[Dataset]:
    """Returns the shared functional groups."""
    own = {keyword: [value] for keyword, value in groups.items()}
    return [
        item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=[float(f"{value:.10g}") for value in orientation])],
            PixelMeasuresSequence=[item(PixelSpacing=list(SPACING), SliceThickness=2.5)],
            **own,
        )
    ]


def enhanced(path: pathlib.Path, array: np.ndarray, *, places, orientation=AXIAL, groups=None, **tags) -> pathlib.Path:
    """Writes one enhanced CT object `(N, y, x)`; `groups` are further functional groups, one dict a frame."""
    data = dataset(ENHANCED_CT, name=path.name, SeriesNumber=4)
    set_pixels(data, array)
    data.SharedFunctionalGroupsSequence = shared(orientation)
    own = groups or [{}] * len(array)
    data.PerFrameFunctionalGroupsSequence = [frame(place, **more) for place, more in zip(places, own, strict=True)]
    put(data, tags)
    return save(data, path)


def segmentation(
    path: pathlib.Path,
    masks: np.ndarray,
    *,
    segments,
    places,
    names=None,
    refers=("series",),
    orientation=AXIAL,
    **tags,
) -> pathlib.Path:
    """Writes a binary SEG with one frame a mask `(N, y, x)`.

    `segments` has the segment of each frame, `places` its position, or the SOPInstanceUID of its slice in place of it.
    """
    data = dataset(SEG, series="segmentation", name=path.name, modality="SEG", SegmentationType="BINARY")
    set_pixels(data, masks.astype(np.uint8))
    data.BitsAllocated = data.BitsStored = 1
    data.HighBit = 0
    data.PixelData = np.packbits(masks.astype(np.uint8).ravel(), bitorder="little").tobytes()
    data.PixelData += b"\0" * (len(data.PixelData) % 2)
    names = names or {number: f"region {number}" for number in sorted(set(segments))}
    data.SegmentSequence = [item(SegmentNumber=number, SegmentLabel=name) for number, name in names.items()]
    data.ReferencedSeriesSequence = [item(SeriesInstanceUID=uid(name)) for name in refers]
    data.SharedFunctionalGroupsSequence = shared(orientation)
    data.PerFrameFunctionalGroupsSequence = [
        _segment_frame(place, number) for place, number in zip(places, segments, strict=True)
    ]
    put(data, tags)
    return save(data, path)


def _segment_frame(place, number: int) -> Dataset:
    own = {"SegmentIdentificationSequence": item(ReferencedSegmentNumber=number)}
    if isinstance(place, str):
        source = item(ReferencedSOPClassUID=CT, ReferencedSOPInstanceUID=place)
        return frame(None, DerivationImageSequence=item(SourceImageSequence=[source]), **own)
    return frame(place, **own)


def structures(
    path: pathlib.Path, regions: dict[str, list[np.ndarray]], *, refers="series", kind="CLOSED_PLANAR", **tags
):
    """Writes an RTSTRUCT; `regions` holds contours `(N, 3)` in mm, LPS, by name."""
    data = dataset(RTSTRUCT, series="structures", name=path.name, modality="RTSTRUCT")
    study = item(RTReferencedSeriesSequence=[item(SeriesInstanceUID=uid(refers))])
    data.ReferencedFrameOfReferenceSequence = [
        item(FrameOfReferenceUID=data.FrameOfReferenceUID, RTReferencedStudySequence=[study])
    ]
    del data.FrameOfReferenceUID
    data.StructureSetROISequence = [item(ROINumber=number, ROIName=name) for number, name in enumerate(regions, 5)]
    data.ROIContourSequence = [
        item(
            ReferencedROINumber=number,
            ContourSequence=[
                item(
                    ContourGeometricType=kind,
                    NumberOfContourPoints=len(points),
                    ContourData=[float(f"{value:.8g}") for value in points.ravel()],
                )
                for points in contours
            ],
        )
        for number, contours in enumerate(regions.values(), 5)
    ]
    put(data, tags)
    return save(data, path)
