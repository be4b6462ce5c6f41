"""Backbones: stages by nominal stride at any size and output stride, frozen and synchronised statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import config as configs
from jaxseg import models
from jaxseg.models import backbones, deeplab
from jaxseg.models.backbones import resnet, xception
from jaxseg.typing import UserError

CHANNELS = {
    "resnet18": {2: 64, 4: 64, 8: 128, 16: 256, 32: 512},
    "resnet50": {2: 64, 4: 256, 8: 512, 16: 1024, 32: 2048},
    "vgg16_bn": {1: 64, 2: 128, 4: 256, 8: 512, 16: 512, 32: 512},
    "xception65": {2: 128, 4: 256, 8: 728, 16: 1024, 32: 2048},
    "efficientnet_lite0": {2: 16, 4: 24, 8: 40, 16: 112, 32: 320},
}


def stage_shapes(module, size, channels=3):
    image = jax.ShapeDtypeStruct((2, *size, channels), jnp.float32)
    stages, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), image)
    return variables, stages


@functools.cache
def default_variables(name):
    return stage_shapes(backbones.create(name), (64, 96))[0]


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_stages_by_nominal_stride(name, output_stride):
    module = backbones.create(name, output_stride=output_stride)
    variables, stages = stage_shapes(module, (64, 96))
    for stride, channels in CHANNELS[name].items():
        real = min(stride, output_stride)
        assert stages[stride].shape == (2, 64 // real, 96 // real, channels)
    # dilation replaces strides, it does not change a parameter
    assert variables == default_variables(name)


@pytest.mark.parametrize("name", CHANNELS)
def test_any_size(name):
    _, stages = stage_shapes(backbones.create(name), (65, 97), channels=1)
    up, down = (3, 4), (2, 3)  # strided layers round up, VGG's pooling down
    assert stages[32].shape[1:3] == (down if name.startswith("vgg") else up)


def test_three_dimensions():
    _, stages = stage_shapes(backbones.create("resnet18", ndim=3, width=8), (32, 64, 48))
    assert stages[32].shape == (2, 1, 2, 2, 64) and stages[4].shape == (2, 8, 16, 12, 8)
    _, stages = stage_shapes(backbones.create("efficientnet_lite0", ndim=3), (32, 64, 48))
    assert stages[16].shape == (2, 2, 4, 3, 112)


def test_the_dilations_of_three_dialects(monkeypatch):
    """The rates with which each 3x3 convolution of layer 3 and 4 is called, in order."""
    rates = []
    real = resnet.layers.ConvBlock

    def recording(features, kernel, **options):
        if kernel == (3, 3):
            rates.append(options.get("dilation", 1))
        return real(features, kernel, **options)

    def found(**fields):
        rates.clear()
        stage_shapes(backbones.create("resnet50", **fields), (64, 64))
        return rates[7:13], rates[13:16]

    monkeypatch.setattr(resnet.layers, "ConvBlock", recording)
    assert found(output_stride=16) == ([1] * 6, [2, 2, 2])
    assert found(output_stride=8) == ([2] * 6, [4, 4, 4])
    assert found(output_stride=8, first_keeps_dilation=True) == ([1, 2, 2, 2, 2, 2], [2, 4, 4])
    assert found(output_stride=16, multi_grid=(1, 2, 4)) == ([1] * 6, [2, 4, 8])


def test_low_level_feature_before_the_relu():
    make = functools.partial(xception.Xception, middle=1, width_factor=0.1)
    image = jax.random.normal(jax.random.key(0), (2, 32, 32, 1))
    draw = np.random.default_rng(1)
    shapes = jax.eval_shape(make().init, jax.random.key(1), image)
    drawn = jax.tree.map(lambda leaf: jnp.asarray(draw.normal(size=leaf.shape), jnp.float32), shapes)
    variables = {**drawn, "batch_stats": jax.tree.map(jnp.abs, drawn["batch_stats"])}

    @jax.jit
    def stages(variables, image):
        return make().apply(variables, image)[4], make(low_level_relu=False).apply(variables, image)[4]

    after, before = stages(variables, image)
    assert before.min() < 0
    np.testing.assert_allclose(after, np.maximum(before, 0), atol=1e-6)


def test_frozen_statistics_do_not_move():
    image = 5 + jax.random.normal(jax.random.key(0), (2, 32, 32, 1))
    tiny = {"blocks": (1, 1, 1, 1), "width": 4}
    frozen, free = (backbones.create("resnet18", norm=norm, **tiny) for norm in ("frozen_batch", "batch"))
    variables = jax.jit(free.init)(jax.random.key(1), image)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def run(module, train):
        stages, updated = module.apply(variables, image, train, mutable=["batch_stats"])
        return stages[32], updated.get("batch_stats", variables["batch_stats"])

    def moved(stats):
        return any(
            not np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(variables["batch_stats"]), strict=True)
        )

    trained, stats = run(frozen, True)
    np.testing.assert_allclose(trained, run(frozen, False)[0], atol=1e-5)
    assert not moved(stats) and moved(run(free, True)[1])


TINY = {
    **{name: {"blocks": (1, 1, 1, 1), "width": 4} for name in backbones.BACKBONES if name.startswith("resnet")},
    **{name: {"convs": (1, 1, 1, 1, 1), "width": 4} for name in ("vgg16", "vgg16_bn")},
    "xception65": {"middle": 0, "width_factor": 0.02},
    "efficientnet_lite0": {"stem": 4, "stages": tuple((1, 3, stride, 4, 1) for stride in (1, 2, 2, 2, 1, 2))},
}
ON_BACKBONE = {
    "classifier": {},
    "deeplabv3": {"features": 4},
    "deeplabv3plus": {"features": 4, "low_level_features": 4},
    "fcn_resnet": {},
    "fpn": {"features": 4, "segmentation_features": 4, "segmentation_norm": "group2"},
    "unet": {"features": (2, 2, 2, 2, 2)},
}


def test_tiny_backbones_are_all_of_them():
    assert set(TINY) == set(backbones.BACKBONES)


@pytest.mark.parametrize("name", ON_BACKBONE)
@pytest.mark.parametrize("backbone", ["resnet50", "vgg16_bn", "xception65", "efficientnet_lite0"])
def test_every_network_takes_every_kind_of_backbone(name, backbone):
    which, options = ("encoder", "encoder_fields") if name == "unet" else ("backbone", "backbone_fields")
    fields = {which: backbone, options: TINY[backbone], **ON_BACKBONE[name]}
    model = models.create(name, num_classes=3, **fields)
    image = jax.ShapeDtypeStruct((1, 32, 64, 1), jnp.float32)
    logits = jax.eval_shape(lambda key, image: model.init_with_output(key, image)[0][0], jax.random.key(0), image)
    assert logits.shape == ((1, 3) if name == "classifier" else (1, 32, 64, 3))


@pytest.mark.parametrize("backbone", backbones.BACKBONES)
@pytest.mark.parametrize("name", ["deeplabv3", "fcn_resnet"])
def test_the_dialect_of_resnets_is_left_out_of_other_backbones(name, backbone):
    built = deeplab._backbone(models.create(name, backbone=backbone))
    assert built.output_stride == 8
    assert getattr(built, "first_keeps_dilation", None) == (True if backbone.startswith("resnet") else None)


@pytest.mark.parametrize("name", ["deeplabv3plus", "fcn_resnet", "fpn"])
def test_fields_of_another_backbone_are_told(name):
    fields = configs.network(name).to_dict()  # of a small ResNet-18, whose width is a number of channels
    fields.pop("name")
    with pytest.raises(UserError, match="'xception65' has no field width; its fields: entry, middle, width_factor, nd"):
        models.create(name, **{**fields, "backbone": "xception65"})
    with pytest.raises(UserError, match="'efficientnet_lite0' has no field width"):
        models.create(name, **{**fields, "backbone": "efficientnet_lite0"})
    with pytest.raises(UserError, match=r"has no field blocks; .* encoder_fields"):
        models.create("unet", encoder="vgg16", encoder_fields={"blocks": (1, 1)})
    assert models.create(name, **{**fields, "backbone": "vgg16"}).backbone_fields == (("width", 16),)


def test_errors():
    with pytest.raises(ValueError, match="8, 16 or 32; it is 4"):
        stage_shapes(backbones.create("resnet18", output_stride=4), (32, 32))
    with pytest.raises(UserError, match="did you mean resnet"):
        backbones.create("resnet20")
    with pytest.raises(UserError, match="cannot be imported"):
        backbones.create("no_module_of_mine:Net")
    assert models.create("unet", encoder="resnet18").encoder == "resnet18"
