"""Geometry: exact crops and turns, class pairs, and how often and how far things move."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.data import augment
from jaxseg.data.augment import draw, spatial

# These laws do not need fast code, and compiling it would take most of the time.
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
KEYS = jax.random.split(jax.random.key(0), 400)


def sample(*size, channels=1):
    random = np.random.default_rng(0)
    image = jnp.asarray(random.normal(size=(*size, channels)), jnp.float32)
    return {"image": image, "label": jnp.asarray(random.integers(-1, 4, size), jnp.int32)}


def many(fn, one, keys=KEYS):
    return jax.tree.map(np.asarray, quick(jax.vmap(fn, (0, None)))(keys, one))


def test_quarter_turn_of_image_and_label_equals_rot90(monkeypatch):
    monkeypatch.setattr(
        spatial, "_random_matrix", lambda *_: (spatial.warp.affine_matrix(math.pi / 2), jnp.asarray(True))
    )
    one = sample(6, 6)
    for interpolation in ("nearest", "linear"):
        got = augment.rotate_scale(KEYS[0], one, interpolation=interpolation)
        np.testing.assert_allclose(got["image"], np.rot90(one["image"]), atol=1e-5)
        np.testing.assert_array_equal(got["label"], np.rot90(one["label"]))


def test_without_motion_the_centre_is_cut_or_filled_exactly():
    one = sample(9, 4)
    got = augment.rotate_scale(KEYS[0], one, probability=0.0, patch_size=(6, 7), fill=-2.0, label_fill=-1)
    np.testing.assert_array_equal(got["image"][:, 2:6], one["image"][1:7])
    np.testing.assert_array_equal(got["label"][:, 2:6], one["label"][1:7])
    assert (got["image"][:, [0, 1, 6]] == -2).all() and (got["label"][:, [0, 1, 6]] == -1).all()
    np.testing.assert_array_equal(
        augment.center_crop(KEYS[0], one, patch_size=(6, 7))["label"][:, 2:6], one["label"][1:7]
    )


def test_angles_and_scales_are_drawn_as_asked():
    draws = jax.vmap(lambda k: spatial._random_matrix(*jax.random.split(k), 2, 0.5, 0.3, (0.7, 1.4)))
    matrices, moved = map(np.asarray, quick(draws)(KEYS))
    scale = np.sqrt(np.linalg.det(matrices))
    angle = np.arctan2(matrices[:, 0, 1], matrices[:, 0, 0])
    assert abs((np.abs(angle) > 1e-6).mean() - 0.5) < 0.08 and np.abs(angle).max() <= 0.3 + 1e-5 and angle.min() < -0.25
    assert abs((np.abs(scale - 1) > 1e-6).mean() - 0.5) < 0.08
    assert 0.7 - 1e-5 <= scale.min() < 0.75 and 1.3 < scale.max() <= 1.4 + 1e-5
    assert abs(moved.mean() - 0.75) < 0.07
    np.testing.assert_array_equal(matrices[~moved], np.broadcast_to(np.eye(2), matrices[~moved].shape))


def test_factors_are_half_below_and_half_above_one():
    factors = np.asarray(jax.vmap(lambda k: draw.around_one(k, (0.7, 1.5)))(KEYS))
    assert abs((factors < 1).mean() - 0.5) < 0.08
    assert abs(factors[factors < 1].mean() - 0.85) < 0.02 and abs(factors[factors > 1].mean() - 1.25) < 0.03
    assert np.asarray(jax.vmap(lambda k: draw.around_one(k, (1.1, 1.2)))(KEYS)).min() >= 1.1
    with pytest.raises(ValueError, match="low, high"):
        draw.around_one(KEYS[0], (2.0, 1.0))


def test_stack_of_slices_moves_within_slices():
    plane = sample(12, 14)
    stack = {"image": jnp.stack([plane["image"]] * 3), "label": jnp.stack([plane["label"]] * 3)}
    assert spatial.flattened((3, 12, 14)) and not spatial.flattened((4, 12, 12))
    fn = functools.partial(augment.rotate_scale, probability=1.0, elastic_probability=1.0, elastic_sigma=1.0)
    got = fn(KEYS[1], stack)
    flat = fn(KEYS[1], plane, max_angle=math.pi)
    for place in range(3):
        np.testing.assert_allclose(got["image"][place], flat["image"], atol=1e-5)
        np.testing.assert_array_equal(got["label"][place], flat["label"])
    with pytest.raises(ValueError, match="3D"):
        augment.rotate_scale(KEYS[0], plane, dummy_2d=True)


def test_default_angles_are_nnunets():
    degrees = {(128, 128, 96): 30, (20, 320, 256): 180, (512, 512): 180, (512, 320): 15}
    for patch, angle in degrees.items():
        assert math.isclose(spatial.default_angle(patch), math.radians(angle))


def test_elastic_moves_by_its_sigma_and_keeps_still_axes():
    ramps = jnp.stack(jnp.meshgrid(jnp.arange(21.0), jnp.arange(25.0), indexing="ij"), -1)
    one = {"image": jnp.pad(ramps, ((20, 20), (20, 20), (0, 0)), mode="reflect", reflect_type="odd")}
    one["label"] = jnp.zeros(one["image"].shape[:2], jnp.int32)
    fn = functools.partial(augment.elastic, probability=1.0, sigma=(2.0, 0.0), patch_size=(21, 25))
    shift = np.asarray(many(fn, one)["image"] - ramps)
    control = shift[:, ::10, ::12, 0]
    assert abs(control.std() - 2) < 0.1 and abs(control.mean()) < 0.15
    np.testing.assert_allclose(shift[..., 1], 0, atol=1e-4)


def test_mirror_swaps_pairs_only_with_left_and_right():
    label = jnp.asarray([[1, 2, 0], [3, -1, 2]])
    one = {"image": label[..., None].astype(jnp.float32), "label": label}
    mirror = functools.partial(augment.mirror, KEYS[0], one, probability=1.0, pairs=[(1, 2)])
    swapped = np.array([[2, 1, 0], [3, -1, 1]])
    np.testing.assert_array_equal(mirror(axes=(1,))["label"], swapped[:, ::-1])
    np.testing.assert_array_equal(mirror(axes=(-1,))["image"][..., 0], label[:, ::-1])
    np.testing.assert_array_equal(mirror(axes=(0,))["label"], label[::-1])
    np.testing.assert_array_equal(mirror()["label"], swapped[::-1, ::-1])
    np.testing.assert_array_equal(mirror(left_right_axis=0, axes=(0,))["label"], swapped[::-1])
    np.testing.assert_array_equal(mirror(axes=())["label"], label)
    with pytest.raises(ValueError, match="with 2 spatial axes, not 2"):
        mirror(axes=(2,))


def test_mirror_flips_each_axis_half_of_the_time():
    one = sample(3, 4)
    got = np.asarray(many(augment.mirror, one)["image"])[..., 0]
    image = np.asarray(one["image"])[..., 0]
    shares = [np.mean([np.array_equal(g, np.flip(image, axes)) for g in got]) for axes in ((), 0, 1, (0, 1))]
    assert math.isclose(sum(shares), 1) and max(abs(share - 0.25) for share in shares) < 0.07


def test_rotate90_makes_the_three_turns_and_half_turns_where_not_square():
    for size, turns in (((4, 4), (1, 2, 3)), ((3, 5), (2,))):
        one = sample(*size)
        got = many(functools.partial(augment.rotate90, probability=1.0), one, KEYS[:60])
        shares = []
        for turn in turns:
            image, label = np.rot90(one["image"], turn), np.rot90(one["label"], turn)
            hits = [np.array_equal(a, image) and np.array_equal(b, label) for a, b in zip(got["image"], got["label"])]
            shares.append(np.mean(hits))
        assert math.isclose(sum(shares), 1) and min(shares) > 0.15
    stack = sample(2, 4, 4)
    got = augment.rotate90(KEYS[3], stack, probability=1.0)
    assert any(np.array_equal(got["image"], np.rot90(stack["image"], k, axes=(1, 2))) for k in (1, 2, 3))


def test_random_crop_reaches_every_place():
    one = {"image": jnp.arange(5 * 4.0).reshape(5, 4, 1), "label": jnp.arange(20).reshape(5, 4)}
    got = many(functools.partial(augment.random_crop, patch_size=(3, 4)), one)
    np.testing.assert_array_equal(got["image"][..., 0], got["label"])
    firsts, counts = np.unique(got["label"][:, 0, 0], return_counts=True)
    np.testing.assert_array_equal(firsts, [0, 4, 8])
    assert counts.min() > 100
    with pytest.raises(ValueError, match="does not fit"):
        augment.random_crop(KEYS[0], one, patch_size=(6, 4))


def test_cutout_blanks_one_box_anywhere():
    one = {"image": jnp.ones((8, 12, 1)), "label": jnp.ones((8, 12), jnp.int32)}
    got = many(functools.partial(augment.cutout, probability=1.0, fraction=0.25, fill=5.0), one)
    assert ((np.asarray(got["image"]) == 5).sum((1, 2, 3)) == 2 * 3).all()
    assert ((np.asarray(got["image"]) == 5).any(0)).all() and (np.asarray(got["label"]) == 1).all()


def test_patch_of_other_axes_is_refused():
    with pytest.raises(ValueError, match="as many axes"):
        augment.rotate_scale(KEYS[0], sample(4, 5), patch_size=(4, 5, 6))
