"""The U-Nets: shapes, counts, names, laws. Golden outputs are in tests/transfer."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import models, ops
from jaxseg.models import layers
from jaxseg.typing import UserError

TINY = {"features": (8, 16), "num_classes": 3}


def shapes(model, image_shape, **options):
    """Abstract variables and outputs, without compiling."""
    image, key = jax.ShapeDtypeStruct(image_shape, jnp.float32), jax.random.key(0)
    variables = jax.eval_shape(model.init, key, image)
    return variables, jax.eval_shape(lambda v, x: model.apply(v, x, **options), variables, image)


def count(variables):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


def test_network_of_2015():
    variables, (logits, _) = shapes(models.create("unet2015"), (1, 32, 48, 1))
    assert count(variables) == 31_030_658
    assert logits.shape == (1, 32, 48, 2)
    valid = models.create("unet2015", padding="valid")
    variables, (logits, _) = shapes(valid, (1, 572, 572, 1))
    assert count(variables) == 31_030_658
    assert logits.shape == (1, 388, 388, 2) and valid.output_length(572, 0) == 388
    with pytest.raises(ValueError, match=r"spatial axis 1; it is 570: pad it to 572"):
        shapes(valid, (1, 572, 570, 1))


def test_receptive_field_of_the_valid_network():
    # Equal positive weights and a flat image: maxima are shared, so the gradient reaches all that an output sees.
    # Four outputs a side stand on the same 16-pixel grid of the bottleneck; the corner's 188 start at the image's edge.
    model = models.create("unet2015", padding="valid", features=(1,) * 5)
    image = jnp.ones((1, 204, 204, 1))
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.3), shapes(model, image.shape)[0])
    assert model.output_length(204, 0) == 20 and model.output_length(188, 0) == 4
    seen = jax.jit(jax.grad(lambda x: model.apply(variables, x)[0][0, 0, 3].sum()))(image)[0, :, :, 0] != 0
    assert seen[:188, :188].all() and not seen[188:].any() and not seen[:, 188:].any()


@pytest.mark.parametrize(
    "fields, shape",
    [
        ({"ndim": 2, "norm": "batch", "downsample": "max_pool", "upsample": "linear"}, (2, 8, 12, 2)),
        ({"ndim": 3, "norm": "group", "activation": "relu", "conv_bias": False}, (2, 4, 6, 8, 1)),
        ({"ndim": 3, "residual": True, "strides": (1, (1, 2, 2)), "kernels": ((1, 3, 3), 3)}, (2, 3, 6, 8, 1)),
        ({"ndim": 2, "residual": True, "downsample": "max_pool", "blocks": 2, "norm": "none"}, (2, 8, 12, 1)),
        ({"ndim": 2, "strides": (2, (1, 3)), "convs": (1, 3), "decoder_convs": (2,)}, (2, 8, 12, 1)),
    ],
)
def test_every_setting_keeps_the_grid(fields, shape):
    model = models.create("unet", **TINY, **fields)
    _, (logits, aux) = shapes(model, shape)
    first = model.level_strides[0]
    assert logits.shape == (2, *(n // s for n, s in zip(shape[1:-1], first)), 3)
    assert aux["deep"] == () and aux["features"].shape == (*logits.shape[:-1], 8)


def test_deep_supervision_and_names():
    fields = {"features": (4, 6, 8, 10), "ndim": 3, "strides": (1, (1, 2, 2), 2, 2), "num_classes": 5}
    model = models.create("unet", deep_supervision=True, **fields)
    assert models.divisor(model) == (4, 8, 8)
    variables, (logits, aux) = shapes(model, (1, 8, 16, 24, 1))
    assert logits.shape == (1, 8, 16, 24, 5)
    assert [deep.shape[1:-1] for deep in aux["deep"]] == [(8, 8, 12), (4, 4, 6)]
    encoder = {f"encoder_{level}_conv_{i}" for level in range(4) for i in range(2)}
    decoder = {f"decoder_{level}_{part}" for level in range(3) for part in ("up", "conv_0", "conv_1")}
    assert set(variables["params"]) == encoder | decoder | {"head", "head_1", "head_2"}
    assert set(variables["params"]["encoder_0_conv_0"]["norm"]) == {"scale", "bias"}
    without, (_, aux) = shapes(models.create("unet", **fields), (1, 8, 16, 24, 1))
    assert not {"head_1", "head_2"} & set(without["params"]) and aux["deep"] == ()


@pytest.mark.parametrize("ndim", [2, 3])
def test_batch_norm_learns_in_training_only(ndim):
    model = models.create("unet", ndim=ndim, norm="batch", convs=1, decoder_convs=1, **TINY)
    image = jax.random.normal(jax.random.key(1), (2, 6, 8, 10)[: ndim + 1])[..., None]
    variables = jax.jit(model.init)(jax.random.key(0), image)

    @jax.jit
    def run(variables, image):
        (trained, _), updates = model.apply(variables, image, train=True, mutable=["batch_stats"])
        return model.apply(variables, image)[0], trained, updates["batch_stats"]

    logits, trained, stats = run(variables, image)
    assert not np.allclose(trained, logits, atol=1e-3)
    means = [layer["norm"]["mean"] for layer in stats.values()]
    assert len(means) == 3 and all(jnp.abs(mean).max() > 0 for mean in means)
    # the first layer's statistics by hand: a tenth of the way from (0, 1) to the batch's mean and biased variance
    first = model.bind(variables).variables["params"]["encoder_0_conv_0"]["conv"]
    values = np.asarray(ops.conv(image, first["kernel"]) + first["bias"].reshape((1,) * (ndim + 1) + (-1,)))
    axes = tuple(range(ndim + 1))
    found = stats["encoder_0_conv_0"]["norm"]
    np.testing.assert_allclose(found["mean"], 0.1 * values.mean(axes), atol=1e-5)
    np.testing.assert_allclose(found["var"], 0.9 + 0.1 * values.var(axes), rtol=1e-4)


def test_jit_equals_eager():
    model = models.create("unet", convs=1, decoder_convs=1, norm="none", **TINY)
    image = jax.random.normal(jax.random.key(1), (2, 6, 8, 1))
    variables = jax.jit(model.init)(jax.random.key(0), image)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, image)[0], model.apply(variables, image)[0], atol=1e-5)


def test_bfloat16_3d_is_finite_with_float32_logits():
    model = models.create("unet", ndim=3, dtype="bfloat16", convs=1, decoder_convs=1, **TINY)
    image = 100 * jax.random.normal(jax.random.key(1), (1, 4, 6, 8, 1))
    variables = jax.jit(model.init)(jax.random.key(0), image)
    logits, aux = jax.jit(model.apply)(variables, image)
    assert logits.dtype == jnp.float32 and aux["features"].dtype == jnp.bfloat16
    assert jnp.isfinite(logits).all() and logits.std() > 0


def test_bfloat16_gradients_are_finite_and_float32():
    fields = {"residual": True, "blocks": 1, "deep_supervision": True}
    model = models.create("unet", dtype="bfloat16", **TINY, **fields)
    image = 100 * jax.random.normal(jax.random.key(1), (2, 6, 8, 1))
    params = jax.jit(model.init)(jax.random.key(0), image)["params"]
    loss = jax.jit(jax.grad(lambda params: jnp.mean(model.apply({"params": params}, image, train=True)[0] ** 2)))
    leaves = jax.tree.leaves(loss(params))
    assert all(leaf.dtype == jnp.float32 and jnp.isfinite(leaf).all() for leaf in leaves)


def test_batch_norm_over_devices_is_one_batch():
    block = layers.ConvBlock(4, (3, 3), norm="batch", axis_name="batch")
    alone = layers.ConvBlock(4, (3, 3), norm="batch")
    image = jax.random.normal(jax.random.key(0), (4, 6, 8, 2))
    variables = alone.init(jax.random.key(1), image)

    def run(block, x):
        return block.apply(variables, x, True, mutable=["batch_stats"])

    together, stats = run(alone, image)
    parts, part_stats = jax.vmap(lambda x: run(block, x), axis_name="batch")(image.reshape(2, 2, 6, 8, 2))
    np.testing.assert_allclose(parts.reshape(together.shape), together, atol=1e-5)
    for part, whole in zip(jax.tree.leaves(part_stats), jax.tree.leaves(stats)):
        np.testing.assert_allclose(part[1], whole, atol=1e-6)


def test_norms_by_hand():
    x = 3 * jax.random.normal(jax.random.key(0), (2, 5, 7, 16)) + 50

    def normalise(groups):
        layer = layers.GroupNorm(groups=groups)
        return np.asarray(layer.apply(layer.init(jax.random.key(0), x), x))

    for groups, width in ((8, 2), (None, 1)):
        parts = np.asarray(x, np.float64).reshape(2, 35, -1, width)
        mean, variance = parts.mean((1, 3), keepdims=True), parts.var((1, 3), keepdims=True)
        truth = ((parts - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
        np.testing.assert_allclose(normalise(groups), truth, atol=1e-4)
    with pytest.raises(ValueError, match="5 groups"):
        normalise(5)


def test_residual_block_begins_as_its_skip():
    fields = {"norm": "instance", "activation": "relu"}
    block = layers.ResidualBlock(4, (3, 3), (2, 1), fields)
    x = jax.random.normal(jax.random.key(0), (1, 6, 8, 4))
    out = block.apply(block.init(jax.random.key(1), x), x)
    np.testing.assert_allclose(out, jax.nn.relu(x.reshape(1, 3, 2, 8, 4).mean(2)), atol=1e-6)


def test_initial_weights_are_he_normal():
    model = models.create("unet2015", features=(64, 64))
    kernel = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))["params"]
    assert float(kernel["encoder_0_conv_1"]["conv"]["kernel"].std()) == pytest.approx(math.sqrt(2 / 576), rel=0.02)
    assert float(kernel["decoder_0_up"]["kernel"].std()) == pytest.approx(math.sqrt(2 / 64), rel=0.02)
    leaky = layers.he_normal(0.01)(jax.random.key(0), (3, 3, 64, 64))
    assert float(leaky.std()) == pytest.approx(math.sqrt(2 / 1.0001 / 576), rel=0.02)
    assert not any(layer["bias"].any() for layer in (kernel["head"], kernel["decoder_0_up"]))


def test_dropout_only_in_training_and_only_where_asked():
    image = jnp.ones((1, 8, 8, 1))
    model = models.create("unet", dropout=0.5, norm="none", **TINY)
    variables = jax.jit(model.init)(jax.random.key(0), image)

    @jax.jit
    def run(key):
        dropped = model.apply(variables, image, train=True, rngs={"dropout": key})[0]
        without = models.create("unet", norm="none", **TINY).apply(variables, image, train=True)[0]
        return dropped, model.apply(variables, image)[0], without

    dropped, still, without = run(jax.random.key(2))
    assert not np.allclose(dropped, still)
    np.testing.assert_allclose(without, still, atol=1e-6)


def test_errors_are_sentences():
    with pytest.raises(ValueError, match=r"divisible by 4 along spatial axis 1; it is 10: pad it to 12"):
        shapes(models.create("unet", features=(2, 4, 8)), (1, 8, 10, 1))
    with pytest.raises(ValueError, match="ndim=3"):
        shapes(models.create("unet", ndim=3, **TINY), (1, 8, 8, 1))
    for field, value in {
        "norm": "layer",
        "activation": "gelu",
        "padding": "full",
        "strides": (1,),
        "convs": (0, 1),
    }.items():
        with pytest.raises(ValueError, match=field):
            shapes(models.create("unet", **TINY, **{field: value}), (1, 8, 8, 1))
    with pytest.raises(ValueError, match="no deep supervision"):
        shapes(models.create("unet", padding="valid", deep_supervision=True, **TINY), (1, 24, 24, 1))
    with pytest.raises(UserError, match="no field widths; its fields: ndim, num_classes"):
        models.create("unet", widths=3)
    with pytest.raises(UserError, match="did you mean unet"):
        models.create("unett")


def test_table_and_config_lists():
    assert set(models.names()) >= {"unet", "unet2015"}
    model = models.create("unet", features=[8, 16], strides=[1, [2, 1]])
    assert model.strides == (1, (2, 1)) and hash(model) is not None


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("unet", {"features": (8, 16), "norm": "batch", "residual": True, "blocks": 2, "deep_supervision": True}),
        ("unetplusplus", {"features": (8, 16), "norm": "instance"}),
    ],
)
def test_recomputation_changes_memory_only(name, fields):
    image = jax.random.normal(jax.random.key(1), (2, 32, 48, 1))
    plain, recomputed = (models.create(name, num_classes=3, remat=remat, **fields) for remat in (False, True))
    variables, again = (jax.jit(model.init)(jax.random.key(0), image) for model in (plain, recomputed))
    jax.tree.map(np.testing.assert_array_equal, variables, again)

    def compiled(model):
        def loss(params, rest):
            (logits, _), updates = model.apply({"params": params, **rest}, image, train=True, mutable=["batch_stats"])
            return jnp.square(logits).mean(), updates

        lowered = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(variables["params"], statistics)
        # XLA's CPU compiler would merge both computations (train.parallel.keep_barriers)
        return lowered.compile({"xla_disable_hlo_passes": "cse_barrier_expander"})

    statistics = {group: tree for group, tree in variables.items() if group != "params"}
    programs = [compiled(model) for model in (plain, recomputed)]
    expected, found = (program(variables["params"], statistics) for program in programs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), expected, found)
    before, after = (program.memory_analysis().temp_size_in_bytes for program in programs)
    assert after < 0.8 * before
    with pytest.raises(UserError, match="has no field remat"):
        models.create("fcn", remat=True)
