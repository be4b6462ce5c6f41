"""Backbones: stages by nominal stride at any size and output stride, frozen and synchronised statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import models
from jaxseg.models import backbones
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
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    return variables, jax.eval_shape(module.apply, variables, image)


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_stages_by_nominal_stride(name, output_stride):
    module = backbones.create(name, output_stride=output_stride)
    variables, stages = stage_shapes(module, (64, 96))
    for stride, channels in CHANNELS[name].items():
        real = min(stride, output_stride)
        assert stages[stride].shape == (2, 64 // real, 96 // real, channels)
    # dilation replaces strides, it does not change a parameter
    default, _ = stage_shapes(backbones.create(name), (64, 96))
    assert jax.tree.structure(variables) == jax.tree.structure(default)


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
        return rates[7:13], rates[13:16]  # traced twice: to count parameters and to apply

    monkeypatch.setattr(resnet.layers, "ConvBlock", recording)
    assert found(output_stride=16) == ([1] * 6, [2, 2, 2])
    assert found(output_stride=8) == ([2] * 6, [4, 4, 4])
    assert found(output_stride=8, first_keeps_dilation=True) == ([1, 2, 2, 2, 2, 2], [2, 4, 4])
    assert found(output_stride=16, multi_grid=(1, 2, 4)) == ([1] * 6, [2, 4, 8])


def test_low_level_feature_before_the_relu():
    make = functools.partial(xception.Xception, middle=1, width=0.1)
    image = jax.random.normal(jax.random.key(0), (2, 32, 32, 1))
    variables = jax.jit(make().init)(jax.random.key(1), image)

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


def test_errors():
    with pytest.raises(ValueError, match="8, 16 or 32; it is 4"):
        stage_shapes(backbones.create("resnet18", output_stride=4), (32, 32))
    with pytest.raises(UserError, match="did you mean resnet"):
        backbones.create("resnet20")
    with pytest.raises(UserError, match="cannot be imported"):
        backbones.create("no_module_of_mine:Net")
    assert models.create("unet", encoder="resnet18").encoder == "resnet18"
