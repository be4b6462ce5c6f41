"""ops.conv against XLA's convolution in values and gradients, for the CPU forms; ops.conv_transpose by definition."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from annotations import unchecked
from jax import lax

from jaxseg import ops

# size, kernel, channels in, channels out, options of ops.conv
CASES_2D = [
    ((6, 8), (3, 3), 8, 9, {}),
    ((6, 8), (3, 3), 8, 9, {"padding": "valid"}),
    ((9, 8), (3, 3), 9, 8, {"dilation": (2, 1)}),
    ((6, 7), (3, 3), 3, 4, {"strides": 2}),
    ((6, 7), (3, 3), 8, 8, {"strides": (1, 2), "padding": (0, 1)}),
    ((6, 7), (1, 3), 8, 10, {"padding": ((1, 0), (2, 1))}),
    ((8, 9), (5, 3), 8, 8, {"dilation": 2, "padding": 3}),
    ((6, 7), (1, 1), 5, 4, {"strides": (2, 1), "padding": 1}),
    ((6, 7), (2, 2), 8, 8, {"padding": 0}),
    ((7, 6), (3, 3), 6, 6, {"groups": 6, "strides": (2, 1)}),
    ((7, 6), (3, 3), 3, 6, {"groups": 3, "dilation": 2}),
    ((7, 6), (3, 3), 6, 4, {"groups": 2}),
]
CASES_3D = [
    ((12, 12, 14), (3, 3, 3), 8, 9, {}),  # filtering along depth, even
    ((7, 16, 18), (3, 3, 3), 8, 8, {"padding": (1, 0, 1)}),  # filtering along depth, odd
    ((8, 20, 18), (3, 3, 3), 8, 8, {"padding": ((2, 0), (1, 1), (1, 0)), "strides": (1, 2, 1)}),
    ((8, 16, 16), (3, 1, 1), 8, 8, {"padding": 0}),
    ((5, 4, 6), (3, 3, 3), 3, 4, {}),
    ((5, 4, 6), (3, 3, 3), 9, 8, {"strides": (2, 1, 2)}),
    ((6, 4, 6), (3, 3, 3), 8, 8, {"dilation": (2, 1, 1), "strides": (2, 2, 2)}),
    ((5, 4, 6), (1, 3, 3), 8, 8, {"strides": (2, 1, 1)}),
    ((5, 4, 6), (1, 3, 3), 8, 8, {"padding": 1}),
    ((5, 4, 6), (1, 1, 1), 4, 5, {"strides": (2, 1, 1)}),
    ((1, 4, 6), (3, 3, 3), 8, 8, {}),
    ((5, 4, 6), (3, 3, 3), 1, 8, {}),
    ((5, 4, 6), (3, 3, 3), 4, 4, {"groups": 4, "strides": (1, 2, 1)}),
    ((5, 4, 6), (3, 3, 3), 4, 6, {"groups": 2, "padding": (0, 1, 1)}),
    ((2, 4, 6), (1, 3, 3), 8, 8, {"padding": (2, 1, 1), "strides": (3, 1, 1)}),  # a slice of padding only
]


def reference(x, kernel, *, strides=1, padding="same", dilation=1, groups=1):
    """The same settings handed to XLA."""
    n = x.ndim - 2
    strides, dilation = ((v,) * n if isinstance(v, int) else v for v in (strides, dilation))
    if padding == "same":
        padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel.shape))
    if padding == "valid":
        padding = 0
    padding = (padding,) * n if isinstance(padding, int) else padding
    pairs = [(p, p) if isinstance(p, int) else p for p in padding]
    axes = "DHW"[-n:]
    numbers = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    options = {"rhs_dilation": dilation, "dimension_numbers": numbers, "feature_group_count": groups}
    return lax.conv_general_dilated(x, kernel, strides, pairs, **options)


def arrays(size, taps, inputs, outputs, groups=1, batch=2):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, *size, inputs)).astype(np.float32)
    return x, rng.standard_normal((*taps, inputs // groups, outputs)).astype(np.float32)


@pytest.mark.parametrize("size, taps, inputs, outputs, options", CASES_2D + CASES_3D)
def test_conv_equals_xla_with_gradients(size, taps, inputs, outputs, options):
    x, kernel = arrays(size, taps, inputs, outputs, options.get("groups", 1))

    def everything(function, x, kernel):
        y, pull = jax.vjp(lambda x, kernel: function(x, kernel, **options), x, kernel)
        return y, *pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    ours, xla = jax.jit(lambda x, kernel: (everything(ops.conv, x, kernel), everything(reference, x, kernel)))(
        x, kernel
    )
    for mine, theirs in zip(ours, xla):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=2e-5 * float(jnp.abs(theirs).max()))


@pytest.mark.parametrize("size", [(6, 8), (8, 12, 14)])
def test_conv_laws(size):
    n = len(size)
    x, kernel = arrays(size, (3,) * n, 8, 8, batch=3)

    @jax.jit
    def laws(x, kernel):
        alone = jax.vmap(lambda image: ops.conv(image[None], kernel)[0])(x)
        # forward mode: the convolution is linear in each argument
        tangent = jax.jvp(ops.conv, (x, kernel), (2 * x, 3 * kernel))[1]
        # a gradient of a gradient (meta-learning): sum(conv**2) / 2 is quadratic in the kernel, H 1 = gradient at 1
        inner = jax.grad(lambda kernel: 0.5 * jnp.sum(ops.conv(x, kernel) ** 2))
        ones = jnp.ones_like(kernel)
        curvature = jax.grad(lambda kernel: jnp.vdot(inner(kernel), ones))(kernel)
        return ops.conv(x, kernel), alone, tangent, curvature, inner(ones)

    y = ops.conv(x, kernel)
    jitted, alone, tangent, curvature, gradient = laws(x, kernel)
    scale = float(jnp.abs(y).max())
    np.testing.assert_allclose(jitted, y, atol=1e-5 * scale)
    np.testing.assert_allclose(alone, y, atol=1e-5 * scale)
    np.testing.assert_allclose(tangent, 5 * y, atol=1e-5 * 5 * scale)
    np.testing.assert_allclose(curvature, gradient, atol=1e-5 * float(jnp.abs(gradient).max()))


@pytest.mark.parametrize("size", [(6, 8), (8, 12, 14)])
def test_conv_in_bfloat16_from_float32_parameters(size):
    x, kernel = arrays(size, (3,) * len(size), 8, 8)

    def loss(kernel):
        y = ops.conv(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
        return jnp.mean(y.astype(jnp.float32) ** 2), y

    (_, y), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(kernel)
    truth = reference(x, kernel)
    assert y.dtype == jnp.bfloat16 and gradient.dtype == jnp.float32
    assert jnp.linalg.norm(y - truth) / jnp.linalg.norm(truth) < 0.01
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize(
    "options", [{}, {"strides": 2, "padding": ((1, 0), (0, 1))}, {"dilation": (2, 1), "groups": 2}]
)
@pytest.mark.parametrize("limit", [100, 700])  # of one image: rows 2 or 3 at a time; two images of three at a time
def test_the_weight_gradient_is_the_same_in_pieces(monkeypatch, options, limit):
    x, kernel = arrays((7, 6), (3, 3), 8, 4, options.get("groups", 1), batch=3)

    def gradient(x, kernel):
        y, pull = jax.vjp(lambda kernel: ops.conv(x, kernel, **options), kernel)
        return pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))[0]

    whole = jax.jit(gradient).lower(x, kernel)
    # The function hides the module of its name.
    monkeypatch.setattr(importlib.import_module("jaxseg.ops.conv"), "PIECE_VALUES", limit)
    jax.clear_caches()
    pieces = jax.jit(gradient).lower(x, kernel)
    assert pieces.as_text().count("stablehlo.convolution") > whole.as_text().count("stablehlo.convolution")
    found, truth = pieces.compile()(x, kernel), whole.compile()(x, kernel)
    np.testing.assert_allclose(found, truth, rtol=1e-5, atol=1e-5 * float(jnp.abs(truth).max()))


def test_accelerators_get_one_convolution():
    x, kernel = arrays((8, 12, 14), (3, 3, 3), 8, 8)
    traced = jax.jit(jax.grad(lambda x, kernel: ops.conv(x, kernel).sum(), argnums=1)).trace(x, kernel)
    text = {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("tpu", "cpu")}
    counts = {platform: module.count("stablehlo.convolution") for platform, module in text.items()}
    assert counts == {"tpu": 1, "cpu": 4}  # filtering along depth: four 2D convolutions


@pytest.mark.parametrize("size, strides", [((3, 4), (2, 2)), ((3, 2, 4), (1, 2, 3))])
def test_conv_transpose_scatters(size, strides):
    x, kernel = arrays(size, strides, 3, 5)
    truth = np.zeros((2, *(n * s for n, s in zip(size, strides)), 5), np.float32)
    for where in np.ndindex(*size):
        for tap in np.ndindex(*strides):
            target = tuple(i * s + t for i, s, t in zip(where, strides, tap))
            truth[:, *target] += x[:, *where] @ kernel[tap]
    np.testing.assert_allclose(ops.conv_transpose(x, kernel, strides=strides), truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "size, kernel, strides, padding, extra",
    [
        ((3, 4), (4, 4), 2, 1, 0),  # FCN's and the GANs' doubling
        ((3, 4), (3, 3), 2, 1, 1),  # MONAI's U-Net: three taps, which two do not divide
        ((2, 3), (16, 16), 8, 0, 0),
        ((3, 5), (3, 5), (2, 1), (1, 2), (1, 0)),
        ((2, 3, 4), (3, 2, 4), (1, 2, 2), (1, 0, 1), 0),
        ((3, 4), (2, 3), (2, 3), 0, (1, 2)),  # the far end is longer than anything that is scattered there
    ],
)
def test_conv_transpose_with_longer_kernels_scatters(size, kernel, strides, padding, extra):
    x, taps = arrays(size, kernel, 3, 5)
    n = len(size)
    wide = [(v,) * n if isinstance(v, int) else v for v in (strides, padding, extra)]
    full = [(i - 1) * s + k + e for i, s, k, e in zip(size, wide[0], kernel, wide[2])]
    truth = np.zeros((2, *full, 5), np.float32)
    for where in np.ndindex(*size):
        for tap in np.ndindex(*kernel):
            target = tuple(i * s + t for i, s, t in zip(where, wide[0], tap))
            truth[:, *target] += x[:, *where] @ taps[tap]
    cut = truth[:, *(slice(p, length - p) for p, length in zip(wide[1], full))]
    found = ops.conv_transpose(x, taps, strides=strides, padding=padding, output_padding=extra)
    np.testing.assert_allclose(found, cut, rtol=1e-5, atol=1e-5)


def test_an_atrous_response_lies_exactly_at_its_rate():
    impulse = jnp.zeros((1, 15, 17, 1)).at[0, 7, 8, 0].set(1.0)
    for rate in (1, 2, 6):
        where = np.argwhere(np.asarray(ops.conv(impulse, jnp.ones((3, 3, 1, 1)), dilation=rate))[0, :, :, 0])
        assert {tuple(place) for place in where} == {
            (7 + i * rate, 8 + j * rate) for i in (-1, 0, 1) for j in (-1, 0, 1)
        }


def test_errors_are_sentences():
    x, kernel = arrays((4, 6), (3, 3), 4, 4)
    for options in (
        {"padding": "full"},
        {"padding": (1, 1, 1)},
        {"padding": -1},
        {"strides": 0},
        {"strides": (1, 1, 1)},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            ops.conv(x, kernel, **options)
    with pytest.raises(ValueError, match="channels"):
        ops.conv(x[..., :3], kernel)
    with pytest.raises(ValueError, match="rank"):
        ops.conv(x, kernel[0])
    with pytest.raises(ValueError, match="smaller"):
        ops.conv(x, kernel, padding="valid", dilation=3)
    for strides, channels in ((4, 4), (3, 3)):
        with unchecked(), pytest.raises(ValueError, match="kernel"):
            ops.conv_transpose(x[..., :channels], kernel, strides=strides)
    with pytest.raises(ValueError, match="output_padding must be below the strides"):
        ops.conv_transpose(x, kernel, strides=2, output_padding=2)
    with pytest.raises(ValueError, match="leaves nothing"):
        ops.conv_transpose(x[:, :1], kernel, strides=1, padding=(2, 0))
