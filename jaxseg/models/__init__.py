"""Networks by name. Importing this room loads Flax; a network's own file is imported when it is asked for.

`create` makes what `(image) -> (logits, aux)` segments or classifies, `create_generator` what makes images and
`create_discriminator` what judges them: each has a table of its own.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from jaxseg import registry
from jaxseg.models import backbones
from jaxseg.models.traced import input_channels, transposed_strides
from jaxseg.typing import UserError

__all__ = [
    "create",
    "create_discriminator",
    "create_generator",
    "describe",
    "discriminator_names",
    "divisor",
    "generator_names",
    "input_channels",
    "names",
    "transposed_strides",
]

MODELS = {
    "attention_unet": "jaxseg.models.unet:attention_unet",
    "classifier": "jaxseg.models.classifier:Classifier",
    "deeplabv3": "jaxseg.models.deeplab:DeepLabV3",
    "deeplabv3plus": "jaxseg.models.deeplab:DeepLabV3Plus",
    "fcn": "jaxseg.models.fcn:FCN",
    "fcn_resnet": "jaxseg.models.deeplab:FCNResNet",
    "fpn": "jaxseg.models.fpn:FPN",
    "logistic": "jaxseg.models.meta_learner:LogisticRegression",
    "mask_rcnn": "jaxseg.models.mask_rcnn:MaskRCNN",
    "monai_vnet": "jaxseg.models.vnet:monai_vnet",
    "pixel_actor_critic": "jaxseg.models.pixel_actor_critic:PixelActorCritic",
    "pixel_features": "jaxseg.models.pixel_features:PixelFeatures",
    "q_network": "jaxseg.models.q_network:QNetwork",
    "residual_unet": "jaxseg.models.residual_unet:ResidualUNet",
    "segnet": "jaxseg.models.segnet:SegNet",
    "segresnet": "jaxseg.models.segresnet:SegResNet",
    "stacking_conv": "jaxseg.models.meta_learner:StackingConv",
    "unet": "jaxseg.models.unet:UNet",
    "unet2015": "jaxseg.models.unet:unet2015",
    "unetplusplus": "jaxseg.models.unetplusplus:UNetPlusPlus",
    "vnet": "jaxseg.models.vnet:VNet",
}
ON_BACKBONE = {
    "unet": "jaxseg.models.encoder_unet:EncoderUNet"
}  # with a field `encoder`, the same name is this network
GENERATORS = {
    "pix2pix": "jaxseg.models.generators:Pix2Pix",
    "resnet_generator": "jaxseg.models.generators:ResNetGenerator",
    "spade": "jaxseg.models.spade:Spade",
    "super_resolution": "jaxseg.models.super_resolution:SuperResolution",
}
DISCRIMINATORS = {
    "multi_scale_patch_gan": "jaxseg.models.discriminators:MultiScalePatchGAN",
    "patch_gan": "jaxseg.models.discriminators:PatchGAN",
}


def names() -> tuple[str, ...]:
    """The names that `create` knows without a module path."""
    return tuple(sorted(MODELS))


def generator_names() -> tuple[str, ...]:
    """The names that `create_generator` knows without a module path."""
    return tuple(sorted(GENERATORS))


def discriminator_names() -> tuple[str, ...]:
    """The names that `create_discriminator` knows without a module path."""
    return tuple(sorted(DISCRIMINATORS))


def create(name: str, **fields: Any) -> nn.Module:
    """Makes the network called `name` (or an outside "package.module:attr"); `fields` are its dataclass fields.

    Lists become tuples and dicts pairs, so that fields may come from a config file. With a field `encoder`, such as
    "resnet18", "unet" is a U-Net on that backbone.

    Raises:
      UserError: there is no such network, or it or its backbone has no such field (the fields are listed).
    """
    table = {**MODELS, **ON_BACKBONE} if fields.get("encoder") else MODELS
    model = _make(name, table, "model", fields)
    if name in table:
        _check_backbone(model)
    return model


def create_generator(name: str, **fields: Any) -> nn.Module:
    """Makes the generator called `name`: `(image, train=False) -> (image, aux)`, "spade" from labels and a style.

    Raises:
      UserError: there is no such generator, or it has no such field (the fields are listed).
    """
    return _make(name, GENERATORS, "generator", fields)


def create_discriminator(name: str, **fields: Any) -> nn.Module:
    """Makes the discriminator called `name`: `(image, train=False) -> (logits, {"features": ...})`.

    Raises:
      UserError: there is no such discriminator, or it has no such field (the fields are listed).
    """
    return _make(name, DISCRIMINATORS, "discriminator", fields)


def describe(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """Returns (name, fields) with which `create` makes the same network again; fields at their default are left out.

    Names are those of the table, or "package.module:Class" for a network from outside.
    """
    own = {field.name: field for field in dataclasses.fields(model) if field.name not in ("parent", "name")}
    fields = {
        name: getattr(model, name)
        for name, field in own.items()
        if getattr(model, name) != field.default and name != "dtype"
    }
    path = f"{type(model).__module__}:{type(model).__qualname__}"
    known = {target: name for name, target in {**MODELS, **ON_BACKBONE}.items()}
    if path in ON_BACKBONE.values():
        fields["encoder"] = model.encoder  # the field that tells it from its namesake
    return known.get(path, path), fields


def divisor(model: nn.Module, *, ndim: int = 2) -> tuple[int, ...]:
    """What the input's size must be divisible by, one number a spatial axis (ones where the model asks for nothing).

    Args:
      model: the network.
      ndim: spatial axes of a network from outside, which may not say how many it has.
    """
    return tuple(getattr(model, "divisor", (1,) * getattr(model, "ndim", ndim)))


def _make(name: str, table: Mapping[str, str], kind: str, fields: Mapping[str, Any]) -> nn.Module:
    maker = registry.resolve(name, table, kind=kind)
    made = maker.func if isinstance(maker, functools.partial) else maker
    if dataclasses.is_dataclass(made):
        known = [field.name for field in dataclasses.fields(made) if field.name not in ("parent", "name")]
        unknown = sorted(set(fields) - set(known))
        if unknown:
            raise UserError(f"The {kind} {name!r} has no field {', '.join(unknown)}; its fields: {', '.join(known)}.")
    return maker(**{field: _frozen(value) for field, value in fields.items()})


def _check_backbone(model: nn.Module) -> None:
    """Before anything is traced: a field that another backbone has may mean something else, or nothing, here."""
    for field, options in (("backbone", "backbone_fields"), ("encoder", "encoder_fields")):
        if isinstance(chosen := getattr(model, field, None), str):
            own = getattr(model, options)
            # A network's default fields belong to its default backbone; the network leaves them out of others.
            default = next(item.default for item in dataclasses.fields(model) if item.name == options)
            backbones.check_fields(chosen, () if own == default else dict(own))


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple((key, _frozen(item)) for key, item in value.items())
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
