"""SegResNet and the residual U-Net: counts, shapes, names, laws. Golden outputs are in tests/transfer."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models.residual_unet import ResidualUNet, instance_norm
from jaxseg.models.segresnet import SegResNet

TINY = {
    SegResNet: {"ndim": 2, "init_filters": 8, "blocks_down": (1, 1), "blocks_up": (1,), "num_classes": 3},
    ResidualUNet: {"ndim": 2, "features": (4, 6), "strides": (2,), "num_classes": 3},
}
BOTH = pytest.mark.parametrize("kind", TINY, ids=lambda kind: kind.__name__)


def shapes(model, image_shape, **options):
    """Abstract variables and outputs, without compiling."""
    image, key = jax.ShapeDtypeStruct(image_shape, jnp.float32), jax.random.key(0)
    variables = jax.eval_shape(model.init, key, image)
    return variables, jax.eval_shape(lambda v, x: model.apply(v, x, **options), variables, image)


def count(variables):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


def filled(model, image_shape):
    """Variables of random numbers, without compiling `init`."""
    rng = np.random.default_rng(0)
    tree, _ = shapes(model, image_shape)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape, np.float32)), tree)


def test_parameter_counts_of_monai():
    variables, (logits, aux) = shapes(SegResNet(num_classes=3), (2, 16, 24, 8, 1))
    assert count(variables) == 1_176_195
    assert logits.shape == (2, 16, 24, 8, 3) and aux["features"].shape == (2, 16, 24, 8, 8)
    model = ResidualUNet(num_classes=3, features=(8, 16, 32, 64), strides=(2, 2, 2))
    variables, (logits, aux) = shapes(model, (2, 16, 24, 1))
    assert count(variables) == 101_052 and model.divisor == (8, 8)
    assert logits.shape == (2, 16, 24, 3) and aux["features"].shape == (2, 8, 12, 16)


@pytest.mark.parametrize(
    "kind, fields, shape",
    [
        (SegResNet, {"ndim": 3, "norm": "batch", "activation": "prelu"}, (2, 4, 6, 8, 2)),
        (
            SegResNet,
            {"norm": "instance", "init_filters": 3, "blocks_down": (2, 1, 1), "blocks_up": (1, 2)},
            (2, 4, 8, 1),
        ),
        (ResidualUNet, {"ndim": 3, "norm": "batch", "strides": ((1, 2, 2),), "kernel": (1, 3, 3)}, (2, 3, 4, 6, 1)),
        (ResidualUNet, {"num_res_units": 0, "norm": "none", "activation": "relu", "conv_bias": False}, (2, 4, 6, 2)),
        (
            ResidualUNet,
            {"norm": "instance_affine", "activation": "prelu", "strides": (3,), "up_kernel": 5},
            (2, 3, 9, 1),
        ),
        (ResidualUNet, {"norm": "group", "features": (8, 16), "num_classes": 8, "num_res_units": 3}, (2, 4, 6, 1)),
    ],
)
def test_every_setting_keeps_the_grid(kind, fields, shape):
    model = kind(**{**TINY[kind], **fields})
    variables, (logits, _) = shapes(model, shape)
    assert logits.shape == (*shape[:-1], model.num_classes) and logits.dtype == jnp.float32
    assert ("batch_stats" in variables) == (model.norm == "batch")


def test_names_of_segresnet():
    model = SegResNet(ndim=2, blocks_down=(1, 2, 1), blocks_up=(2, 1))
    params = shapes(model, (1, 4, 8, 1))[0]["params"]
    encoder = {f"encoder_{part}" for part in ("0_block_0", "1_down", "1_block_0", "1_block_1", "2_down", "2_block_0")}
    decoder = {f"decoder_{part}" for part in ("1_up", "1_block_0", "0_up", "0_block_0", "0_block_1")}
    assert set(params) == encoder | decoder | {"stem", "head_norm", "head"}
    assert set(params["encoder_0_block_0"]) == {"norm1", "conv1", "norm2", "conv2"}
    assert params["encoder_1_down"]["kernel"].shape == (3, 3, 8, 16)
    assert params["decoder_1_up"]["kernel"].shape == (1, 1, 32, 16)
    assert set(params["head"]) == {"kernel", "bias"} and set(params["stem"]) == {"kernel"}


def test_names_of_the_residual_unet():
    params = shapes(ResidualUNet(features=(4, 6, 8), strides=(2, 1)), (1, 4, 8, 1))[0]["params"]
    assert set(params) == {"encoder_0", "encoder_1", "bottom"} | {
        f"decoder_{level}{end}" for level in (0, 1) for end in ("", "_up")
    }
    assert set(params["encoder_0"]) == {"unit_0", "unit_1", "residual"}
    # the residual convolution is 3x3 where strided, 1x1 where only the channels change, absent where neither does
    assert params["encoder_0"]["residual"]["kernel"].shape == (3, 3, 1, 4)
    assert params["encoder_1"]["residual"]["kernel"].shape == (1, 1, 4, 6)
    assert set(params["decoder_1"]) == {"unit_0"}
    assert set(params["decoder_1"]["unit_0"]) == {"conv", "prelu"}
    assert set(params["decoder_0"]["unit_0"]) == {"conv"}  # the logits: no normalisation, no activation
    assert params["decoder_0_up"]["conv"]["kernel"].shape == (3, 3, 8, 2)
    plain = shapes(ResidualUNet(features=(4, 6), strides=(2,), num_res_units=0), (1, 4, 8, 1))[0]["params"]
    assert set(plain) == {"encoder_0", "bottom", "decoder_0_up"}
    assert set(plain["encoder_0"]) == {"conv", "prelu"} and set(plain["decoder_0_up"]) == {"conv"}


def test_without_weights_segresnet_hands_the_stem_to_the_head():
    model = SegResNet(**TINY[SegResNet])
    image = jax.random.normal(jax.random.key(0), (2, 4, 6, 1))
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes(model, image.shape)[0]["params"])
    params["stem"]["kernel"] = params["stem"]["kernel"].at[1, 1].set(jnp.arange(8.0))
    _, aux = jax.jit(model.apply)({"params": params}, image)
    np.testing.assert_allclose(aux["features"], image * jnp.arange(8.0).reshape(1, 1, 1, 8), atol=1e-6)


def test_instance_norm_by_hand():
    x = 3 * jax.random.normal(jax.random.key(0), (2, 5, 7, 4)) + 50
    values = np.asarray(x, np.float64)
    truth = (values - values.mean((1, 2), keepdims=True)) / np.sqrt(values.var((1, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(instance_norm(x), truth, atol=1e-4)
    assert instance_norm(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    assert not instance_norm(jnp.full((1, 1, 1, 2), 7.0)).any()


@BOTH
def test_dropout_in_training_only(kind):
    fields = {**TINY[kind], "norm": "none", "dropout": 0.5}
    model, image = kind(**fields), jax.random.normal(jax.random.key(0), (2, 8, 12, 1))
    variables = filled(model, image.shape)

    @jax.jit
    def run(key):
        _, found = model.apply(
            variables,
            image,
            True,
            rngs={"dropout": key},
            mutable=["intermediates"],
            capture_intermediates=lambda layer, _: isinstance(layer, nn.Dropout),
        )
        trained = model.clone(dropout=0.0).apply(variables, image, True)[0]
        return found["intermediates"], model.apply(variables, image)[0], trained

    dropped, still, trained = run(jax.random.key(2))
    np.testing.assert_allclose(trained, still, atol=1e-5)  # no key needed
    layers = [np.asarray(values == 0) for values in jax.tree.leaves(dropped)]
    assert 0.2 < np.mean([empty.mean() for empty in layers]) < 0.8
    whole = [(empty.all((1, 2)) == empty.any((1, 2))).all() for empty in layers]
    # SegResNet drops channels behind its stem, the residual U-Net single values in each of its five activated units
    assert len(layers) == (1 if kind is SegResNet else 5) and all(whole) == (kind is SegResNet)


@BOTH
def test_batch_norm_over_devices_is_one_batch(kind):
    fields = {**TINY[kind], "norm": "batch", "activation": "relu"}
    alone, together = kind(**fields), kind(axis_name="batch", **fields)
    image = jax.random.normal(jax.random.key(0), (4, 4, 6, 1))
    variables = filled(alone, image.shape)

    @jax.jit
    def run(image):
        (whole, _), stats = alone.apply(variables, image, True, mutable=["batch_stats"])
        parts, part_stats = jax.vmap(
            lambda x: together.apply(variables, x, True, mutable=["batch_stats"]), axis_name="batch"
        )(image.reshape(2, 2, 4, 6, 1))
        return whole, stats, parts[0].reshape(whole.shape), part_stats

    whole, stats, parts, part_stats = run(image)
    np.testing.assert_allclose(parts, whole, atol=1e-4)
    for part, one in zip(jax.tree.leaves(part_stats), jax.tree.leaves(stats)):
        np.testing.assert_allclose(part[1], one, atol=1e-5)


@BOTH
def test_bfloat16_inside_float32_outside(kind):
    variables, (logits, aux) = shapes(kind(**{**TINY[kind], "dtype": "bfloat16"}), (1, 4, 6, 1))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert logits.dtype == jnp.float32 and aux["features"].dtype == jnp.bfloat16


def test_errors_are_sentences():
    with pytest.raises(ValueError, match=r"SegResNet needs a size divisible by 8 along spatial axis 2; it is 12"):
        shapes(SegResNet(), (1, 8, 16, 12, 1))
    with pytest.raises(ValueError, match=r"ResidualUNet needs a size divisible by 6 along spatial axis 1; it is 10"):
        shapes(ResidualUNet(features=(4, 6, 8), strides=(2, (1, 3))), (1, 2, 10, 1))
    for kind, fields in TINY.items():
        with pytest.raises(ValueError, match=f"{kind.__name__} with ndim=2"):
            shapes(kind(**fields), (1, 4, 4, 4, 1))
        for field, value in {"norm": "layer", "activation": "gelu"}.items():
            with pytest.raises(ValueError, match=field):
                shapes(kind(**{**fields, field: value}), (1, 4, 6, 1))
    for field, value in {"blocks_up": (1, 1), "blocks_down": (0, 1)}.items():
        with pytest.raises(ValueError, match=field):
            shapes(SegResNet(**{**TINY[SegResNet], field: value}), (1, 4, 6, 1))
    for field, value in {"strides": (2, 2), "kernel": 2, "up_kernel": (3, 3, 3)}.items():
        with pytest.raises(ValueError, match=field):
            shapes(ResidualUNet(**{**TINY[ResidualUNet], field: value}), (1, 4, 6, 1))
