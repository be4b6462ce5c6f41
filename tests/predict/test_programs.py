"""The exported programs against the host's own way from an image to its label map."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.data import preprocess
from jaxseg.data.volume import identity_affine
from jaxseg.predict import predictor
from jaxseg.predict.load import orders
from jaxseg.predict.programs import Bucket, Rules, normalize, programs
from jaxseg.predict.sliding_window import window_starts
from jaxseg.typing import Volume

CT = {"mean": 90.0, "std": 30.0, "p005": 40.0, "p995": 160.0}


def blobs(shape, channels, seed=0):
    """Smooth structures of several sizes, of which the channels show different sides; zeros around and in a hole."""
    draw = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"), -1)
    waves = np.sin(grid @ draw.normal(0, 3, (len(shape), 6)) + draw.uniform(0, 6, 6))
    image = 100 + 30 * waves @ draw.normal(size=(6, channels)) + draw.normal(0, 1, (*shape, channels))
    image[np.linalg.norm(grid, axis=-1) > 1.05] = 0
    image[tuple(slice(n // 2, n // 2 + 2) for n in shape)] = 0
    return image.astype(np.float32)


def score(variables, image):
    """A predictor whose outputs depend on neighbours, so that windows, flips and their padding count."""
    near = sum(jnp.roll(image, step, axis) for step in (1, -2) for axis in range(1, image.ndim - 1))
    logits = 0.2 * (near @ variables["kernel"] + image @ variables["own"])  # so that no softmax saturates
    return jax.nn.softmax(logits, axis=-1) if variables["own"].shape[-1] > 2 else logits


def variables(channels, outputs):
    draw = np.random.default_rng(5)
    shape = (channels, outputs)
    return {name: jnp.asarray(draw.normal(size=shape), jnp.float32) for name in ("kernel", "own")}


def facts_of(record):
    spacing, target = record["spacing"], record["target_spacing"]
    size = [stop - start for start, stop in record["box"]]
    return np.array([size, record["new_shape"], orders(spacing, target, 3), orders(target, spacing, 1)], np.int32)


def run(made, rules, volume, record, weights, *, overlap=0.5):
    """What the loader does, for an image that is as its network wants it turned."""
    facts, grid = facts_of(record), record["new_shape"]
    cut = volume.data[tuple(slice(start, stop) for start, stop in record["box"])]
    padded = np.zeros(made.arguments["prepare"][0].shape, np.float32)
    padded[tuple(map(slice, cut.shape))] = cut
    image = jax.jit(made.prepare)(padded, facts)
    sums = jnp.zeros(made.arguments["look"][2].shape)
    thick = (1,) * (len(grid) - len(rules.window)) + rules.window
    starts = [window_starts(max(n, w), w, overlap=overlap) for n, w in zip(grid, thick)]
    corners = np.array(list(itertools.product(*starts)), np.int32)
    look = jax.jit(made.look)
    for flips in itertools.product((False, True), repeat=len(rules.flip_axes)):
        for first in range(0, len(corners), rules.batch_size):
            batch = np.resize(corners[first : first + rules.batch_size], (rules.batch_size, len(grid)))
            sums = look(weights, image, sums, batch, np.int32(len(corners) - first), np.array(flips, bool))
    slabs = [jax.jit(made.finish)(sums, facts, np.int32(row)) for row in range(0, cut.shape[0], made.slab)]
    mask = np.zeros(volume.data.shape[:-1], np.int16)
    mask[tuple(slice(*pair) for pair in record["box"])] = np.concatenate(slabs)[tuple(map(slice, cut.shape[:-1]))]
    return np.asarray(image), mask


def rules_of(settings, **more):
    given = {
        "settings": settings, "channels": len(settings.normalize), "outputs": 3, "label_values": (0, 1, 2),
        "regions": None, "logits": False, "window": (6, 8, 7), "weight": "gaussian", "batch_size": 3,
        "flip_axes": (), "flip_pairs": (),
    }  # fmt: skip
    return Rules(**{**given, **more})


def expected(volume, rules, weights, **more):
    return predictor.predict_case(
        jax.jit(functools.partial(score, weights)), volume, rules.settings, ndim=len(rules.window), num_classes=3,
        window=rules.window, weight=rules.weight, batch_size=rules.batch_size, flip_axes=rules.flip_axes,
        flip_pairs=rules.flip_pairs, regions=rules.regions, logits=rules.logits, **more,
    ).labels  # fmt: skip


@pytest.mark.parametrize("kind", preprocess.NORMALIZATIONS)
def test_each_normalisation_is_the_hosts(kind):
    volume = Volume(blobs((9, 13, 11), 2), (1.0, 1.0, 1.0), identity_affine(3), None, "")
    settings = preprocess.Settings(normalize=(kind, "none"), statistics=(CT, None), crop=False)
    wanted, _ = preprocess.forward(volume, settings)
    room = np.full((12, 13, 15, 2), 7e4, np.float32)  # what lies beyond the image counts nothing
    room[:9, :13, :11] = volume.data
    inside = np.zeros(room.shape[:-1], bool)
    inside[:9, :13, :11] = True
    found = jax.jit(functools.partial(normalize, settings=settings))(room, inside)
    np.testing.assert_allclose(found[:9, :13, :11], wanted, atol=2e-5)


def test_normalisation_keeps_its_precision_where_the_mean_is_far_from_zero():
    draw = np.random.default_rng(0)
    image = draw.normal(3e4, 2, (32, 64, 64, 1)).astype(np.float32)
    settings = preprocess.Settings(normalize=("zscore",), crop=False)
    wanted, _ = preprocess.forward(Volume(image, (1.0, 1.0, 1.0), identity_affine(3), None, ""), settings)
    found = jax.jit(functools.partial(normalize, settings=settings))(image, np.ones(image.shape[:-1], bool))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


# Spacings of an image: alike, with thick slices (nearest neighbour there), and shorter than the window.
@pytest.mark.parametrize("spacing", [(2.0, 0.8, 1.1), (4.0, 0.9, 1.0), (0.5, 0.6, 1.0)])
def test_resampled_images_are_the_hosts(spacing):
    volume = Volume(blobs((11, 14, 13), 2), spacing, identity_affine(3), None, "")
    settings = preprocess.Settings(spacing=(1.0, 1.0, 1.2), normalize=("zscore", "unit"))
    rules = rules_of(settings)
    weights = variables(2, 3)
    wanted, record = preprocess.forward(volume, settings)
    made = programs(score, weights, rules, Bucket((13, 15, 14), (44, 15, 16)))
    image, mask = run(made, rules, volume, record, weights)
    before = [max(w - n, 0) // 2 for w, n in zip(rules.window, wanted.shape)]
    place = tuple(slice(b, b + n) for b, n in zip(before, wanted.shape))
    np.testing.assert_allclose(image[place], wanted, atol=1e-4)
    assert np.count_nonzero(image) <= wanted.size  # nothing but zeros around
    assert (mask == expected(volume, rules, weights)).mean() > 0.999


def test_flips_exchange_what_is_left_and_right():
    noise = np.random.default_rng(1).normal(size=(9, 13, 11, 1)).astype(np.float32)  # no ties of left and right
    volume = Volume(blobs((9, 13, 11), 1) + 9 * noise, (1.0, 1.0, 1.0), identity_affine(3), None, "")
    rules = rules_of(preprocess.Settings(crop=False), flip_axes=(2, 0), flip_pairs=((1, 2),), weight="constant")
    weights = variables(1, 3)
    _, record = preprocess.forward(volume, rules.settings)
    made = programs(score, weights, rules, Bucket((10, 13, 12), (10, 13, 12)))
    _, mask = run(made, rules, volume, record, weights)
    wanted = expected(volume, rules, weights)
    assert (mask == wanted).all() and len(np.unique(wanted)) == 3
    assert (mask != expected(volume, rules._replace(flip_pairs=()), weights)).any()


def test_slices_are_looked_at_one_by_one():
    volume = Volume(blobs((5, 13, 11), 2), (3.0, 1.0, 1.0), identity_affine(3), None, "")
    settings = preprocess.Settings(spacing=(None, 0.8, 1.0), normalize=("zscore", "none"))
    rules = rules_of(settings, window=(8, 7), flip_axes=(1,), logits=True)
    weights = variables(2, 3)
    _, record = preprocess.forward(volume, settings)
    made = programs(score, weights, rules, Bucket((6, 14, 12), (6, 20, 12)))
    _, mask = run(made, rules, volume, record, weights)
    assert (mask == expected(volume, rules, weights)).mean() > 0.999


def test_regions_are_painted_in_order_and_labels_are_the_users(monkeypatch):
    monkeypatch.setattr("jaxseg.predict.programs.SLAB_VALUES", 1300)  # several slabs, the last one short
    volume = Volume(blobs((9, 13, 11), 1), (1.0, 1.0, 1.0), identity_affine(3), None, "")
    weights = variables(1, 2)
    regions = ((2, 1), (1,))
    values = (0, 300, 128)
    settings = preprocess.Settings(crop=False)
    rules = rules_of(settings, outputs=2, regions=regions, label_values=values, logits=True)
    _, record = preprocess.forward(volume, settings)
    made = programs(score, weights, rules, Bucket((9, 13, 12), (9, 13, 12)))
    assert 1 < made.slab < 9
    _, mask = run(made, rules, volume, record, weights)
    wanted = np.array(values)[expected(volume, rules, weights)]
    assert (mask == wanted).all() and len(np.unique(wanted)) > 1


def test_pictures_have_two_axes():
    volume = Volume(blobs((19, 13), 3), (1.0, 1.0), np.eye(3), None, "")
    rules = rules_of(preprocess.Settings(normalize=("rgb",) * 3, crop=False), window=(8, 16))
    weights = variables(3, 3)
    _, record = preprocess.forward(volume, rules.settings)
    made = programs(score, weights, rules, Bucket((20, 16), (20, 16)))
    _, mask = run(made, rules, volume, record, weights)
    assert (mask == expected(volume, rules, weights)).all()


def test_a_bucket_holds_a_window():
    with pytest.raises(ValueError, match=r"hold the window \(6, 8, 7\), got \(5, 8, 7\)"):
        programs(score, {}, rules_of(preprocess.Settings()), Bucket((5, 8, 7), (5, 8, 7)))
