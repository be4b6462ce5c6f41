"""Pipelines from text: order, defaults, sizes to read, degrees, and what the user hears about mistakes."""

import functools
import math
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.data import augment
from jaxseg.typing import UserError

PATCH = (4, 6)
# These laws do not need fast code, and compiling it would take most of the time.
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def add_one(key, sample, *, patch_size, pairs=(), amount=1.0):
    """An outside augmentation that shows what it was given."""
    return {"image": sample["image"] + amount + len(pairs), "label": sample["label"] + patch_size[1]}


def double(key, sample):
    return sample | {"image": sample["image"] * 2}


add_one.input_size = lambda patch_size, *, amount=1.0, **_: tuple(n + int(amount) for n in patch_size)


def batch(size=PATCH):
    return {"image": jnp.ones((2, *size, 1)), "label": jnp.zeros((2, *size), jnp.int32), "index": jnp.arange(2)}


def outside(monkeypatch):
    module = types.ModuleType("my_augmentations")
    module.add_one, module.double = add_one, double
    monkeypatch.setitem(sys.modules, "my_augmentations", module)


def test_functions_run_in_order_and_get_the_defaults(monkeypatch):
    outside(monkeypatch)
    text = "my_augmentations:add_one(amount=3.0) | my_augmentations:double"
    result = augment.from_string(text, patch_size=PATCH, flip_pairs=[(1, 2)])(jax.random.key(0), batch())
    np.testing.assert_array_equal(result["image"], 2 * (1 + 3 + 1) * np.ones((2, *PATCH, 1)))
    np.testing.assert_array_equal(result["label"], np.full((2, *PATCH), 6))
    given = augment.from_string("my_augmentations:add_one(patch_size=(1, 9), pairs=())", patch_size=PATCH)
    result = given(jax.random.key(0), batch())
    assert result["label"].max() == 9 and result["image"].max() == 2


def test_sizes_are_found_from_the_end(monkeypatch):
    outside(monkeypatch)
    assert augment.raw_patch_size("none", PATCH) == PATCH
    assert augment.raw_patch_size("gamma|mirror", PATCH) == PATCH
    assert augment.raw_patch_size("my_augmentations:add_one(amount=3.0)|my_augmentations:add_one", PATCH) == (8, 10)
    text = "elastic(sigma=2.0)|rotate_scale(max_angle=0.0, scale=(0.5, 2.0))|gamma"
    assert augment.raw_patch_size(text, PATCH) == (16, 20)
    result = quick(augment.from_string(text, patch_size=PATCH))(jax.random.key(0), batch((16, 20)))
    assert result["image"].shape == (2, *PATCH, 1)
    np.testing.assert_allclose(result["image"], 1, atol=1e-5)  # nothing from beyond the raw patch came in


def test_input_size_is_nnunets():
    angle = math.radians(30)
    assert augment.input_size((128, 128, 128), max_angle=angle, scale=(0.85, 1.25)) == (205, 205, 205)
    assert augment.input_size((512, 512), max_angle=math.pi, scale=(0.85, 1.25)) == (602, 602)
    assert augment.input_size((30, 40), max_angle=0.0, scale=(1.0, 1.0)) == (30, 40)
    assert augment.raw_patch_size("nnunet", (128, 128, 128)) == (205, 205, 205)
    assert augment.raw_patch_size("nnunet", (20, 320, 256)) == (20, 376, 376)  # slices: axis 0 is not turned
    long = augment.raw_patch_size("nnunet", (512, 320))  # 2D, over 3:2: 15 degrees
    cosine, sine = math.cos(angle / 2), math.sin(angle / 2)
    assert long == (int((512 * cosine + 320 * sine) / 0.85), int((320 * cosine + 512 * sine) / 0.85))


def test_options_in_degrees(monkeypatch):
    outside(monkeypatch)
    fn = augment.from_string("my_augmentations:add_one(amount_degrees=180)", patch_size=PATCH)
    np.testing.assert_allclose(fn(jax.random.key(0), batch())["image"], 1 + math.pi, rtol=1e-6)
    assert augment.raw_patch_size("rotate_scale(max_angle_degrees=(0, 0, 90), scale=(1, 1))", (8, 9, 10)) == (9, 9, 10)


def test_none_changes_nothing():
    result = augment.from_string("none", patch_size=PATCH)(jax.random.key(0), batch())
    for word, value in batch().items():
        np.testing.assert_array_equal(result[word], value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gama", "did you mean gamma"),
        ("gamma(strenght=1)", "has no option 'strenght'; it has probability, exponent"),
        ("mirror||gamma", "write 'none'"),
        ("", "write 'none'"),
        ("mirror(0)", "only keyword arguments"),
        ("no_such_package:fn", "cannot be imported"),
    ],
)
def test_mistakes_are_one_sentence(text, message):
    with pytest.raises(UserError, match=message):
        augment.from_string(text, patch_size=PATCH)


def test_missing_option_is_named(monkeypatch):
    outside(monkeypatch)
    sys.modules["my_augmentations"].needy = lambda key, sample, *, strength: sample
    with pytest.raises(UserError, match="needs strength"):
        augment.from_string("my_augmentations:needy", patch_size=PATCH)


def test_chain_gives_each_function_its_own_key():
    seen = []

    def keep(key, sample):
        seen.append(tuple(np.asarray(jax.random.key_data(key))))
        return sample

    augment.chain([keep, keep, keep])(jax.random.key(0), {})
    assert len(set(seen)) == 3
