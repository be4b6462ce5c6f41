"""MONAI's recorded outputs, reproduced with converted weights; other settings by name; errors name both sides."""

import functools
import json
import math
import re

import jax
import numpy as np
import pytest

from jaxseg import transfer
from jaxseg.typing import UserError

unet, vnet, segresnet = (
    functools.partial(transfer.from_torch, source=f"monai:{name}") for name in ("UNet", "VNet", "SegResNet")
)
CASES = {
    "monai_unet_2d": (unet, {"strides": (2, 2, 2)}, {"features": (8, 16, 32, 64), "num_res_units": 2}),
    "monai_segresnet_3d": (segresnet, {}, {"init_filters": 8, "blocks_down": (1, 2, 2, 4), "norm": "group"}),
    "monai_vnet_3d": (vnet, {}, {"features": (16, 32, 64, 128, 256), "encoder_convs": (1, 1, 2, 3, 2)}),
}


@pytest.fixture(scope="module")
def recorded(golden):
    return lambda name: json.loads((golden / f"{name}.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_reproduces_recorded_outputs(name, recorded, seeded, golden):
    case, expected = recorded(name), np.load(golden / f"{name}.npz")["out"]
    convert, fields, inferred = CASES[name]
    model, variables = convert(seeded.state_dict(case), **fields)
    assert inferred == {field: getattr(model, field) for field in inferred}
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == case["parameters"]
    image = np.moveaxis(seeded.image(case["input_seed"], tuple(case["input_shape_nchw"])), 1, -1)
    # Transposed 3D convolutions are loops of LLVM's: without its optimisations they take longer than to compile.
    options = {"xla_backend_optimization_level": 1} if name == "monai_vnet_3d" else {}
    logits, _ = jax.jit(model.apply, compiler_options=options)(variables, image)
    ours = np.moveaxis(np.asarray(logits), -1, 1)[..., ::2, ::2]
    assert ours.shape == expected.shape
    error = np.linalg.norm(ours - expected) / np.linalg.norm(expected)
    assert error < 1e-4, f"{name}: {error:.2e}"


@pytest.fixture
def small_vnet(recorded, seeded):
    """MONAI's V-Net with an eighth of the channels, under the same names."""
    shapes = recorded("monai_vnet_3d")["state_dict"]
    small = {name: [n // 8 if n % 16 == 0 else n for n in shape] for name, shape in shapes.items()}
    return seeded.state_dict({"state_dict": small})


def test_vnet_with_slopes_and_biases(small_vnet):
    # `bias=True` in MONAI reaches the encoder and the head, not the decoder's convolutions
    weights, extra = small_vnet, {}
    for name, value in weights.items():
        width, stem = np.full(len(value), 0.5, np.float32) if value.ndim else None, name.rpartition(".")[0]
        if value.ndim == 5 and not name.startswith("up_") and name != "out_tr.conv2.weight":
            extra[f"{stem}.bias"] = width
        if match := re.fullmatch(r"(.*)\.bn1\.weight", name):
            extra[f"{match[1]}.act_function1.weight"] = width
            extra[f"{match[1]}.act_function2.weight"] = np.full(
                len(weights[f"{match[1]}.ops.0.conv_block.conv.weight"]), 0.1
            )
        if match := re.fullmatch(r"(.*\.ops\.\d)\.conv_block\.conv\.weight", name):
            extra[f"{match[1]}.act_function.weight"] = width
    extra["in_tr.act_function.weight"] = np.full(2, 0.2)
    extra["out_tr.act_function1.weight"] = np.full(2, 0.3)
    model, variables = vnet({**weights, **extra}, num_classes=2)
    assert (model.features, model.activation, model.conv_bias) == ((2, 4, 8, 16, 32), "prelu", True)
    assert model.activate_before_add and model.dropout == 0.5
    params = variables["params"]
    assert (
        not params["decoder_1_conv_0"]["conv"]["bias"].any() and (params["encoder_1_down"]["conv"]["bias"] == 0.5).all()
    )
    for layer, value in {"encoder_0_prelu": 0.2, "encoder_1_prelu": 0.1, "decoder_3_up_prelu": 0.5}.items():
        np.testing.assert_allclose(params[layer]["slope"], value)
    np.testing.assert_allclose(params["head_conv"]["prelu"]["slope"], 0.3)
    shared = {name: value[:1] if "act_function" in name else value for name, value in extra.items()}
    assert vnet({**weights, **shared})[0].activation == "prelu_shared"


def unet_weights(seeded, parts):
    """Two levels without residual units, their names written out, with a norm's `parts`."""
    named = {"model.0": (4, 1, 1, 3, 3), "model.1.submodule": (8, 4, 1, 3, 3), "model.2": (12, 2, 1, 3, 3)}
    found = {}
    for name, shape in named.items():
        found |= {f"{name}.conv.weight": shape, f"{name}.conv.bias": [shape[1 if name == "model.2" else 0]]}
        if name != "model.2":
            found |= {f"{name}.adn.N.{part}": [shape[0]] for part in parts}
            found |= {f"{name}.adn.A.weight": [1]}
    return seeded.state_dict({"state_dict": found})


@pytest.mark.parametrize(
    "norm, parts",
    [
        ("batch", ("weight", "bias", "running_mean", "running_var")),
        ("instance_affine", ("weight", "bias")),
        ("none", ()),
    ],
)
def test_unet_without_residual_units(seeded, norm, parts):
    given = {} if parts else {"norm": norm}  # nothing shows that there is none
    weights = unet_weights(seeded, parts)
    model, variables = unet(weights, strides=((1, 2, 2),), in_channels=1, **given)
    assert (model.ndim, model.features, model.num_res_units) == (3, (4, 8), 0)
    assert (model.kernel, model.up_kernel, model.norm) == ((1, 3, 3), (1, 3, 3), norm)
    assert model.activation == "prelu_shared" and model.divisor == (1, 2, 2)
    up = variables["params"]["decoder_0_up"]["conv"]["kernel"]
    np.testing.assert_array_equal(up[0, 1, 2, 5, 1], weights["model.2.conv.weight"][5, 1, 0, 1, 2])
    bare = {name: value for name, value in weights.items() if ".A." not in name}
    with pytest.raises(UserError, match="needs activation"):
        unet(bare, strides=((1, 2, 2),))
    assert unet(bare, strides=((1, 2, 2),), activation="relu", **given)[0].activation == "relu"


def test_segresnet_of_other_depth(seeded):
    found = {
        "convInit.conv.weight": [4, 2, 3, 3],
        "conv_final.2.conv.weight": [3, 4, 1, 1],
        "conv_final.2.conv.bias": [3],
    }
    norm = ("weight", "bias", "running_mean", "running_var")
    found |= {f"conv_final.0.{part}": [4] for part in norm}
    blocks = {"down_layers.0.1": 4, "down_layers.1.1": 8, "down_layers.2.1": 16, "up_layers.0.0": 8}
    for name, width in {**blocks, "up_layers.1.0": 4, "up_layers.1.1": 4}.items():
        for i in (1, 2):
            found |= {f"{name}.norm{i}.{part}": [width] for part in norm}
            found[f"{name}.conv{i}.conv.weight"] = [width, width, 3, 3]
    found |= {"down_layers.1.0.conv.weight": [8, 4, 3, 3], "down_layers.2.0.conv.weight": [16, 8, 3, 3]}
    found |= {"up_samples.0.0.conv.weight": [8, 16, 1, 1], "up_samples.1.0.conv.weight": [4, 8, 1, 1]}
    weights = seeded.state_dict({"state_dict": found})
    model, variables = segresnet(weights, blocks=(1, 1, 1))
    assert (model.ndim, model.norm, model.blocks_down, model.blocks_up) == (2, "batch", (1, 1, 1), (2, 1))
    total = sum(math.prod(shape) for name, shape in found.items() if "running" not in name)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == total
    deepest = variables["params"]["decoder_1_block_0"]["conv2"]["kernel"]
    np.testing.assert_array_equal(deepest[1, 2, 3, 5], weights["up_layers.0.0.conv2.conv.weight"][5, 3, 1, 2])


def test_what_does_not_fit_is_refused(recorded, seeded, small_vnet):
    plain = seeded.state_dict(recorded("monai_unet_2d"))
    added = seeded.state_dict(recorded("monai_segresnet_3d"))
    strides = (2, 2, 2)
    with pytest.raises(UserError, match="needs strides"):
        unet(plain)
    with pytest.raises(UserError, match=r"3 strided levels.*2 entries"):
        unet(plain, strides=(2, 2))
    # a stride of 1 where the weights have a strided residual convolution
    with pytest.raises(UserError, match=r"submodule\.0\.residual\.weight has \(3, 3, 8, 16\) for \(1, 1, 8, 16\)"):
        unet(plain, strides=(2, 1, 2))
    with pytest.raises(UserError, match="has 1 input channels in the state dict; in_channels is 2"):
        unet(plain, strides=strides, in_channels=2)
    with pytest.raises(UserError, match=r"with these fields: ResidualUNet\.strides"):
        unet(plain, strides=strides, features=(8, 16))
    with pytest.raises(UserError, match=r"missing model\.0\.conv\.unit0\.adn\.N\.bias"):
        unet(plain, strides=strides, norm="instance_affine")
    with pytest.raises(UserError, match="no field widths"):
        unet(plain, strides=strides, widths=3)
    with pytest.raises(UserError, match=r"unused extra\.weight"):
        segresnet({**added, "extra.weight": np.zeros(3)})
    with pytest.raises(UserError, match=r"missing up_samples\.1\.0\.conv\.weight"):
        segresnet({name: value for name, value in added.items() if name != "up_samples.1.0.conv.weight"})
    with pytest.raises(UserError, match=r"conv_final\.2\.conv\.weight has \(1, 1, 1, 8, 3\) for \(1, 1, 1, 8, 5\)"):
        segresnet(added, num_classes=5)
    with pytest.raises(UserError, match=r"missing up_tr64\.bn1\.bias"):
        vnet({name: value for name, value in small_vnet.items() if name != "up_tr64.bn1.bias"})
    with pytest.raises(UserError, match=r"down_tr64\.ops\.1\.conv_block"):
        vnet(small_vnet, convs=(1, 1, 1, 3, 2))
    for convert, weights in ((vnet, plain), (segresnet, small_vnet), (unet, added)):
        with pytest.raises(UserError, match=r"is not that of monai:.*missing .*; it has .*"):
            convert(weights, **({"strides": strides} if convert is unet else {}))
