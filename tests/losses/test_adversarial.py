"""Adversarial losses: values by hand, signs of gradients, scales, devices, R1 of a known function, bad input."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxseg import losses
from jaxseg.losses import adversarial
from jaxseg.typing import UserError

SHAPE = (3, 4, 2, 1)


def full(value, shape=SHAPE):
    return np.full(shape, value, np.float32)


def drawn(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def softplus(x):
    return np.log1p(np.exp(np.asarray(x, np.float64)))


@pytest.mark.parametrize(
    "kind, real, fake, of_discriminator, of_generator",
    [
        ("hinge", 0, 0, 2, 0),
        ("hinge", 2, -3, 0, 3),
        ("hinge", 0.25, 0.5, 0.75 + 1.5, -0.5),
        ("least_squares", 0.5, 0.5, 0.25, 0.25),
        ("least_squares", 0, 0, 0.5, 1),
        ("least_squares", 1, 0, 0, 1),
        ("logistic", 0, 0, math.log(2), math.log(2)),
        ("logistic", 2, -1, (softplus(-2) + softplus(-1)) / 2, softplus(1)),
        ("relativistic", 5, 5, math.log(2), math.log(2)),
        ("relativistic", 2, -1, softplus(-3), softplus(3)),
    ],
)
def test_values_by_hand(kind, real, fake, of_discriminator, of_generator):
    own = losses.discriminator_loss(full(real), full(fake), kind=kind)
    assert own.shape == (3,) and own.dtype == jnp.float32
    assert_allclose(own, of_discriminator, rtol=1e-5, atol=1e-6)
    other = {"real_logits": full(real)} if kind == "relativistic" else {}
    assert_allclose(losses.generator_loss(full(fake), kind=kind, **other), of_generator, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", adversarial.KINDS)
def test_players_pull_apart(kind):
    real, fake = drawn() / 4, drawn(seed=1) / 4
    other = {"real_logits": real} if kind == "relativistic" else {}
    by_real = jax.grad(lambda r: losses.discriminator_loss(r, fake, kind=kind).sum())(real)
    by_fake = jax.grad(lambda f: losses.discriminator_loss(real, f, kind=kind).sum())(fake)
    by_generator = jax.grad(lambda f: losses.generator_loss(f, kind=kind, **other).sum())(fake)
    assert (by_real < 0).all() and (by_generator < 0).all()  # both players raise what they favour
    assert (by_fake > 0).mean() > 0.5 and by_fake.sum() > 0  # least squares: from 0, not from below it


@pytest.mark.parametrize("kind", adversarial.KINDS)
def test_samples_scales_and_jit(kind):
    real, fake = [drawn(), drawn((3, 2, 5, 1), 1)], [drawn(seed=2), drawn((3, 2, 5, 1), 3)]
    other = {"real_logits": real} if kind == "relativistic" else {}
    both = losses.discriminator_loss(real, fake, kind=kind)
    apart = [losses.discriminator_loss(r, f, kind=kind) for r, f in zip(real, fake)]
    assert_allclose(both, np.mean(apart, axis=0), rtol=1e-5)
    assert np.abs(apart[0] - apart[1]).max() > 1e-2
    assert_allclose(jax.jit(lambda r, f: losses.discriminator_loss(r, f, kind=kind))(real, fake), both, rtol=1e-5)
    value = losses.generator_loss(fake, kind=kind, **other)
    turned = {"real_logits": [r[::-1] for r in real]} if other else {}
    assert_allclose(losses.generator_loss([f[::-1] for f in fake], kind=kind, **turned), value[::-1], rtol=1e-5)
    low = losses.generator_loss([jnp.asarray(f, jnp.bfloat16) for f in fake], kind=kind, **other)
    assert low.dtype == jnp.float32


def test_relativistic_by_loops():
    real, fake = drawn(), drawn(seed=1) + 1
    discriminator, generator = np.zeros(3), np.zeros(3)
    for i in range(3):
        for r, f in zip(real[i].ravel(), fake[i].ravel()):
            discriminator[i] += (softplus(-(r - fake.mean())) + softplus(f - real.mean())) / 2 / 8
            generator[i] += (softplus(-(f - real.mean())) + softplus(r - fake.mean())) / 2 / 8
    assert_allclose(losses.discriminator_loss(real, fake, kind="relativistic"), discriminator, rtol=1e-5)
    assert_allclose(losses.generator_loss(fake, kind="relativistic", real_logits=real), generator, rtol=1e-5)


def test_relativistic_averages_are_of_all_devices():
    real, fake = drawn((4, 3, 1)), drawn((4, 3, 1), 1)
    whole = losses.discriminator_loss(real, fake, kind="relativistic")

    def part(r, f):
        return losses.discriminator_loss(r, f, kind="relativistic", axis_name="devices")

    parts = jax.vmap(part, axis_name="devices")(real.reshape(2, 2, 3, 1), fake.reshape(2, 2, 3, 1))
    assert_allclose(parts.reshape(4), whole, rtol=1e-5)


def test_logistic_does_not_overflow():
    assert_array_equal(losses.generator_loss(full(-1e4), kind="logistic"), 1e4)
    gradient = jax.grad(lambda f: losses.discriminator_loss(full(1e4), f, kind="logistic").sum())(full(1e4))
    assert_allclose(gradient, 1 / 16)


def test_feature_matching():
    real = [[drawn((2, 4, 3, 2)), drawn((2, 2, 1, 5), 1)], [drawn((2, 3, 3, 2), 2)]]
    fake = [[drawn((2, 4, 3, 2), 3), drawn((2, 2, 1, 5), 4)], [drawn((2, 3, 3, 2), 5)]]
    expected = np.zeros(2)
    for sample in range(2):
        for real_scale, fake_scale in zip(real, fake):
            expected[sample] += sum(np.abs(r[sample] - f[sample]).mean() for r, f in zip(real_scale, fake_scale)) / 2
    assert_allclose(losses.feature_matching(real, fake), expected, rtol=1e-5)
    assert_allclose(losses.feature_matching(real[0], real[0]), 0)
    by_hand = losses.feature_matching([full(1), full(2)], [full(0), full(5)])
    assert_allclose(by_hand, 1 + 3)
    by_real, by_fake = jax.grad(lambda r, f: losses.feature_matching([r], [f]).sum(), argnums=(0, 1))(full(1), full(0))
    assert_array_equal(by_real, 0)
    assert_allclose(by_fake, -1 / 8)


def test_gradient_penalty_of_known_functions():
    real = drawn((2, 3, 4, 1))
    weights = drawn((3, 4, 1), 1)

    def linear(x):  # its gradient is the weights
        return jnp.sum(x * weights, axis=(1, 2, 3))[:, None, None, None]

    value = losses.gradient_penalty_r1(linear, real, gamma=3.0)
    assert_allclose(value, [1.5 * np.square(weights).sum()] * 2, rtol=1e-5)
    # a square, patch by patch: the mean of x**2 over 12 patches has the gradient x / 6
    squares = losses.gradient_penalty_r1(jnp.square, real, gamma=2.0)
    assert_allclose(squares, np.square(real / 6).sum(axis=(1, 2, 3)), rtol=1e-5)
    both = losses.gradient_penalty_r1(lambda x: [jnp.square(x), -jnp.square(x)], real, gamma=2.0)
    assert_allclose(both, 0, atol=1e-6)
    assert_array_equal(losses.gradient_penalty_r1(linear, real, gamma=0.0), 0)
    # and its own gradient: the penalty of scale * x**2 goes with scale**2
    by_scale = jax.grad(lambda s: losses.gradient_penalty_r1(lambda x: s * jnp.square(x), real, gamma=2.0).sum())(3.0)
    assert by_scale == pytest.approx(2 * 3.0 * float(squares.sum()), rel=1e-5)


def test_they_stand_outside_the_table():
    assert not {"generator_loss", "discriminator_loss", "feature_matching"} & set(losses.TABLE)


def test_what_does_not_fit_is_told():
    with pytest.raises(UserError, match=r"one of hinge, least_squares, logistic, relativistic; it is 'wgan'"):
        losses.generator_loss(full(0), kind="wgan")
    with pytest.raises(UserError, match="give real_logits"):
        losses.generator_loss(full(0), kind="relativistic")
    with pytest.raises(UserError, match=r"equal shapes; they are \[\(3, 4, 2, 1\)\], \[\(3, 2, 4, 1\)\]"):
        losses.discriminator_loss(full(0), full(0, (3, 2, 4, 1)))
    with pytest.raises(UserError, match="equal shapes"):
        losses.discriminator_loss([full(0)], [full(0), full(0)])
    with pytest.raises(UserError, match="the list is empty"):
        losses.generator_loss([])
    with pytest.raises(UserError, match=r"it got \[1\] and \[2\]"):
        losses.feature_matching([full(0)], [full(0), full(0)])
    with pytest.raises(UserError, match=r"it got \[\] and \[\]"):
        losses.feature_matching([], [])
    with pytest.raises(UserError, match="compares equal shapes"):
        losses.feature_matching([full(0)], [full(0, (3, 2, 4, 1))])
    with pytest.raises(UserError, match=r"should be 0 or more; it is -1"):
        losses.gradient_penalty_r1(jnp.square, full(0), gamma=-1.0)
