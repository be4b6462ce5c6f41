"""Object maps: overlaps are kept exactly, and they come through the store and the loader into training batches."""

import numpy as np
import pytest

from jaxseg import metrics
from jaxseg.data import instances, loader, preprocess, store
from jaxseg.ops import run_length
from jaxseg.typing import IGNORE, Case, DataSet, Instances, Sample, UserError, Volume


def test_a_map_by_hand():
    """A wide object, a tall one over it, and one that they hide wholly."""
    masks = [((1, 0), np.ones((1, 1), bool)), ((1, 0), np.ones((2, 4), bool)), ((0, 1), np.ones((4, 1), bool))]
    values, objects = instances.object_map(masks, shape=(4, 5), classes=[1, 2, 1], crowd=[False, False, True])
    sets = [[tuple(n for n in objects.members[v] if n) for v in row] for row in values]
    assert sets[0] == [(), (3,), (), (), ()]
    assert sets[1] == [(1, 2), (2, 3), (2,), (2,), ()]
    assert sets[3] == [(), (3,), (), (), ()]
    assert objects.classes.tolist() == [1, 2, 1] and objects.crowd.tolist() == [False, False, True]


@pytest.mark.parametrize("seed", range(4))
def test_masks_come_back_as_they_were(seed):
    rng = np.random.default_rng(seed)
    full = np.zeros((12, 23, 31), bool)
    parts = []
    for number in range(12):
        height, width = rng.integers(1, 12, 2)
        top, left = rng.integers(0, 23 - height), rng.integers(0, 31 - width)
        mask = rng.random((height, width)) < 0.7
        full[number, top : top + height, left : left + width] = mask
        parts.append(((int(top), int(left)), mask))
    values, objects = instances.object_map(parts, shape=(23, 31), classes=rng.integers(1, 4, 12).tolist())
    found = instances.to_instances(values, objects, num_classes=3)
    np.testing.assert_array_equal([run_length.decode(mask) for mask in found.masks], full)
    np.testing.assert_array_equal(found.labels, objects.classes)
    assert (found.scores == 1).all() and not found.crowd.any()


def test_outside_the_region_of_interest_lies_a_crowd_of_every_class():
    values, objects = instances.object_map([((0, 0), np.ones((2, 2), bool))], shape=(3, 4), classes=[2])
    values[:, 3] = IGNORE
    found = instances.to_instances(values, objects, num_classes=4)
    assert found.labels.tolist() == [2, 1, 2, 3] and found.crowd.tolist() == [False, True, True, True]
    outside = np.repeat([[False, False, False, True]], 3, axis=0)
    np.testing.assert_array_equal([run_length.decode(mask) for mask in found.masks[1:]], [outside] * 3)
    # a find out there is no error, one in the middle is
    for left, wrong in ((3, 0), (2, 1)):
        mask = np.zeros((3, 4), bool)
        mask[1:, left] = True
        pred = Instances((run_length.encode(mask),), np.array([1]), np.ones(1), np.zeros(1, bool))
        assert metrics.instance_counts(pred, found, label=1).fp[0] == wrong


def test_no_objects():
    values, objects = instances.object_map([], shape=(4, 6), classes=[])
    assert not values.any() and instances.to_instances(values, objects, num_classes=3).masks == ()


def test_too_many_different_overlaps_are_refused(monkeypatch):
    monkeypatch.setattr(instances, "MOST_VALUES", 4)
    masks = [((0, n), np.ones((1, 2), bool)) for n in range(4)]
    with pytest.raises(UserError, match="image a holds 6 different overlaps of objects, and 4 are possible"):
        instances.object_map(masks, shape=(1, 5), classes=[1] * 4, where="image a")


def test_areas_of_many_masks():
    """pycocotools 2.0.11 refuses 256 masks at once."""
    mask = run_length.encode(np.ones((3, 5), bool))
    assert run_length.areas([mask] * 300).tolist() == [15.0] * 300
    assert run_length.boxes([]).shape == (0, 4) and run_length.areas([]).shape == (0,)


def data_set():
    """Two cases of 40 x 56 with two and three objects, the first two of each over each other."""

    def load(case):
        count = int(case.name[-1])
        masks = [((5 + 3 * n, 6 + 15 * n), np.ones((12, 20), bool)) for n in range(count)]
        values, objects = instances.object_map(masks, shape=(40, 56), classes=list(range(1, count + 1)))
        image = np.random.default_rng(count).normal(size=(40, 56, 1)).astype(np.float32)
        grid = {"spacing": (1.0, 1.0), "affine": np.eye(3)}
        return Sample(Volume(image, **grid), Volume(values, **grid), objects)

    cases = (Case("case_2", ("a",), "a"), Case("case_3", ("b",), "b"))
    names = ("background", "one", "two", "three")
    return DataSet(cases, ("grey",), names, (0, 1, 2, 3), (), None, load, lambda case: case.name)


def test_objects_reach_the_batches(tmp_path):
    settings = preprocess.Settings(
        spacing=None, normalize=("none",), statistics=(None,), crop=False, orientation="keep"
    )
    store.prepare(data_set(), tmp_path, settings)
    cases = store.open(tmp_path)
    for case, wanted in zip(cases, (data_set().load(case) for case in data_set().cases)):
        for found, expected in zip(case.objects, wanted.objects):
            np.testing.assert_array_equal(found, expected)
        _, label = store.read_patch(case, (0, 0), case.shape)
        np.testing.assert_array_equal(label, wanted.label.data)
    batch = next(loader.batches(cases, patch_size=(24, 32), batch_size=6, seed=0, foreground=1.0))
    assert batch["members"].shape == (6, 6, 2) and batch["classes"].shape == batch["crowd"].shape == (6, 3)
    for row in range(6):
        seen = {int(n) for value in np.unique(batch["label"][row]) for n in batch["members"][row, value]} - {0}
        classes = batch["classes"][row]
        assert seen and all(classes[n - 1] == n for n in seen)
    assert {int((row > 0).sum()) for row in batch["classes"]} == {2, 3}
