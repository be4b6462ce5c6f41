"""Made images as pictures: one scale, every pixel, the right colours at the right place."""

import numpy as np
import pytest

from jaxseg.typing import IGNORE
from jaxseg.viz import colors, grid_panel, image_panel, images
from jaxseg.viz.panels import GAP, PAPER

H, W = 17, 23  # 256 / 23 is 11.1: enlarged by 11
FACTOR = 11
TOP = GAP + 22  # below the titles


def picture(seed=0, shape=(H, W, 1)):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def cell(panel, column, *, width=W * FACTOR, height=H * FACTOR, top=TOP):
    """The picture of a column, where columns are as wide as their pictures."""
    left = GAP + column * (width + GAP)
    return panel[top : top + height, left : left + width]


def shrunk(pixels, factor=FACTOR):
    """One value a pixel of the image, after a look that each is a block of one colour."""
    blocks = pixels.reshape(pixels.shape[0] // factor, factor, pixels.shape[1] // factor, factor, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    return blocks[:, 0, :, 0]


def bytes_of(image):
    return np.rint((image.clip(-1, 1) + 1) * 127.5).astype(np.uint8)


def test_pixels_are_repeated_in_one_grey_scale():
    made, true = picture(0), 0.5 * picture(1)
    panel = image_panel({"network": made, "true": true})
    assert panel.shape == (TOP + H * FACTOR + GAP, 2 * W * FACTOR + 3 * GAP, 3)
    for column, image in enumerate((made, true)):
        np.testing.assert_array_equal(shrunk(cell(panel, column)), np.repeat(bytes_of(image), 3, axis=-1))


def test_values_outside_the_range_are_black_and_white_and_nan_is_black():
    image = np.zeros((H, W, 1), np.float32)
    image[0, :4, 0] = (3, -3, np.nan, np.inf)
    assert shrunk(cell(image_panel({"a": image}), 0))[0, :5, 0].tolist() == [255, 0, 0, 255, 128]


def test_three_channels_are_colours_and_of_other_numbers_the_first_is_shown():
    color, two = picture(0, (H, W, 3)), picture(1, (H, W, 2))
    np.testing.assert_array_equal(shrunk(cell(image_panel({"a": color}), 0)), bytes_of(color))
    np.testing.assert_array_equal(shrunk(cell(image_panel({"a": two}), 0))[..., 1], bytes_of(two)[..., 0])


def test_a_label_map_has_the_colours_of_its_classes():
    labels = np.zeros((H, W), np.int16)
    labels[2, 3], labels[4, 5], labels[6, 7] = 1, 9, IGNORE
    shown = shrunk(cell(image_panel({"labels": labels, "true": picture()}), 0))
    assert tuple(shown[2, 3]) == colors.class_color(1) and tuple(shown[4, 5]) == colors.class_color(9)
    assert tuple(shown[6, 7]) == colors.BACKGROUND and tuple(shown[0, 0]) == images._EMPTY


def test_an_input_of_lower_resolution_is_drawn_as_large_as_the_others():
    low = picture(0, (4, 6, 1))
    panel = image_panel({"source": low, "true": picture(1, (12, 18, 1))})
    factor = round(256 / 18)
    np.testing.assert_array_equal(
        shrunk(cell(panel, 0, width=18 * factor, height=12 * factor), 3 * factor)[..., 0], bytes_of(low)[..., 0]
    )


def test_the_difference_has_a_fixed_colour_scale():
    true, made = np.zeros((H, W, 1), np.float32), np.zeros((H, W, 1), np.float32)
    made[1, 2], made[3, 4], made[5, 6] = 0.25, -0.5, 1.5
    panel = image_panel(
        {"source": true - 1, "network": made, "true": true}, difference_to="true", difference_of="network"
    )
    shown = shrunk(cell(panel, 3))
    expected = colors.heat(np.array([0.0, 0.5, 1.0, 1.0]))
    np.testing.assert_array_equal(shown[(0, 1, 3, 5), (0, 2, 4, 6)], expected)
    bar = panel[TOP : TOP + H * FACTOR, GAP + 4 * (W * FACTOR + GAP) - GAP + 6]
    np.testing.assert_array_equal(bar[[0, -1]], colors.heat(np.array([1.0, 0.0])))


def test_the_difference_is_to_the_first_image_of_the_same_shape_and_not_outside_the_mask():
    true, made = picture(0), picture(1)
    mask = np.ones((H, W), bool)
    mask[:, 9:] = False
    panel = image_panel(
        {"source": picture(2, (5, 6, 1)), "made": made, "true": true}, difference_to="true", mask=mask,
        difference_range=2.0,
    )  # fmt: skip
    gap = np.abs(made.astype(np.float64) - true)[..., 0]
    np.testing.assert_array_equal(shrunk(cell(panel, 3)), colors.heat(np.where(mask, gap / 2, 0.0)))


def test_the_difference_of_colours_is_their_mean():
    true, made = np.zeros((H, W, 3), np.float32), np.zeros((H, W, 3), np.float32)
    made[..., 1] = 0.6
    panel = image_panel({"made": made, "true": true}, difference_to="true", difference_range=0.4)
    assert tuple(shrunk(cell(panel, 2))[0, 0]) == tuple(colors.heat(np.array([0.5]))[0])


def test_a_volume_shows_its_three_middle_slices_at_one_scale():
    volume = picture(0, (5, 7, 11, 1))
    panel = image_panel({"true": volume}, spacing_mm=(3.0, 1.5, 1.5), size=110)
    # 1.5 mm are 10 pixels: rows of 70 x 110, 100 x 110 and 100 x 70 pixels; the column is 132 wide for its title.
    top = TOP
    for middle, (height, width), factors in (
        (volume[2], (70, 110), (10, 10)), (volume[:, 3], (100, 110), (20, 10)), (volume[:, :, 5], (100, 70), (20, 10)),
    ):  # fmt: skip
        top += 18
        left = GAP + (132 - width) // 2
        shown = panel[top : top + height, left : left + width]
        blocks = shown.reshape(middle.shape[0], factors[0], middle.shape[1], factors[1], 3)[:, 5, :, 5]
        # The scale bar lies on the lower left of a picture of 72 pixels or more.
        np.testing.assert_array_equal(blocks[:2, :, 0], bytes_of(middle)[:2, :, 0])
        top += height + GAP
    assert panel.shape[0] == top


def test_the_orientation_turns_every_column_alike():
    volume = picture(0, (6, 7, 8, 1))
    panel = image_panel({"a": np.zeros_like(volume), "b": volume}, axes="SAR", size=160)
    factor, left = 20, GAP + 160 + GAP
    shown = panel[TOP + 18 : TOP + 18 + 140, left : left + 160]
    # Axial: anterior (the last of axis 1) on top, the patient's right (the last of axis 2) on the left.
    np.testing.assert_array_equal(shrunk(shown, factor)[..., 0], bytes_of(volume[3, ::-1, ::-1])[..., 0])


def test_large_images_are_shrunk():
    panel = image_panel({"a": picture(0, (40, 1600, 1))})
    assert panel.shape[1] == images.LARGEST + 2 * GAP


def test_titles_and_captions_do_not_overlap_and_long_ones_are_cut():
    wide = image_panel({"m" * 300: picture(), "b": picture()}, captions={"b": "c" * 300}, title="t" * 999)
    gap = wide[:, GAP + W * FACTOR : GAP + W * FACTOR + GAP]
    titles = slice(GAP + 28, GAP + 28 + 40)
    assert (gap[titles] == PAPER).all() and (wide[titles] != PAPER).any()
    assert (wide[:, -3:] == PAPER).all()


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        ({}, {}, "at least one image"),
        ({"a": np.zeros((4, 5))}, {}, "picture or a volume"),
        ({"a": np.zeros((4, 5, 1))}, {"difference_to": "true"}, "'true' should be the title"),
        ({"a": np.zeros((4, 5, 1))}, {"value_range": (1.0, 1.0)}, "black below white"),
        ({"a": np.zeros((4, 5, 1)), "b": np.zeros((3, 4, 5, 1))}, {}, "a has others|have 3 axes"),
        ({"a": np.zeros((4, 5, 1)), "b": np.zeros((4, 6, 1))}, {"difference_to": "b"}, "No image has the shape"),
        ({"a": np.zeros((4, 5, 1)), "b": np.zeros((4, 6, 1))},
         {"difference_to": "b", "difference_of": "a"}, "one shape"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_named(columns, options, words):
    with pytest.raises(ValueError, match=words):
        image_panel(columns, **options)


def test_a_grid_has_an_example_a_row_and_gaps_where_there_is_none():
    rows = [{"made": picture(0, (8, 9, 1)), "real": picture(1, (8, 9, 1))}, {"real": picture(2, (8, 9, 1))}]
    panel = grid_panel(rows, size=180)
    assert panel.shape == (TOP + 2 * (160 + GAP), 2 * 180 + 3 * GAP, 3)
    for row, column, name in ((0, 0, "made"), (0, 1, "real"), (1, 1, "real")):
        shown = cell(panel, column, width=180, height=160, top=TOP + row * (160 + GAP))
        np.testing.assert_array_equal(shrunk(shown, 20)[..., 0], bytes_of(rows[row][name])[..., 0])
    assert (cell(panel, 0, width=180, height=160, top=TOP + 160 + GAP) == PAPER).all()


def test_a_grid_of_volumes_shows_the_slice_with_most_labels():
    labels = np.zeros((6, 8, 9), np.int16)
    labels[1, 2:5, 2:5] = 2
    labels[4, 2, 2] = 1
    real, low = picture(0, (6, 8, 9, 1)), picture(1, (3, 8, 9, 1))
    panel = grid_panel([{"label map": labels, "low": low, "real": real}], size=180)
    np.testing.assert_array_equal(shrunk(cell(panel, 1, width=180, height=160), 20)[..., 0], bytes_of(low[0])[..., 0])
    np.testing.assert_array_equal(shrunk(cell(panel, 2, width=180, height=160), 20)[..., 0], bytes_of(real[1])[..., 0])
    assert tuple(shrunk(cell(panel, 0, width=180, height=160), 20)[3, 3]) == colors.class_color(2)
    without = grid_panel([{"real": real}], size=180)
    np.testing.assert_array_equal(
        shrunk(cell(without, 0, width=180, height=160), 20)[..., 0], bytes_of(real[3])[..., 0]
    )


def test_a_grid_names_its_classes():
    row = {"label map": np.ones((8, 9), np.int16), "real": picture(0, (8, 9, 1))}
    bare, named = (
        grid_panel([row], size=180),
        grid_panel([row], size=180, classes=["background", "liver"], title="step 2"),
    )
    below = named[bare.shape[0] + 28 :]
    assert (below == colors.class_color(1)).all(axis=-1).sum() > 100
    assert named.shape[1] == bare.shape[1]


def test_a_grid_without_a_label_map_has_no_legend():
    row = {"real": picture(0, (8, 9, 1))}
    np.testing.assert_array_equal(grid_panel([row], classes=["background", "liver"]), grid_panel([row]))


def test_a_grid_needs_an_example():
    with pytest.raises(ValueError, match="at least one example"):
        grid_panel([])
