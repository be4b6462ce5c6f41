"""nnU-Net's recorded outputs, reproduced with converted weights; errors name both sides."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import models, transfer
from jaxseg.transfer import torch_layout
from jaxseg.typing import UserError

CASES = {
    "nnunet_plain_2d": ("nnunet:PlainConvUNet", (1, 2, 2, 2), {"features": (16, 32, 64, 64), "convs": (2, 2, 2, 2)}),
    "nnunet_plain_3d": ("nnunet:PlainConvUNet", (1, (1, 2, 2), 2), {"kernels": ((1, 3, 3), (3, 3, 3), (3, 3, 3))}),
    "nnunet_resenc_3d": ("nnunet:ResidualEncoderUNet", (1, 2, 2), {"blocks": (1, 3, 4), "decoder_convs": (1, 1)}),
}


@pytest.fixture(scope="module")
def recorded(golden, seeded):
    def load(name):
        case = json.loads((golden / f"{name}.json").read_text())
        return case, seeded.state_dict(case), dict(np.load(golden / f"{name}.npz"))

    return load


@pytest.mark.parametrize("name", CASES)
def test_reproduces_recorded_outputs(name, recorded, seeded):
    case, weights, outputs = recorded(name)
    source, strides, inferred = CASES[name]
    model, variables = transfer.from_torch(weights, source, strides=strides)
    assert inferred == {field: getattr(model, field) for field in inferred}
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == case["parameters"]
    image = np.moveaxis(seeded.image(case["input_seed"], tuple(case["input_shape_nchw"])), 1, -1)
    logits, aux = jax.jit(model.apply)(variables, image)
    ours = [logits, *aux["deep"]]
    assert len(outputs) in (1, len(ours))
    for i, expected in enumerate(outputs.values()):
        error = np.linalg.norm(np.moveaxis(ours[i], -1, 1) - expected) / np.linalg.norm(expected)
        assert error < 1e-4, f"{name} out{i}: {error:.2e}"


def test_parameters_counted_without_weights(recorded):
    case, _, _ = recorded("nnunet_plain_3d")
    kernels, strides = ((1, 3, 3), 3, 3), (1, (1, 2, 2), 2)
    fields = {"ndim": 3, "num_classes": 3, "features": (8, 16, 32), "kernels": kernels, "strides": strides}
    model = models.create("unet", deep_supervision=True, **fields)
    tree = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2, 4, 8, 1)))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) == case["parameters"]


def test_lower_heads_may_be_left_behind(recorded):
    _, weights, _ = recorded("nnunet_plain_3d")
    source, strides, _ = CASES["nnunet_plain_3d"]
    full, variables = transfer.from_torch(weights, source, strides=strides, in_channels=1)
    single, fewer = transfer.from_torch(weights, source, strides=strides, deep_supervision=False)
    assert full.deep_supervision and not single.deep_supervision
    assert set(variables["params"]) - set(fewer["params"]) == {"head_1"}


def test_what_does_not_fit_is_refused(recorded):
    _, weights, _ = recorded("nnunet_plain_3d")
    source, strides, _ = CASES["nnunet_plain_3d"]
    with pytest.raises(UserError, match="strides"):
        transfer.from_torch(weights, source)
    with pytest.raises(UserError, match="nnunet:PlainConvUNet"):
        transfer.from_torch(weights, "nnunet:Unet", strides=strides)
    with pytest.raises(UserError, match=r"3 stages.*2 entries"):
        transfer.from_torch(weights, source, strides=(1, 2))
    with pytest.raises(UserError, match="no field widths"):
        transfer.from_torch(weights, source, strides=strides, widths=3)
    with pytest.raises(UserError, match=r"unused extra\.weight"):
        transfer.from_torch({**weights, "extra.weight": np.zeros(3)}, source, strides=strides)
    with pytest.raises(UserError, match=r"missing decoder\.stages\.0\.convs\.0\.norm\.bias"):
        lacking = {k: v for k, v in weights.items() if not k.startswith("decoder.stages.0.convs.0.")}
        kept = {k: v for k, v in weights.items() if k.startswith("decoder.stages.0.convs.0.") and "norm.bias" not in k}
        transfer.from_torch(
            lacking | {k: v for k, v in kept.items() if "all_modules.1.bias" not in k}, source, strides=strides
        )
    with pytest.raises(
        UserError, match=r"decoder\.transpconvs\.0\.weight has \(2, 2, 2, 32, 16\) for \(1, 2, 2, 32, 16\)"
    ):
        transfer.from_torch(weights, source, strides=(1, 2, (1, 2, 2)))
    with pytest.raises(UserError, match="it does not"):
        name = "encoder.stages.0.0.convs.0.conv.bias"
        transfer.from_torch({**weights, name: weights[name] + 1}, source, strides=strides)
    with pytest.raises(UserError, match="is not that of nnunet:ResidualEncoderUNet"):
        transfer.from_torch(weights, "nnunet:ResidualEncoderUNet", strides=strides)


def test_layouts():
    weight = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert torch_layout.conv_kernel(weight)[3, 4, 2, 1] == weight[1, 2, 3, 4]
    assert torch_layout.conv_transpose_kernel(weight)[3, 4, 1, 2] == weight[1, 2, 3, 4]
    assert torch_layout.dense_kernel(weight[..., 0, 0])[2, 1] == weight[1, 2, 0, 0]
