"""SPADE: parameters by formula, the norm without modulation, styles and labels that matter, bad input."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxseg import models, ops
from jaxseg.models import gan_layers, spade

QUICK = {"xla_backend_optimization_level": 0}  # these laws do not need fast code
TINY = {"features": 2, "channels": 2, "widths": (2, 1, 1), "hidden": 3, "style_features": 4, "spectral": False}
SIZES = {2: (4, 8), 3: (2, 4, 6)}


def drawn(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def labels_of(shape, classes, seed=0):
    ids = np.random.default_rng(seed).integers(classes, size=shape)
    return jnp.asarray(np.eye(classes, dtype=np.float32)[ids])


def filled(model, *given):
    draw = np.random.default_rng(2)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *given)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * draw.normal(size=leaf.shape), jnp.float32), shapes)


def quick(function):
    return jax.jit(function, compiler_options=QUICK)


def abstract(model, *shapes):
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    variables = jax.eval_shape(model.init, jax.random.key(0), *given)
    image, _ = jax.eval_shape(model.apply, variables, *given)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])), image.shape


def conv(k, i, o, bias=True):
    return k * k * i * o + o * bias


def by_formula(labels, features, hidden, style, widths):
    def norm(width):
        return conv(3, labels, hidden) + style * hidden + 2 * conv(3, hidden, width)

    widths = [features * width for width in widths]
    total = conv(3, labels, widths[0]) + conv(3, features, 1)
    for before, after in zip([widths[0], *widths], widths):
        middle = min(before, after)
        total += norm(before) + norm(middle) + conv(3, before, middle) + conv(3, middle, after)
        if before != after:
            total += norm(before) + conv(1, before, after, bias=False)
    return total


PUBLISHED = (16, 16, 16, 8, 4, 2, 1)


def test_parameters():
    assert by_formula(3, 8, 32, 0, PUBLISHED) == 1_853_993
    found, shape = abstract(models.create_generator("spade", style_features=0, spectral=False), (1, 64, 96, 3))
    assert found == by_formula(3, 64, 128, 0, PUBLISHED) == 92_058_433 and shape == (1, 64, 96, 1)
    small = models.create_generator("spade", features=8, hidden=32, style_features=5, widths=(2, 2, 1))
    found, shape = abstract(small, (1, 6, 8, 3), (1, 5))
    assert found == by_formula(3, 8, 32, 5, (2, 2, 1)) and shape == (1, 6, 8, 1)


@pytest.mark.parametrize("n", (2, 3))
def test_labels_and_styles_decide_each_image_alone(n):
    model = models.create_generator("spade", ndim=n, **TINY)
    labels, style = labels_of((2, *SIZES[n]), 3), drawn((2, 4), seed=1)
    variables = filled(model, labels, style)

    def loss(params, labels, style):
        image, _ = model.apply({"params": params}, labels, style)
        return jnp.sum(jnp.square(image - 0.3)), image

    if n == 2:
        derive = quick(jax.value_and_grad(loss, has_aux=True))
        (_, image), gradients = derive(variables["params"], labels, style)
        for path, leaf in jax.tree.leaves_with_path(gradients):
            assert np.isfinite(leaf).all(), path
            assert path[-1].key != "kernel" or np.abs(leaf).max() > 1e-6, path
    else:
        derive = quick(lambda *given: ((None, loss(*given)[1]), None))
        image = derive(variables["params"], labels, style)[0][1]
    assert image.shape == (2, *SIZES[n], 2) and image.dtype == jnp.float32 and np.abs(image).max() <= 1
    for others in ((labels.at[1].set(labels[1, ::-1]), style), (labels, style.at[1].add(1.0))):
        other = derive(variables["params"], *others)[0][1]
        assert_allclose(other[0], image[0], atol=1e-6)
        # instance norm would take a constant style out, were it added before
        assert np.abs(other[1] - image[1]).max() > 1e-3


def test_spectral_and_batch_norm_collections():
    labels, style = labels_of((2, 4, 8), 3), drawn((2, 4))
    model = models.create_generator("spade", **{**TINY, "spectral": True, "norm": "batch", "dtype": "bfloat16"})
    shapes = jax.eval_shape(model.init, jax.random.key(0), labels, style)
    assert set(shapes) == {"params", "spectral", "batch_stats"}
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    assert set(shapes["spectral"]) == {"block_0", "block_1", "block_2"}  # not the norms, the stem or the head
    assert set(shapes["spectral"]["block_0"]) == {"conv_0", "conv_1"}
    assert set(shapes["spectral"]["block_1"]) == {"conv_0", "conv_1", "conv_skip"}

    def train(variables):
        return model.apply(variables, labels, style, train=True, mutable=["spectral", "batch_stats"])

    (image, _), updated = jax.eval_shape(train, shapes)
    assert image.dtype == jnp.float32 and set(updated) == {"spectral", "batch_stats"}


def test_spade_without_modulation_is_the_plain_norm():
    layer = spade.SpadeNorm(hidden=3)
    x, labels, style = drawn((2, 6, 8, 5)), labels_of((2, 12, 16), 4), drawn((2, 7), seed=1)
    variables = filled(layer, x, labels, style)
    params = dict(variables["params"])
    for name in ("scale", "shift"):
        params[name] = jax.tree.map(jnp.zeros_like, params[name])
    apply = quick(layer.apply)
    assert_allclose(apply({"params": params}, x, labels, style), gan_layers.standardise(x), atol=1e-6)
    params["shift"] = {**params["shift"], "bias": jnp.full(5, 0.5)}
    params["scale"] = {**params["scale"], "bias": jnp.full(5, 2.0)}
    assert_allclose(apply({"params": params}, x, labels, style), 3 * gan_layers.standardise(x) + 0.5, atol=1e-5)
    # with the modulation, labels and style change what comes out
    full = apply(variables, x, labels, style)
    assert np.abs(full - apply(variables, x, labels[::-1], style)).max() > 1e-5
    assert np.abs(full - apply(variables, x, labels, style[::-1])).max() > 1e-5


def test_labels_are_read_at_the_middle_of_each_cell():
    labels = np.asarray(labels_of((1, 8, 12), 3))
    assert_array_equal(ops.resize(jnp.asarray(labels), (2, 3), method="nearest"), labels[:, 2::4, 2::4])


@pytest.mark.parametrize(
    "fields, shapes, message",
    [
        ({}, ((1, 8, 12, 3), (1, 5)), "style_features=4 takes a style of that length; it got 5"),
        ({}, ((1, 8, 12, 3),), "it got None"),
        ({"widths": (2, 1)}, ((1, 8, 12, 3), (1, 4)), "three blocks or more"),
        ({}, ((1, 8, 11, 3), (1, 4)), "divisible by 2 along spatial axis 1"),
        ({"norm": "none"}, ((1, 8, 12, 3), (1, 4)), "norm of SPADE should be instance or batch"),
    ],
)
def test_what_does_not_fit_is_told(fields, shapes, message):
    with pytest.raises(ValueError, match=message):
        abstract(models.create_generator("spade", **{**TINY, **fields}), *shapes)
