"""What an object that holds labels says of them and of who has made them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Integer

from jaxseg.terms import Term

NAME = "jaxseg"
NOTICE = "Automatic, not for clinical use"
SERIES = "jaxseg segmentation"


class Label(NamedTuple):
    """A class: its id in the label map (1 and above), name, (red, green, blue) bytes, and coded term."""

    number: int
    name: str
    color: tuple[int, int, int]
    term: Term


class Description(NamedTuple):
    """What stands in a DICOM object beside the voxels.

    Attributes:
      labels: all classes but the background, by id.
      version: of jaxseg.
      digest: names the trained weights and the settings; holds no path.
    """

    labels: tuple[Label, ...]
    version: str
    digest: str


def short(text: str, *, longest: int = 64) -> str:
    """Returns a text as DICOM stores it on one line: a backslash would part it in two, and `longest` characters fit."""
    return " ".join(text.replace("\\", "/").split())[:longest]


def found(description: Description, labels: Integer[np.ndarray, "D H W"]) -> tuple[Label, ...]:
    """Returns the labels that occur among class ids; all where none does, so that an object can say what was looked
    for.

    Raises:
      ValueError: a class id without a label.
    """
    numbers = set().union(*(np.unique(slab).tolist() for slab in labels)) - {0}
    if unknown := numbers - {label.number for label in description.labels}:
        raise ValueError(f"Class ids without a label: {sorted(unknown)}.")
    return tuple(label for label in description.labels if label.number in numbers) or description.labels
