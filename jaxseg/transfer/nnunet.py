"""nnU-Net v2's networks (dynamic_network_architectures): plain and residual-encoder U-Nets -> our `unet`.

nnU-Net's files hold every encoder tensor up to four times (`decoder.encoder.*` and `*.all_modules.*` are the same
tensors under other names) and always all deep-supervision heads.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import models
from jaxseg.transfer import torch_layout
from jaxseg.typing import UserError

HEAD = re.compile(r"decoder\.seg_layers\.(\d+)\.")


def plain(state_dict: Mapping[str, np.ndarray], **fields: Any) -> tuple[Any, dict]:
    """Converts nnU-Net's PlainConvUNet; see `transfer.from_torch`."""
    return _convert(state_dict, "nnunet:PlainConvUNet", False, fields)


def residual(state_dict: Mapping[str, np.ndarray], **fields: Any) -> tuple[Any, dict]:
    """Converts nnU-Net's ResidualEncoderUNet; see `transfer.from_torch`."""
    return _convert(state_dict, "nnunet:ResidualEncoderUNet", True, fields)


def _convert(state_dict: Mapping[str, np.ndarray], source: str, is_residual: bool, fields: dict) -> tuple[Any, dict]:
    if fields.get("strides") is None:
        raise UserError(
            f"{source} needs strides, one entry a stage such as (1, 2, 2): the state dict does not show them; nnU-Net "
            "writes them in its plans file."
        )
    weights = without_aliases(state_dict)
    found = _inferred(weights, source, is_residual)
    in_channels = fields.pop("in_channels", found.pop("in_channels"))
    model = models.create("unet", **{**found, **fields, "residual": is_residual})
    levels = len(model.features)
    if len(model.strides) != levels:
        raise UserError(f"{source} has {levels} stages in the state dict; strides has {len(model.strides)} entries.")
    if not model.deep_supervision:  # asked for: the lower heads are left behind
        weights = {name: value for name, value in weights.items() if _head_level(name, levels) in (None, 0)}
    image = jax.ShapeDtypeStruct((1, *model.divisor, in_channels), jnp.float32)
    expected = jax.eval_shape(model.init, jax.random.key(0), image)
    variables = torch_layout.fill(
        expected,
        weights,
        name_of=lambda path: torch_name(path, levels),
        layout_of=_layout,
        source=source,
    )
    return model, variables


def without_aliases(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One entry a tensor: `decoder.encoder.x` becomes `encoder.x`, `all_modules.0` `conv`, `all_modules.1` `norm`.

    Raises:
      UserError: two names of one tensor hold different numbers.
    """
    weights: dict[str, np.ndarray] = {}
    for name, value in state_dict.items():
        short = re.sub(r"^decoder\.encoder\.", "encoder.", name)
        short = re.sub(r"\.all_modules\.0\.", ".conv.", short)
        short = re.sub(r"\.all_modules\.\d+\.", ".norm.", short)
        short = re.sub(r"\.skip\.\d+\.", ".skip.", short)  # numbered after the pooling, where there is one
        if short in weights and not np.array_equal(weights[short], value):
            raise UserError(f"The state dict's {name} should equal {short}, of which it is another name; it does not.")
        weights.setdefault(short, value)
    return weights


def torch_name(path: torch_layout.Path, levels: int) -> str:
    """The state dict's name of one of our variables, such as ("params", "encoder_0_conv_1", "conv", "kernel")."""
    _, layer, *inner, leaf = path
    end = torch_layout.LEAVES[leaf]
    parts = layer.split("_")
    if layer == "stem":
        body = "encoder.stem.convs.0"
    elif parts[0] == "encoder" and parts[2] == "conv":
        body = f"encoder.stages.{parts[1]}.0.convs.{parts[3]}"
    elif parts[0] == "encoder":
        body = f"encoder.stages.{parts[1]}.blocks.{parts[3]}"
    elif parts[0] == "head":
        level = int(parts[1]) if len(parts) > 1 else 0
        body = f"decoder.seg_layers.{levels - 2 - level}"
    elif parts[2] == "up":
        body = f"decoder.transpconvs.{levels - 2 - int(parts[1])}"
    else:
        body = f"decoder.stages.{levels - 2 - int(parts[1])}.convs.{parts[3]}"
    return ".".join([body, *inner, end])


def _layout(path: torch_layout.Path):
    if path[-1] != "kernel":
        return lambda array: array
    return torch_layout.conv_transpose_kernel if path[1].endswith("_up") else torch_layout.conv_kernel


def _head_level(name: str, levels: int) -> int | None:
    match = HEAD.match(name)
    return levels - 2 - int(match.group(1)) if match else None


def _inferred(weights: Mapping[str, np.ndarray], source: str, is_residual: bool) -> dict[str, Any]:
    """The fields that names and shapes show."""
    first = "encoder.stages.{}.blocks.0.conv1" if is_residual else "encoder.stages.{}.0.convs.0"
    stages = _count(weights, first + ".conv.weight")
    start = "encoder.stem.convs.0" if is_residual else "encoder.stages.0.0.convs.0"
    heads = _count(weights, "decoder.seg_layers.{}.weight")
    if stages < 2 or f"{start}.conv.weight" not in weights or not heads:
        raise UserError(
            f"The state dict is not that of {source}: missing {start}.conv.weight, {first.format(1)}.conv.weight or "
            f"decoder.seg_layers.0.weight; it has {', '.join(list(weights)[:3]) or 'nothing'}, ..."
        )
    kernels = [weights[first.format(stage) + ".conv.weight"].shape for stage in range(stages)]
    decoder = [_count(weights, f"decoder.stages.{stages - 2 - s}.convs.{{}}.conv.weight") for s in range(stages - 1)]
    encoder = "encoder.stages.{}." + ("blocks.{{}}.conv1.conv.weight" if is_residual else "0.convs.{{}}.conv.weight")
    counts = tuple(_count(weights, encoder.format(stage)) for stage in range(stages))
    return {
        "ndim": len(kernels[0]) - 2,
        "in_channels": weights[f"{start}.conv.weight"].shape[1],
        "num_classes": weights["decoder.seg_layers.0.weight"].shape[0],
        "features": tuple(shape[0] for shape in kernels),
        "kernels": tuple(tuple(shape[2:]) for shape in kernels),
        "blocks" if is_residual else "convs": counts,
        "decoder_convs": tuple(decoder),
        "conv_bias": f"{start}.conv.bias" in weights,
        "norm": "batch" if f"{start}.norm.running_mean" in weights else "instance",
        "deep_supervision": heads > 1,
    }


def _count(weights: Mapping[str, np.ndarray], pattern: str) -> int:
    n = 0
    while pattern.format(n) in weights:
        n += 1
    return n
