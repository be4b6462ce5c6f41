"""V-Net: counts, shapes, its sums and joins by hand, dropout, errors. The golden output is in tests/transfer."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models.vnet import VNet, average_fan, monai_vnet

TINY = {"features": (4, 8), "encoder_convs": (1, 2), "decoder_convs": (1,), "num_classes": 3}


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


@pytest.mark.parametrize(
    "model, parameters",
    [
        (VNet(), 61_982_682),
        (monai_vnet(), 45_597_898),
        (monai_vnet(num_classes=1), 45_593_892),
        (monai_vnet(ndim=2), 9_358_730),
    ],
    ids=["authors", "monai", "monai-1-class", "monai-2d"],
)
def test_published_parameter_counts(model, parameters):
    size = (32, 48, 16)[: model.ndim]
    variables, (logits, aux) = shapes(model, (2, *size, 1))
    assert count(variables) == parameters
    assert model.divisor == (16,) * model.ndim
    assert logits.shape == (2, *size, model.num_classes) and logits.dtype == jnp.float32
    assert aux["features"].shape == (2, *size, 32)


@pytest.mark.parametrize(
    "fields, shape",
    [
        ({"ndim": 3, "norm": "batch", "activation": "elu"}, (2, 4, 6, 8, 1)),
        ({"ndim": 3, "norm": "group", "features": (8, 16), "conv_bias": False}, (2, 4, 6, 8, 2)),
        ({"ndim": 2, "norm": "instance", "activation": "prelu_shared"}, (2, 6, 8, 3)),
        ({"ndim": 2, "activate_before_add": True, "activation": "relu", "features": (6, 7)}, (2, 6, 8, 4)),
    ],
)
def test_every_setting_keeps_the_grid(fields, shape):
    model = VNet(**{**TINY, **fields})
    variables, (logits, aux) = shapes(model, shape)
    assert logits.shape == (*shape[:-1], 3) and aux["features"].shape == (*shape[:-1], 2 * model.features[0])
    assert ("batch_stats" in variables) == (model.norm == "batch")
    # the input is tiled where its channels divide the first features, projected where they do not
    assert ("encoder_0_skip" in variables["params"]) == (shape[-1] in (3, 4))


def test_names():
    variables, _ = shapes(VNet(ndim=2, **TINY), (1, 4, 6, 1))
    expected = {f"encoder_{part}" for part in ("0_conv_0", "0_prelu", "1_down", "1_conv_0", "1_conv_1", "1_prelu")}
    expected |= {f"decoder_0_{part}" for part in ("up", "up_prelu", "conv_0", "prelu")} | {"head_conv", "head"}
    params = variables["params"]
    assert set(params) == expected
    # an activation between convolutions, none behind the last one: it stands behind the sum
    assert set(params["encoder_1_conv_0"]) == {"conv", "prelu"} and set(params["encoder_1_conv_1"]) == {"conv"}
    assert params["encoder_1_down"]["conv"]["kernel"].shape == (2, 2, 4, 8)
    assert params["decoder_0_up"]["kernel"].shape == (2, 2, 8, 4)
    assert params["decoder_0_conv_0"]["conv"]["kernel"].shape == (5, 5, 8, 8)
    variables, _ = shapes(VNet(ndim=2, activate_before_add=True, **TINY), (1, 4, 6, 1))
    assert set(variables["params"]["encoder_1_conv_1"]) == {"conv", "prelu"}
    assert set(variables["params"]["encoder_0_conv_0"]) == {"conv"}
    variables, _ = shapes(VNet(ndim=2, norm="batch", conv_bias=False, **TINY), (1, 4, 6, 1))
    assert set(variables["params"]["encoder_1_down"]["conv"]) == {"kernel"}
    assert set(variables["params"]["decoder_0_up"]) == set(variables["params"]["head"]) == {"kernel", "bias"}


def test_without_weights_the_tiled_input_passes_through_sums_and_skips():
    model = VNet(ndim=2, **TINY)
    image = jax.random.normal(jax.random.key(0), (2, 4, 6, 2))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes(model, image.shape)[0])
    linear = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + 1 if path[-1].key == "slope" else leaf, zeros["params"]
    )
    logits, aux = jax.jit(model.apply)({"params": linear}, image)
    up, skip = jnp.zeros((2, 4, 6, 4)), jnp.concatenate([image, image], axis=-1)
    np.testing.assert_allclose(aux["features"], jnp.concatenate([up, skip], axis=-1), atol=1e-6)
    assert not logits.any()


def test_dropout_of_whole_channels_in_training_only():
    model = monai_vnet(ndim=2, features=(4, 8, 8, 8), encoder_convs=(1,) * 4, decoder_convs=(1,) * 3)
    image = jax.random.normal(jax.random.key(0), (2, 8, 16, 1))
    variables = filled(model, image.shape)

    @jax.jit
    def run(key):
        fields = {"mutable": ["batch_stats", "intermediates"], "rngs": {"dropout": key}}
        _, found = model.apply(
            variables, image, True, capture_intermediates=lambda layer, _: isinstance(layer, nn.Dropout), **fields
        )
        return found["intermediates"]

    dropped = run(jax.random.key(2))
    blocks = {"encoder_2_dropout", "encoder_3_dropout", "decoder_2_dropout", "decoder_1_dropout"}
    assert set(dropped) == blocks | {f"decoder_{level}_skip_dropout" for level in range(3)}
    for name, layer in dropped.items():
        (values,) = layer["__call__"]
        empty = np.asarray(values == 0)
        assert (empty.all((1, 2)) == empty.any((1, 2))).all(), name
    still = jax.eval_shape(model.apply, variables, image)  # outside training no key is asked for
    assert still[0].shape == (2, 8, 16, 2)
    share = np.mean([np.asarray(layer["__call__"][0] == 0).mean() for layer in dropped.values()])
    assert 0.3 < share < 0.7


def test_batch_norm_over_devices_is_one_batch():
    fields = {**TINY, "ndim": 2, "norm": "batch", "activation": "elu", "encoder_convs": (1, 1)}
    alone, together = VNet(**fields), VNet(axis_name="batch", **fields)
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
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    for part, one in zip(jax.tree.leaves(part_stats), jax.tree.leaves(stats)):
        np.testing.assert_allclose(part[1], one, atol=1e-6)


def test_bfloat16_inside_float32_outside():
    variables, (logits, aux) = shapes(VNet(ndim=2, dtype="bfloat16", norm="batch", **TINY), (1, 4, 6, 1))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert logits.dtype == jnp.float32 and aux["features"].dtype == jnp.bfloat16


def test_weights_start_as_in_caffe():
    assert average_fan((5, 5, 5, 16, 32)) == 125 * 24
    kernel = jax.jit(VNet(ndim=2, features=(16, 32), encoder_convs=(1, 1), decoder_convs=(1,)).init)(
        jax.random.key(0), jnp.zeros((1, 4, 4, 1))
    )["params"]["decoder_0_conv_0"]["conv"]["kernel"]
    assert float(kernel.std()) == pytest.approx(math.sqrt(2 / (25 * 32)), rel=0.03)


def test_errors_are_sentences():
    with pytest.raises(
        ValueError, match=r"VNet needs a size divisible by 16 along spatial axis 1; it is 40: pad it to 48"
    ):
        shapes(VNet(), (1, 32, 40, 16, 1))
    with pytest.raises(ValueError, match=r"VNet with ndim=3 takes \(B, \*S, C\), 5 axes"):
        shapes(VNet(), (1, 32, 32, 1))
    for field, value in {"encoder_convs": (1,), "decoder_convs": (0,), "norm": "layer", "activation": "gelu"}.items():
        with pytest.raises(ValueError, match=field):
            shapes(VNet(ndim=2, **{**TINY, field: value}), (1, 4, 4, 1))
