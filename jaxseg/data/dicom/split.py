"""One series, several stacks: slices that do not make one volume are parted by what their headers say."""

from collections.abc import Sequence

import numpy as np

from jaxseg.data.dicom import geometry
from jaxseg.data.dicom.headers import MARKS, PICTURES, Slice

ANGLE = 1e-3  # directions may differ by so much (a share of one) and still be the same


def stacks(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Returns the slices of one series as stacks that each cover every position once, as far as headers tell.

    Orientations, sizes and pixel spacings are parted always. Where positions repeat, the first of MARKS counts whose
    values part the slices into stacks of the same positions (phases, echoes, b-values), and so on; a file that was
    copied is no repetition. Positions that still repeat after that stay in one stack.
    """
    return [part for group in _alike(slices) for part in _parted(group)]


def _alike(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Parts slices by orientation, size and spacing; pictures without a position are each alone."""
    groups: list[list[Slice]] = []
    for one in slices:
        alone = one.position is None and one.modality in PICTURES
        fits = None if alone else next((group for group in groups if _same_kind(group[0], one)), None)
        groups.append([one]) if fits is None else fits.append(one)
    return groups


def _same_kind(one: Slice, other: Slice) -> bool:
    if one.shape != other.shape or one.position is None or other.position is None:
        return False
    return _near(one.orientation, other.orientation) and _near(one.spacing, other.spacing)


def _near(one: Sequence[float] | None, other: Sequence[float] | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(np.allclose(one, other, rtol=ANGLE, atol=ANGLE))


def _parted(group: list[Slice]) -> list[list[Slice]]:
    """Parts slices whose positions repeat, and parts the parts."""
    if not _repeats(group):
        return [group]
    for place in range(len(MARKS)):
        parts: dict[str, list[Slice]] = {}
        for one in group:
            parts.setdefault(one.marks[place], []).append(one)
        if len(parts) > 1 and len({_positions(part) for part in parts.values()}) == 1:
            return [finer for _, part in sorted(parts.items(), key=_by_number) for finer in _parted(part)]
    return [group]


def _by_number(entry: tuple[str, list[Slice]]) -> tuple[float, str]:
    """Sorts values as numbers where they are, so that phase 10 comes after phase 9."""
    try:
        return float(entry[0]), entry[0]
    except ValueError:
        return float("inf"), entry[0]


def _repeats(group: Sequence[Slice]) -> bool:
    files = {(one.uid or one.source, one.frame): one for one in group}
    return len(_positions(list(files.values()))) < len(files)


def _positions(group: Sequence[Slice]) -> frozenset[int]:
    """Returns the positions along the normal, in units in which equal ones are equal."""
    first = group[0]
    if first.orientation is None:
        return frozenset()
    across = geometry.normal(first.orientation)
    return frozenset(round(float(np.dot(one.position or (), across)) / (10 * geometry.SAME_MM)) for one in group)
