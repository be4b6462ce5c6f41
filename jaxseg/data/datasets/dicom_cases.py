"""Cases of DICOM: one a stack of slices, named by folders, series numbers and digests, not by patients."""

import os
import pathlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from jaxseg.data import readers
from jaxseg.data.dicom import find, headers
from jaxseg.data.dicom.find import Found, Stack
from jaxseg.data.readers import dicom
from jaxseg.typing import Case, UserError

LISTED = 5  # so many files are named for each reason why they were left out


class Listed(NamedTuple):
    """What a place holds: cases, and sentences on what was left out or is good to know of a case."""

    cases: tuple[Case, ...]
    notes: tuple[str, ...]


def images(place: pathlib.Path, *, identify: bool = False) -> Listed:
    """Lists the stacks of a folder (of folders within it too, and of zip archives in it), an archive or a file.

    A case is named by the path of its file or folder within `place`, without its suffix, and by the stack's key where a
    folder has several. One file of a series stands for all slices of the series in its folder.

    Args:
      place: exists, or is FOLDER#SERIES.
      identify: name cases by PatientID and SeriesDescription instead; a name that is used twice gets the stack's key.

    Raises:
      UserError: FOLDER#SERIES names no stack.
    """
    where, key = dicom.split_path(place)
    if where.is_dir():
        parts = [_in_folder(where), *(_in_archive(file) for file in _archives(where) if not key)]
    elif where.name.lower().endswith(".zip"):
        parts = [_in_archive(where)]
    else:
        parts = [_of_file(where)]
    if key:
        wanted = find.pick(find.find(where), key, place=where)
        parts = [part._replace(stacks=[(n, p, s) for n, p, s in part.stacks if s.key == wanted.key]) for part in parts]
    stacks = [entry for part in parts for entry in part.stacks]
    if identify:
        stacks = _identified(stacks)
    notes = [f"{name} {clause}" for name, _, stack in stacks for clause in find.notes(stack)]
    notes += [note for part in parts for note in _left_out(part)]
    return Listed(tuple(Case(name, (path,)) for name, path, _ in stacks), tuple(notes))


def labels(place: pathlib.Path) -> tuple[Case, ...]:
    """Lists segmentations and structure sets of a folder, or one file; each is a case whose image is its file.

    One directly in the folder is named by its file without suffix, one that is alone in a folder within by the path of
    that folder, others by both.
    """
    found = find.find(place)
    objects = [pathlib.Path(one.source) for one in found.skipped if one.refers is not None]
    if place.is_file():
        return tuple(Case(readers.stem(file), (str(file),)) for file in objects)
    beside = Counter(file.parent for file in objects)
    return tuple(Case(_label_name(file, place, alone=beside[file.parent] == 1), (str(file),)) for file in objects)


def by_reference(images: Mapping[str, str], labels: Mapping[str, str]) -> dict[str, str]:
    """Returns the label of each image that exactly one label was drawn on, by name: DICOM labels name their series.

    Args:
      images: path of each image by the name of its case.
      labels: path of each label by its name.
    """
    refers: dict[str, list[str]] = defaultdict(list)
    for path in labels.values():
        where, _ = dicom.split_path(path)
        if not where.is_file() or readers.kind(path) != ".dcm" or where.name.lower().endswith(".zip"):
            continue
        for one in find.find(where).skipped:
            for uid in one.refers or ():
                refers[uid].append(path)
    uids = {name: dicom.stack_of(path).uid for name, path in images.items() if readers.kind(path) == ".dcm"}
    several = Counter(uids.values())
    return {name: refers[uid][0] for name, uid in uids.items() if len(refers[uid]) == 1 and several[uid] == 1}


class _Part(NamedTuple):
    """Stacks of one folder or archive, each with name and path, and where they lie."""

    stacks: list[tuple[str, str, Stack]]
    found: Found
    archive: str = ""


def _archives(folder: pathlib.Path) -> list[pathlib.Path]:
    return [f for f in sorted(folder.glob("*.[zZ][iI][pP]")) if not f.name.startswith(".") and find.holds_dicom(f)]


def _in_archive(file: pathlib.Path) -> _Part:
    found = find.find(file)
    alone, name = len(found.stacks) == 1, file.name[: -len(".zip")]
    stacks = [
        (name if alone else f"{name}_{one.key}", str(file) if alone else f"{file}{find.MARK}{one.key}", one)
        for one in found.stacks
    ]
    return _Part(stacks, found, str(file))


def _of_file(file: pathlib.Path) -> _Part:
    """Lists the series that a file belongs to, which other files of its folder may be parts of too."""
    own = find.find(file)
    series = {one.slices[0].series for one in own.stacks}
    part = _in_folder(file.parent, deep=False)
    stacks = [entry for entry in part.stacks if entry[2].slices[0].series in series]
    mine = [entry for entry in stacks if str(file) in {one.source for one in entry[2].slices}]
    return _Part(mine, own)


def _in_folder(folder: pathlib.Path, *, deep: bool = True) -> _Part:
    found = find.find(folder, deep=deep)
    by_series: dict[tuple, list[Stack]] = defaultdict(list)
    holds: Counter[pathlib.Path] = Counter()  # how many stacks a file or folder has slices of
    for stack in found.stacks:
        by_series[stack.slices[0].series].append(stack)
        holds.update(_holders({one.source for one in stack.slices}))
    places: list[tuple[pathlib.Path, Stack]] = []
    for stacks in by_series.values():
        shared = {one.source for stack in stacks for one in stack.slices}
        for stack in stacks:
            own = {one.source for one in stack.slices}
            single = len(own) == 1 and holds[pathlib.Path(next(iter(own)))] == 1
            places.append((_common(own if single else shared), stack))
    places.sort(key=lambda entry: (str(entry[0]), entry[1].key))
    named = Counter(place for place, _ in places)
    result = []
    for place, stack in places:
        # its file or folder, with its key where that holds others too (or may, in folders that were not looked into)
        clear = holds[place] == 1 and (deep or place.is_file())
        name = _name(place, folder)
        path = str(place) if clear else f"{place}{find.MARK}{stack.key}"
        result.append((name if named[place] == 1 else f"{name}_{stack.key}", path, stack))
    return _Part(result, found)


def _holders(sources: Iterable[str]) -> set[pathlib.Path]:
    """Returns files and all folders that they lie in."""
    files = {pathlib.Path(source) for source in sources}
    folders = {file.parent for file in files}
    return files | folders | {parent for folder in folders for parent in folder.parents}


def _common(sources: Iterable[str]) -> pathlib.Path:
    """Returns the one file, or the innermost folder of several."""
    sources = sorted(sources)
    if len(sources) == 1:
        return pathlib.Path(sources[0])
    return pathlib.Path(os.path.commonpath([os.path.dirname(source) for source in sources]))


def _name(place: pathlib.Path, root: pathlib.Path) -> str:
    if place == root:
        return root.resolve().name or "root"
    parts = place.relative_to(root).parts
    last = readers.stem(place) if place.is_file() else parts[-1]
    return "_".join([*parts[:-1], last])


def _label_name(file: pathlib.Path, root: pathlib.Path, *, alone: bool) -> str:
    folders = file.relative_to(root).parts[:-1]
    return "_".join(folders if folders and alone else [*folders, readers.stem(file)])


def _identified(stacks: Sequence[tuple[str, str, Stack]]) -> list[tuple[str, str, Stack]]:
    names = []
    for _, _, stack in stacks:
        header = headers.open_file(stack.slices[0].source, stack.archive, pixels=False)
        parts = (str(header.get("PatientID", "")), str(header.get("SeriesDescription", "")))
        names.append("_".join(re.sub(r"[^\w.+-]+", "-", part).strip("-.") for part in parts).strip("_") or stack.key)
    count = Counter(names)
    return [
        (name if count[name] == 1 else f"{name}_{stack.key}", path, stack)
        for name, (_, path, stack) in zip(names, stacks, strict=True)
    ]


def _left_out(part: _Part) -> list[str]:
    """Returns a sentence for each reason why files were left out."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for one in part.found.skipped:
        # labels and directories lie beside images without being amiss
        if not part.found.stacks or (one.refers is None and "DICOMDIR" not in one.why):
            by_reason[one.why].append(headers.shown(one.source, part.archive))
    result = []
    for why, names in by_reason.items():
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        result.append(f"left out {', '.join(names[:LISTED])}{more}: {'each ' if len(names) > 1 else ''}{why}")
    return result


def nothing(place: pathlib.Path, listed: Listed) -> UserError:
    """Returns the error for a place whose DICOM files hold nothing to segment."""
    why = "; ".join(listed.notes[:LISTED])
    return UserError(f"{place} should hold images, but its DICOM files hold none{f' ({why})' if why else ''}.")
