"""A case as one picture: the right slice, the right side, the right scale."""

import numpy as np
import pytest
from annotations import unchecked

from jaxseg.typing import IGNORE
from jaxseg.viz import overlay, panels
from jaxseg.viz.planes import focus_slices, planes_of

SHAPE = (8, 10, 12)  # z, y, x


@pytest.fixture
def marked():
    """A volume whose voxel furthest towards S, A and R, and no other, is bright."""
    volume = np.zeros((*SHAPE, 1), np.float32)
    volume[-1, -1, -1] = 1.0
    return volume


def planes(volume, axes, **options):
    last = np.zeros(volume.shape[:3], np.int16)
    last[volume[..., 0] == 1] = 1
    return {plane.caption.split(",")[0]: plane for plane in planes_of(volume, true=last, axes=axes, **options)}


def place(plane):
    (spot,) = np.argwhere(plane.image[..., 0] == 1)
    return tuple("first" if index == 0 else "last" for index in spot)


def test_radiological_sides(marked):
    found = planes(marked, "SAR")
    assert {name: plane.letters for name, plane in found.items()} == {
        "axial": "APRL",
        "coronal": "SIRL",
        "sagittal": "SIAP",
    }
    # Anterior, superior on top; the patient's right, and anterior in the sagittal plane, on the left.
    assert all(place(plane) == ("first", "first") for plane in found.values())
    assert found["axial"].caption == "axial, slice 8 of 8"


@pytest.mark.parametrize("axes", ["IPL", "SAL", "RAS", "ASR", "LIP"])
def test_any_stored_orientation_gives_the_same_pictures(marked, axes):
    order = ["SAR".index(letter if letter in "SAR" else {"I": "S", "P": "A", "L": "R"}[letter]) for letter in axes]
    stored = np.transpose(marked, (*order, 3))
    spacing = [(3.0, 2.0, 1.0)[axis] for axis in order]
    stored = np.flip(stored, [axis for axis, letter in enumerate(axes) if letter in "IPL"])
    expected, found = planes(marked, "SAR", spacing_mm=(3.0, 2.0, 1.0)), planes(stored, axes, spacing_mm=spacing)
    for view in expected:
        np.testing.assert_array_equal(found[view].image, expected[view].image)
        assert found[view].letters == expected[view].letters and found[view].spacing == expected[view].spacing


def test_unknown_orientation_shows_no_letters(marked):
    found = planes_of(marked, axes=None)
    assert [plane.letters for plane in found] == ["", "", ""]
    assert [plane.image.shape[:2] for plane in found] == [(10, 12), (8, 12), (8, 10)]


def test_refuses_what_it_cannot_show(marked):
    with pytest.raises(ValueError, match="three directions"):
        planes_of(marked, axes="SAS")
    with pytest.raises(ValueError, match=r"\(H, W, C\) or"):
        planes_of(marked[..., None])


def test_focus_finds_truth_or_errors():
    true, pred = np.zeros((2, *SHAPE), np.int16)
    true[2, 3:6, 4:9] = 1
    true[5, 0, 0] = IGNORE
    pred[:] = true
    pred[5, 0, 0] = 0
    assert focus_slices(SHAPE, true=true, pred=pred, focus="truth") == (2, 3, 4)
    assert focus_slices(SHAPE, true=true, pred=pred, focus="error") == (2, 3, 4), "ignored voxels are no error"
    pred[6, 7, 2:11] = 1
    assert focus_slices(SHAPE, true=true, pred=pred, focus="error") == (6, 7, 2)
    assert focus_slices(SHAPE, true=None, pred=pred, focus="truth")[0] == 2, "the prediction where no truth is"
    assert focus_slices(SHAPE, true=None, pred=None, focus="truth") == (4, 5, 6)


def test_a_missed_lesion_outweighs_the_rim_of_an_organ():
    true = np.zeros(SHAPE, np.int16)
    true[2, :, :] = 1
    true[6, 4, 5:7] = 2
    pred = np.where(true == 2, 0, true)
    pred[2, :, :2] = 0  # 20 voxels of the organ against 2 of the lesion
    assert focus_slices(SHAPE, true=true, pred=pred, focus="error") == (6, 4, 5)


def test_one_scale_in_millimetres_for_all_planes(marked):
    found = planes_of(marked, spacing_mm=(4.0, 1.0, 0.5), axes="SAR")
    sizes = panels.pixel_sizes(found, size=512)
    # 32 mm high, 10 mm deep, 6 mm wide: 16 pixels a mm.
    assert sizes == [(160, 96), (512, 96), (512, 160)]


def test_large_images_are_not_shrunk_and_huge_ones_are():
    assert panels.pixel_sizes(planes_of(np.zeros((700, 900, 1), np.uint8)), size=512) == [(700, 900)]
    assert max(panels.pixel_sizes(planes_of(np.zeros((100, 9000, 1), np.uint8)), size=512)[0]) == 2048


@pytest.mark.parametrize(("extent", "length"), [(189, 50), (31, 10), (6, 2), (3, 1), (0.5, 0.1), (61, 20)])
def test_scale_bar_is_round_and_fits(extent, length):
    assert panels.bar_length(extent) == pytest.approx(length)


def test_case_panel_2d_has_both_pictures_and_a_legend():
    rng = np.random.default_rng(0)
    image, true = rng.integers(0, 255, (20, 30, 3), dtype=np.uint8), np.zeros((20, 30), np.int16)
    true[4:9, 5:12] = 1
    both = panels.case_panel(image, classes=("bg", "vessel"), true=true, pred=true, scores={"vessel": 1.0}, title="a")
    one = panels.case_panel(image, classes=("bg", "vessel"), true=true, pred=true, plain=False)
    assert both.dtype == np.uint8 and both.shape[1] == 2 * 512 + 3 * panels.GAP
    assert one.shape[1] == 512 + 2 * panels.GAP
    assert (both[panels.GAP + 5, panels.GAP + 5] != panels.PAPER).any()


def test_case_panel_3d_with_every_option():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(*SHAPE, 3)).astype(np.float32)  # three contrasts are no colours
    true = rng.integers(-1, 9, SHAPE).astype(np.int16)
    pred = np.maximum(true, 0)
    names = ["background", *(f"a rather long class name {index}" for index in range(1, 9))]
    roi = np.ones(SHAPE, bool)
    roi[0] = False
    picture = panels.case_panel(
        image, classes=names, true=true, pred=pred, roi=roi, spacing_mm=(2.5, 1.0, 1.0),
        scores={names[1]: np.nan, names[2]: 0.5}, title="x" * 500, focus="error",
    )  # fmt: skip
    assert picture.ndim == 3 and picture.shape[-1] == 3
    bare = panels.case_panel(image, classes=names, spacing_mm=(2.5, 1.0, 1.0))
    assert bare.shape[1] == picture.shape[1]


def flat_case():
    rng = np.random.default_rng(0)
    true = np.zeros((20, 30), np.int16)
    true[4:9, 5:12] = 1
    uncertainty = rng.uniform(0, 1, (20, 30)).astype(np.float32)
    return rng.integers(0, 255, (20, 30, 1), dtype=np.uint8), true, uncertainty


def find(picture, part):
    """The (top, left) corners at which a part lies in a picture."""
    windows = np.lib.stride_tricks.sliding_window_view(picture[..., 0], part.shape[:2])
    probe = part[::37, ::41, 0]
    places = np.argwhere((windows[:, :, ::37, ::41] == probe).all(axis=(2, 3)))
    height, width = part.shape[:2]
    return [(y, x) for y, x in places if (picture[y : y + height, x : x + width] == part).all()]


def test_without_uncertainty_a_panel_is_what_it_was():
    image, true, _ = flat_case()
    levels = overlay.window(image)
    bare = overlay.slice_overlay(image, size=(341, 512), levels=levels)
    marked = overlay.slice_overlay(image, true=true, pred=true, size=(341, 512), levels=levels)
    legend = panels.legend([(1, "vessel", "Dice 1.000")], width=1034, title="a")
    expected = np.full((341 + 3 * panels.GAP + len(legend), 1034 + 2 * panels.GAP, 3), panels.PAPER, np.uint8)
    expected[10:351, 10:522], expected[10:351, 532:1044], expected[361:-10, 10:-10] = bare, marked, legend
    options = {"classes": ("bg", "vessel"), "true": true, "pred": true, "scores": {"vessel": 1.0}, "title": "a"}
    np.testing.assert_array_equal(panels.case_panel(image, **options), expected)
    np.testing.assert_array_equal(panels.case_panel(image, **options, uncertainty=None), expected)


def test_uncertainty_is_one_more_picture_with_a_scale():
    image, true, uncertainty = flat_case()
    options = {"classes": ("bg", "vessel"), "true": true, "pred": true, "title": "a"}
    before, after = panels.case_panel(image, **options), panels.case_panel(image, **options, uncertainty=uncertainty)
    assert after.shape[1] == before.shape[1] + 512 + panels.GAP
    np.testing.assert_array_equal(after[10:351, : before.shape[1]], before[10:351])
    tile = overlay.uncertainty_overlay(image, uncertainty, size=(341, 512), levels=overlay.window(image))
    assert find(after, tile) == [(10, before.shape[1])]
    scale = panels._heat_scale("uncertainty (entropy, 0 to 1)", width=1556, below=512)
    assert find(after, scale) == [(361, 10)]
    assert (scale[:, :1044] == panels.PAPER).all() and (scale[:, 1044:] != panels.PAPER).any(), "below its picture"
    other = panels.case_panel(image, **options, uncertainty=uncertainty, uncertainty_name="disagreement")
    assert (other != after)[361:381].any() and (other == after)[:361].all()


def test_the_scale_shows_the_colours_of_the_pictures():
    scale = panels._heat_scale("u", width=480, below=480)
    tissue = np.full((1, 2), 96.0)
    ends = overlay.uncertainty_overlay(tissue, np.array([[0.0, 1.0]], np.float32), levels=(0.0, 255.0))[0]
    for end in ends:
        assert (scale == end).all(axis=-1).any()
    long = panels._heat_scale("x" * 500, width=480, below=100)
    assert long.shape == scale.shape and (long[:, -2:] == panels.PAPER).all(), "nothing runs over the edge"


def test_volumes_show_the_uncertainty_of_the_same_slices(marked):
    uncertainty = np.zeros(SHAPE, np.float32)
    uncertainty[-1, -1, -1], uncertainty[0] = 1.0, 0.5
    for plane in planes(marked, "SAR", uncertainty=uncertainty).values():
        assert (plane.uncertainty == 1).sum() == 1 and plane.uncertainty[0, 0] == 1, "turned as the image is"
    options = {"classes": ("bg", "x"), "pred": marked[..., 0].astype(np.int16), "size": 100}
    before, after = panels.case_panel(marked, **options), panels.case_panel(marked, **options, uncertainty=uncertainty)
    assert after.shape[1] == before.shape[1] and after.shape[0] > before.shape[0] + 80
    coronal = planes(marked, "SAR", uncertainty=uncertainty)["coronal"]
    size = panels.pixel_sizes(planes_of(marked), size=100)[1]
    tile = overlay.uncertainty_overlay(
        coronal.image, coronal.uncertainty, size=size, levels=overlay.window(marked), channel=0
    )
    assert len(find(after, panels._annotate(tile, coronal, bar=False))) == 1
    legend = 10 + len(panels.legend([(1, "x", "")], width=480, lines=("prediction",)))
    np.testing.assert_array_equal(after[: len(before) - legend], before[:-legend])
    np.testing.assert_array_equal(after[-legend:], before[-legend:])


def test_a_panel_cuts_where_the_focus_is_and_not_where_it_is_uncertain(marked):
    true, pred = np.zeros((2, *SHAPE), np.int16)
    true[2, 3:6, 4:9] = pred[2, 3:6, 4:9] = pred[6, 7, 2:11] = 1
    options = {"classes": ("bg", "x"), "true": true, "pred": pred, "size": 100}
    truth, error = (panels.case_panel(marked, **options, focus=focus) for focus in ("truth", "error"))
    assert truth.shape == error.shape and (truth != error).any()
    uncertainty = np.zeros(SHAPE, np.float32)
    uncertainty[4] = 1.0
    found = planes_of(marked, true=true, pred=pred, uncertainty=uncertainty, focus="error")
    assert [plane.caption for plane in found] == [
        "axial, slice 7 of 8",
        "coronal, slice 8 of 10",
        "sagittal, slice 3 of 12",
    ]


def test_uncertainty_of_another_shape_is_refused(marked):
    with unchecked(), pytest.raises(ValueError, match=r"shape \(8, 10, 12\), it has \(9, 10, 12\)"):
        panels.case_panel(marked, classes=("bg", "x"), uncertainty=np.zeros((9, 10, 12), np.float32))


def test_legend_says_volume_in_prediction_and_dice_in_evaluation():
    pred = np.zeros(SHAPE, np.int16)
    pred[:2, :5, :10] = 1
    names = ("bg", "liver", "tumour")
    assert panels._values(names, pred, (10.0, 1.0, 1.0), None)[0] == (1, "liver", "1.00 ml")
    assert panels._values(names, pred[0], None, None)[0] == (1, "liver", "41.7 % of the image")
    scores = {"liver": 0.5, "tumour": float("nan")}
    assert [entry[2] for entry in panels._values(names, pred, None, scores)] == ["Dice 0.500", "Dice n/a"]


def test_long_legends_wrap_inside_the_plate():
    few = panels.legend([(1, "one", "")], width=500)
    many = panels.legend([(index, f"class {index}", "Dice 0.123") for index in range(1, 12)], width=500)
    assert few.shape[1] == many.shape[1] == 500 and many.shape[0] > few.shape[0] + 50
    assert (many[:, -2:] == panels.PAPER).all(), "nothing runs over the edge"
