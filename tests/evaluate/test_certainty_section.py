"""Members and certainty on the page: from the files to what a person reads."""

import base64
import json
import math
import re

import pytest
from annotations import unchecked

from jaxseg import evaluate, viz
from jaxseg.evaluate import certainty
from jaxseg.typing import UserError

CLASSES = ("liver", "<b>lesion")


def bins(accuracy):
    return {"count": [0, 30, 70], "confidence": [None, 0.5, 0.9], "accuracy": [None, *accuracy]}


def correlation(pearson):
    return {"pearson": pearson, "spearman": 0.5, "low": -0.25, "high": 0.875, "n": 3}


@pytest.fixture(scope="module")
def page_part():
    """The section of `measured()`, drawn once."""
    return evaluate.certainty_section(measured())


@pytest.fixture
def found():
    return measured()


def measured():
    """certainty.json of three cases of two classes, one of which has no correlation."""
    cases = [
        {"case": f"case <{i}>", "class": name, "dice": 0.5 + i / 10, "quality": 0.9 - i / 10, "agreement": i / 4,
         "entropy": 0.25}
        for i in range(3) for name in CLASSES
    ]  # fmt: skip
    cases[1] |= {"dice": None, "quality": None}
    nothing = {"pearson": None, "spearman": None, "low": None, "high": None, "n": 2}
    return {
        "n_pixels": 1234567, "ece": 0.0312, "mce": 0.2, "brier": 0.0456, "nll": "inf",
        "bins": bins([0.25, 0.85]), "temperature": 1.5, "ece_scaled": 0.0101, "bins_scaled": bins([0.45, 0.9]),
        "quality": {"liver": correlation(0.75), "<b>lesion": nothing},
        "agreement": {"liver": correlation(0.625)},
        "cases": cases,
        "risk_coverage": {"coverage": [0.5, 1.0], "risk": [0.1, 0.3], "area": 0.2, "area_best": 0.15,
                          "area_random": 0.3},
    }  # fmt: skip


@pytest.fixture
def members():
    """members.json of three members of a bagged ensemble."""
    return {
        "kind": "bagging", "combine": "probabilities", "classes": list(CLASSES),
        "members": [
            {"name": "member_0", "dice": {"liver": 0.9, "<b>lesion": 0.5}, "weight": 0.25,
             "out_of_bag": {"liver": 0.81, "<b>lesion": None}},
            {"name": "member_1", "dice": {"liver": 0.8, "<b>lesion": None}, "weight": None, "note": "stopped <early>"},
            {"name": "member_2", "dice": {"liver": 0.7, "<b>lesion": 0.6}, "weight": 0.75},
        ],
        "ensemble": {"liver": 0.93, "<b>lesion": 0.61}, "out_of_bag": {"liver": 0.84, "<b>lesion": None},
        "pairwise_dice": [[1.0, 0.71, 0.72], [0.71, 1.0, 0.73], [0.72, 0.73, 1.0]],
    }  # fmt: skip


def table(html, place):
    """The cells of a table of the page, as text."""
    part = html.split("<tbody>")[place + 1].split("</tbody>")[0]
    rows = part.replace('<tr class="total">', "<tr>").split("<tr>")[1:]

    return [[text_of(cell.split(">", 1)[1]) for cell in row.split("<td")[1:]] for row in rows]


def text_of(html):
    text, inside = "", False
    for letter in html:
        inside = inside or letter == "<"
        text += "" if inside else letter
        if letter == ">":
            inside, text = False, text + " "
    return " ".join(text.split())


def test_certainty_says_how_well_confidence_holds(page_part):
    assert table(page_part, 0) == [
        ["pixels", "1,234,567"],
        ["expected calibration error (ECE)", "0.0312"],
        ["maximum calibration error (MCE)", "0.2000"],
        ["Brier score", "0.0456"],
        ["negative log-likelihood (nats a pixel)", "inf"],
        ["temperature", "1.50"],
        ["ECE after temperature scaling", "0.0101"],
    ]
    assert "Area under the curve 0.200; 0.150 if the cases" in page_part


def test_certainty_plots_what_the_file_holds(page_part):
    nan, names = math.nan, list(CLASSES)
    before = viz.ReliabilityBins([0.0, 30.0, 70.0], [nan, 0.5, 0.9], [nan, 0.25, 0.85])
    after = before._replace(accuracy=[nan, 0.45, 0.9])
    dice = [[0.5, 0.6, 0.7], [nan, 0.6, 0.7]]
    expected = [[0.9 - i / 10 for i in range(3)], [nan, 0.9 - 1 / 10, 0.9 - 2 / 10]]
    pictures = [
        viz.reliability_diagram(before, scaled=after, temperature=1.5),
        viz.quality_plot(dict(zip(names, expected)), dict(zip(names, dice)), {"liver": 0.75, names[1]: nan}),
        viz.quality_plot(
            {"liver": [0.0, 0.25, 0.5]}, {"liver": dice[0]}, {"liver": 0.625}, name="agreement of members"
        ),
        viz.risk_coverage_plot([0.5, 1.0], [0.1, 0.3], random=0.3, area=0.2),
    ]
    parts = [base64.b64decode(part.split('"')[0]) for part in page_part.split("data:image/svg+xml;base64,")[1:]]
    assert parts == pictures


def test_certainty_lists_correlations_and_cases_worst_first(page_part):
    assert table(page_part, 1) == [
        ["liver", "0.750", "0.500 -0.250 to 0.875 n 3", "0.625", "0.500 -0.250 to 0.875 n 3"],
        ["&lt;b&gt;lesion", "–", "– n 2", "–", "– n 0"],
    ]
    rows = table(page_part, 2)
    assert [row[2] for row in rows] == ["0.700", "0.700", "0.800", "0.800", "0.900", "–"]
    assert rows[0] == ["case &lt;2&gt;", "liver", "0.700", "0.500", "0.250", "0.700"]
    assert "<b>lesion" not in page_part and "case <" not in page_part


def test_certainty_of_one_network_and_few_cases(found):
    found |= dict.fromkeys(("temperature", "ece_scaled", "bins_scaled", "agreement", "risk_coverage", "mce"))
    found["cases"] = found["cases"][:2]
    html = evaluate.certainty_section(found)
    assert html.count("data:image/svg+xml") == 1
    assert "too few cases to plot the expected Dice" in html and "too few cases for a curve" in html
    assert [row[1] for row in table(html, 0)][2:] == ["–", "0.0456", "inf", "–", "–"]
    assert "agreement of members" not in html
    found |= {"cases": [], "quality": {}, "bins": {key: [] for key in ("count", "confidence", "accuracy")}}
    html = evaluate.certainty_section(found)
    assert "There are no cases" in html and "No pixel was scored" in html and "without the truth</h3>" not in html


def test_the_table_of_cases_ends(found, monkeypatch):
    monkeypatch.setattr(certainty, "MOST_CASES", 4)
    html = certainty._cases(found["cases"])
    assert len(table(html, 0)) == 4 and "The first 4 of 6 rows" in html


def test_members_beside_the_ensemble(members):
    html = evaluate.members_section(members)
    assert "3 members: each was trained on cases drawn with replacement (bagging); combined by probabilities." in html
    assert table(html, 0) == [
        ["member_0", "0.250", "0.900", "0.500", "0.810", "–", ""],
        ["member_1", "–", "0.800", "–", "–", "–", "stopped &lt;early&gt;"],
        ["member_2", "0.750", "0.700", "0.600", "–", "–", ""],
        ["mean of members", "–", "0.800", "0.550", "0.810", "–", ""],
        ["ensemble", "–", "0.930", "0.610", "0.840", "–", ""],
    ]
    assert table(html, 1)[0] == ["member_0", "1.000", "0.710", "0.720"]
    assert html.count("data:image/svg+xml") == 1 and "<b>lesion" not in html
    assert html.index('<tr class="total">') > html.index("mean of members")


def test_members_without_what_is_optional(members):
    bare = {key: members[key] for key in ("kind", "combine", "classes", "ensemble")} | {"kind": "<snapshot>"}
    bare["members"] = [{"name": "a", "dice": {"liver": 0.5, "<b>lesion": None}, "weight": None}]
    html = evaluate.members_section(bare)
    assert "1 members: &lt;snapshot&gt;;" in html and "too few scored members" in html
    assert table(html, 0)[0] == ["a", "0.500", "–"] and "out of bag liver" not in html
    assert "Dice between members</h3>" not in html


def write(folder, name, content):
    folder = folder / "evaluation"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def test_members_that_have_become_one_network_show_their_rounds():
    rounds = [
        {"name": "member_0", "validation": 0.61, "vote": 1.25},
        {"name": "member_1", "validation": 0.584, "vote": 0.4},
        {"name": "member_2", "validation": None, "vote": 0.0},
    ]
    found = {
        "kind": "gradient_boosting",
        "combine": "sum",
        "classes": ["core"],
        "members": [],
        "ensemble": {"core": 0.6},
    }
    html = evaluate.members_section({**found, "rounds": rounds, "kept": ["member_0"]})
    assert "Each adds to the sum of those before it" in html and "combined by sum" in html
    rows = re.findall(r"<tr>(.*?)</tr>", html)[1:]
    assert [("kept" in row) for row in rows] == [True, False, False]
    assert "0.610" in rows[0] and "1.250" in rows[0] and "–" in rows[2] and "weighted error" not in html
    assert "<table" not in evaluate.members_section(found)


def test_the_report_shows_both_where_they_exist(tmp_path, found, page_part, members):
    page = evaluate.write_report(tmp_path).read_text()
    assert 'id="members"' not in page and 'id="certainty"' not in page
    write(tmp_path, "certainty.json", found)
    write(tmp_path, "members.json", members)
    page = evaluate.write_report(tmp_path).read_text()
    assert page.index('id="scores"') < page.index('id="members"') < page.index('id="certainty"')
    assert page.index('id="certainty"') < page.index('id="pictures"') and str(tmp_path.parent) not in page
    assert evaluate.members_section(members) in page and page_part in page


def test_the_report_shows_one_alone(tmp_path, members):
    write(tmp_path, "members.json", members)
    assert list(evaluate.ensemble_sections(tmp_path / "evaluation")) == ["Members"]
    assert evaluate.ensemble_sections(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("certainty.json", '{"ece": 0.', r"certainty\.json is not valid JSON"),
        ("members.json", "[1, 2]", r"members\.json should hold a JSON object, it holds \[1, 2\]"),
        ("members.json", {"members": []}, r"does not hold what the report shows \(it lacks 'classes'\)"),
        ("certainty.json", {"n_pixels": None}, r"certainty\.json does not hold .* run --mode evaluate again"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
    write(tmp_path, name, content)
    with pytest.raises(UserError, match=message):
        evaluate.write_report(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [{"ece": "much"}, {"ece": True}, {"bins": None}, {"cases": [{"case": "a"}]}, {"quality": [1]}, {"cases": 3},
     {"bins": {"count": [1], "confidence": [None], "accuracy": [0.5]}}, {"risk_coverage": {"coverage": [1.0]}}],
)  # fmt: skip
def test_values_of_another_form_are_an_error_of_the_file(tmp_path, found, damage):
    found["bins"] = {"count": [0], "confidence": [None], "accuracy": [None]}  # no pixel: quickly drawn
    write(tmp_path, "certainty.json", found | {"bins_scaled": None} | damage)
    with unchecked(), pytest.raises(UserError, match=r"certainty\.json does not hold what the report shows"):
        evaluate.write_report(tmp_path)


def test_pairs_that_do_not_fit_the_members_are_refused(tmp_path, members):
    write(tmp_path, "members.json", members | {"pairwise_dice": [[1.0, 0.5], [0.5, 1.0]]})
    with pytest.raises(UserError, match="pairwise_dice should have 3 rows and columns"):
        evaluate.write_report(tmp_path)


def test_mean_leaves_out_what_is_missing():
    assert certainty._mean([1.0, None, 0.5]) == 0.75
    assert math.isnan(certainty._mean([None]))
