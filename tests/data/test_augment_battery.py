"""Laws that hold for every augmentation in the table: shape, type, labels, identity, determinism, jit, finiteness."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import registry
from jaxseg.data import augment

# These laws do not need fast code, and compiling it would take most of the time.
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SIZES = {2: (12, 10), 3: (8, 10, 9)}
PATCHES = {2: (8, 9), 3: (6, 8, 5)}
RECIPES = {"nnunet": 3, "light": 3, "em": 2, "fundus": 2}  # seconds to compile, so for one number of axes each
POINTWISE = dict.fromkeys(["brightness", "contrast", "gamma", "inverted_gamma", "gaussian_noise", "color_jitter"], 3)
EVERY = [(name, n) for name in augment.names() for n in (2, 3) if (RECIPES | POINTWISE).get(name, n) == n]
SAME_WHEN_CERTAIN = {"none", "center_crop", "mirror", "rotate90"}  # probability 1, no square plane: nothing to choose


def function(name, n, **options):
    """The table's function, with a patch smaller than the sample where it cuts."""
    found = registry.resolve(name, augment.TABLE, kind="augmentation")
    known = inspect.signature(found).parameters
    given = {"patch_size": PATCHES[n], "channel_probability": 1.0, **options}
    return functools.partial(found, **{word: value for word, value in given.items() if word in known})


def draw(n, seed=0):
    random = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(random.normal(size=(*SIZES[n], 3)) - 1, jnp.float32),
        "label": jnp.asarray(random.choice([-1, 0, 2, 5], SIZES[n]), jnp.int32),
    }


def size_out(name, n):
    return PATCHES[n] if "patch_size" in function(name, n).keywords else SIZES[n]


@pytest.mark.parametrize(("name", "n"), EVERY)
def test_laws(name, n):
    fn, sample = function(name, n, probability=1.0), draw(n)
    compiled, keys = quick(fn), jax.random.split(jax.random.key(1), 6)
    results = [compiled(key, sample) for key in keys]
    for result in results:
        assert result["image"].shape == (*size_out(name, n), 3) and result["image"].dtype == jnp.float32
        assert result["label"].shape == size_out(name, n) and result["label"].dtype == jnp.int32
        assert np.isfinite(result["image"]).all()
        assert set(np.unique(result["label"])) <= {-1, 0, 2, 5}
    again = compiled(keys[0], sample)
    np.testing.assert_array_equal(again["image"], results[0]["image"])
    if name not in SAME_WHEN_CERTAIN:
        assert any(not np.array_equal(result["image"], results[0]["image"]) for result in results[1:])
    for image in (jnp.full_like(sample["image"], -3.0), jnp.zeros_like(sample["image"])):
        assert np.isfinite(compiled(keys[1], {"image": image, "label": sample["label"]})["image"]).all()


@pytest.mark.parametrize("name", ["mirror", "rotate90", "contrast", "gamma"])
def test_jit_equals_eager(name):
    fn, sample, key = function(name, 2, probability=1.0), draw(2), jax.random.key(4)
    compiled = quick(fn)(key, sample)
    with jax.disable_jit():
        eager = fn(key, sample)
    np.testing.assert_allclose(eager["image"], compiled["image"], atol=2e-5)
    np.testing.assert_array_equal(eager["label"], compiled["label"])


@pytest.mark.parametrize(
    "name", [name for name in augment.names() if "probability" in function(name, 3, probability=0).keywords]
)
def test_probability_zero_is_the_identity(name):
    sample = draw(3)
    result = quick(function(name, 3, probability=0.0, patch_size=SIZES[3]))(jax.random.key(0), sample)
    np.testing.assert_array_equal(result["image"], sample["image"])
    np.testing.assert_array_equal(result["label"], sample["label"])


@pytest.mark.parametrize(
    "text", ["rotate_scale(probability=0.7)|gaussian_noise(probability=0.7)", "rotate90|color_jitter|cutout|gamma"]
)
def test_batched_does_not_depend_on_how_the_batch_is_split(text):
    fn = quick(augment.from_string(text, patch_size=PATCHES[2]))
    parts = [draw(2, seed) for seed in range(4)]
    batch = {word: jnp.stack([part[word] for part in parts]) for word in ("image", "label")}
    batch |= {"index": jnp.arange(4) + 3, "case": jnp.asarray([7, 8, 9, 10])}
    key = jax.random.key(5)
    whole = fn(key, batch)
    np.testing.assert_array_equal(whole["case"], batch["case"])
    halves = [fn(key, {word: value[half] for word, value in batch.items()}) for half in (slice(0, 2), slice(2, 4))]
    for word in whole:
        np.testing.assert_array_equal(whole[word], jnp.concatenate([half[word] for half in halves]))
    assert not np.array_equal(whole["image"][0], whole["image"][1])


def test_batched_equals_vmap():
    names = ("rotate_scale", "contrast", "low_resolution", "mirror")
    fn = augment.chain([function(name, 3, probability=0.7) for name in names])
    batch = {word: jnp.stack([draw(3, 0)[word], draw(3, 1)[word]]) for word in ("image", "label")}
    got = quick(augment.batched(fn))(jax.random.key(2), batch | {"index": jnp.asarray([4, 0])})
    keys = jnp.stack([jax.random.fold_in(jax.random.key(2), place) for place in (4, 0)])
    want = quick(jax.vmap(fn))(keys, batch)
    np.testing.assert_allclose(got["image"], want["image"], atol=2e-5)
    np.testing.assert_array_equal(got["label"], want["label"])


def test_batched_names_what_is_missing():
    with pytest.raises(ValueError, match="lacks index"):
        augment.batched(augment.none)(
            jax.random.key(0), {"image": jnp.zeros((1, 2, 2, 1)), "label": jnp.zeros((1, 2, 2))}
        )
