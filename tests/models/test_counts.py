"""Parameter counts of the canonical networks: published totals, or sums by hand (shared/methods.md, section 3)."""

import math

import jax
import jax.numpy as jnp
import pytest

from jaxseg import models
from jaxseg.models import backbones

SMP = {"depthwise_norm": False, "refine": True, "decoder_convs": 1}
FCN = {"num_classes": 21, "learn_upsampling": True}
# count, network, fields; (*S, C) of the input is (64, 96, 3) but where a field says otherwise
COUNTS = [
    (31_031_810, "unet2015", {}),
    (31_037_698, "unet2015", {"norm": "batch", "conv_bias": False}),
    (31_036_546, "unet2015", {"norm": "batch", "conv_bias": False, "channels": 1}),
    (29_449_355, "segnet", {"num_classes": 11}),
    (29_444_162, "segnet", {"num_classes": 2}),
    (29_443_010, "segnet", {"num_classes": 2, "channels": 1}),
    (136_152_917, "fcn", {"stride": 32, **FCN}),
    (134_815_994, "fcn", {"stride": 16, **FCN}),
    (134_489_759, "fcn", {"stride": 8, **FCN}),
    (134_346_581, "fcn", {"stride": 32, "num_classes": 21}),
    (134_357_354, "fcn", {"stride": 16, "num_classes": 21}),
    (134_362_751, "fcn", {"stride": 8, "num_classes": 21, "original_padding": True}),
    (26_677_842, "deeplabv3plus", {"num_classes": 2, **SMP}),
    (45_674_853, "deeplabv3plus", {"num_classes": 21, "backbone": "resnet101", **SMP}),
    (40_352_181, "deeplabv3plus", {"num_classes": 21, "separable": False}),
    (59_339_426, "deeplabv3plus", {"num_classes": 2, "separable": False, "backbone": "resnet101"}),
    (26_696_133, "deeplabv3plus", {"num_classes": 21}),
    (26_696_133, "deeplabv3plus", {"num_classes": 21, "output_stride": 8}),
    (41_055_413, "deeplabv3plus", {"num_classes": 21, "backbone": "xception65"}),
    (35_322_218, "fcn_resnet", {"num_classes": 21, "auxiliary": True}),
    (51_949_141, "fcn_resnet", {"num_classes": 21, "backbone": "resnet101"}),
    (42_004_074, "deeplabv3", {"num_classes": 21, "auxiliary": True}),
    (58_630_997, "deeplabv3", {"num_classes": 21, "backbone": "resnet101"}),
    (642, "pixel_features", {"num_classes": 2, "channels": 1}),
    (11_689_512, "classifier", {"backbone": "resnet18"}),
    (21_797_672, "classifier", {"backbone": "resnet34"}),
    (25_557_032, "classifier", {"backbone": "resnet50"}),
    (44_549_160, "classifier", {"backbone": "resnet101"}),
    (138_357_544, "classifier", {"backbone": "vgg16"}),
    (138_365_992, "classifier", {"backbone": "vgg16_bn"}),
    (39_916_312, "classifier", {"backbone": "xception65"}),
    (4_652_008, "classifier", {"backbone": "efficientnet_lite0"}),
    (66_250, "pixel_actor_critic", {"num_classes": 10, "channels": 4}),
    (32_778, "q_network", {"num_classes": 9, "channels": 5}),
]


@pytest.mark.parametrize("count, name, fields", COUNTS)
def test_parameters(count, name, fields):
    fields = dict(fields)
    image = jax.ShapeDtypeStruct((1, 64, 96, fields.pop("channels", 3)), jnp.float32)
    model = models.create(name, **fields)
    (logits, _), variables = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == count
    space = () if name in ("classifier", "q_network") else (64, 96)
    assert logits.shape == (1, *space, model.num_classes)


@pytest.mark.parametrize("count, name", [(14_714_688, "vgg16"), (14_723_136, "vgg16_bn")])
def test_convolutions_of_vgg(count, name):
    image = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)
    variables = jax.eval_shape(backbones.create(name).init, jax.random.key(0), image)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == count
