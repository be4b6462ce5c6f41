"""The rule planner: nnU-Net's published plans come out, and topologies by hand."""

import json
import math

import numpy as np
import pytest
from annotations import unchecked

from jaxseg import plan

SETS = (
    "Dataset001_BrainTumour", "Dataset002_Heart", "Dataset003_Liver", "Dataset004_Hippocampus",
    "Dataset005_Prostate", "Dataset007_Pancreas", "Dataset009_Spleen",
)  # fmt: skip


@pytest.fixture(scope="module")
def published(golden):
    found = json.loads((golden / "planner_golden.json").read_text())["datasets"]
    assert tuple(found) == SETS
    return found


@pytest.mark.parametrize("planner", ["plain", "resenc_m", "resenc_l"])
@pytest.mark.parametrize("name", SETS)
def test_reproduces_published_plans(published, name, planner):
    facts = published[name]
    found = plan.rule_plan(
        shapes=facts["shapes_after_crop"],
        spacings=facts["spacings"],
        num_classes=facts["n_labels_incl_bg"],
        num_training=facts["num_training"],
        planner=planner,
    )
    expected = facts["expected"][planner]
    assert list(found) == sorted(expected["configs"], key=["2d", "3d_fullres", "3d_lowres"].index)
    for kind, values in expected["configs"].items():
        compared = 0
        for field, value in values.items():
            if field in found[kind]:  # the others, on normalisation, are not the planner's
                np.testing.assert_allclose(found[kind][field], value, rtol=1e-9, err_msg=f"{kind} {field}")
                compared += 1
        assert compared == 9
        assert list(found[kind]["transpose_forward"]) == expected["transpose_forward"]


def test_an_anisotropic_topology_by_hand():
    """Slices of 3.6 mm, pixels of 0.6: two halvings in the plane until the axes are alike; 20 slices allow two."""
    found = plan.network_topology((3.6, 0.625, 0.625), (20, 320, 256))
    assert found.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))
    assert found.kernels == ((1, 3, 3),) * 2 + ((3, 3, 3),) * 5
    assert found.divisor == (4, 64, 64) and found.patch == (20, 320, 256)
    assert plan.network_topology((1.0, 1.0), (50, 35)).patch == (56, 40)


def test_memory_score_by_hand():
    """One level below the first: 2 x 32 x 16^2, 2 x 64 x 8^2; decoder 3 x 32 x 16^2; head 3 x 16^2."""
    topology = plan.network_topology((1.0, 1.0), (16, 16))._replace(
        strides=((1, 1), (2, 2)), kernels=((3, 3),) * 2, patch=(16, 16), divisor=(2, 2)
    )
    plain = 2 * 32 * 256 + 2 * 64 * 64 + 3 * 32 * 256 + 3 * 256
    assert plan.memory_score(topology, num_classes=3, planner=plan.PLANNERS["plain"]) == plain
    # stem; one block of two convolutions; three blocks of two and a projection; decoder of one and the transposed one
    residual = 32 * 256 + 2 * 32 * 256 + 7 * 64 * 64 + 2 * 32 * 256 + 3 * 256
    assert plan.memory_score(topology, num_classes=3, planner=plan.PLANNERS["resenc_m"]) == residual


def test_flat_images_have_one_configuration():
    found = plan.rule_plan(shapes=[(256, 320)] * 9, spacings=[(1.0, 1.0)] * 9, num_classes=2, num_training=9)
    assert list(found) == ["2d"] and found["2d"]["transpose_forward"] == (0, 1) and found["2d"]["batch_dice"]
    assert found["2d"]["patch_size"] == (256, 320)
    slices = plan.rule_plan(shapes=[(1, 256, 320)] * 9, spacings=[(9.0, 1.0, 1.0)] * 9, num_classes=2, num_training=9)
    assert list(slices) == ["2d"] and slices["2d"]["patch_size"] == (256, 320)


def test_the_coarsest_axis_comes_first():
    found = plan.rule_plan(shapes=[(160, 140, 40)] * 5, spacings=[(0.5, 0.6, 3.0)] * 5, num_classes=2, num_training=5)[
        "3d_fullres"
    ]
    assert found["transpose_forward"] == (2, 0, 1) and found["spacing"] == (3.0, 0.5, 0.6)
    assert all(size % math.prod(steps) == 0 for size, steps in zip(found["patch_size"], zip(*found["strides"])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"planner": "huge"}, "planner should be one of plain, resenc_m, resenc_l, resenc_xl, not 'huge'"),
        ({"shapes": []}, "one row of 2 or 3 numbers a case"),
        ({"spacings": [(1.0, 1.0)]}, "one row of 2 or 3 numbers a case"),
    ],
)
def test_refuses(change, message):
    given = {"shapes": [(20, 30, 40)], "spacings": [(1.0, 1.0, 1.0)], "num_classes": 2, "num_training": 1}
    with pytest.raises(ValueError, match=message), unchecked():
        plan.rule_plan(**{**given, **change})
