"""Coded terms of classes: what the text may say, and what it says where it says nothing."""

import pytest

from jaxseg import terms
from jaxseg.terms import ANATOMY, UNSPECIFIED, Code, Term
from jaxseg.typing import UserError

TEXT = """
liver = SCT:10200004:Liver
liver tumour = SCT:49755003:Morphologically Altered Structure > SCT:4147007:Mass; other=99LAB:a-1:Thing, odd
"""


def test_entries_stand_on_lines_or_between_semicolons():
    found = terms.parse(TEXT)
    assert found == {
        "liver": Term(ANATOMY, Code("SCT", "10200004", "Liver")),
        "liver tumour": Term(
            Code("SCT", "49755003", "Morphologically Altered Structure"), Code("SCT", "4147007", "Mass")
        ),
        "other": Term(ANATOMY, Code("99LAB", "a-1", "Thing, odd")),
    }
    assert terms.parse(" ;\n") == {}


def test_a_class_without_a_term_is_tissue():
    classes = ("background", "spleen", "liver")
    first, second = terms.of_classes("liver = SCT:10200004:Liver", classes)
    assert first == UNSPECIFIED and first.kind.value == "85756007"
    assert second.kind.meaning == "Liver"


@pytest.mark.parametrize(
    "text, message",
    [
        ("liver", "should read class = SCHEME:VALUE:MEANING"),
        ("liver = 10200004", "should read class = SCHEME:VALUE:MEANING"),
        ("= SCT:1:One", "should read class"),
        ("a = SCT:1:One > SCT:2:Two > SCT:3:Three", "should read class"),
        ("a = SCT:1:One; a = SCT:2:Two", "'a' is given two coded terms"),
        ("a = SCT:12345678901234567:One", "the value of .* 1 to 16 characters"),
        ("a = SCT: :One", "the value of .* 1 to 16 characters"),
    ],
)
def test_a_text_that_reads_otherwise_is_told(text, message):
    with pytest.raises(UserError, match=message):
        terms.parse(text)


def test_a_term_for_no_class_is_told_with_the_classes():
    with pytest.raises(UserError, match="to lever, but the classes are liver, spleen; correct the name"):
        terms.of_classes("lever = SCT:10200004:Liver", ("background", "liver", "spleen"))
    with pytest.raises(UserError, match="to background"):
        terms.of_classes("background = SCT:1:One", ("background", "liver"))
