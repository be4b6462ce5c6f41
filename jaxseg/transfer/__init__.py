"""Weights of other projects' networks in ours. Nothing foreign is imported: a state dict is a dict of numpy arrays."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxseg import registry
from jaxseg.typing import UserError

SOURCES = {
    "nnunet:PlainConvUNet": "jaxseg.transfer.nnunet:plain",
    "nnunet:ResidualEncoderUNet": "jaxseg.transfer.nnunet:residual",
}


def from_torch(state_dict: Mapping[str, np.ndarray], source: str, **fields: Any) -> tuple[Any, dict]:
    """Converts a PyTorch state dict to our network with the same weights.

    Args:
      state_dict: parameter name -> array.
      source: whose names these are, such as "nnunet:PlainConvUNet".
      **fields: the network's fields; those that the state dict shows are optional (strides never show), and
        `in_channels` may be given as a check.

    Returns:
      `(model, variables)` for `model.apply(variables, image)`.

    Raises:
      UserError: the source is unknown, a field is missing, or names or shapes do not match one to one.
    """
    if source not in SOURCES:  # a source holds a colon, which the registry would take for an outside path
        raise UserError(f"There is no source of PyTorch weights named {source!r}; known: {', '.join(sorted(SOURCES))}.")
    convert = registry.resolve(source, SOURCES, kind="source of PyTorch weights")
    return convert(dict(state_dict), **fields)
