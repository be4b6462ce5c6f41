"""One series, several stacks: slices that do not make one volume are parted by what their headers say."""

from collections.abc import Sequence

import numpy as np

from jaxseg.data.dicom import geometry
from jaxseg.data.dicom.headers import MARKS, PICTURES, Slice

VIEWS = 3
ANGLE = 1e-3  # directions may differ by so much (a share of one) and still be the same


def stacks(slices: Sequence[Slice]) -> list[tuple[list[Slice], str]]:
    """Returns the slices of one series as stacks that each cover every position once, as far as headers tell.

    Orientations, sizes and pixel spacings are parted always. Where positions repeat, the first of MARKS counts whose
    values part the slices into stacks of the same positions (phases, echoes, b-values), and so on; a file that was
    copied is no repetition. Positions that still repeat after that stay in one stack.

    Returns:
      Slices and what parted them from others of the series, such as "orientation and EchoTime"; "" where nothing did.
    """
    groups = _alike(slices)
    return [(part, " and ".join((*_why(groups), *why))) for group in groups for part, why in _parted(group)]


def single_views(parts: Sequence[tuple[list[Slice], str]]) -> int:
    """Returns how many orientations a series shows in one slice each, as localisers and turning projections do.

    0 where any has several slices, or there are fewer than VIEWS.
    """
    alone = all(len(_positions(part)) == 1 and part[0].position is not None for part, _ in parts)
    turned = sum(
        not any(_near(part[0].orientation, other[0].orientation) for other, _ in parts[:place])
        for place, (part, _) in enumerate(parts)
    )
    return turned if alone and turned >= VIEWS else 0


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


def _why(groups: Sequence[list[Slice]]) -> tuple[str, ...]:
    """Says in what the groups of `_alike` differ."""
    if len(groups) < 2:
        return ()
    first = groups[0][0]
    others = [group[0] for group in groups[1:]]
    found = {
        "orientation": any(not _near(first.orientation, one.orientation) for one in others),
        "size": any(first.shape != one.shape for one in others),
        "pixel spacing": any(not _near(first.spacing, one.spacing) for one in others),
    }
    return tuple(name for name, differs in found.items() if differs) or ("file",)


def _parted(group: list[Slice]) -> list[tuple[list[Slice], tuple[str, ...]]]:
    """Parts slices whose positions repeat, and parts the parts; says by which of MARKS."""
    if not _repeats(group):
        return [(group, ())]
    for place in range(len(MARKS)):
        parts: dict[str, list[Slice]] = {}
        for one in group:
            parts.setdefault(one.marks[place], []).append(one)
        if len(parts) > 1 and len({_positions(part) for part in parts.values()}) == 1:
            ordered = sorted(parts.items(), key=_by_number)
            return [(finer, (MARKS[place][0], *why)) for _, part in ordered for finer, why in _parted(part)]
    return [(group, ())]


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
