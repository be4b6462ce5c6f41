"""Objects as a picture: who is paired with whom, what the colours say, nothing outside the image."""

import colorsys

import numpy as np
import pytest
import scenes
from numpy.testing import assert_array_equal
from scenes import objects

from jaxseg.viz import instance_panel, instances, panels

SHAPE = (64, 96)
CLASSES = ("background", "nucleus", "mitosis")


def square(top, left, height=10, width=14, shape=SHAPE):
    return scenes.square(top, left, height, width, shape)


@pytest.fixture
def image():
    return np.full((*SHAPE, 1), 7.0, np.float32)


@pytest.fixture
def written(monkeypatch):
    """All texts that reach the plates and the legend."""
    from PIL import ImageDraw

    texts, draw = [], ImageDraw.ImageDraw.text

    def spy(self, position, text, *args, **options):
        texts.append(text)
        return draw(self, position, text, *args, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", spy)
    return texts


def pixel(picture, side, row, column, scale=8):
    """The colour at the middle of an image's pixel, on the side 0 (left) or 1 (right) of the picture."""
    left = panels.GAP + side * (SHAPE[1] * scale + panels.GAP)
    return picture[panels.GAP * 2 + 18 + row * scale + scale // 2, left + column * scale + scale // 2].astype(int)


def test_match():
    true = objects(square(0, 0), square(0, 30), square(30, 0), square(30, 50), crowd=[False, False, False, True])
    pred = objects(
        square(0, 31),  # 13 / 15 of the second
        square(0, 30),  # the second itself: wins it, although it comes later
        square(30, 0),  # the third, but of another class
        square(30, 52, width=6),  # wholly in the crowd
        square(0, 7),  # 7 of 21 columns: less than half
        labels=[1, 1, 2, 1, 1],
    )
    found, excused = instances.match(pred, true)
    assert_array_equal(found, [-1, 1, -1, -1, -1])
    assert_array_equal(excused, [False, False, False, True, False])


def test_match_takes_half():
    found, _ = instances.match(objects(square(0, 0, width=7)), objects(square(0, 0, width=14)))
    assert_array_equal(found, [0])


def test_colors_are_distinct_and_never_those_of_errors():
    found = np.array([instances.object_color(number) for number in range(40)], int)
    assert len(np.unique(found, axis=0)) == 40
    assert np.abs(found - instances.ERROR).sum(axis=1).min() > 60
    neighbours = np.abs(np.diff(found, axis=0)).sum(axis=1)
    assert neighbours.min() > 100


def test_neighbours_differ_in_hue():
    """A row of 60 touching objects in random order of their numbers, and one object far away with the first's hue."""
    order = np.random.default_rng(0).permutation(60)
    boxes = np.stack([10.0 * order, np.zeros(60), 10.0 * order + 10, np.full(60, 9.0)], axis=1)
    found = instances.object_colors(boxes)
    hues = np.array([colorsys.rgb_to_hsv(*(channel / 255 for channel in color))[0] for color in found])
    along = hues[np.argsort(order)]
    assert np.abs(np.diff(along)).min() > 0.14
    assert (
        instances.object_colors(boxes[:1]) == [instances.object_color(0)] and instances.object_colors(boxes[:0]) == []
    )


def test_pairs_share_a_color_and_errors_are_not_filled(image):
    true = objects(square(2, 2), square(40, 4), square(4, 70), crowd=[False, False, True])
    pred = objects(square(40, 60), square(2, 3), scores=[0.9, 0.8])
    picture = instance_panel(image, pred=pred, true=true, classes=CLASSES)
    empty = pixel(picture, 0, 30, 48)
    assert_array_equal(pixel(picture, 0, 7, 9), pixel(picture, 1, 7, 10))  # the pair
    expected = 0.75 * empty + 0.25 * np.array(instances.object_color(0))
    np.testing.assert_allclose(pixel(picture, 0, 7, 9), expected, atol=1)
    assert_array_equal(pixel(picture, 0, 45, 11), empty)  # missed
    assert_array_equal(pixel(picture, 1, 45, 67), empty)  # invented
    np.testing.assert_allclose(pixel(picture, 0, 9, 77), 0.75 * empty + 0.25 * np.array(instances.CROWD), atol=1)


def test_one_side_has_no_errors(image):
    alone = objects(square(2, 2), square(40, 4))
    both = instance_panel(image, pred=alone, true=alone, classes=CLASSES)
    for sides in ({"pred": alone, "true": None}, {"pred": None, "true": alone}):
        picture = instance_panel(image, **sides, classes=CLASSES)
        assert picture.shape[1] == SHAPE[1] * 8 + 2 * panels.GAP
        assert not (picture == instances.ERROR).all(axis=-1).any()
        assert not np.array_equal(pixel(picture, 0, 7, 9), pixel(picture, 0, 45, 11))
    assert both.shape[1] == 2 * SHAPE[1] * 8 + 3 * panels.GAP


def test_few_objects_bear_names(image, written):
    true = objects(square(2, 2), square(40, 4), square(20, 60), labels=[1, 2, 1], crowd=[False, False, True])
    pred = objects(square(2, 2), square(22, 62, 5, 5), scores=[0.934, 0.5])
    instance_panel(image, pred=pred, true=true, classes=CLASSES, title="case 7")
    for text in ("nucleus", "mitosis", "nucleus, crowd", "nucleus 0.93", "case 7", "truth", "prediction"):
        assert text in written
    # The prediction in the crowd counts neither way.
    assert "nucleus: 1 found, 1 true" in written and "mitosis: 0 found, 1 true" in written
    assert "1 missed, 0 invented" in written


def test_many_objects_bear_none(image, written):
    masks = [square(4 * row, 6 * column, 3, 4) for row in range(2) for column in range(instances.FEW // 2 + 1)]
    instance_panel(image, pred=objects(*masks[:-1]), true=objects(*masks), classes=CLASSES[:2])
    assert written == ["truth", "prediction", "nucleus: 31 found, 32 true", "1 missed, 0 invented"]


def test_plates_stay_inside_and_apart():
    generator = np.random.default_rng(3)
    corners = np.sort(generator.uniform(0, 1, (12, 2, 2)), axis=1) * (300, 200)
    boxes = np.concatenate([[[0, 0, 300, 200]], corners.reshape(-1, 4)])
    places = instances._places(boxes, [(60, 16)] * 13, (300, 200))
    assert places[:, :2].min() >= 0 and places[:, 2].max() <= 300 and places[:, 3].max() <= 200
    assert_array_equal(places[:, 2:] - places[:, :2], np.tile([60, 16], (13, 1)))
    apart = instances._places(np.tile([100.0, 100, 180, 150], (4, 1)), [(60, 16)] * 4, (300, 200))
    assert sum(instances._shared(apart[row], apart[:row]) for row in range(4)) == 0
    wide = instances._places(np.array([[3.0, 3, 5, 5]]), [(60, 16)], (40, 10))  # a plate larger than the picture
    assert_array_equal(wide, [[0, 0, 40, 10]])


def test_own_boxes_are_drawn(image):
    pred = objects(square(2, 2))._replace(boxes=np.array([[10.0, 30.0, 90.0, 60.0]], np.float32))
    picture = instance_panel(image, pred=pred, true=None, classes=CLASSES)
    top = panels.GAP * 2 + 18
    assert_array_equal(picture[top + 30 * 8, panels.GAP + 50 * 8], instances.object_color(0))
    assert_array_equal(picture[top + 45 * 8, panels.GAP + 90 * 8 - 1], instances.object_color(0))


@pytest.mark.parametrize(
    ("shape", "size"), [((64, 96), (512, 768)), ((5, 9), (512, 922)), ((1, 600), (3, 2048)), ((90, 2560), (72, 2048))]
)
def test_size(shape, size):
    image = np.random.default_rng(0).uniform(size=(*shape, 2)).astype(np.float32)
    whole = objects(np.ones(shape, bool))
    picture = instance_panel(image, pred=None, true=whole, classes=CLASSES)
    assert picture.shape[1] == size[1] + 2 * panels.GAP
    assert picture.shape[0] == size[0] + 18 + (8 + 24) + 4 * panels.GAP


@pytest.mark.parametrize("channels", [1, 3])
def test_no_objects(channels, written):
    image = np.zeros((*SHAPE, channels), np.uint8)
    picture = instance_panel(image, pred=objects(), true=objects(), classes=CLASSES)
    assert picture.shape[1] == 2 * SHAPE[1] * 8 + 3 * panels.GAP
    assert "nucleus: 0 found, 0 true" in written
    instance_panel(image, pred=objects(), true=objects(np.zeros(SHAPE, bool)), classes=CLASSES)  # an empty mask
    instance_panel(image, pred=objects(), true=None, classes=("background", *"abcdefgh"))
    assert written[-1] == "no objects"


def test_grey_stored_as_color_is_windowed(image):
    dim = np.random.default_rng(0).integers(0, 30, (*SHAPE, 1)).astype(np.uint8)
    as_color = instance_panel(np.repeat(dim, 3, axis=-1), pred=objects(), true=None, classes=CLASSES)
    assert_array_equal(as_color, instance_panel(dim, pred=objects(), true=None, classes=CLASSES))


def test_scores_stand_in_the_legend(image, written):
    instance_panel(
        image, pred=objects(), true=None, classes=CLASSES, scores={"PQ": 0.61251, "AP50": float("nan"), "AJI": 0}
    )
    assert written[-3:] == ["PQ 0.613", "AP50 n/a", "AJI 0.000"]


@pytest.mark.parametrize(("size", "shown"), [(128, (128, 192)), (600, (600, 900)), (20, (53, 80))])
def test_wanted_size(image, size, shown):
    # 64 x 96: the shorter side gets `size`, is never shrunk for it, but the longer one stays within four times `size`.
    picture = instance_panel(image, pred=objects(square(2, 2)), true=None, classes=CLASSES, size=size)
    assert picture.shape[0] == shown[0] + 18 + (8 + 24) + 4 * panels.GAP
    assert picture.shape[1] == max(shown[1], 480) + 2 * panels.GAP


def test_refusals(image):
    fine = objects(square(2, 2))
    with pytest.raises(ValueError, match="pred or of true"):
        instance_panel(image, pred=None, true=None, classes=CLASSES)
    with pytest.raises(ValueError, match=r"pred should have the image's shape \(64, 96\), some have \(96, 64\)"):
        instance_panel(image, pred=objects(square(2, 2).T), true=fine, classes=CLASSES)
    with pytest.raises(ValueError, match=r"labels of true should be 1 to 2 .* they hold 3"):
        instance_panel(image, pred=None, true=objects(square(2, 2), labels=[3]), classes=CLASSES)
