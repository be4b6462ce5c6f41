"""Between the forms that objects take: an object map that augmentation can move, and run-length encoded masks."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int16, Integer

from jaxseg.ops import run_length
from jaxseg.typing import IGNORE, Instances, Objects, UserError

MOST_VALUES = np.iinfo(np.int16).max  # prepared labels are int16


def object_map(
    masks: Iterable[tuple[tuple[int, int], Bool[np.ndarray, "h w"]]],
    *,
    shape: tuple[int, int],
    classes: Sequence[int],
    crowd: Sequence[bool] | None = None,
    where: str = "The image",
) -> tuple[Int16[np.ndarray, "H W"], Objects]:
    """Lays objects into one map in which every value stands for a set of objects, so that overlaps are kept.

    Args:
      masks: ((top, left), mask of the object's own box), one an object; all within `shape`.
      shape: (H, W).
      classes: class id of each object.
      crowd: which are crowd regions; None: none.
      where: the image's name, for messages.

    Raises:
      UserError: more different overlaps than an int16 map can number.
    """
    result = np.zeros(shape, np.int32)
    sets: list[tuple[int, ...]] = [()]
    number_of: dict[tuple[int, ...], int] = {(): 0}
    for number, ((top, left), mask) in enumerate(masks, start=1):
        part = result[top : top + mask.shape[0], left : left + mask.shape[1]]
        for value in np.unique(part[mask]):
            joined = (*sets[value], number)
            if joined not in number_of:
                number_of[joined] = len(sets)
                sets.append(joined)
            # Later objects get higher numbers, so what was written in this turn is never met again in it.
            part[mask & (part == value)] = number_of[joined]
    values, compact = np.unique(result, return_inverse=True)  # sets that were wholly covered by later ones go
    if values[0] != 0:
        values, compact = np.concatenate([[0], values]), compact + 1
    if len(values) > MOST_VALUES:
        raise UserError(
            f"{where} holds {len(values)} different overlaps of objects, and {MOST_VALUES} are possible; leave it out."
        )
    deepest = max((len(sets[value]) for value in values), default=0)
    members = np.zeros((len(values), max(1, deepest)), np.int32)
    for row, value in enumerate(values):
        members[row, : len(sets[value])] = sets[value]
    flags = np.zeros(len(classes), bool) if crowd is None else np.asarray(crowd, bool)
    objects = Objects(np.asarray(classes, np.int32).reshape(-1), flags, members)
    return compact.reshape(shape).astype(np.int16), objects


def to_instances(values: Integer[np.ndarray, "H W"], objects: Objects, *, num_classes: int) -> Instances:
    """Returns the objects of a map as run-length masks; those without a pixel left keep an empty mask.

    IGNORE pixels, where there are any, become a crowd region of every class at the end: what is found there counts
    neither way.

    Args:
      values: object map of `object_map`.
      objects: what its values mean.
      num_classes: with the background.
    """
    masks: list[dict[str, Any]] = []
    flat = np.asfortranarray(values)
    for number in range(1, len(objects.classes) + 1):
        rows = np.flatnonzero((objects.members == number).any(axis=1))
        masks.append(run_length.encode(np.isin(flat, rows) if len(rows) != 1 else flat == rows[0]))
    labels, crowd = objects.classes, objects.crowd
    if (values == IGNORE).any():
        foreground = np.arange(1, num_classes, dtype=labels.dtype)
        masks += [run_length.encode(values == IGNORE)] * len(foreground)
        labels, crowd = np.concatenate([labels, foreground]), np.concatenate([crowd, np.ones(len(foreground), bool)])
    return Instances(tuple(masks), labels, np.ones(len(labels), np.float32), crowd)
