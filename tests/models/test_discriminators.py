"""PatchGANs: published parameter counts, field of view, scales, spectral norm against numpy, gradients of gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxseg import losses, models
from jaxseg.models import discriminators, gan_layers
from jaxseg.typing import UserError

QUICK = {"xla_backend_optimization_level": 0}  # these laws do not need fast code
TINY = {"features": 2, "layers": 1}
SIZES = {2: (12, 16), 3: (8, 6, 12)}


def drawn(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def filled(model, image):
    draw = np.random.default_rng(2)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * draw.normal(size=leaf.shape), jnp.float32), shapes)


def quick(function, **options):
    return jax.jit(function, compiler_options=QUICK, **options)


def conv(i, o, bias=True):
    return 16 * i * o + o * bias


def by_formula(channels, batch):
    """Batch norm: a scale and a shift a channel, and then no bias before it. Instance norm: none, and biases."""
    middle = [(64, 128), (128, 256), (256, 512)]
    total = conv(channels, 64) + conv(512, 1) + sum(conv(i, o, bias=not batch) for i, o in middle)
    return total + batch * sum(2 * o for _, o in middle)


@pytest.mark.parametrize(
    "published, channels, norm",
    [(2_768_705, 6, "batch"), (2_764_609, 2, "batch"), (2_762_689, 1, "instance"), (None, 3, "instance")],
)
def test_parameters_of_the_70_pixel_patch_gan(published, channels, norm):
    model = models.create_discriminator("patch_gan", norm=norm, spectral=channels == 3)
    image = jax.ShapeDtypeStruct((1, 256, 128, channels), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    assert count == by_formula(channels, norm == "batch") and published in (count, None)
    logits, aux = jax.eval_shape(model.apply, variables, image)
    assert logits.shape == (1, 30, 14, 1)  # 256: the reference's 30 x 30 logits
    widths = [feature.shape[-1] for feature in aux["features"]]
    assert widths == [64, 128, 256, 512]
    assert by_formula(3, False) == 2_764_737  # CycleGAN's, 2.765 M


@pytest.mark.parametrize("depth, sees", [(1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_so_many_pixels(depth, sees):
    model = models.create_discriminator("patch_gan", features=1, layers=depth, norm="none")
    image = jnp.zeros((1, 96, 24, 1))
    # Positive weights and inputs: no leaky ReLU silences a path, so every pixel within reach has a gradient.
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1), shapes)
    logits = jax.eval_shape(model.apply, variables, image)[0]
    middle = logits.shape[1] // 2
    reach = quick(jax.grad(lambda x: model.apply(variables, x)[0][0, middle, 0, 0]))(image)
    rows = np.flatnonzero(np.abs(reach[0, ..., 0]).max(axis=1))
    assert len(rows) == rows[-1] - rows[0] + 1 == sees


@pytest.mark.parametrize("n", (2, 3))
def test_scales_features_and_samples_apart(n):
    model = models.create_discriminator("multi_scale_patch_gan", ndim=n, **TINY)
    image = drawn((2, *SIZES[n], 3))
    if n == 3:
        image = drawn((2, 12, 12, 14, 3))
    variables = filled(model, image)
    apply = quick(model.apply)
    logits, aux = apply(variables, image)
    size = np.asarray(image.shape[1:-1])
    for scale, (values, features) in enumerate(zip(logits, aux["features"])):
        here = -(-size // 2**scale)
        assert values.shape == (2, *(here // 2 - 2), 1) and values.dtype == jnp.float32
        assert [feature.shape for feature in features] == [(2, *(here // 2), 2), (2, *(here // 2 - 1), 4)]
    assert len(logits) == len(aux["features"]) == 2
    other = apply(variables, image.at[1].set(image[1, ::-1]))[0]
    for one, two in zip(logits, other):
        assert_allclose(two[0], one[0], atol=1e-6)
        assert np.abs(one[1] - two[1]).max() > 1e-4
    if n == 2:
        finest = models.create_discriminator("patch_gan", spectral=True, **TINY)
        own = {kind: tree["scale_0"] for kind, tree in variables.items()}
        assert_allclose(finest.apply(own, image)[0], logits[0], atol=1e-5)  # eager, and alone


@pytest.mark.parametrize("size", [(7, 4), (5, 6, 3)])
def test_halving_counts_only_pixels_that_exist(size):
    x = np.asarray(drawn((2, *size, 3)))
    expected = np.zeros((2, *(-(-length // 2) for length in size), 3))
    for place in np.ndindex(*expected.shape[1:-1]):
        window = tuple(slice(max(2 * p - 1, 0), 2 * p + 2) for p in place)
        part = x[(slice(None), *window)]
        expected[(slice(None), *place)] = part.mean(axis=tuple(range(1, part.ndim - 1)))
    assert_allclose(discriminators.halve(jnp.asarray(x)), expected, atol=1e-6)


def test_spectral_norm_against_numpy():
    layer = gan_layers.Conv(5, (3, 4), use_bias=False, spectral=True)
    image = drawn((1, 6, 7, 2))
    kernel = drawn((3, 4, 2, 5), seed=3)
    true = np.linalg.svd(np.asarray(kernel).reshape(-1, 5), compute_uv=False)[0]
    u = drawn((5,), seed=4)
    variables = {"params": {"kernel": kernel}, "spectral": {"u": u / jnp.linalg.norm(u)}}
    apply = quick(lambda v: layer.apply(v, image, train=True, mutable=["spectral"]))
    plain = quick(gan_layers.Conv(5, (3, 4), use_bias=False).apply)({"params": {"kernel": kernel}}, image)
    sigmas = []
    for _ in range(50):
        y, updated = apply(variables)
        variables = {**variables, **updated}
        sigmas.append(float(jnp.vdot(plain, plain) / jnp.vdot(plain, y)))
    assert sigmas[-1] == pytest.approx(true, rel=1e-4) and sigmas[0] < 0.99 * true
    still = quick(lambda v: layer.apply(v, image))(variables)  # train=False: nothing to update, the same estimate
    assert_allclose(still, y, rtol=1e-4, atol=1e-5)
    normed = np.asarray(kernel).reshape(-1, 5) / sigmas[-1]
    assert np.linalg.svd(normed, compute_uv=False)[0] == pytest.approx(1, abs=1e-2)


def test_spectral_norm_is_near_from_the_start_and_scale_free():
    layer = gan_layers.Conv(5, (3, 3), use_bias=False, spectral=True)
    image = drawn((1, 6, 7, 2))
    variables = quick(layer.init)(jax.random.key(0), image)
    matrix = np.asarray(variables["params"]["kernel"]).reshape(-1, 5)
    true, estimate = np.linalg.svd(matrix)[1][0], np.linalg.norm(matrix @ np.asarray(variables["spectral"]["u"]))
    assert estimate == pytest.approx(true, rel=2e-2) and estimate <= true * (1 + 1e-6)

    def response(factor):
        params = {"kernel": factor * variables["params"]["kernel"]}
        return jnp.sum(jnp.square(layer.apply({**variables, "params": params}, image)))

    value, slope = quick(jax.value_and_grad(response))(3.0)
    # A kernel's size is divided out: neither the value nor the gradient knows it.
    assert value == pytest.approx(float(quick(response)(1.0)), rel=1e-4) and abs(slope) < 1e-4 * value


def test_only_training_updates_the_vectors_and_batch_statistics():
    model = models.create_discriminator("patch_gan", norm="batch", spectral=True, **TINY)
    image = drawn((2, 8, 6, 1))
    variables = filled(model, image)
    assert set(variables) == {"params", "batch_stats", "spectral"}
    apply = quick(
        lambda v, train: model.apply(v, image, train=train, mutable=["batch_stats", "spectral"]),
        static_argnums=1,
    )
    for leaf, before in zip(*(jax.tree.leaves({k: t[k] for k in ("batch_stats", "spectral")}) for t in
                              (apply(variables, False)[1], variables))):  # fmt: skip
        assert_array_equal(leaf, before)
    updated = apply(variables, True)[1]["spectral"]
    for layer, leaf in updated.items():
        # the head has one output, so its vector is 1 or -1
        assert np.linalg.norm(leaf["u"]) == pytest.approx(1, abs=1e-5), layer


def test_r1_can_be_minimised():
    """Gradients of gradients pass through the convolutions and spectral norms: against finite differences."""
    model = models.create_discriminator("patch_gan", spectral=True, **TINY)
    image = drawn((2, 8, 6, 1))
    variables = filled(model, image)

    def penalty(head):
        params = {**variables["params"], "conv_1": {**variables["params"]["conv_1"], "kernel": head}}
        apply = lambda x: model.apply({**variables, "params": params}, x)[0]  # noqa: E731
        return losses.gradient_penalty_r1(apply, image, gamma=100.0).sum()

    kernel = variables["params"]["conv_1"]["kernel"]
    value, gradient = quick(jax.value_and_grad(penalty))(kernel)
    direction = gradient / jnp.linalg.norm(gradient)
    step, just = 1e-2, quick(penalty)
    slope = (just(kernel + step * direction) - just(kernel - step * direction)) / (2 * step)
    assert value > 0 and slope == pytest.approx(float(jnp.linalg.norm(gradient)), rel=2e-2)


def test_what_does_not_fit_is_told():
    def shape(name, size, **fields):
        model = models.create_discriminator(name, **fields)
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *size, 1), jnp.float32))

    with pytest.raises(ValueError, match=r"layers=3 needs 24 pixels an axis; the image is \(24, 23\)"):
        shape("patch_gan", (24, 23))
    shape("patch_gan", (24, 24))
    with pytest.raises(ValueError, match="needs one layer or more; layers is 0"):
        shape("patch_gan", (24, 24), layers=0)
    with pytest.raises(ValueError, match="PatchGAN with ndim=3 takes"):
        shape("patch_gan", (24, 24), ndim=3)
    with pytest.raises(ValueError, match="one scale or more; scales is 0"):
        shape("multi_scale_patch_gan", (24, 24), scales=0)
    with pytest.raises(ValueError, match="one of instance, batch, none; it is 'group'"):
        shape("patch_gan", (24, 24), norm="group")
    with pytest.raises(UserError, match="no discriminator named 'patchgan'; did you mean patch_gan"):
        models.create_discriminator("patchgan")
    with pytest.raises(UserError, match="discriminator 'patch_gan' has no field scales; its fields: ndim, features"):
        models.create_discriminator("patch_gan", scales=2)


def test_every_discriminator_is_listed():
    assert models.discriminator_names() == ("multi_scale_patch_gan", "patch_gan")
