"""pix2pix and the ResNet generator: published parameter counts by formula, shapes, numpy references, laws."""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxseg import models
from jaxseg.models import gan_layers
from jaxseg.typing import UserError

# These laws do not need fast code, and compiling it would take most of the time.
QUICK = {"xla_backend_optimization_level": 0}
TINY = {
    "pix2pix": {"features": 2, "n_downs": 2},
    "resnet_generator": {"features": 2, "downs": 1, "blocks": 1},
}
SIZES = {2: (8, 12), 3: (4, 8, 12)}


def drawn(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def inputs(name, n, channels=2):
    """What a tiny generator is called with."""
    return (drawn((2, *SIZES[n], channels)),)


def made(name, n, channels=2, **fields):
    """A tiny generator, its variables drawn without compiling `init`, and an input."""
    model = models.create_generator(name, ndim=n, channels=channels, **{**TINY[name], **fields})
    given = inputs(name, n)
    return model, filled(model, *given), given


def filled(model, *given):
    draw = np.random.default_rng(2)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *given)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * draw.normal(size=leaf.shape), jnp.float32), shapes)


def quick(function, **options):
    return jax.jit(function, compiler_options=QUICK, **options)


def count(variables):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


def abstract(model, *shapes):
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    variables = jax.eval_shape(model.init, jax.random.key(0), *given)
    image, _ = jax.eval_shape(model.apply, variables, *given)
    return count(variables), image.shape


# Parameters of a convolution from i to o channels by k x k; of a batch norm over c channels.
def conv(k, i, o, bias=True):
    return k * k * i * o + o * bias


def test_every_generator_is_covered():
    assert set(models.generator_names()) == {*TINY, "spade", "super_resolution"}  # these: files of their own


def pix2pix_by_formula(channels, n_downs):
    """With batch norm: no bias but the last layer's, no norm on the first and the deepest way down."""
    widths = [64 * min(2**level, 8) for level in range(n_downs)]
    total = conv(4, channels, 64, bias=False) + conv(4, 2 * 64, channels)
    total += sum(2 * width for width in (*widths[1:-1], *widths[:-1]))
    for level, (outer, inner) in enumerate(itertools.pairwise(widths), start=1):
        joined = inner if level == n_downs - 1 else 2 * inner  # the deepest has no skip
        total += conv(4, outer, inner, bias=False) + conv(4, joined, outer, bias=False)
    return total


def test_parameters_of_pix2pix():
    assert pix2pix_by_formula(1, 8) == 54_407_809 and pix2pix_by_formula(1, 7) == 41_822_849
    model = models.create_generator("pix2pix", channels=3, norm="batch")
    found, shape = abstract(model, (1, 256, 512, 3))
    assert found == pix2pix_by_formula(3, 8) == 54_413_955 and shape == (1, 256, 512, 3)
    # Instance norm has no parameters, and then every layer has a bias.
    own, _ = abstract(models.create_generator("pix2pix", channels=3), (1, 256, 256, 3))
    widths = [64 * min(2**level, 8) for level in range(8)]
    scales, biases = 2 * (sum(widths[1:-1]) + sum(widths[:-1])), sum(widths) + sum(widths[:-1])
    assert own == found - scales + biases


def resnet_by_formula(channels, blocks):
    """Instance norm without parameters, a bias in every layer."""
    total = conv(7, channels, 64) + conv(3, 64, 128) + conv(3, 128, 256) + 2 * blocks * conv(3, 256, 256)
    return total + conv(3, 256, 128) + conv(3, 128, 64) + conv(7, 64, channels)


def test_parameters_of_the_resnet_generator():
    assert resnet_by_formula(3, 9) == 11_378_179 and resnet_by_formula(1, 9) == 11_365_633
    model = models.create_generator("resnet_generator", channels=3, blocks=6)
    found, shape = abstract(model, (1, 64, 96, 3))
    assert found == resnet_by_formula(3, 6) == 7_837_699 and shape == (1, 64, 96, 3)


def loss_and_image(params, model, given):
    image, aux = model.apply({"params": params}, *given)
    return jnp.sum(jnp.square(image - 0.3)), (image, aux)


@pytest.mark.parametrize("n", (2, 3))
@pytest.mark.parametrize("name", TINY)
def test_shape_and_samples_apart(name, n):
    model, variables, (given,) = made(name, n)
    calls = quick(lambda params, image: loss_and_image(params, model, (image,))[1])
    derive = jax.value_and_grad(lambda params, image: loss_and_image(params, model, (image,)), has_aux=True)
    if n == 2:  # in 3D the gradient takes long to compile
        derive = quick(derive)
        (_, (image, aux)), gradients = derive(variables["params"], given)
        other = derive(variables["params"], given.at[1].set(given[1, ::-1]))[0][1][0]
        for path, leaf in jax.tree.leaves_with_path(gradients):
            assert np.isfinite(leaf).all(), path
            assert path[-1].key != "kernel" or np.abs(leaf).max() > 1e-6, path
    else:
        image, aux = calls(variables["params"], given)
        other = calls(variables["params"], given.at[1].set(given[1, ::-1]))[0]
    assert image.shape == (2, *SIZES[n], 2) and image.dtype == jnp.float32
    assert aux["features"].shape[0] == 2
    assert np.abs(image).max() <= 1
    assert_allclose(other[0], image[0], atol=1e-6)  # a sample does not depend on its batch
    assert np.abs(other[1] - image[1]).max() > 1e-4


@pytest.mark.parametrize("name", TINY)
def test_bfloat16_keeps_float32_parameters_and_images(name):
    model = models.create_generator(name, channels=2, dtype="bfloat16", **TINY[name])
    given = inputs(name, 2)
    variables = jax.eval_shape(model.init, jax.random.key(0), *given)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert jax.eval_shape(model.apply, variables, *given)[0].dtype == jnp.float32


def test_batch_norm_averages_and_updates():
    for name in ("pix2pix", "resnet_generator"):
        model = models.create_generator(name, channels=1, norm="batch", **TINY[name])
        given = inputs(name, 2)
        variables = jax.eval_shape(model.init, jax.random.key(0), *given)
        collections = [kind for kind in variables if kind != "params"]
        assert "batch_stats" in collections
        _, updated = jax.eval_shape(
            lambda v, m=model, g=given, c=collections: m.apply(
                v, *g, train=True, mutable=c, rngs={"dropout": jax.random.key(0)}
            ),
            variables,
        )
        assert set(updated) == set(collections)


def test_dropout_is_the_noise_of_pix2pix():
    model, variables, (image,) = made("pix2pix", 2, n_downs=2)
    apply = quick(model.apply, static_argnames=("train", "noise"))

    def draw(seed, **options):
        return np.asarray(apply(variables, image, rngs={"dropout": jax.random.key(seed)}, **options)[0])

    assert_array_equal(draw(0), draw(1))
    without_key = jax.eval_shape(lambda: model.apply(variables, image, train=True, noise=False))[0]
    assert without_key.shape == image.shape  # nothing is drawn, so no key is missed
    assert np.abs(draw(0, noise=True) - draw(1, noise=True)).max() > 1e-4
    assert_array_equal(draw(0, noise=True), draw(0, train=True))


def test_jit_equals_eager():
    model, variables, (image,) = made("resnet_generator", 2, blocks=0)
    assert_allclose(quick(model.apply)(variables, image)[0], model.apply(variables, image)[0], atol=1e-5)


def test_the_three_deepest_levels_up_drop():
    model = models.create_generator("pix2pix", n_downs=5)
    image = jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
    seen = []

    def interceptor(call, args, kwargs, context):
        if type(context.module).__name__ == "Dropout":
            seen.append(context.module.name)
        return call(*args, **kwargs)

    with nn.intercept_methods(interceptor):
        jax.eval_shape(model.init, jax.random.key(0), image)
    assert seen == ["up_4_dropout", "up_3_dropout", "up_2_dropout"]


def test_reflection_is_that_of_numpy():
    x = drawn((2, 4, 5, 3))
    expected = np.pad(np.asarray(x), ((0, 0), (3, 3), (3, 3), (0, 0)), mode="reflect")
    assert_array_equal(gan_layers.reflect_pad(x, 3), expected)
    with pytest.raises(ValueError, match="Reflecting 4 pixels needs axes of 5 or more"):
        gan_layers.reflect_pad(x, 4)


def test_instance_norm_without_parameters():
    x = drawn((2, 3, 4, 5, 2)) * 3 + 7
    values = np.asarray(x, np.float64)
    mean, variance = (f(axis=(1, 2, 3), keepdims=True) for f in (values.mean, values.var))
    assert_allclose(gan_layers.standardise(x), (values - mean) / np.sqrt(variance + 1e-5), atol=1e-5)
    assert_array_equal(gan_layers.standardise(jnp.full((1, 2, 3, 1), 4.0)), 0)


BAD = [
    ("pix2pix", {"n_downs": 3}, ((1, 8, 12, 1),), "divisible by 8 along spatial axis 1; it is 12"),
    ("pix2pix", {"n_downs": 1}, ((1, 8, 12, 1),), "n_downs of 2 or more; it is 1"),
    ("pix2pix", {"norm": "layer"}, ((1, 8, 12, 1),), "one of instance, batch, none; it is 'layer'"),
    ("pix2pix", {"output": "sigmoid"}, ((1, 8, 12, 1),), "one of tanh, none; it is 'sigmoid'"),
    ("pix2pix", {"ndim": 3}, ((1, 8, 12, 1),), "pix2pix generator with ndim=3 takes"),
    ("pix2pix", {"ndim": 1}, ((1, 8, 1),), "ndim should be 2 or 3; it is 1"),
    ("resnet_generator", {}, ((1, 8, 13, 1),), "divisible by 2 along spatial axis 1"),
    ("resnet_generator", {}, ((1, 8, 2, 1),), "Reflecting 3 pixels needs axes of 4"),
]


@pytest.mark.parametrize("name, fields, shapes, message", BAD)
def test_what_does_not_fit_is_told(name, fields, shapes, message):
    model = models.create_generator(name, **{**TINY[name], **fields})
    with pytest.raises(ValueError, match=message):
        abstract(model, *shapes)


def test_names_and_fields_that_do_not_exist_are_told():
    with pytest.raises(UserError, match="no generator named 'pix3pix'; did you mean pix2pix"):
        models.create_generator("pix3pix")
    with pytest.raises(UserError, match="generator 'spade' has no field width; its fields: ndim, channels"):
        models.create_generator("spade", width=3)
