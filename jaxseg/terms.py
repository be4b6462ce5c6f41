"""Coded terms: what a class stands for, in a code that other programs know (SNOMED CT and its like)."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxseg.typing import UserError

_CODE = re.compile(r"([^:>]+):([^:>]+):([^>]+)")
_LONGEST = {"scheme": 16, "value": 16, "meaning": 64}  # characters that DICOM keeps for each
EXAMPLE = "liver = SCT:10200004:Liver"


class Code(NamedTuple):
    """A coded term: the short name of its dictionary ("SCT" is SNOMED CT), its number there, and words for it."""

    scheme: str
    value: str
    meaning: str


class Term(NamedTuple):
    """What a segment is: the kind of thing, and which one of that kind."""

    category: Code
    kind: Code


TISSUE = Code("SCT", "85756007", "Tissue")
ANATOMY = Code("SCT", "123037004", "Anatomical Structure")
UNSPECIFIED = Term(TISSUE, TISSUE)  # of a class of which no more is known; 3D Slicer says the same


def parse(text: str) -> dict[str, Term]:
    """Returns the coded term of each class that a text names.

    Args:
      text: entries with ";" or a new line between, each `class = SCHEME:VALUE:MEANING`. The category is Anatomical
        Structure, unless it stands in front: `tumour = SCT:49755003:Morphologically Altered Structure >
        SCT:4147007:Mass`.

    Raises:
      UserError: an entry reads otherwise, names a class twice, or is too long for DICOM.
    """
    found: dict[str, Term] = {}
    for entry in filter(str.strip, re.split(r"[;\n]", text)):
        name, equals, codes = (part.strip() for part in entry.partition("="))
        parts = [_code(part, entry) for part in codes.split(">")]
        if not name or not equals or len(parts) > 2:
            raise UserError(f"{entry.strip()!r} should read class = SCHEME:VALUE:MEANING, such as {EXAMPLE}.")
        if name in found:
            raise UserError(f"the class {name!r} is given two coded terms; name it once.")
        found[name] = Term(parts[0], parts[1]) if len(parts) == 2 else Term(ANATOMY, parts[0])
    return found


def of_classes(text: str, classes: Sequence[str]) -> tuple[Term, ...]:
    """Returns a term for each class behind the background, the first of `classes`.

    Raises:
      UserError: the text cannot be read, or gives a term to something that is no class.
    """
    found: Mapping[str, Term] = parse(text)
    if unknown := [name for name in found if name not in classes[1:]]:
        known = ", ".join(classes[1:]) or "none"
        raise UserError(
            f"data.terms gives a coded term to {', '.join(unknown)}, but the classes are {known}; correct the name or "
            "leave it out."
        )
    return tuple(found.get(name, UNSPECIFIED) for name in classes[1:])


def _code(text: str, entry: str) -> Code:
    match = _CODE.fullmatch(text.strip())
    if match is None:
        raise UserError(f"{entry.strip()!r} should read class = SCHEME:VALUE:MEANING, such as {EXAMPLE}.")
    code = Code(*(part.strip() for part in match.groups()))
    for field, longest in _LONGEST.items():
        if not 0 < len(getattr(code, field)) <= longest:
            raise UserError(f"the {field} of {entry.strip()!r} should have 1 to {longest} characters for DICOM.")
    return code
