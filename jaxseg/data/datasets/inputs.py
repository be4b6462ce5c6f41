"""Unlabelled files for predict, and the one function that reads a case's image."""

import collections
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from jaxseg.data import readers, volume
from jaxseg.data.datasets import dicom_cases
from jaxseg.typing import Case, UserError, Volume

CHANNEL = re.compile(r"^(.+)_(\d{4})$")  # nnU-Net: case_0000, case_0001, one file a channel


def image_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files of a folder that a reader knows, by name, without hidden ones, second halves and DICOM.

    Of DICOM a file is mostly one slice of many: `dicom_cases` lists those.
    """
    files = [f for f in sorted(folder.iterdir()) if f.is_file() and not f.name.startswith(".") and _is_whole(f)]
    stems = {f.with_suffix("").name for f in files if readers.suffix(f) == ".hdr"}
    return [f for f in files if readers.suffix(f) != ".img" or f.with_suffix("").name not in stems]


def check_names(cases: Iterable[Case]) -> tuple[Case, ...]:
    """Returns the cases sorted by name.

    Raises:
      UserError: two cases have one name; their files are listed.
    """
    by_name = collections.defaultdict(list)
    for case in cases:
        by_name[case.name].append(case.images[0])
    twice = {name: files for name, files in by_name.items() if len(files) > 1}
    if twice:
        listed = "; ".join(f"{name}: {', '.join(files)}" for name, files in sorted(twice.items())[:10])
        raise UserError(f"Each case should have its own name, but {len(twice)} are used twice ({listed}); rename them.")
    return tuple(sorted(cases, key=lambda case: case.name))


def _is_whole(path: pathlib.Path) -> bool:
    kind = readers.suffix(path)
    return bool(kind) and readers.TABLE[kind] != readers.TABLE[".dcm"]


def list_inputs(
    path: Any,
    *,
    channels: int | None = None,
    identify: bool = False,
    tell: Callable[[str], None] | None = None,
    labels: bool = False,
) -> tuple[Case, ...]:
    """Lists what predict shall read: one file, or the image files of a folder (not of folders within it).

    Where all names end in _0000, _0001, ... with the same complete set of channels for each case, files are grouped as
    nnU-Net names them and the case's name loses the ending. One file NAME_0000 brings its siblings along.

    DICOM is listed by series, from folders within the folder and from zip archives too (see `dicom_cases.images`).

    Args:
      path: file or folder; FOLDER#SERIES is one series of a folder of DICOM.
      channels: how many channels the model reads; it tells a series of single-channel frames from channels.
      identify: name DICOM series by patient and description.
      tell: called with a sentence on each DICOM file that was left out and on what is good to know of a series.
      labels: list label maps: DICOM segmentations and structure sets too.

    Raises:
      UserError: nothing is there, no file has a known format, a channel is missing, or two cases have one name.
    """
    path = pathlib.Path(path)
    if not readers.is_there(path):
        raise UserError(f"The input {path} does not exist; name an image file or a folder of them.")
    if path.is_file() and _is_whole(path):
        return check_names(_cases(_named(_with_siblings(path)), channels))
    files = image_files(path) if path.is_dir() else []
    cases = _cases(_named(files), channels)
    if path.is_dir() or readers.kind(path):
        listed = dicom_cases.images(path, identify=identify)
        cases += _cases([(case.name, case.images[0]) for case in listed.cases], channels)
        if labels and path.exists():
            cases += dicom_cases.labels(path)
        for note in listed.notes if tell is not None else ():
            assert tell is not None
            tell(note)
        if not cases and listed.notes:
            raise dicom_cases.nothing(path, listed)
    if not cases and path.is_file():
        raise UserError(f"The input {path} has a suffix that no reader knows; convert it to one of {_known()}.")
    if not cases:
        there = ", ".join(sorted(f.name for f in path.iterdir())[:5]) or "nothing"
        raise UserError(f"The input folder {path} should hold images ({_known()}), but holds {there}.")
    return check_names(cases)


def _named(files: Iterable[pathlib.Path]) -> list[tuple[str, str]]:
    return [(readers.stem(file), str(file)) for file in files]


def _cases(named: Sequence[tuple[str, str]], channels: int | None) -> list[Case]:
    """Returns the cases of images with their names; see `list_inputs` for those that are channels of one case."""
    return _group(named, channels) or [Case(name, (path,)) for name, path in named]


def with_labels(
    cases: Sequence[Case], labels: Sequence[Case], *, place: str, kind: str = "file", plural: str = "label files"
) -> list[Case]:
    """Returns the cases with the label file of the same name each, or the DICOM label that was drawn on their series.

    Args:
      cases: images.
      labels: what `list_inputs` has found where the labels lie.
      place: says where, such as "--labels masks", and `kind` and `plural` what they are, for messages.

    Raises:
      UserError: an image has none.
    """
    found = {case.name: case.images[0] for case in labels}
    missing = [case.name for case in cases if case.name not in found]
    if missing:
        alone = {case.name: case.images[0] for case in cases if case.name in missing}
        found |= dicom_cases.by_reference(alone, found)
        missing = [name for name in missing if name not in found]
    if missing:
        raise UserError(
            f"{place} has no {kind} for {len(missing)} of {len(cases)} images: {', '.join(missing[:5])}; {plural} are "
            "named as their images."
        )
    return [case._replace(label=found[case.name]) for case in cases]


def _known() -> str:
    return ", ".join(sorted(readers.TABLE))


def _with_siblings(path: pathlib.Path) -> list[pathlib.Path]:
    match = CHANNEL.match(readers.stem(path))
    if match is None or int(match[2]) != 0:
        return [path]
    same = [f for f in image_files(path.parent) if (m := CHANNEL.match(readers.stem(f))) and m[1] == match[1]]
    return [f for f in same if readers.suffix(f) == readers.suffix(path)]


def _group(named: Sequence[tuple[str, str]], channels: int | None) -> list[Case] | None:
    """Returns one case a group of channel files, or None where the names do not follow nnU-Net."""
    matches = [match for name, _ in named if (match := CHANNEL.match(name))]
    if not named or len(matches) < len(named):
        return None
    groups: dict[str, dict[int, str]] = collections.defaultdict(dict)
    for (_, path), match in zip(named, matches, strict=True):
        if groups[match[1]].setdefault(int(match[2]), path) != path:
            return None  # two formats of one channel: reported as duplicated names
    expected = channels or max(len(group) for group in groups.values())
    complete = {name for name, group in groups.items() if sorted(group) == list(range(expected))}
    if all(set(group) == {0} for group in groups.values()):  # one file a case, with all channels (colours) in it
        return [Case(name, (group[0],)) for name, group in groups.items()]
    if complete != set(groups):
        if not complete or expected == 1:
            return None
        wrong = ", ".join(f"{name} ({len(groups[name])})" for name in sorted(set(groups) - complete)[:10])
        raise UserError(
            f"Each case in {pathlib.Path(named[0][1]).parent} should have {expected} channel files "
            f"(_0000 to _{expected - 1:04d}), but these have another number: {wrong}; add or remove files."
        )
    return [Case(name, tuple(group[i] for i in range(expected))) for name, group in groups.items()]


def output_name(case: Case, *, probabilities: bool = False) -> str:
    """Returns the file name predict writes for a case: its name with the suffix that fits its first image."""
    kind = readers.kind(case.images[0])
    return readers.output_name(f"{case.name}{kind}", probabilities=probabilities)


def read_case(case: Case) -> Volume:
    """Reads a case's image as `(*S, C)`; several files are stacked as channels, geometry is that of the first.

    Raises:
      UserError: a file cannot be read, the files lie on different grids, or the image is NaN, infinite or constant.
    """
    parts = [readers.read(path) for path in case.images]
    for part in parts:
        volume.check_finite(part)  # file by file, so that the message names the right one
    for part in parts[1:]:
        volume.check_same_grid(parts[0], part)
    image = parts[0]
    if len(parts) > 1:
        image = image._replace(data=np.concatenate([part.data for part in parts], axis=-1))
    volume.check_image(image)
    return image
