"""What segmentations and structure sets share: do they belong to an image, and which region is which class."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32

from jaxseg.data.dicom import headers
from jaxseg.data.dicom.series import Series
from jaxseg.typing import UserError, Volume

if TYPE_CHECKING:
    from pydicom import Dataset


class Choice(NamedTuple):
    """How regions become label values.

    Attributes:
      classes: name and label value of each class but the background.
      background: label value of what no region covers.
      later_wins: of two regions at one voxel the later class (the higher number) is taken; otherwise that is refused.
    """

    classes: tuple[tuple[str, int], ...] = ()
    background: int = 0
    later_wins: bool = False


def check_reference(dataset: "Dataset", image: Volume, *, path: Any) -> None:
    """Refuses a label that was drawn on another image: it names neither its series nor its frame of reference.

    An image that is no DICOM has neither; there the positions alone decide.

    Raises:
      UserError: see above.
    """
    if not isinstance(image.header, Series):
        return
    refers = headers.refers(dataset)
    if image.header.uid in refers:
        return
    own = headers.open_file(image.header.files[0], image.header.archive, pixels=False).get("FrameOfReferenceUID")
    frames = {str(item.get("FrameOfReferenceUID")) for item in dataset.get("ReferencedFrameOfReferenceSequence") or ()}
    if own and str(own) in frames | {str(dataset.get("FrameOfReferenceUID"))}:
        return
    raise UserError(
        f"{path} should have been drawn on {image.path}, but names "
        f"{'another series' if refers else 'no series'} and another frame of reference; pair the files anew."
    )


def values(names: Mapping[int, str], classes: Sequence[tuple[str, int]]) -> dict[int, int] | None:
    """Returns the label value of each region whose name is a class's, by the region's number; None: no name is.

    Upper and lower case, spaces, underscores and hyphens do not count.
    """
    table = {_plain(name): value for name, value in classes}
    found = {number: table[_plain(name)] for number, name in names.items() if _plain(name) in table}
    return found or None


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def in_order(chosen: Mapping[int, int], choice: Choice) -> list[int]:
    """Returns the numbers of regions in the order in which they are painted: as the classes, else as their numbers."""
    rank = {value: place for place, (_, value) in enumerate(choice.classes)}
    return sorted(chosen, key=lambda number: (rank.get(chosen[number], 0), number))


def paint(
    target: Int32[np.ndarray, "*S"],
    where: tuple[Any, ...] | Bool[np.ndarray, "*S"],
    value: int,
    choice: Choice,
    *,
    path: Any,
) -> None:
    """Sets voxels of `target` to a value in place.

    Raises:
      UserError: some have another class already, and `later_wins` is not set.
    """
    there = target[where]
    taken = (there != choice.background) & (there != value)
    if taken.any() and not choice.later_wins:
        names = {number: name for name, number in choice.classes}
        first, second = (
            f"{number}{f' ({names[number]})' if number in names else ''}" for number in (there[taken][0], value)
        )
        raise UserError(
            f"{path} should give each voxel one class, but at least {int(taken.sum())} voxels are both {first} and "
            f"{second}; set data.overlap='later' to let the later class win, or name fewer classes."
        )
    target[where] = value
