"""Networks by name. Importing this room loads Flax; a network's own file is imported when it is asked for."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn

from jaxseg import registry
from jaxseg.typing import UserError

MODELS = {
    "unet": "jaxseg.models.unet:UNet",
    "unet2015": "jaxseg.models.unet:unet2015",
}


def names() -> tuple[str, ...]:
    """The names that `create` knows without a module path."""
    return tuple(sorted(MODELS))


def create(name: str, **fields: Any) -> nn.Module:
    """Makes the network called `name` (or an outside "package.module:attr"); `fields` are its dataclass fields.

    Lists become tuples, so that fields may come from a config file.

    Raises:
      UserError: there is no such network, or it has no such field (its fields are listed).
    """
    maker = registry.resolve(name, MODELS, kind="model")
    kind = maker.func if isinstance(maker, functools.partial) else maker
    if dataclasses.is_dataclass(kind):
        known = [field.name for field in dataclasses.fields(kind) if field.name not in ("parent", "name")]
        unknown = sorted(set(fields) - set(known))
        if unknown:
            raise UserError(f"The model {name!r} has no field {', '.join(unknown)}; its fields: {', '.join(known)}.")
    return maker(**{field: _frozen(value) for field, value in fields.items()})


def divisor(model: nn.Module) -> tuple[int, ...]:
    """What the input's size must be divisible by, one number a spatial axis (ones where the model asks for nothing)."""
    return tuple(getattr(model, "divisor", (1,) * getattr(model, "ndim", 2)))


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
