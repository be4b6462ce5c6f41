"""What is unusual in a data set: spacings, extents, intensities, volumes, missing classes."""

import numpy as np
import pytest

from jaxseg.data import fingerprint

CHANNELS, CLASSES = ("CT",), ("background", "liver", "tumour")


@pytest.fixture
def usual():
    """Twelve volumes that differ by a few percent."""
    rng = np.random.default_rng(0)
    return {
        "names": [f"p{n:02d}" for n in range(12)],
        "shapes": [(40 + int(n % 3), 100, 90) for n in range(12)],
        "spacings": [(3.0, 1.0, 1.0)] * 12,
        "foreground": [[float(value)] for value in rng.normal(100, 4, 12)],
        "class_voxels": [[300_000, 50_000 + 500 * n, 1000 if n % 2 else 1100] for n in range(12)],
    }


def found(facts):
    return fingerprint.outliers(facts, channels=CHANNELS, classes=CLASSES)


def test_usual_cases_are_not_flagged(usual):
    assert found(usual) == {}


def test_each_kind_is_told(usual):
    usual["spacings"] = [(1.2, 1.0, 1.0) if n == 1 else steps for n, steps in enumerate(usual["spacings"])]
    usual["foreground"][2] = [900.0]
    usual["class_voxels"][3] = [300_000, 2_000, 0]
    told = found(usual)
    assert list(told) == ["p01", "p02", "p03"]
    assert told["p01"][0] == "spacing along z: 1.2 mm where the median is 3"
    assert told["p01"][1].startswith("extent along z: 49.2 mm where the median is 123")
    assert len(told["p02"]) == 1 and told["p02"][0].startswith("CT in the foreground: 900 where the median is ")
    assert told["p03"][0].startswith("liver: 6 ml where the median is 15") and told["p03"][1] == "no tumour"


def test_areas_of_flat_images(usual):
    flat = {**usual, "shapes": [(100, 90)] * 12, "spacings": [(1.0, 0.5)] * 12}
    flat["class_voxels"] = [[9000, 400 if n == 3 else 5000, 10] for n in range(12)]
    assert found(flat) == {"p03": ["liver: 2 cm2 where the median is 25"]}


def test_a_class_that_few_have_is_not_missed(usual):
    usual["class_voxels"] = [[*row[:2], row[2] if n < 5 else 0] for n, row in enumerate(usual["class_voxels"])]
    assert found(usual) == {}


def test_objects_and_unlabelled_cases(usual):
    usual["class_voxels"] = [None] * 12
    usual["foreground"] = [[]] * 12
    assert found(usual) == {}
