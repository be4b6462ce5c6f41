"""Preprocessing: orientation, crop, normalisation, the way back, and the fingerprint."""

import itertools
import json

import numpy as np
import pytest
import scipy.ndimage
from annotations import unchecked

from jaxseg.data import fingerprint, orientation, preprocess
from jaxseg.data.preprocess import Settings
from jaxseg.data.volume import identity_affine
from jaxseg.typing import IGNORE, Case, DataSet, Sample, UserError, Volume

PLAIN = Settings(normalize=("none",), crop=False)


def volume(data, spacing=None, affine=None):
    data = np.asarray(data)
    n = data.ndim - 1
    spacing = spacing or (1.0,) * n
    if affine is None:
        affine = identity_affine(n)
        affine[:n, :n] = affine[:n, :n] * np.array(spacing)
    return Volume(data, tuple(spacing), affine, path="scan.nii.gz")


def label_of(data, image):
    return Volume(np.asarray(data), image.spacing, image.affine, path="label.nii.gz")


def turnings():
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            yield axes, flips


def turned(data, axes, flips):
    """The same patient stored with other axes: array `(a, b, c, C)` and its affine, from canonical `(z, y, x, C)`."""
    affine = identity_affine(3)
    for axis in np.flatnonzero(flips):
        affine[:3, 3] += affine[:3, axis] * (data.shape[axis] - 1)
        affine[:3, axis] *= -1
    data = np.flip(data, np.flatnonzero(flips)).transpose(*axes, 3)
    return data, affine[:, [*axes, 3]]


@pytest.mark.parametrize(("axes", "flips"), list(turnings()))
def test_every_axis_order_comes_to_the_canonical_one_and_back(axes, flips):
    base = np.arange(3 * 4 * 5 * 2, dtype=np.float32).reshape(3, 4, 5, 2)
    data, affine = turned(base, axes, flips)
    result, record = preprocess.forward(volume(data, affine=affine), PLAIN._replace(normalize=("none", "none")))
    np.testing.assert_array_equal(result, base)
    np.testing.assert_array_equal(preprocess.invert(result, json.loads(json.dumps(record)), reduce=None), data)


def test_spacing_and_target_follow_the_axes():
    data, affine = turned(np.random.default_rng(0).normal(size=(6, 4, 5, 1)), (2, 0, 1), (True, False, False))
    affine[:3, :3] *= np.array([3.0, 1.0, 2.0])  # the file's axes are x, z, y
    image = volume(data, spacing=(3.0, 1.0, 2.0), affine=affine)
    result, record = preprocess.forward(image, PLAIN._replace(spacing=(2.0, None, 1.0)))
    assert record["spacing"] == [1.0, 2.0, 3.0] and record["target_spacing"] == [2.0, 2.0, 1.0]
    assert result.shape == (3, 4, 15, 1)


def test_oblique_scan_keeps_its_nearest_axes():
    angle = np.deg2rad(40)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = identity_affine(3)
    affine[:3, :3] = turn @ affine[:3, :3]
    assert orientation.canonical(affine) == ((0, 1, 2), (False, False, False))


def test_keep_leaves_the_file_axes():
    data, affine = turned(np.random.default_rng(0).normal(size=(3, 4, 5, 1)), (2, 1, 0), (True, True, False))
    result, _ = preprocess.forward(volume(data, affine=affine), PLAIN._replace(orientation="keep"))
    np.testing.assert_array_equal(result, data.astype(np.float32))


def test_crop_to_voxels_that_any_channel_has_and_paste_back():
    data = np.zeros((7, 8, 9, 2))
    data[2, 3:5, 4, 0], data[4, 2, 1, 1] = 5, 1
    image = volume(data)
    result, record = preprocess.forward(image, PLAIN._replace(normalize=("none", "none"), crop=True))
    assert record["box"] == [[2, 5], [2, 5], [1, 5]] and result.shape == (3, 3, 4, 2)
    truth = np.zeros((7, 8, 9), np.int16)
    truth[3, 3, 2] = 2
    cut = preprocess.forward_label(label_of(truth, image), record, PLAIN)
    np.testing.assert_array_equal(preprocess.invert(np.eye(3, dtype=np.float32)[cut], record), truth)
    probs = preprocess.invert(np.full((3, 3, 4, 2), 0.25, np.float32), record, reduce=None)
    assert probs[3, 3, 2].tolist() == [0.25, 0.25] and probs[0, 0, 0].tolist() == [1.0, 0.0]
    regions = preprocess.invert(np.full((3, 3, 4, 2), 0.25, np.float32), record, reduce=None, exclusive=False)
    assert regions[0, 0, 0].tolist() == [0.0, 0.0]


def test_crop_is_the_identity_without_zeros():
    data = np.random.default_rng(0).uniform(1, 2, size=(4, 6, 5, 1))
    assert preprocess.forward(volume(data), PLAIN._replace(crop=True))[1]["box"] == [[0, 4], [0, 6], [0, 5]]


def test_nonzero_mask_equals_scipy():
    mask = np.random.default_rng(1).random((12, 13, 14)) < 0.7
    assert (scipy.ndimage.binary_fill_holes(mask) != mask).any()
    np.testing.assert_array_equal(preprocess.nonzero_mask(mask[..., None]), scipy.ndimage.binary_fill_holes(mask))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("zscore", (np.array([0, 2, 4, 10.0]) - 4) / np.sqrt(14)),
        ("zscore_mask", [0, -10 / 3 / np.sqrt(104 / 9), -4 / 3 / np.sqrt(104 / 9), 14 / 3 / np.sqrt(104 / 9)]),
        ("ct", (np.array([1, 2, 4, 8.0]) - 3) / 2),
        ("unit", np.array([0, 0.2, 0.4, 1])),
        ("rgb", np.array([0, 2, 4, 10]) / 255),
        ("none", [0, 2, 4, 10]),
    ],
)
def test_normalisations_by_hand(kind, expected):
    statistics = ({"mean": 3.0, "std": 2.0, "p005": 1.0, "p995": 8.0},)
    image = volume(np.array([0, 2, 4, 10], np.uint8).reshape(1, 4, 1))
    result, _ = preprocess.forward(image, Settings(normalize=(kind,), statistics=statistics, crop=False))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result.ravel(), expected, rtol=1e-6)


def test_constant_channel_beside_another_becomes_zero():
    data = np.stack([np.random.default_rng(0).normal(size=(5, 6)), np.full((5, 6), 1234.567)], -1).astype(np.float32)
    result, _ = preprocess.forward(volume(data), Settings(normalize=("zscore", "zscore")))
    np.testing.assert_allclose(result[..., 0].std(), 1, rtol=1e-6)
    np.testing.assert_array_equal(result[..., 1], 0)


def test_resampled_there_and_back():
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (20, 26, 30)), indexing="ij"))
    truth = ((grid**2).sum(0) < 0.5).astype(np.int16) + ((grid**2).sum(0) < 0.1)
    image = volume(truth[..., None] + 0.5, spacing=(2.0, 1.0, 0.9))
    settings = Settings(spacing=(1.0, 1.0, 1.2), normalize=("zscore",))
    result, record = preprocess.forward(image, settings)
    label = preprocess.forward_label(label_of(truth, image), record, settings)
    assert result.shape[:-1] == label.shape == (40, 26, 22) and label.dtype == np.int16
    back = preprocess.invert(np.eye(3, dtype=np.float32)[label], record)
    assert back.shape == truth.shape and back.dtype == np.int16
    for value in (1, 2):
        overlap = 2 * ((back == value) & (truth == value)).sum() / ((back == value).sum() + (truth == value).sum())
        assert overlap > 0.93, value


def test_a_linear_ramp_comes_back_exactly_inside():
    image = volume(np.random.default_rng(0).normal(size=(8, 10, 12, 1)), spacing=(1.0, 1.0, 1.0))
    _, record = preprocess.forward(image, PLAIN._replace(spacing=(0.5, 0.5, 0.5)))
    fine = (np.arange(24) + 0.5) / 2 - 0.5  # index of the fine planes on the file's grid
    probs = np.broadcast_to(fine[None, None, :, None], (16, 20, 24, 1)).astype(np.float32)
    back = preprocess.invert(probs, record, reduce=None, exclusive=False)
    np.testing.assert_allclose(back[..., 0], np.broadcast_to(np.arange(12.0), (8, 10, 12)), atol=1e-5)


def test_coarse_axis_is_not_interpolated_on_the_way_back():
    image = volume(np.random.default_rng(0).normal(size=(3, 10, 12, 1)), spacing=(5.0, 1.0, 1.0))
    _, record = preprocess.forward(image, PLAIN._replace(spacing=(2.5, 1.0, 1.0)))
    probs = np.broadcast_to(np.repeat([0.0, 1.0, 2.0], 2)[:, None, None, None], (6, 10, 12, 1))
    assert set(np.unique(preprocess.invert(probs.astype(np.float32), record, reduce=None, exclusive=False))) == {
        0,
        1,
        2,
    }


def test_regions_are_written_in_their_order():
    image = volume(np.random.default_rng(0).normal(size=(1, 4, 1)))
    _, record = preprocess.forward(image, PLAIN)
    probs = np.array([[[0.1, 0.9], [0.9, 0.1], [0.9, 0.9], [0.5, 0.5]]], np.float32)
    assert preprocess.invert(probs, record, reduce="threshold").tolist() == [[2, 1, 2, 0]]
    assert preprocess.invert(probs, record, reduce="threshold", region_labels=(3, 1)).tolist() == [[1, 3, 1, 0]]
    assert preprocess.invert(probs, record, reduce="threshold", threshold=0.05).tolist() == [[2, 2, 2, 2]]


def test_ignore_survives():
    image = volume(np.random.default_rng(0).normal(size=(6, 8, 1)), spacing=(1.0, 1.0))
    truth = np.zeros((6, 8), np.int16)
    truth[:, :3], truth[4:, 5:] = IGNORE, 1
    settings = Settings(spacing=(0.5, 0.5))
    label = preprocess.forward_label(label_of(truth, image), preprocess.forward(image, settings)[1], settings)
    assert label.shape == (12, 16) and (label[:, :6] == IGNORE).all() and (label[8:, 10:] == 1).all()
    assert (label == IGNORE).sum() == 12 * 6 and (label == 1).sum() == 4 * 6


def good():
    return np.random.default_rng(0).normal(size=(4, 5, 6, 1))


@pytest.mark.parametrize(
    ("data", "spacing", "settings", "message"),
    [
        (np.concatenate([good(), good()], -1), None, Settings(), "channels"),
        (np.where(good() > 1, np.nan, good()), None, Settings(), "NaN"),
        (np.full((4, 5, 6, 1), 3), None, Settings(), "constant"),
        (good(), (1.0, 0.0, 1.0), Settings(), "spacing"),
        (good(), None, Settings(spacing=(1.0, 1.0)), "target spacing"),
        (good(), None, Settings(spacing=(1.0, -1.0, 1.0)), "target spacing"),
        (good(), None, Settings(normalize=("ct",)), "fingerprint"),
        (good(), None, Settings(normalize=("z",)), "Normalisation"),
        (good(), None, Settings(orientation="upside-down"), "Orientation"),
    ],
)
def test_bad_input_is_one_sentence(data, spacing, settings, message):
    affine = identity_affine(3)
    with pytest.raises(UserError, match=message):
        preprocess.forward(volume(data, spacing, affine), settings)


def test_bad_affine_and_bad_labels():
    with pytest.raises(UserError, match="affine"):
        orientation.canonical(np.diag([1.0, 0.0, 1.0, 1.0]))
    image = volume(good())
    _, record = preprocess.forward(image, PLAIN)
    with pytest.raises(UserError, match=r"label\.nii\.gz.*shape"):
        preprocess.forward_label(label_of(np.zeros((4, 5, 5), int), image), record, PLAIN)
    with pytest.raises(UserError, match="integers"):
        preprocess.forward_label(label_of(np.zeros((4, 5, 6)), image), record, PLAIN)
    with pytest.raises(ValueError, match="shape"):
        preprocess.invert(np.zeros((4, 5, 5, 2), np.float32), record)
    with pytest.raises(ValueError, match="region label"):
        preprocess.invert(np.zeros((4, 5, 6, 2), np.float32), record, reduce="threshold", region_labels=(1,))
    with unchecked(), pytest.raises(ValueError, match="reduce"):
        preprocess.invert(np.zeros((4, 5, 6, 2), np.float32), record, reduce="mean")


def test_axes_are_brought_into_another_order_and_back():
    data = np.random.default_rng(0).normal(size=(6, 4, 5, 1)).astype(np.float32)
    image = volume(data, spacing=(1.0, 4.0, 2.0))
    settings = PLAIN._replace(orientation="keep", axis_order=(1, 2, 0), spacing=(4.0, None, 0.5))
    result, record = preprocess.forward(image, settings)
    assert record["axes"] == [1, 2, 0] and record["spacing"] == [4.0, 2.0, 1.0] and result.shape == (4, 5, 12, 1)
    same, record = preprocess.forward(image, settings._replace(spacing=None))
    np.testing.assert_array_equal(same, data.transpose(1, 2, 0, 3))
    np.testing.assert_array_equal(preprocess.invert(same, record, reduce=None), data)
    # behind the turn to the canonical orientation, flips go with their axes
    turned_data, affine = turned(data, (2, 0, 1), (True, False, True))
    settings = PLAIN._replace(axis_order=(2, 0, 1))
    result, record = preprocess.forward(volume(turned_data, affine=affine), settings)
    np.testing.assert_array_equal(result, data.transpose(2, 0, 1, 3))
    np.testing.assert_array_equal(preprocess.invert(result, record, reduce=None), turned_data)
    with pytest.raises(UserError, match="should name each of 3 axes once"):
        preprocess.forward(image, PLAIN._replace(axis_order=(0, 1)))


def test_settings_survive_json():
    settings = Settings((1.0, None, 2.0), ("ct", "zscore"), ({"mean": 1.0}, None), False, "keep", (1, 0, 2))
    assert preprocess.settings_from_json(json.loads(json.dumps(settings._asdict()))) == settings


def small_dataset(*, bad=()):
    rng = np.random.default_rng(3)
    images = {f"case{i}": rng.integers(0, 50, size=(4 + i, 6, 7, 2)) for i in range(3)}

    def load(case):
        if case.name in bad:
            raise UserError(f"{case.name} is damaged.")
        image = volume(images[case.name], spacing=(2.0, 1.0, 1.5))
        return Sample(image, label_of((images[case.name][..., 0] > 30).astype(np.int16), image))

    cases = tuple(Case(name, (f"{name}.nii",), f"{name}_label.nii") for name in images)
    return DataSet(cases, ("CT", "T1"), ("background", "thing"), (0, 1), (), None, load, lambda case: case.name), images


def test_fingerprint_equals_the_drawn_voxels(monkeypatch):
    monkeypatch.setattr(fingerprint, "VOXELS", 3000)
    dataset, images = small_dataset()
    result = fingerprint.collect_statistics(dataset)
    drawn = []
    for image in images.values():
        inside = image[..., 1][image[..., 0] > 30]
        drawn.append(np.random.RandomState(1234).choice(inside, 1000))
    drawn = np.concatenate(drawn)
    row = result["channels"][1]
    np.testing.assert_allclose(row["mean"], drawn.mean())
    np.testing.assert_allclose(row["std"], drawn.std())
    np.testing.assert_allclose(
        [row["min"], row["p005"], row["median"], row["p995"], row["max"]], np.percentile(drawn, [0, 0.5, 50, 99.5, 100])
    )
    assert result["shapes"] == [[4, 6, 7], [5, 6, 7], [6, 6, 7]] and result["spacings"][0] == [2.0, 1.0, 1.5]
    kinds, statistics = fingerprint.normalization(dataset.channels, result)
    assert kinds == ("ct", "zscore") and statistics == (result["channels"][0], None)
    assert fingerprint.normalization(("T1",), {"relative_size": 0.5, "channels": [row]}) == (("zscore_mask",), (None,))


def test_fingerprint_is_kept_on_disk(tmp_path):
    dataset, _ = small_dataset()
    first = fingerprint.load_or_collect(dataset, tmp_path / "prepared", crop=False)

    def load(case):
        raise AssertionError("read again")

    assert fingerprint.load_or_collect(dataset._replace(load=load), tmp_path / "prepared", crop=False) == first
    changed = dataset._replace(digest=lambda case: "other", load=load)
    with pytest.raises(AssertionError, match="read again"):
        fingerprint.load_or_collect(changed, tmp_path / "prepared", crop=False)


def test_fingerprint_lists_every_bad_case():
    with pytest.raises(UserError, match=r"2 of 3 cases(.|\n)*case0 is damaged(.|\n)*case2 is damaged"):
        fingerprint.collect_statistics(small_dataset(bad=("case0", "case2"))[0])


def test_target_spacing():
    shapes = [(100, 100, 100)] * 3
    assert fingerprint.target_spacing([(1, 2, 3), (2, 2, 4), (9, 2, 5)], shapes) == (2, 2, 4)
    assert fingerprint.target_spacing([(1, 2), (2, 4), (4, 9)], [(5, 6)] * 3) == (2, 4)
    coarse = [(float(z), 1.0, 0.8) for z in range(4, 15)]  # median 9, tenth percentile 5
    assert fingerprint.target_spacing(coarse, [(20, 100, 100)] * 11) == (5.0, 1.0, 0.8)
    assert fingerprint.target_spacing(coarse, [(40, 100, 100)] * 11) == (9.0, 1.0, 0.8)  # many slices: the median
    fine = [(0.5, 1.0, 0.8)] * 5 + [(9.0, 1.0, 0.8)] * 6  # tenth percentile finer than the plane
    assert fingerprint.target_spacing(fine, [(20, 100, 100)] * 11) == pytest.approx((1.00001, 1.0, 0.8))


STATISTICS = {"mean": 90.0, "std": 20.0, "p005": -1e6, "p995": 1e6}


@pytest.mark.parametrize("kind", preprocess.NORMALIZATIONS)
def test_intensities_come_back_the_way_they_went(kind):
    data = np.random.default_rng(0).normal(100, 30, (5, 6, 7, 2))
    data[:2], data[:, :, 4, 1] = 0, 0
    image = volume(data)
    settings = Settings(normalize=(kind, "zscore"), statistics=(STATISTICS, None), axis_order=(1, 2, 0))
    result, record = preprocess.forward(image, settings)
    back = preprocess.natural(result, image, settings, record)
    expected = data[2:].transpose(1, 2, 0, 3)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, expected, atol=1e-5 * np.ptp(data))
    fine = preprocess.natural(result.repeat(3, 0).repeat(2, 2), image, settings, record)
    np.testing.assert_array_equal(fine, back.repeat(3, 0).repeat(2, 2))


def test_what_was_clipped_stays_clipped():
    image = volume(np.array([[0, 50, 100.0, 200]])[..., None])
    settings = Settings(normalize=("ct",), statistics=({"mean": 90.0, "std": 20.0, "p005": 50.0, "p995": 150.0},))
    result, record = preprocess.forward(image, settings._replace(crop=False))
    np.testing.assert_allclose(preprocess.natural(result, image, settings, record).ravel(), [50, 50, 100, 150])


def test_other_channels_take_their_own_intensities():
    data = np.zeros((4, 5, 1), np.float32)
    data[1:3, 1:4] = np.arange(1, 7).reshape(2, 3, 1)
    data[2, 1] = 0  # at the rim of the mask, inside the crop box
    image = volume(data)
    made = np.full((2, 3, 2), 0.5, np.float32)
    for kind, left_out in (("zscore", [6, 102]), ("zscore_mask", [0, 0])):
        settings = Settings(normalize=(kind,))
        _, record = preprocess.forward(image, settings)
        result = preprocess.natural(made, image, settings, record, intensities=[(5.0, 2.0), (100.0, 4.0)])
        assert result[1, 2].tolist() == [6, 102] and result[1, 0].tolist() == left_out
    with pytest.raises(ValueError, match="should have 1 channels, got 2"):
        preprocess.natural(made, image, settings, record)
    with pytest.raises(ValueError, match=r"shape \[2, 3\], or multiples, got \(2, 4, 1\)"):
        preprocess.natural(np.zeros((2, 4, 1), np.float32), image, settings, record)


def test_an_enlarged_record_leads_to_the_finer_grid_of_the_file():
    data = np.zeros((6, 7, 5, 1), np.float32)
    data[1:4, 2:6, 1:3] = np.random.default_rng(0).normal(size=(3, 4, 2, 1))
    turned_data, affine = turned(data, (2, 0, 1), (True, False, True))
    result, record = preprocess.forward(volume(turned_data, affine=affine), PLAIN._replace(crop=True))
    assert result.shape == (3, 4, 2, 1)
    larger = preprocess.enlarged(record, (3, 2, 1))  # along S, A and R
    assert preprocess.factors_of_file(record, (3, 2, 1)) == (1, 3, 2)
    made = preprocess.invert(result.repeat(3, 0).repeat(2, 1), larger, reduce=None, outside=[7.0])
    expected = np.where(turned_data == 0, np.float32(7), turned_data).repeat(3, 1).repeat(2, 2)
    np.testing.assert_array_equal(made, expected)
    assert json.loads(json.dumps(larger)) == larger and larger["spacing"] == [1 / 3, 0.5, 1.0]
