"""Class maps in the formats that are asked for: NIfTI as always, and for DICOM the objects that refer to a series."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from jaxseg.data import readers, writers
from jaxseg.data.dicom.described import Description
from jaxseg.data.dicom.series import Series
from jaxseg.data.dicom.source import Unfit
from jaxseg.data.writers import dicom_seg, rtstruct
from jaxseg.predict.predictor import Prediction, output_file, refuse_existing, write_prediction
from jaxseg.typing import Case, UserError, Volume

SAME = ("same",)
OF_SERIES = ("nifti", "dicom_seg")  # what "same" means for DICOM
OBJECTS = {"dicom_seg": "", "rtstruct": "_rtstruct"}  # what stands behind the name of the case
PROBABILITIES = "probabilities"


class Outputs(NamedTuple):
    """What to write of each case.

    Attributes:
      formats: SAME, or some of "nifti", "dicom_seg" and "rtstruct".
      label_values: the user's own value for each class id, background first (NIfTI and the like).
      description: what DICOM objects say of the classes and of what has found them.
      channels: the class id that each channel of the probabilities is of.
      overwrite: replace files that exist.
    """

    formats: tuple[str, ...]
    label_values: Sequence[int]
    description: Description
    channels: Sequence[int]
    overwrite: bool = False


def file_names(case: Case, formats: Sequence[str]) -> list[str]:
    """Returns the names of the files of a case, as far as the names of its inputs tell, one a format.

    Raises:
      UserError: a DICOM object is asked for of an input that is none.
    """
    series = may_be_dicom(case.images[0])
    wanted = OF_SERIES if tuple(formats) == SAME and series else formats
    if not series and set(wanted) & set(OBJECTS):
        raise UserError(
            f"predict.format asks for {', '.join(name for name in wanted if name in OBJECTS)}, but {case.images[0]} is "
            "not DICOM: there is no series to refer to; set predict.format=nifti or give the DICOM series."
        )
    return [_file_name(case, name) for name in wanted]


def may_be_dicom(path: str) -> bool:
    """Tells whether a path, by its name, can lead to a DICOM series: a folder, a zip file or a file without suffix."""
    kind = readers.suffix(path)
    return not kind or "dicom" in readers.TABLE[kind]


def write(case: Case, prediction: Prediction, volume: Volume, folder: pathlib.Path, *, outputs: Outputs) -> list[str]:
    """Writes the files of a case, and beside them probabilities and maps if any.

    Probabilities go to a fractional segmentation where no NIfTI is asked for but dicom_seg is, maps always to NIfTI.

    Args:
      case: gives the names.
      prediction: on the grid of `volume`.
      volume: the image as read.
      folder: is made.
      outputs: which formats, and what is said in them.

    Returns:
      Why DICOM objects are missing, one sentence each. Only "same" leaves them out; who names them gets an error.

    Raises:
      UserError: a file exists and may not be overwritten, or a format does not fit the input.
    """
    same = tuple(outputs.formats) == SAME
    asked = OF_SERIES if same and isinstance(volume.header, Series) else outputs.formats
    # Objects first: where one cannot be made, the case leaves no file.
    wanted = sorted(asked, key=lambda name: name not in OBJECTS)
    targets = {name: folder / _file_name(case, name) for name in wanted}
    numbers = {} if set(wanted) - set(OBJECTS) else _number_files(case, prediction, wanted, folder)
    _check([*targets.values(), *numbers.values()], volume, outputs.overwrite)
    missed = []
    for name, target in targets.items():
        if name not in OBJECTS:  # probabilities and maps go along
            write_prediction(prediction, volume, target, label_values=outputs.label_values, overwrite=outputs.overwrite)
            continue
        save = dicom_seg.write if name == "dicom_seg" else rtstruct.write
        try:
            save(
                target,
                prediction.labels,
                volume,
                description=outputs.description,
                overwrite=outputs.overwrite,
            )
        except Unfit as error:
            if not same:
                raise
            missed.append(str(error))
    for name, target in numbers.items():
        _write_numbers(name, target, prediction, volume, outputs)
    return missed


def _file_name(case: Case, name: str) -> str:
    if name in OBJECTS:
        return f"{case.name}{OBJECTS[name]}.dcm"
    own = output_file(case)
    return own if name == "same" or own.lower().endswith((".nii", ".nii.gz")) else f"{case.name}.nii.gz"


def _number_files(
    case: Case, prediction: Prediction, wanted: Sequence[str], folder: pathlib.Path
) -> dict[str, pathlib.Path]:
    """Returns where probabilities and maps go if there is no label map for them to stand beside."""
    names = [*([] if prediction.probabilities is None else [PROBABILITIES]), *prediction.maps]
    fractional = {PROBABILITIES} if "dicom_seg" in wanted else set()
    return {name: folder / f"{case.name}_{name}{'.dcm' if name in fractional else '.nii.gz'}" for name in names}


def _write_numbers(name: str, target: pathlib.Path, prediction: Prediction, volume: Volume, outputs: Outputs) -> None:
    if name != PROBABILITIES:
        writers.write(target, prediction.maps[name], volume, overwrite=outputs.overwrite, scalar=True)
        return
    assert prediction.probabilities is not None  # or its file would have no name
    if target.suffix != ".dcm":
        writers.write(target, prediction.probabilities, volume, overwrite=outputs.overwrite)
        return
    known = {label.number: label for label in outputs.description.labels}
    kept = [place for place, number in enumerate(outputs.channels) if number in known]
    dicom_seg.write_probabilities(
        target,
        prediction.probabilities[..., kept],
        volume,
        description=outputs.description._replace(labels=tuple(known[outputs.channels[place]] for place in kept)),
        overwrite=outputs.overwrite,
    )


def _check(targets: Sequence[pathlib.Path], volume: Volume, overwrite: bool) -> None:
    """Refuses files that are there, and those of the series in any case: a scan is never replaced by its mask."""
    header = volume.header
    if isinstance(header, Series):
        inputs = {pathlib.Path(name).resolve() for name in (header.archive, *header.files) if name}
        if replaced := [target for target in targets if target.resolve() in inputs]:
            raise UserError(f"{replaced[0]} is a file of the input series; choose another output folder.")
    refuse_existing(targets, overwrite)
