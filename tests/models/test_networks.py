"""What is particular to each network: SegNet's indices, FCN's geometry, DeepLab's strides and rates, gates, nodes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import models, ops
from jaxseg.models import classifier, deeplab, fcn
from jaxseg.typing import UserError


def delta(shape):
    """A kernel that passes channels on as they are: one in the middle tap, identity over channels."""
    kernel = np.zeros(shape, np.float32)
    kernel[tuple(k // 2 for k in shape[:-2])] = np.eye(*shape[-2:])
    return jnp.asarray(kernel)


def test_segnet_unpools_at_the_places_of_the_maxima():
    # Layers that do nothing: what is left is pooling and unpooling, once. Each maximum returns to its own place.
    model = models.create("segnet", convs=(1,), width=1, num_classes=1, norm="none")
    rows = [[1, 2, 0, 9, 3, 3], [4, 3, 0, 0, 3, 3], [5, 0, 0, 0, 1, 0], [0, 0, 0, 7, 0, 2]]
    image = jnp.array(rows, jnp.float32)[None, ..., None]
    variables = model.init(jax.random.key(0), image)
    variables = jax.tree.map(lambda leaf: delta(leaf.shape) if leaf.ndim == 4 else leaf, variables)
    logits, _ = model.apply(variables, image)
    truth = [[0, 0, 0, 9, 3, 0], [4, 0, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0], [0, 0, 0, 7, 0, 2]]
    assert logits[0, :, :, 0].tolist() == truth


def test_segnet_mirrors_its_encoder():
    model = models.create("segnet", width=4, num_classes=5)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 64, 1)))
    shapes = {name: layer["conv"]["kernel"].shape[-2:] for name, layer in variables["params"].items() if "dec" in name}
    assert shapes["decoder_5_conv_0"] == (32, 32) and shapes["decoder_4_conv_2"] == (32, 16)
    assert shapes["decoder_3_conv_2"] == (16, 8) and shapes["decoder_2_conv_1"] == (8, 4)
    assert {name for name in shapes if name.startswith("decoder_1")} == {"decoder_1_conv_0"}
    assert variables["params"]["head"]["kernel"].shape == (3, 3, 4, 5)


@pytest.mark.parametrize("factor", [2, 8])
def test_fcn_starts_from_linear_interpolation(factor):
    x = jax.random.normal(jax.random.key(0), (1, 6, 8, 3))
    kernel = fcn.bilinear_init(None, (2 * factor, 2 * factor, 3, 3))
    up = ops.conv_transpose(x, kernel, strides=factor, padding=factor // 2)
    linear = ops.resize(x, (6 * factor, 8 * factor))
    inside = (slice(None), slice(factor, -factor), slice(factor, -factor))
    np.testing.assert_allclose(up[inside], linear[inside], atol=1e-6)
    odd = fcn.bilinear_init(None, (3, 3, 1, 1))[..., 0, 0]
    np.testing.assert_allclose(odd, np.outer([0.5, 1, 0.5], [0.5, 1, 0.5]))


TINY_FCN = {"width": 2, "fc_features": 4, "num_classes": 2}


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("original", [True, False])
def test_fcn_at_any_size(stride, original):
    model = models.create("fcn", stride=stride, original_padding=original, **TINY_FCN)
    for size in ((33, 50), (64, 32)):
        image = jax.ShapeDtypeStruct((1, *size, 1), jnp.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), image)
        assert jax.eval_shape(model.apply, variables, image)[0].shape == (1, *size, 2)
    kernel = variables["params"]["backbone"]["block_5_conv_2"]["conv"]["kernel"]
    assert kernel.shape == (3, 3, 16, 16) and ("score_pool3" in variables["params"]) == (stride == 8)


@pytest.mark.parametrize("original", [True, False])
def test_fcn_scores_stay_where_they_are(original):
    """A skip's score of one cell comes out around that cell: crops and upsampling keep places."""
    model = models.create("fcn", stride=8, original_padding=original, **TINY_FCN)
    image = jnp.zeros((1, 64, 96, 1)).at[0, 24:32, 48:56].set(1.0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    params = variables["params"]
    for layer in params["backbone"].values():
        layer["conv"]["kernel"] = delta(layer["conv"]["kernel"].shape)
    # Scores are zero: only what pool3's layer passes comes out.
    params["score_pool3"]["kernel"] = jnp.ones_like(params["score_pool3"]["kernel"])
    logits = np.asarray(jax.jit(model.apply)(variables, image)[0][0, :, :, 0])
    weights = logits / logits.sum()
    centre = [(weights.sum(1 - axis) * np.arange(n)).sum() for axis, n in enumerate(logits.shape)]
    # pooling by rounding up in the padded image may move a cell by up to 4 pixels, never by a cell of 8
    assert abs(centre[0] - 27.5) < (4.1 if original else 0.1) and abs(centre[1] - 51.5) < (4.1 if original else 0.1)


def test_fixed_upsampling_is_no_parameter():
    image = jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
    for learn in (True, False):
        model = models.create("fcn", learn_upsampling=learn, **TINY_FCN)
        names = set(jax.eval_shape(model.init, jax.random.key(0), image)["params"])
        assert ({"up_2", "up_4", "up_8"} <= names) == learn
    with pytest.raises(ValueError, match="8, 16 or 32; it is 4"):
        jax.eval_shape(models.create("fcn", stride=4).init, jax.random.key(0), image)


def test_rates_follow_the_output_stride(monkeypatch):
    rates = []
    real = deeplab.atrous_conv

    def recording(features, kernel, rate, *rest, **options):
        rates.append(rate)
        return real(features, kernel, rate, *rest, **options)

    monkeypatch.setattr(deeplab, "atrous_conv", recording)
    image = jax.ShapeDtypeStruct((1, 65, 97, 1), jnp.float32)
    for stride, wanted in ((8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])):
        rates.clear()
        model = models.create("deeplabv3plus", backbone="resnet18", output_stride=stride)
        jax.eval_shape(model.init, jax.random.key(0), image)
        assert rates == [*wanted, 1, 1]


def test_deeplab_at_both_strides_shares_parameters_and_any_size():
    tiny = {"backbone": "xception65", "backbone_fields": {"middle": 1, "width_factor": 0.05}, "features": 8}
    image = jax.random.normal(jax.random.key(0), (1, 33, 49, 2))
    shapes = jax.eval_shape(models.create("deeplabv3plus", output_stride=16, **tiny).init, jax.random.key(1), image)
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1, leaf.dtype), shapes)
    for stride in (8, 16):
        model = models.create("deeplabv3plus", output_stride=stride, **tiny)
        logits, aux = jax.jit(model.apply)(variables, image)
        assert logits.shape == (1, 33, 49, 2) and np.isfinite(logits).all()
        assert aux["stages"][32].shape[1:3] == (-(-33 // stride), -(-49 // stride))


def test_deeplab_in_three_dimensions():
    model = models.create("deeplabv3plus", backbone="resnet18", ndim=3, backbone_fields={"width": 4}, features=8)
    image = jnp.zeros((1, 16, 32, 48, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    assert jax.eval_shape(model.apply, variables, image)[0].shape == (1, 16, 32, 48, 2)
    assert variables["params"]["pyramid"]["branch_1"]["depthwise"]["conv"]["kernel"].shape == (3, 3, 3, 1, 32)


def test_pooled_branch_is_the_mean_of_the_image():
    block = {"norm": "none", "activation": "none", "use_bias": False}
    pyramid = deeplab.AtrousPyramid(1, (2,), False, False, 0.0, block)
    x = jnp.arange(24.0, dtype=jnp.float32).reshape(1, 4, 6, 1)
    variables = jax.tree.map(jnp.zeros_like, pyramid.init(jax.random.key(0), x))
    variables["params"]["pooled"]["conv"]["kernel"] += 1
    variables["params"]["project"]["conv"]["kernel"] += 1  # sums the branches, of which only this one is not zero
    np.testing.assert_allclose(pyramid.apply(variables, x), np.full((1, 4, 6, 1), 11.5))


def test_encoder_unet_has_a_skip_at_every_stride():
    fields = {"features": (2, 3, 4, 5, 6), "deep_supervision": True}
    image = jnp.zeros((1, 32, 64, 1))
    for encoder, finest in (("vgg16_bn", 3 + 64), ("resnet18", 3)):  # only VGG has a stage at stride 1
        model = models.create("unet", encoder=encoder, **fields)
        variables = jax.eval_shape(model.init, jax.random.key(0), image)
        widths = [variables["params"][f"decoder_{level}_conv_0"]["conv"]["kernel"].shape[-2] for level in range(5)]
        channels = {stride: stage.shape[-1] for stride, stage in stages_of(model, variables, image).items()}
        assert widths[0] == finest
        assert widths[1:] == [width + channels[2**level] for level, width in zip(range(1, 5), (4, 5, 6, 512))]
    _, (_, aux) = model, jax.eval_shape(model.apply, variables, image)
    assert [deep.shape[1] for deep in aux["deep"]] == [16, 8, 4, 2]
    assert models.divisor(model) == (32, 32)


def stages_of(model, variables, image):
    return jax.eval_shape(model.apply, variables, image)[1]["stages"]


def test_a_shut_gate_lets_nothing_through():
    model = models.create("attention_unet", features=(4, 8), norm="none")
    image = jax.random.normal(jax.random.key(0), (1, 8, 12, 1))
    params = jax.jit(model.init)(jax.random.key(1), image)["params"]
    # through the skip alone: the way through the level below is cut
    params["decoder_0_up"] = jax.tree.map(jnp.zeros_like, params["decoder_0_up"])

    @jax.jit
    def skip_gradient(bias):
        gate = {**params["decoder_0_gate"], "psi": {**params["decoder_0_gate"]["psi"], "bias": bias[None]}}
        variables = {"params": {**params, "decoder_0_gate": gate}}
        return jnp.abs(jax.grad(lambda x: model.apply(variables, x)[0].sum())(image)).sum()

    assert skip_gradient(jnp.float32(-40)) < 1e-6 < 1e-2 < skip_gradient(jnp.float32(40))


def test_every_node_of_unetplusplus_sees_all_before_it():
    model = models.create("unetplusplus", features=(2, 3, 5), deep_supervision=True)
    image = jnp.zeros((1, 8, 12, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    inputs = {
        (level, column): variables["params"][f"node_{level}_{column}_conv_0"]["conv"]["kernel"].shape[-2]
        for level, column in itertools.product(range(3), range(3))
        if level + column < 3
    }
    assert inputs == {(0, 0): 1, (1, 0): 2, (2, 0): 3, (0, 1): 2 + 3, (1, 1): 3 + 5, (0, 2): 2 + 2 + 3}
    _, aux = jax.eval_shape(model.apply, variables, image)
    assert [deep.shape for deep in aux["deep"]] == [(1, 8, 12, 2)]


def test_adaptive_average_by_hand():
    x = jnp.arange(1.0, 6.0).reshape(1, 5, 1, 1)
    # three cells of five: [0, 2), [1, 4), [3, 5)
    assert classifier.adaptive_average(x, (3, 1))[0, :, 0, 0].tolist() == [1.5, 3, 4.5]
    repeated = classifier.adaptive_average(jnp.array([1.0, 2.0]).reshape(1, 2, 1, 1), (3, 2))
    assert repeated[0, :, 0, 0].tolist() == [1, 1.5, 2] and repeated.shape == (1, 3, 2, 1)


def test_errors_are_sentences():
    image = jnp.zeros((1, 40, 64, 1))
    for name, fields in (("segnet", {}), ("fpn", {}), ("unet", {"encoder": "resnet18"})):
        with pytest.raises(ValueError, match="divisible by 32 along spatial axis 0; it is 40: pad it to 64"):
            jax.eval_shape(models.create(name, **fields).init, jax.random.key(0), image)
    with pytest.raises(ValueError, match="starts from stride 64; resnet18 has the strides 2, 4, 8, 16, 32"):
        model = models.create("unet", encoder="resnet18", features=(2,) * 6)
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
    with pytest.raises(ValueError, match="DeepLabV3Plus with ndim=3 takes"):
        jax.eval_shape(models.create("deeplabv3plus", ndim=3).init, jax.random.key(0), image)
    with pytest.raises(UserError, match="has no field encoder"):
        models.create("segnet", encoder="vgg16")
