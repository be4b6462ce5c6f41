"""What an object that holds labels says of them and of who has made them."""

from typing import NamedTuple

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


def found(description: Description, numbers: set[int]) -> tuple[Label, ...]:
    """Returns the labels that occur; all of them where none does, so that an object can say what was looked for."""
    return tuple(label for label in description.labels if label.number in numbers) or description.labels
