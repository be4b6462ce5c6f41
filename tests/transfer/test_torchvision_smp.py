"""Recorded outputs of torchvision and segmentation_models.pytorch, reproduced with converted weights."""

import json

import jax
import numpy as np
import pytest

from jaxseg import transfer
from jaxseg.typing import UserError

CASES = {
    "resnet18": ("torchvision:resnet18", {}),
    "resnet50": ("torchvision:resnet50", {}),
    "vgg16_bn": ("torchvision:vgg16_bn", {}),
    "fcn_resnet50": ("torchvision:fcn_resnet50", {}),
    "deeplabv3_resnet50": ("torchvision:deeplabv3_resnet50", {}),
    "smp_unet_resnet18": ("smp:Unet", {"encoder": "resnet18"}),
    "smp_fpn_resnet18": ("smp:FPN", {"encoder": "resnet18"}),
    "smp_deeplabv3plus_resnet50": ("smp:DeepLabV3Plus", {"encoder": "resnet50"}),
    "smp_deeplabv3plus_xception65": ("smp:DeepLabV3Plus", {"encoder": "tu-xception65"}),
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
    source, fields = CASES[name]
    model, variables = transfer.from_torch(weights, source, **fields)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == case["parameters"]
    image = np.moveaxis(seeded.image(case["input_seed"], tuple(case["input_shape_nchw"])), 1, -1)
    logits, aux = jax.tree.map(np.asarray, jax.jit(model.apply)(variables, image))
    for key, expected in outputs.items():
        if key == "argmax":
            assert (logits.argmax(-1) == expected).mean() > 0.999
            continue
        if key == "logits":
            found = logits
        elif key == "out":
            step = 4 if name in ("fcn_resnet50", "deeplabv3_resnet50") else 2
            found = np.moveaxis(logits, -1, 1)[..., ::step, ::step]
        else:
            found = np.moveaxis(aux["stages"][2 ** (int(key.removeprefix("layer")) + 1)], -1, 1)[:, ::8]
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert error < 1e-4, f"{name} {key}: {error:.2e}"


def test_what_does_not_fit_is_refused(recorded):
    _, resnet18, _ = recorded("resnet18")
    with pytest.raises(UserError, match="is a resnet18, not the resnet50"):
        transfer.from_torch(resnet18, "torchvision:resnet50")
    with pytest.raises(UserError, match=r"missing features\.0\.weight, classifier\.6\.weight; it has conv1\.weight"):
        transfer.from_torch(resnet18, "torchvision:vgg16_bn")
    with pytest.raises(UserError, match="3 input channels in the state dict; in_channels is 1"):
        transfer.from_torch(resnet18, "torchvision:resnet18", in_channels=1)
    with pytest.raises(UserError, match=r"unused extra\.weight"):
        transfer.from_torch({**resnet18, "extra.weight": np.zeros(3)}, "torchvision:resnet18")
    with pytest.raises(UserError, match=r"fc\.weight has \(512, 1000\) for \(512, 10\)"):
        transfer.from_torch(resnet18, "torchvision:resnet18", num_classes=10)
    with pytest.raises(UserError, match=r"basic blocks \(1, 2, 2, 2\)"):
        fewer = {name: value for name, value in resnet18.items() if not name.startswith("layer1.1.")}
        transfer.from_torch(fewer, "torchvision:resnet18")
    _, unet, _ = recorded("smp_unet_resnet18")
    with pytest.raises(UserError, match='needs encoder, such as encoder="resnet18"'):
        transfer.from_torch(unet, "smp:Unet")
    with pytest.raises(UserError, match=r"missing decoder\.p5\.weight"):
        transfer.from_torch(unet, "smp:FPN", encoder="resnet18")
    with pytest.raises(UserError, match="not for 'swin'"):
        transfer.from_torch(unet, "smp:Unet", encoder="swin")


def test_an_auxiliary_head_is_kept_or_left_behind(recorded, seeded):
    case, weights, _ = recorded("fcn_resnet50")
    shapes = {"0.weight": (256, 1024, 3, 3), "4.weight": (5, 256, 1, 1), "4.bias": (5,)}
    shapes |= {f"1.{leaf}": (256,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    full = {**weights, **{f"aux_classifier.{k}": seeded.tensor(k, shape) for k, shape in shapes.items()}}
    model, variables = transfer.from_torch(full, "torchvision:fcn_resnet50")
    assert model.auxiliary and "auxiliary" in variables["params"]
    model, variables = transfer.from_torch(full, "torchvision:fcn_resnet50", auxiliary=False)
    assert not model.auxiliary and "auxiliary" not in variables["params"]
    assert case["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
