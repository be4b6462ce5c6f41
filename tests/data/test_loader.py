"""Batches are a function of seed and step, the same on any number of hosts, and show every corner and every class."""

import dataclasses
import itertools
import threading

import numpy as np
import pytest

from jaxseg.data import loader, patches, store
from jaxseg.data.preprocess import Settings
from jaxseg.data.volume import identity_affine
from jaxseg.typing import IGNORE, Case, DataSet, Sample, UserError, Volume

SHAPES = {"a": (9, 8, 14), "b": (6, 11, 7)}


def prepared(folder, shapes, channels=1):
    """Cases whose image holds each voxel's own number and whose label has two rare classes."""

    def load(case):
        shape = shapes[case.name]
        numbers = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)
        image = Volume(np.stack([numbers] * channels, -1), (1.0,) * len(shape), identity_affine(len(shape)))
        label = np.zeros(shape, np.int16)
        label[(2,) * len(shape)], label[(-1,) * len(shape)], label[(0,) * len(shape)] = 1, 2, IGNORE
        return Sample(image, image._replace(data=label))

    cases = tuple(Case(name, (name,), name) for name in shapes)
    data = DataSet(
        cases, ("x",) * channels, ("background", "a", "b"), (0, 1, 2), (), None, load, lambda case: case.name
    )
    store.prepare(data, folder, Settings(normalize=("none",) * channels))
    return store.open(folder)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("volumes"), SHAPES)


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("slices"), {"a": (12, 9), "b": (7, 16)})


def same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


OPTIONS = dict(patch_size=(4, 5, 6), batch_size=4, seed=3, steps=7)


def test_types_shapes_and_content(cases):
    batches = list(loader.batches(cases, ndim=3, **OPTIONS))
    assert len(batches) == 7
    for batch in batches:
        assert {name: (value.shape, value.dtype.name) for name, value in batch.items()} == {
            "image": ((4, 4, 5, 6, 1), "float32"),
            "label": ((4, 4, 5, 6), "int32"),
            "index": ((4,), "int32"),
        }
        assert batch["index"].tolist() == [0, 1, 2, 3] and set(np.unique(batch["label"])) <= {IGNORE, 0, 1, 2}
        for image, label in zip(batch["image"][..., 0], batch["label"]):
            number = int(image.flat[0]) - 1
            found = False
            for case in cases:  # the patch is a window of one of the volumes, image and label alike
                if number >= np.prod(case.shape):
                    continue
                start = tuple(map(int, np.unravel_index(number, case.shape)))
                expected = store.read_patch(case, start, (4, 5, 6))
                found |= np.array_equal(expected[0][..., 0], image) and np.array_equal(expected[1], label)
            assert found


def test_deterministic_and_seeded(cases):
    first, second = (list(loader.batches(cases, **OPTIONS, threads=n)) for n in (1, 5))
    for a, b in zip(first, second, strict=True):
        same(a, b)
    other = list(loader.batches(cases, **{**OPTIONS, "seed": 4}))
    assert any((a["image"] != b["image"]).any() for a, b in zip(first, other))
    assert any((a["image"] != b["image"]).any() for a, b in itertools.pairwise(first))


@pytest.mark.parametrize("start", [0, 3, 6, 7])
def test_resume_is_the_tail(cases, start):
    whole = list(loader.batches(cases, **OPTIONS))
    tail = list(loader.batches(cases, **OPTIONS, start_step=start))
    assert len(tail) == 7 - start
    for a, b in zip(whole[start:], tail, strict=True):
        same(a, b)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_one_global_batch(cases, hosts):
    whole = loader.batches(cases, **OPTIONS)
    parts = [loader.batches(cases, **OPTIONS, process_index=i, process_count=hosts) for i in range(hosts)]
    for batch, *shares in zip(whole, *parts, strict=True):
        same(batch, {name: np.concatenate([share[name] for share in shares]) for name in batch})


def test_endless_and_closed_without_threads_left(cases):
    batches = loader.batches(cases, **{**OPTIONS, "steps": None}, start_step=10**9)
    assert next(batches)["image"].shape == (4, 4, 5, 6, 1)
    readers = [thread for thread in threading.enumerate() if thread.name.startswith("grain-prefetch")]
    assert readers
    batches.close()
    for thread in readers:
        thread.join(timeout=5)
        assert not thread.is_alive()


def test_transform(cases):
    batch = next(loader.batches(cases, **OPTIONS, transform=lambda batch: {**batch, "twice": 2 * batch["image"]}))
    np.testing.assert_array_equal(batch["twice"], 2 * batch["image"])


def test_every_voxel_is_reached_without_forcing(cases):
    seen = {case.name: set() for case in cases}
    for batch in loader.batches(cases[:1], **{**OPTIONS, "steps": 600}, foreground=0.0):
        seen["a"] |= set(batch["image"].astype(int).ravel().tolist())
    assert seen["a"] == set(range(1, 9 * 8 * 14 + 1))


def test_forced_samples_show_foreground_and_both_classes(cases):
    shown = np.zeros(3, int)
    for batch in loader.batches(cases, **{**OPTIONS, "batch_size": 3, "steps": 30}, foreground=1 / 3):
        assert (batch["label"][2] > 0).any()  # the last of three is forced
        shown += [(batch["label"][2] == value).any() for value in range(3)]
    assert shown[1] > 5 and shown[2] > 5
    for batch in loader.batches(cases, **{**OPTIONS, "steps": 20}, foreground=1.0):
        assert (batch["label"] > 0).any((1, 2, 3)).all()


def test_case_without_foreground_gives_a_random_patch(tmp_path):
    def load(case):
        image = Volume(np.random.default_rng(0).normal(size=(6, 7, 8, 1)), (1.0,) * 3, identity_affine(3))
        return Sample(image, image._replace(data=np.zeros((6, 7, 8), np.int16)))

    data = DataSet((Case("x", ("x",), "x"),), ("x",), ("background", "a"), (0, 1), (), None, load, lambda case: "x")
    store.prepare(data, tmp_path, Settings())
    batch = next(loader.batches(store.open(tmp_path), **OPTIONS, foreground=1.0))
    assert not batch["label"].any() and batch["image"].std() > 0


def test_slices_of_volumes(cases):
    planes, shown = set(), np.zeros(3, int)
    for batch in loader.batches(cases[:1], patch_size=(5, 6), batch_size=4, seed=0, steps=60, ndim=2):
        assert batch["image"].shape == (4, 5, 6, 1) and batch["label"].shape == (4, 5, 6)
        planes |= set((batch["image"][:2, 0, 0, 0].astype(int) - 1) // (8 * 14))
        assert (batch["label"][3] > 0).any()
        shown += [(batch["label"][3] == value).any() for value in range(3)]
        assert (np.ptp((batch["image"].astype(int) - 1) // (8 * 14), axis=(1, 2, 3)) == 0).all()  # one plane a patch
    assert planes == set(range(9)) and shown[1] > 10 and shown[2] > 10


def test_images(slices):
    seen = set()
    for batch in loader.batches(slices, patch_size=(5, 6), batch_size=2, seed=0, steps=40):
        assert batch["image"].shape == (2, 5, 6, 1)
        seen |= set(batch["image"].astype(int).ravel().tolist())
    assert seen == set(range(1, 113))


def test_patch_larger_than_the_image_is_padded_around(slices):
    batch = next(loader.batches(slices[:1], patch_size=(16, 14), batch_size=2, seed=0, steps=1))
    expected = np.zeros((16, 14))
    expected[2:14, 2:11] = np.arange(1, 109).reshape(12, 9)
    for image in batch["image"][..., 0]:
        np.testing.assert_array_equal(image, expected)


def test_inner_window_reaches_every_corner(cases):
    """The patch is read larger for the rotation; what stays after the centre crop must still reach every voxel."""
    seen = set()
    options = dict(patch_size=(8, 8, 10), inner_size=(4, 5, 6), batch_size=4, seed=0, steps=600, foreground=0.0)
    for batch in loader.batches(cases[:1], **options):
        centre = batch["image"][:, 2:6, 1:6, 2:8]
        assert centre.min() >= 1  # no padding in the inner window
        seen |= set(centre.astype(int).ravel().tolist())
    assert seen == set(range(1, 9 * 8 * 14 + 1))
    for batch in loader.batches(cases, **{**options, "steps": 20, "foreground": 1.0}):
        assert (batch["label"][:, 2:6, 1:6, 2:8] > 0).any((1, 2, 3)).all()


def test_start_ranges_by_hand():
    assert [value.tolist() for value in patches.start_range((9, 4), (4, 7), (4, 7))] == [[0, -1], [5, -1]]
    assert [value.tolist() for value in patches.start_range((9, 4), (8, 7), (4, 3))] == [[-2, -2], [3, -1]]
    assert patches.centred_start((5, 2), (9, 4), (4, 7)) == (3, -1)
    assert patches.centred_start((8, 0), (9, 9), (4, 4)) == (5, 0)


def test_share_of_forced_samples_is_nnunets():
    forced = {
        n: [row for row in range(n) if patches.is_forced(row, batch_size=n, foreground=1 / 3)] for n in (1, 2, 3, 9, 12)
    }
    assert forced == {1: [], 2: [1], 3: [2], 9: [6, 7, 8], 12: [8, 9, 10, 11]}


def shown_cases(cases, steps, **options):
    """The place of the case that each sample of batches of four is cut from."""
    places = {case.shape: place for place, case in enumerate(cases)}
    rngs = (np.random.default_rng((3, step, row)) for step in range(steps) for row in range(4))
    drawn = [loader.draw(rng, cases, (2, 2, 2), inner=(2, 2, 2), forced=False, **options)[0] for rng in rngs]
    return np.array([places[case.shape] for case in drawn])


def test_without_weights_the_numbers_are_those_of_before(cases):
    """First and largest voxel of the patches, recorded before weights existed."""
    corners, largest = [], []
    for batch in loader.batches(cases, **{**OPTIONS, "steps": 3}, weights=None):
        corners.append(batch["image"][:, 0, 0, 0, 0].astype(int).tolist())
        largest.append(batch["image"].max((1, 2, 3, 4)).astype(int).tolist())
    assert corners == [[8, 480, 92, 1], [29, 484, 79, 1], [23, 183, 464, 1]]
    assert largest == [[272, 877, 356, 398], [293, 881, 343, 265], [287, 447, 861, 265]]


def test_weights_are_frequencies(cases):
    three = (*cases, dataclasses.replace(cases[0], shape=(9, 8, 13)))  # told from the first by its shape
    shares = np.array([0.5, 0.3, 0.2])
    found = np.bincount(shown_cases(three, 250, weights=shares), minlength=3)
    expected = 1000 * shares
    # Chi-square with two degrees of freedom is below 9.2 in 99 of 100 draws; uniform drawing would give about 140.
    assert ((found - expected) ** 2 / expected).sum() < 9.2
    uniform = np.bincount(shown_cases(three, 250), minlength=3)
    assert ((uniform - 1000 / 3) ** 2 / (1000 / 3)).sum() < 9.2


def test_weight_zero_is_never_drawn(cases):
    """Patches as large as the first case: the largest number in them tells the cases apart."""
    options = {**OPTIONS, "patch_size": (9, 8, 14), "steps": 12}
    for batch in loader.batches(cases, **options, weights=[2.5, 0]):
        assert (batch["image"].max((1, 2, 3, 4)) == 9 * 8 * 14).all()
    for batch in loader.batches(cases, **options, weights=(0, 1e300)):
        assert (batch["image"].max((1, 2, 3, 4)) <= 6 * 11 * 7).all()


def test_weights_may_change_from_step_to_step(cases):
    """Patches as large as the first case: the largest number in them tells the cases apart; a resume goes on alike."""
    options = {**OPTIONS, "patch_size": (9, 8, 14), "steps": 5}

    def largest(**more):
        batches = loader.batches(cases, **options, weights=lambda step: [0, 1] if step < 2 else [1, 0], **more)
        return [batch["image"].max((1, 2, 3, 4)).astype(int).tolist() for batch in batches]

    found = largest()
    assert [all(value == 9 * 8 * 14 for value in values) for values in found] == [False, False, True, True, True]
    assert not any(value == 9 * 8 * 14 for values in found[:2] for value in values)
    assert largest(start_step=1) == found[1:]


def test_weights_count_by_their_ratios_on_any_number_of_hosts(cases):
    whole = loader.batches(cases, **OPTIONS, weights=[0.25, 0.75])
    parts = [loader.batches(cases, **OPTIONS, process_index=i, process_count=2, weights=[1, 3]) for i in range(2)]
    for batch, *shares in zip(whole, *parts, strict=True):
        same(batch, {name: np.concatenate([share[name] for share in shares]) for name in batch})


def test_bad_weights(cases):
    for weights, message in (
        ([1.0], "2 numbers, one a case, got 1"),
        ([], "got 0"),
        ([1.0, 2.0, 3.0], "got 3"),
        ([1.0, -0.5], "among them -0.5"),
        ([1.0, float("nan")], "among them nan"),
        ([1.0, float("inf")], "among them inf"),
        ([0.0, 0.0], "all of them 0"),
    ):
        with pytest.raises(UserError, match=message):
            loader.batches(cases, **OPTIONS, weights=weights)  # before the first batch is asked for


def test_bad_options(cases, slices):
    def refused(message, which=cases, **changes):
        with pytest.raises(UserError, match=message):
            next(loader.batches(which, **{**OPTIONS, **changes}))

    refused("at least one case", which=())
    refused("seed", seed=-1)
    refused("batch_size", batch_size=0)
    refused("batch_size", batch_size=3, process_count=2)
    refused("patch size", patch_size=(0, 4, 4))
    refused("patch size", ndim=2)
    refused("should have as many values", inner_size=(4, 5))
    refused("should have as many values", inner_size=(4, 5, 7))
    refused("2D patch", which=slices)


def test_cases_of_unequal_channels(cases, tmp_path):
    with pytest.raises(UserError, match="z has 2 channels and a has 1"):
        next(loader.batches((*cases, *prepared(tmp_path, {"z": (5, 6, 7)}, channels=2)), **OPTIONS))


def test_others_have_their_share_and_the_first_keep_their_proportions():
    found = loader.beside([1.0, 0.0, 3.0], others=2, share=0.2)
    np.testing.assert_allclose(found, [0.2, 0.0, 0.6, 0.1, 0.1])
    np.testing.assert_allclose(loader.beside(np.ones(4), others=3, share=0.0), [0.25] * 4 + [0.0] * 3)
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match="from 0 to below 1"):
            loader.beside([1.0], others=1, share=share)
    with pytest.raises(UserError, match="all of them 0"):
        loader.beside([0.0, 0.0], others=1, share=0.5)
    with pytest.raises(ValueError, match="at least one other case"):
        loader.beside([1.0], others=0, share=0.5)
