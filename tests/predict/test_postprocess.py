"""Cleaning of label maps: hand-sized maps, scipy as the second opinion, laws on noise."""

import numpy as np
import pytest
from annotations import unchecked
from numpy.testing import assert_array_equal
from scipy import ndimage

from jaxseg.predict import postprocess
from jaxseg.typing import UserError

EVERY = ["keep_largest", "fill_holes", "remove_small(min_voxels=4)", "smooth", "smooth(method='gaussian', sigma=0.7)"]


def rows(*lines):
    return np.array([[int(cell) for cell in line] for line in lines], np.int16)


def noise(*shape, classes=4, seed=0):
    return np.random.default_rng(seed).integers(0, classes, shape).astype(np.int16)


def test_keep_largest_is_class_wise():
    labels = rows("1100202", "1000002", "0001002")
    assert_array_equal(postprocess.keep_largest(labels), rows("1100002", "1000002", "0000002"))
    assert_array_equal(postprocess.keep_largest(labels, classes=(1,)), rows("1100202", "1000002", "0000002"))
    assert_array_equal(postprocess.keep_largest(labels, classes=()), labels)


def test_keep_largest_together():
    labels = rows("1200001", "1200001", "0000000")
    assert_array_equal(postprocess.keep_largest(labels, together=True), rows("1200000", "1200000", "0000000"))
    # One at a time the two components of class 1 are equally large: the first stays.
    assert_array_equal(postprocess.keep_largest(labels), rows("1200000", "1200000", "0000000"))
    touching = rows("1120022", "0000022")
    assert_array_equal(postprocess.keep_largest(touching, together=True), rows("0000022", "0000022"))
    assert_array_equal(postprocess.keep_largest(touching), rows("1100022", "0000022"))


def test_connectivity():
    labels = rows("1000", "0110", "0000")
    assert_array_equal(postprocess.keep_largest(labels), labels)
    assert_array_equal(postprocess.keep_largest(labels, connectivity=1), rows("0000", "0110", "0000"))
    with pytest.raises(ValueError, match="connectivity should be"):
        postprocess.keep_largest(labels, connectivity=3)


@pytest.mark.parametrize("shape", [(23, 31), (9, 11, 13)])
@pytest.mark.parametrize("connectivity", [1, None])
def test_against_scipy(shape, connectivity):
    labels = noise(*shape)
    structure = ndimage.generate_binary_structure(len(shape), connectivity or len(shape))
    largest, big = np.zeros_like(labels), np.zeros_like(labels)
    for label in (1, 2, 3):
        components, count = ndimage.label(labels == label, structure)
        sizes = np.bincount(components.ravel(), minlength=count + 1)
        sizes[0] = 0
        best = sizes.max()
        largest[(components > 0) & (sizes[components] == best)] = label
        big[sizes[components] >= 3] = label
        unique = (sizes == best).sum() == 1
        kept = postprocess.keep_largest(labels, connectivity=connectivity) == label
        assert kept.sum() == best and (not unique or (kept == (largest == label)).all())
    assert_array_equal(postprocess.remove_small(labels, min_voxels=3, connectivity=connectivity), big)


def test_remove_small_by_volume():
    labels = np.zeros((3, 4, 5), np.int16)
    labels[0, 0, :4] = 1
    labels[2, :3, 0] = 2
    # A voxel has 0.5 * 0.8 * 2 = 0.8 mm3: four make 3.2.
    cleaned = postprocess.remove_small(labels, min_mm3=3.2, spacing=(0.5, 0.8, 2.0))
    assert_array_equal(cleaned, np.where(labels == 1, labels, 0))
    chain = postprocess.from_string("remove_small(min_mm3=3.2)")
    assert_array_equal(chain(labels, spacing=(0.5, 0.8, 2.0)), cleaned)
    with pytest.raises(UserError, match="needs the spacing"):
        chain(labels)
    for options in ({}, {"min_voxels": 1, "min_mm3": 1.0}):
        with pytest.raises(UserError, match="one size"):
            postprocess.remove_small(labels, **options)


@pytest.mark.parametrize("shape", [(40, 31), (13, 12, 14)])
def test_fill_holes_against_scipy(shape):
    # Sparse enough for holes, dense enough for walls.
    mask = np.random.default_rng(3).random(shape) < (0.6 if len(shape) == 2 else 0.8)
    filled = postprocess.fill_holes(mask)
    assert filled.dtype == bool and filled.sum() > mask.sum()
    assert_array_equal(filled, ndimage.binary_fill_holes(mask))


def test_fill_holes_leaves_other_classes_and_takes_the_innermost():
    labels = rows(
        "0000000000",
        "0111111111",
        "0100000001",
        "0102222201",
        "0102000201",
        "0102030201",
        "0102000201",
        "0102222201",
        "0100000001",
        "0111111111",
    )
    expected = rows(
        "0000000000",
        "0111111111",
        "0111111111",
        "0112222211",
        "0112222211",
        "0112232211",
        "0112222211",
        "0112222211",
        "0111111111",
        "0111111111",
    )
    assert_array_equal(postprocess.fill_holes(labels), expected)
    only_outer = postprocess.fill_holes(labels, classes=(1,))
    assert_array_equal(only_outer, np.where(labels == 0, ndimage.binary_fill_holes(labels == 1), labels))


def test_a_hole_at_the_border_is_none():
    labels = rows("1101", "1001", "1111")
    assert_array_equal(postprocess.fill_holes(labels), labels)


def test_majority_by_hand():
    labels = rows("00000", "01000", "00222", "00202", "00222")
    assert_array_equal(postprocess.smooth(labels), rows("00000", "00000", "00022", "00222", "00222"))
    kept = postprocess.smooth(labels, classes=(2,))
    assert kept[1, 1] == 1 and kept[3, 3] == 2


def test_majority_of_a_mask_is_the_median():
    mask = np.random.default_rng(1).random((9, 10, 11)) < 0.5
    assert_array_equal(postprocess.smooth(mask), ndimage.median_filter(mask, 3, mode="nearest"))


def test_gaussian_keeps_halves_and_drops_specks():
    labels = np.zeros((12, 14), np.int16)
    labels[6:] = 3
    speckled = labels.copy()
    speckled[2, 4] = 3
    assert_array_equal(postprocess.smooth(speckled, method="gaussian"), labels)


@pytest.mark.parametrize("text", EVERY)
@pytest.mark.parametrize("shape", [(7, 9), (5, 7, 6)])
def test_laws_of_every_step(text, shape):
    step = postprocess.from_string(text)
    for dtype in (np.int16, np.uint8, np.int32):
        empty = np.zeros(shape, dtype)
        assert_array_equal(step(empty), empty)
        labels = noise(*shape).astype(dtype)
        before = labels.copy()
        cleaned = step(labels)
        assert cleaned.dtype == dtype and cleaned.shape == shape
        assert_array_equal(labels, before)
        assert set(np.unique(cleaned)) <= set(np.unique(labels))
    full = np.ones(shape, bool)
    assert step(full).dtype == bool and step(full).all()
    if not text.startswith("smooth"):
        assert_array_equal(step(cleaned), cleaned)
    with unchecked(), pytest.raises(ValueError, match="integers or a mask"):
        step(np.zeros(shape, np.float32))


def test_ignored_voxels_stay():
    labels = rows("1101", "0000")
    labels[1] = -1
    for text in EVERY:
        assert (postprocess.from_string(text)(labels)[1] == -1).all()


def test_chain_runs_left_to_right():
    labels = rows("0000000", "1110001", "1010000", "1110200")
    chain = postprocess.from_string("keep_largest | fill_holes|remove_small(min_voxels=2)")
    assert_array_equal(chain(labels), rows("0000000", "1110000", "1110000", "1110000"))
    assert postprocess.from_string("")(labels) is labels


def test_outside_functions_and_wrong_names():
    assert (postprocess.from_string("numpy:zeros_like")(rows("12")) == 0).all()
    with pytest.raises(UserError, match="keep_largest"):
        postprocess.from_string("keep_largets")
    with pytest.raises(UserError, match="no option 'min_voxel'"):
        postprocess.from_string("remove_small(min_voxel=3)")
    with pytest.raises(UserError, match="methods"):
        postprocess.smooth(rows("01"), method="median")
    with pytest.raises(UserError, match="radius >= 1"):
        postprocess.smooth(rows("01"), radius=0)


def test_argmax_and_threshold():
    probs = np.random.default_rng(0).random((4, 5, 6, 3)).astype(np.float32)
    labels = postprocess.argmax(probs)
    assert labels.dtype == np.int16
    assert_array_equal(labels, probs.argmax(-1))
    assert_array_equal(postprocess.threshold(probs, 0.3), probs > 0.3)
    assert not postprocess.threshold(np.full((2, 2, 1), 0.5, np.float32)).any()


def test_regions():
    brats = ((1, 2, 3), (2, 3), (3,))
    assert postprocess.region_classes(brats) == (1, 2, 3)
    masks = np.array([[[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]], bool)
    assert_array_equal(postprocess.regions_to_labels(masks, brats), [[0, 1, 2, 3]])
    assert_array_equal(postprocess.regions_to_labels(masks[..., :1], ((1,),)), [[0, 1, 1, 1]])
    with pytest.raises(UserError, match="class of its own"):
        postprocess.region_classes(((1,), (1, 2)))
    with pytest.raises(ValueError, match="as many masks"):
        postprocess.regions_to_labels(masks, ((1,),))
