"""DICOM files to stacks: a folder, a zip archive or a file is walked once, headers only, and sorted into series."""

import functools
import hashlib
import os
import pathlib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from jaxseg.data.dicom import geometry, headers, split
from jaxseg.data.dicom.headers import Skipped, Slice
from jaxseg.data.dicom.series import Series
from jaxseg.data.volume import reason
from jaxseg.typing import UserError

SUFFIXES = (".dcm", ".dicom", ".ima")
MARK = "#"  # FOLDER#KEY names a stack of a folder
LISTED = 20  # so many are listed in a message


class Stack(NamedTuple):
    """Slices that should make one volume; nothing is known of their pixels yet.

    Attributes:
      key: names the stack within its folder: "s3-1a2b3c4d", SeriesNumber and a digest of the UIDs; where a series was
        parted, "-1", "-2", ... follow.
      uid: SeriesInstanceUID.
      number: SeriesNumber, or None.
      slices: sorted by file and frame, not by position.
      archive: the zip file in which the sources of slices are names, or "".
      parted: what tells it from other stacks of its series, such as "EchoTime"; "": it is the whole series.
    """

    key: str
    uid: str
    number: int | None
    slices: tuple[Slice, ...]
    archive: str = ""
    parted: str = ""


class Found(NamedTuple):
    """What a folder, a zip archive or a file holds.

    Attributes:
      stacks: sorted by key.
      skipped: DICOM files that are no image, and why.
    """

    stacks: tuple[Stack, ...]
    skipped: tuple[Skipped, ...]


def find(place: str | os.PathLike, *, deep: bool = True) -> Found:
    """Lists the stacks of a folder, a zip archive or a DICOM file; hidden files and those that are no DICOM are passed.

    Args:
      place: exists.
      deep: also look into folders within the folder.

    Raises:
      UserError: a file named .dcm, or a zip archive, cannot be read.
    """
    place = pathlib.Path(place)
    if place.is_file() and zipfile.is_zipfile(place):
        return _found(str(place), _signature([place]), archive=True)
    files = list(_walk(place, deep)) if place.is_dir() else [place]
    return _found(tuple(str(file) for file in files), _signature(files), archive=False)


def holds_dicom(place: str | os.PathLike) -> bool:
    """Whether a file is DICOM, or a zip archive or a folder (at any depth) holds such a file; looks until the first."""
    place = pathlib.Path(place)
    if place.is_dir():
        return next(_walk(place, True), None) is not None
    if place.name.lower().endswith(".zip") and zipfile.is_zipfile(place):
        return next(_members(str(place)), None) is not None
    return place.is_file() and _is_dicom(place)


def pick(found: Found, key: str, *, place: Any) -> Stack:
    """Returns the one stack that is meant: by its key, its SeriesInstanceUID or, where one has it, its SeriesNumber.

    Args:
      found: what `find` returned.
      key: "": there must be one alone.
      place: for messages.

    Raises:
      UserError: there is none, or there are several.
    """
    if not found.stacks:
        if len(found.skipped) == 1 and found.skipped[0].source == str(place):
            raise UserError(f"{place} should be a DICOM image, but {found.skipped[0].why}; name another file.")
        why = "; ".join(f"{pathlib.PurePath(one.source).name} {one.why}" for one in found.skipped[:5])
        raise UserError(
            f"{place} should hold a DICOM series, but holds no image{f' ({why})' if why else ''}; name another folder."
        )
    names = (lambda s: s.key, lambda s: s.uid, lambda s: s.key.rsplit("-", 1)[0], lambda s: str(s.number))
    fits: Sequence[Stack] = found.stacks
    if key:
        fits = next((fit for name in names if (fit := [s for s in found.stacks if name(s) == key])), ())
    if len(fits) == 1:
        return fits[0]
    listed = ", ".join(
        f"{stack.key} ({len(stack.slices)} x {stack.slices[0].modality})" for stack in found.stacks[:LISTED]
    )
    what = f"has no single series {key!r}" if key else f"holds {len(found.stacks)} series"
    raise UserError(f"{place} {what}; name one as {place}{MARK}KEY, of {listed}.")


def notes(stack: Stack) -> tuple[str, ...]:
    """Returns clauses on what a user should know of a stack: how it was parted, lossy compression, a tilted gantry."""
    result = [f"is a part of its series, told from others by {stack.parted}"] if _tell(stack) else []
    if any(one.lossy for one in stack.slices):
        result.append("was compressed with loss before it came here")
    try:
        order = [group[0] for group in geometry.planes(stack.slices, path="")]
    except UserError:
        return tuple(result)  # told when it is read
    angle = geometry.tilt(order)
    if angle:
        result.append(f"was taken with a tilted gantry ({angle * 57.29578:.1f} degrees), kept as a shear of its affine")
    return tuple(result)


def _tell(stack: Stack) -> bool:
    """Whether a series was parted in a way that may surprise; pictures are one by one anyway."""
    return bool(stack.parted) and stack.slices[0].position is not None


def series_of(stack: Stack, slices: Iterable[Slice]) -> Series:
    """Returns the header of a volume: where its slices, in this order, lie."""
    slices = tuple(slices)
    return Series(
        stack.uid,
        slices[0].modality,
        tuple(one.source for one in slices),
        tuple(one.frame for one in slices),
        stack.archive,
    )


def _is_dicom(path: pathlib.Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) or headers.is_dicom(path)


def _walk(folder: pathlib.Path, deep: bool) -> Iterator[pathlib.Path]:
    """Yields DICOM files by name, those of a folder before those of folders in it; links to folders are followed."""
    seen = {os.path.realpath(folder)}
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = {name: os.path.realpath(os.path.join(parent, name)) for name in folders}
        folders[:] = sorted(name for name in folders if deep and not name.startswith(".") and real[name] not in seen)
        seen.update(real.values())  # a link back would go round for ever
        for name in sorted(files):
            path = pathlib.Path(parent, name)
            if not name.startswith(".") and not _is_other(name) and _is_dicom(path):
                yield path


def _is_other(name: str) -> bool:
    """Whether the name is that of another format, so that the file need not be opened."""
    from jaxseg.data.readers import TABLE

    name = name.lower()
    return name.endswith(tuple(set(TABLE) - set(SUFFIXES))) or name.endswith((".json", ".csv", ".txt", ".zip"))


def _members(archive: str) -> Iterator[str]:
    """Yields the names of DICOM files in a zip archive."""
    with zipfile.ZipFile(archive) as opened:
        for name in sorted(opened.namelist()):
            last = name.rsplit("/", 1)[-1]
            if not last or any(part.startswith((".", "__MACOSX")) for part in name.split("/")) or _is_other(last):
                continue
            with opened.open(name) as file:
                if last.lower().endswith(SUFFIXES) or file.read(132)[128:] == b"DICM":
                    yield name


def _signature(files: Iterable[pathlib.Path]) -> tuple:
    """Changes when a file does, so that what was found before is not taken for what is there now."""
    return tuple((stat.st_size, stat.st_mtime_ns) for stat in (file.stat() for file in files))


@functools.lru_cache(maxsize=8)
def _found(files: str | tuple[str, ...], signature: tuple, *, archive: bool) -> Found:
    del signature  # only tells one state of the files from another
    inside = str(files) if archive else ""
    sources = list(_members(inside)) if archive else list(files)
    slices: dict[tuple, list[Slice]] = {}
    skipped: list[Skipped] = []
    with headers.opened(inside) as within:
        for source in sources:
            found = _looked_at(source, within)
            if isinstance(found, Skipped):
                skipped.append(found)
                continue
            for one in found:
                slices.setdefault(one.series, []).append(one)
    stacks: list[Stack] = []
    for series, own in slices.items():
        parts = split.stacks(own)
        views = split.single_views(parts)
        if views:
            why = f"shows single slices in {views} orientations, as localisers do, with the rest of its series"
            skipped += [Skipped(source, why) for source in dict.fromkeys(one.source for one in own)]
        else:
            stacks += _stacks(series, parts, inside)
    return Found(tuple(sorted(stacks, key=lambda stack: _order(stack))), tuple(skipped))


def _looked_at(source: str, archive: str | zipfile.ZipFile) -> tuple[Slice, ...] | Skipped:
    try:
        return headers.slices(source, headers.open_file(source, archive, pixels=False))
    except UserError as error:
        return Skipped(source, f"cannot be read ({reason(error.__cause__ or error)})")


def _order(stack: Stack) -> tuple:
    return (stack.number is None, stack.number or 0, stack.key)


def _stacks(series: tuple, parts: Sequence[tuple[list[Slice], str]], archive: str) -> list[Stack]:
    digest = hashlib.sha256("\0".join(series).encode()).hexdigest()[:8]
    number = parts[0][0][0].number
    key = f"s{'' if number is None else number}-{digest}"
    return [
        Stack(key if len(parts) == 1 else f"{key}-{place}", series[0], number, tuple(part), archive, why)
        for place, (part, why) in enumerate(parts, 1)
    ]
