"""New label maps: laws over every sampler, exact moves by hand, and the statistics that the docstrings promise."""

import functools
import math

import numpy as np
import pytest
import scipy.ndimage
from annotations import unchecked

from jaxseg.data import label_samplers as samplers
from jaxseg.typing import UserError


def disc(shape, centre, radius):
    where = np.indices(shape) - np.reshape(centre, (-1,) + (1,) * len(shape))
    return np.square(where).sum(axis=0) <= radius**2


def maps(shape, count=3):
    """Discs with a core, of places and sizes that differ, and values that leave gaps."""
    made = []
    for number in range(count):
        label = np.zeros(shape, np.uint8)
        centre = [n / 2 + number - 1 for n in shape]
        label[disc(shape, centre, min(shape) / 3 + number / 2)] = 2
        label[disc(shape, centre, min(shape) / 6)] = 5
        made.append(label)
    return made


PIPELINES = [
    "elastic(magnitude=2.0, sigma=6.0)",
    "affine(max_angle_degrees=30)",
    "recombine(max_shift=3)",
    "shape_model(scale=1.5)",
    "affine|elastic|recombine|elastic",
    "shape_model(modes=1)|affine",
]


@pytest.mark.parametrize("shape", [(24, 31), (12, 14, 17)])
@pytest.mark.parametrize("text", PIPELINES)
def test_laws(text, shape):
    given = maps(shape)
    before = [label.copy() for label in given]
    draw = samplers.from_string(text, given)
    drawn = [draw(seed=seed) for seed in range(6)]
    for label in drawn:
        assert label.shape == shape and label.dtype == np.uint8
        assert set(np.unique(label)) <= {0, 2, 5} and label.any()
    np.testing.assert_array_equal(draw(seed=3), drawn[3])
    np.testing.assert_array_equal(samplers.from_string(text, given)(seed=3), drawn[3])
    assert len({label.tobytes() for label in drawn}) >= 4
    for label, original in zip(given, before):
        np.testing.assert_array_equal(label, original)


@pytest.mark.parametrize("text", [text for text in PIPELINES if "shape_model" not in text])
def test_background_stays_background(text):
    label = samplers.from_string(text, [np.zeros((9, 11), np.int32)] * 2)(seed=0)
    assert label.dtype == np.int32 and not label.any()


def places(shape):
    """A label map in which every voxel has a value of its own: it shows where each came from."""
    return np.arange(math.prod(shape)).reshape(shape)


def test_elastic_by_its_definition():
    """Displacements have the promised deviation, axis by axis, at the border as inside; sigma makes them smooth."""
    shape, moved = (40, 50), []
    for seed in range(40):
        source = np.stack(
            np.unravel_index(samplers.elastic(places(shape), seed=seed, magnitude=(3, 2), sigma=4), shape)
        )
        moved.append(source - np.indices(shape))
    moved = np.array(moved, float)  # 40 seeds, 2, 40, 50
    inside = moved[:, :, 12:-12, 12:-12]
    np.testing.assert_allclose(inside.std(axis=(0, 2, 3)), [3, 2], rtol=0.1)
    slopes = np.diff(inside[:, 0], axis=1)  # rounding adds 1/12 to each of the two squares of a difference
    np.testing.assert_allclose(np.sqrt(slopes.var() - 2 / 12), 3 / (math.sqrt(2) * 4), rtol=0.2)
    assert abs(moved.mean()) < 0.2


def test_elastic_keeps_an_axis_still():
    source = samplers.elastic(places((20, 30)), seed=0, magnitude=(0.0, 3.0))
    np.testing.assert_array_equal(source // 30, np.indices((20, 30))[0])
    assert (source % 30 != np.indices((20, 30))[1]).any()
    np.testing.assert_array_equal(samplers.elastic(places((5, 6)), seed=0, magnitude=0), places((5, 6)))


def test_elastic_keeps_topology():
    ring = (disc((48, 52), (24, 26), 16) & ~disc((48, 52), (24, 26), 9)).astype(int)
    for seed in range(10):
        label = samplers.elastic(ring, seed=seed, magnitude=3.0, sigma=9.0)
        assert scipy.ndimage.label(label, np.ones((3, 3)))[1] == 1
        assert scipy.ndimage.label(label == 0)[1] == 2  # the hole stays closed
        assert (label != ring).sum() > 50


def test_quarter_turn_by_hand(monkeypatch):
    """The limits of every draw in turn, so that nothing is left to chance."""
    label = places((5, 5))
    upper = functools.partial(samplers.affine, scale=(1.0, 1.0), max_shift=0.0)
    monkeypatch.setattr(np.random, "default_rng", lambda seed: Highest())
    turned = upper(label, seed=0, max_angle=math.pi / 2)
    assert any((turned == np.rot90(label, times)).all() for times in (1, 3))
    shifted = samplers.affine(label, seed=0, scale=(1.0, 1.0), max_shift=0.4, max_angle=0.0)
    np.testing.assert_array_equal(shifted[2:, 2:], label[:3, :3])
    np.testing.assert_array_equal(shifted[0], [0, 0, 0, 1, 2])  # the edge continues
    small = np.zeros((9, 9), int)
    small[3:6, 3:6] = 4
    grown = samplers.affine(small, seed=0, scale=(1.0, 2.0), max_shift=0.0, max_angle=0.0)
    assert grown.sum() > 4 * 9 and grown[2:7, 2:7].all()


class Highest:
    """A generator whose uniform draws are the upper limit."""

    def uniform(self, low, high, size=None):
        return high if size is None else np.full(size, high)


def test_turn_is_rigid_in_space(monkeypatch):
    """Slices three times as thick: a quarter turn takes 3 voxels along the one axis to 9 along the other."""
    monkeypatch.setattr(np.random, "default_rng", lambda seed: Highest())
    label = np.zeros((9, 21), int)
    label[3:6, 9:12] = 1  # 9 mm by 3 mm
    turned = samplers.affine(label, seed=0, scale=(1, 1), max_shift=0.0, max_angle=math.pi / 2, spacing=(3.0, 1.0))
    expected = np.zeros((9, 21), int)
    expected[4, 6:15] = 1
    np.testing.assert_array_equal(turned, expected)


def test_affine_in_three_dimensions():
    label = disc((15, 17, 19), (7, 8, 9), 5).astype(int)
    for seed in range(4):  # a ball is the same under every turn about its centre
        turned = samplers.affine(label, seed=seed, max_angle=math.pi, scale=(1.0, 1.0), max_shift=0.0)
        assert (turned != label).mean() < 0.03
    sizes = [samplers.affine(label, seed=seed, scale=(0.7, 1.4)).sum() / label.sum() for seed in range(30)]
    assert 0.3 < min(sizes) < 0.7 and 1.5 < max(sizes) < 3.0


def test_recombine_takes_each_organ_once():
    """Two maps with one component a class: each class comes whole from one of them."""
    first, second = np.zeros((2, 12, 15), int)
    first[1:4, 1:5], first[7:10, 2:6] = 1, 3
    second[2:5, 8:13], second[8:11, 9:13] = 1, 3
    seen = set()
    for seed in range(40):
        label = samplers.recombine([first, second], seed=seed)
        sources = tuple("first" if ((label == value) == (first == value)).all() else "second" for value in (1, 3))
        for value, source in zip((1, 3), sources):
            np.testing.assert_array_equal(label == value, {"first": first, "second": second}[source] == value)
        seen.add(sources)
    assert len(seen) == 4


def test_recombine_paints_higher_classes_over_lower():
    organ, tumour = np.zeros((2, 9, 11), int)
    organ[2:7, 2:9] = 4
    tumour[4:8, 5:10] = 7
    both = [
        label for seed in range(30) if {4, 7} <= set(np.unique(label := samplers.recombine([organ, tumour], seed=seed)))
    ]
    assert both
    for label in both:
        np.testing.assert_array_equal(label == 7, tumour == 7)
        np.testing.assert_array_equal(label == 4, (organ == 4) & (tumour != 7))


def test_recombine_counts_and_moves():
    """Components keep their form, their number is one of the two maps', and none leaves the image."""
    few, many = np.zeros((2, 30, 41), int)
    few[0:2, 0:2] = few[27:30, 38:41] = 1
    for column in range(1, 36, 7):
        many[14, column : column + 2] = 1
    forms = {(2, 2), (3, 3), (1, 2)}
    counts, starts = set(), set()
    for seed in range(60):
        label = samplers.recombine([few, many], seed=seed, max_shift=2)
        numbers, count = scipy.ndimage.label(label, np.ones((3, 3)))
        for box in scipy.ndimage.find_objects(numbers):
            form = tuple(side.stop - side.start for side in box)
            starts.add((form, box[0].start))
            assert form in forms or form[1] > 3, "only components in a row can have met"
        counts.add(count)
    assert {2, 5} <= counts
    assert {row for form, row in starts if form == (2, 2)} == {0, 1, 2}  # 0 is the edge
    assert {row for form, row in starts if form == (3, 3)} == {25, 26, 27}
    assert {row for form, row in starts if form == (1, 2)} == {12, 13, 14, 15, 16}


def test_recombine_connects_corners():
    """Two voxels that touch at a corner are one component: they come together, or not at all."""
    first, second = np.zeros((2, 3, 6, 7), int)
    first[0, 1, 1] = first[1, 2, 2] = 2
    second[1, 4, 5] = second[2, 3, 4] = 2
    for pair in ([first, second], [first.max(axis=0), second.max(axis=0)]):
        for seed in range(8):
            label = samplers.recombine(pair, seed=seed)
            assert any((label == given).all() for given in pair)


def test_one_map_is_enough_for_single_steps():
    given = maps((16, 20), count=1)
    assert samplers.from_string("elastic|affine", given)(seed=0).any()


def test_without_a_joining_step_every_map_is_drawn():
    given = [np.full((4, 5), value) for value in (1, 2, 3)]
    draw = samplers.from_string("elastic", given)
    assert {int(draw(seed=seed)[0, 0]) for seed in range(30)} == {1, 2, 3}


def test_names():
    assert {"elastic", "affine", "recombine", "shape_model"} <= set(samplers.names())


LABEL = np.zeros((6, 7), int)
FLOATS, NEGATIVE, LINE = np.zeros((6, 7)), np.full((6, 7), -1), np.zeros(6, int)


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: samplers.elastic(LINE, seed=0), "2D or 3D"),
        (lambda: samplers.elastic(LABEL, seed=0, magnitude=-1), "magnitude should be"),
        (lambda: samplers.elastic(LABEL, seed=0, magnitude=(1, 2, 3)), "one number or 2"),
        (lambda: samplers.elastic(LABEL, seed=0, sigma=0), "sigma should be"),
        (lambda: samplers.affine(LABEL, seed=0, scale=(1.1, 0.9)), "rising"),
        (lambda: samplers.affine(LABEL, seed=0, max_shift=1.5), "max_shift in"),
        (lambda: samplers.affine(LABEL, seed=0, spacing=(1.0, 0.0)), "spacing should be"),
        (lambda: samplers.recombine([LABEL], seed=0), "2 or more label maps are needed, not 1: recombine"),
        (lambda: samplers.recombine([LABEL, LABEL[1:]], seed=0), "one shape"),
        (lambda: samplers.recombine([LABEL, NEGATIVE], seed=0), "hold -1"),
        (lambda: samplers.recombine([LABEL, LABEL], seed=0, max_shift=-1), "0 or more voxels"),
        (lambda: samplers.from_string("elastic", []), "1 or more label maps"),
        (lambda: samplers.from_string("elastic", [FLOATS]), "integers, not float64"),
        (lambda: samplers.from_string("elastics", [LABEL]), "did you mean elastic"),
        (lambda: samplers.from_string("elastic(size=2)", [LABEL]), "no option 'size'; it has magnitude, sigma"),
        (lambda: samplers.from_string("elastic||affine", [LABEL]), "should read"),
        (lambda: samplers.from_string("recombine", [LABEL]), "not 1: recombine"),
        (lambda: samplers.from_string("shape_model", [LABEL]), "not 1: a shape model"),
        (lambda: samplers.from_string("recombine|shape_model", [LABEL] * 2), "one of recombine and shape_model"),
        (lambda: samplers.from_string("elastic|shape_model", [LABEL] * 2), "stand first"),
        (lambda: samplers.from_string("shape_model", [LABEL] * 2), "all are background"),
    ],
)
def test_bad_input(call, says):
    with unchecked(), pytest.raises(UserError, match=says):
        call()
