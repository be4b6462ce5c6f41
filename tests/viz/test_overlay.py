"""One slice as a picture: known colours at known places."""

import io

import numpy as np
import pytest
from annotations import unchecked
from PIL import Image

from jaxseg.typing import IGNORE
from jaxseg.viz import colors, overlay


def test_colors_are_distinct_and_fixed():
    table = [colors.class_color(index) for index in range(20)]
    assert len(set(table)) == 20
    assert colors.hex_color(1) == "#56b4e9"
    assert colors.lighter((0, 100, 255), amount=1.0) == (255, 255, 255)
    assert colors.lighter((10, 20, 30), amount=0.0) == (10, 20, 30)


def test_window_is_the_percentiles_and_ignores_what_is_not_finite():
    image = np.arange(1001, dtype=np.float32).reshape(7, 143, 1)
    assert overlay.window(image) == pytest.approx((5.0, 995.0))
    image[0, 0] = np.nan
    image[-1, -1] = np.inf
    low, high = overlay.window(image)
    assert 5 < low < 7 and 994 < high < 996
    assert overlay.window(np.full((3, 4, 1), np.nan)) == (0.0, 1.0)


def test_window_of_a_mostly_empty_image_is_its_range():
    image = np.zeros((40, 50, 1))
    image[3, 4] = 9.0
    assert overlay.window(image) == (0.0, 9.0)


def test_photographs_keep_their_range():
    photo = np.full((4, 5, 3), 40, np.uint8)
    assert overlay.window(photo) == (0.0, 255.0)
    assert overlay.window(photo.astype(np.float32) / 255) == (0.0, 1.0)
    np.testing.assert_array_equal(overlay.to_rgb(photo, (0.0, 255.0)), photo)
    assert not overlay.is_color(photo.astype(np.float32) - 41)  # a z-scored image is no photograph


def test_grey_levels_of_one_channel():
    image = np.stack([np.array([[0.0, 1.0, 2.0, 9.0]]), np.zeros((1, 4))], axis=-1)
    rgb = overlay.to_rgb(image, (0.0, 2.0))
    np.testing.assert_array_equal(rgb[0, :, 0], [0, 128, 255, 255])
    assert (overlay.to_rgb(image, (0.0, 2.0), channel=1) == 0).all()
    assert len(np.unique(overlay.to_rgb(np.full((3, 4, 1), 7.0), (7.0, 7.0)))) == 1


def test_contour_of_a_square_lies_on_its_border():
    mask = np.zeros((9, 11), bool)
    mask[2:5, 3:8] = True
    (line,) = overlay.contours(mask)
    assert (line[0] == line[-1]).all(), "closed"
    np.testing.assert_allclose(line.min(axis=0), (3, 2))
    np.testing.assert_allclose(line.max(axis=0), (8, 5))
    assert overlay.contours(np.zeros((4, 5), bool)) == []


def test_contour_stays_in_the_image_where_the_mask_touches_its_edge():
    (line,) = overlay.contours(np.ones((4, 6), bool))
    assert line.min() == 0 and line[:, 0].max() == 6 and line[:, 1].max() == 4


def test_a_ring_has_two_outlines():
    mask = np.zeros((12, 13), bool)
    mask[2:10, 2:10] = True
    mask[5:7, 5:7] = False
    assert len(overlay.contours(mask)) == 2


def test_dashes_cover_the_stated_share_of_the_line():
    line = np.array([[0, 0], [30, 0], [30, 0], [30, 50]], float)  # 80 long, with a doubled point
    pieces = overlay.dashes(line, on=5, off=3)
    lengths = [np.hypot(*np.diff(piece, axis=0).T).sum() for piece in pieces]
    assert len(pieces) == 10
    np.testing.assert_allclose(lengths, 5.0)
    np.testing.assert_allclose(pieces[0], [[0, 0], [5, 0]])
    assert any(len(piece) == 3 for piece in overlay.dashes(line, on=8, off=4)), "a dash turns the corner"
    assert len(overlay.dashes(line[:2], on=99, off=1)) == 1


def test_nothing_changes_far_from_the_mask_but_brightness():
    image = np.random.default_rng(0).uniform(0, 100, (40, 52, 1))
    true = np.zeros((40, 52), np.int16)
    true[10:20, 12:24] = 2
    bare = overlay.slice_overlay(image)
    drawn = overlay.slice_overlay(image, true=true)
    outside = np.ones((40, 52), bool)
    outside[6:24, 8:28] = False
    np.testing.assert_array_equal(drawn[outside], np.rint(bare[outside] * overlay.DIM).astype(np.uint8))
    inside = drawn[15, 18].astype(float) - bare[15, 18] * overlay.DIM * (1 - overlay.FILL)
    np.testing.assert_allclose(inside, np.array(colors.class_color(2)) * overlay.FILL, atol=1.5)


def test_truth_is_solid_in_the_class_color_and_the_prediction_dashed_and_paler():
    image = np.zeros((30, 40, 1))
    true, pred = np.zeros((2, 30, 40), np.int16)
    true[5:25, 5:15] = 1
    pred[5:25, 22:35] = 1
    drawn = overlay.slice_overlay(image, true=true, pred=pred, size=(300, 400), fill=0.0).astype(int)
    left, right = drawn[70:230, 50], drawn[70:230, 220]  # down the left edges of truth and prediction
    assert np.abs(left - colors.class_color(1)).max() <= 2
    pale = np.abs(right - colors.lighter_class(1)).max(axis=1) <= 2
    assert 0.4 < pale.mean() < 0.75
    alone = overlay.slice_overlay(image, pred=pred, size=(300, 400), fill=0.0).astype(int)
    assert np.abs(alone[70:230, 220] - colors.class_color(1)).max() <= 2, "without truth the prediction is solid"


def test_what_is_not_scored_is_darkened():
    image = np.full((10, 14, 1), 50.0)
    true = np.zeros((10, 14), np.int16)
    true[:, :4] = IGNORE
    roi = np.ones((10, 14), bool)
    roi[:3] = False
    drawn = overlay.slice_overlay(image, true=true, roi=roi, levels=(0.0, 100.0))
    bright = drawn[8, 10, 0]
    assert drawn[8, 1, 0] == drawn[1, 10, 0] == pytest.approx(bright / 2, abs=1)


def test_shapes_that_do_not_fit_are_refused():
    with unchecked(), pytest.raises(ValueError, match=r"pred should have the image's shape \(4, 5\)"):
        overlay.slice_overlay(np.zeros((4, 5, 1)), pred=np.zeros((5, 4), int))


@pytest.mark.parametrize("channels", [1, 3])
def test_certainty_leaves_the_image_and_full_uncertainty_covers_it(channels):
    image = np.random.default_rng(0).integers(0, 256, (6, 9, channels), dtype=np.uint8)
    bare = overlay.slice_overlay(image)
    uncertainty = np.zeros((6, 9), np.float32)
    np.testing.assert_array_equal(overlay.uncertainty_overlay(image, uncertainty), bare)
    uncertainty[2, 3], uncertainty[4, 1] = 1.0, 0.25
    drawn = overlay.uncertainty_overlay(image, uncertainty)
    inside = np.zeros((6, 9), bool)
    inside[2, 3] = inside[4, 1] = True
    np.testing.assert_array_equal(drawn[~inside], bare[~inside])
    yellow = np.array((240, 249, 33))  # the end of matplotlib's plasma
    np.testing.assert_allclose(drawn[2, 3], bare[2, 3] * (1 - overlay.HEAT) + yellow * overlay.HEAT, atol=1)
    violet = colors.heat(np.array([0.25]))[0]
    weak = overlay.HEAT / 2  # the root of a quarter
    np.testing.assert_allclose(drawn[4, 1], bare[4, 1] * (1 - weak) + violet * weak, atol=1)


def test_one_uncertainty_has_one_colour_in_every_picture():
    image = np.full((4, 7), 96.0)
    low, high = np.full((4, 7), 0.5, np.float32), np.full((4, 7), 0.5, np.float32)
    high[0] = 1.0
    drawn = [overlay.uncertainty_overlay(image, amount, levels=(0.0, 255.0)) for amount in (low, high)]
    np.testing.assert_array_equal(drawn[0][1:], drawn[1][1:])
    assert (drawn[0][0] != drawn[1][0]).any()


def test_heat_grows_brighter_and_more_opaque():
    ramp = np.linspace(0, 1, 12)
    light = colors.heat(ramp) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(light) > 0).all()
    difference = [
        np.ptp(overlay.uncertainty_overlay(np.array([[0, 255]], np.uint8), np.full((1, 2), value))[0, :, 0].astype(int))
        for value in ramp
    ]
    assert difference[0] == 255 and (np.diff(difference) < 0).all(), "less and less of the image is seen"


def test_enlarged_uncertainty_never_exceeds_its_voxels():
    uncertainty = np.zeros((5, 8), np.float32)
    uncertainty[2, 3] = 0.5
    drawn = overlay.uncertainty_overlay(np.full((5, 8, 1), 96.0), uncertainty, size=(50, 80), levels=(0.0, 255.0))
    assert drawn.shape == (50, 80, 3)
    peak = overlay.uncertainty_overlay(np.full((5, 8, 1), 96.0), uncertainty, levels=(0.0, 255.0))[2, 3]
    assert drawn[..., 0].max() <= peak[0] + 1
    far = np.ones((50, 80), bool)
    far[10:40, 20:50] = False
    assert (drawn[far] == 96).all()


@pytest.mark.parametrize("wrong", [np.nan, -0.1, 1.1])
def test_uncertainty_outside_its_scale_is_refused(wrong):
    uncertainty = np.zeros((4, 5), np.float32)
    uncertainty[1, 2] = wrong
    with pytest.raises(ValueError, match=r"from 0 to 1, it lies from .* divide it by"):
        overlay.uncertainty_overlay(np.zeros((4, 5)), uncertainty)
    uncertainty[1, 2] = np.float16(1.0005)  # rounding
    assert overlay.uncertainty_overlay(np.zeros((4, 5)), uncertainty.astype(np.float16)).shape == (4, 5, 3)
    with unchecked(), pytest.raises(ValueError, match=r"image's shape \(4, 5\), it has \(5, 4\)"):
        overlay.uncertainty_overlay(np.zeros((4, 5)), uncertainty.T)


def test_png_round_trip(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    overlay.save_png(tmp_path / "a.png", picture)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), picture)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(overlay.png_bytes(picture)))), picture)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
