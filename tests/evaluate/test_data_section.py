"""The page on a data set: what it says, and that names cannot break it."""

import numpy as np

from jaxseg import evaluate, viz


def facts(names):
    return {
        "names": names,
        "shapes": [[10, 20, 30]] * 5 + [[10, 20, 31]],
        "spacings": [[2.0, 1.0, 1.0]] * 5 + [[9.0, 1.0, 1.0]],
        "foreground": [[5.0]] * 5 + [[]],
        "class_voxels": [[5000, 1000]] * 5 + [[6200, 0]],
        "histograms": [{"low": 0.0, "high": 8.0, "counts": [1, 3, 4]}],
    }


def test_section_shows_range_outliers_and_every_case():
    names = [*"abcde", "<script>"]
    html = evaluate.data_section(facts(names), channels=("MRI",), classes=("background", "organ"))
    assert "10 x 20 x 30 (10 x 20 x 30 to 10 x 20 x 31)" in html and "2 x 1 x 1 (2 x 1 x 1 to 9 x 1 x 1)" in html
    assert "<script>" not in html and "<b>&lt;script&gt;</b>: spacing along z: 9 mm where the median is 2" in html
    assert "no organ" in html and "data:image/svg+xml" in html
    assert html.count("<tr>") == 6 + 4 + 1  # cases, facts, the head
    first = html.index("All cases")
    assert html.index("&lt;script&gt; <b>!</b>", first) < html.index('data-value="a"', first)  # unusual ones lead


def test_without_labels():
    bare = {**facts(list("abcdef")), "class_voxels": [None] * 6, "foreground": [[]] * 6, "histograms": [None]}
    html = evaluate.data_section(bare, channels=("MRI",), classes=("background", "organ"))
    assert "image/svg" not in html and "organ (ml)" not in html and "n/a" in html


def test_histogram_picture():
    rng = np.random.default_rng(0)
    one = {"low": -1.0, "high": 1.0, "counts": rng.integers(0, 9, 64).tolist()}
    picture = viz.intensity_histograms({"T1": one, "T2": None, "FLAIR": one}, format="png")
    assert picture is not None and picture[:4] == b"\x89PNG"
    assert viz.intensity_histograms({"T1": None}) is None
