"""--mode convert: a file of PyTorch weights becomes a folder that `init.path` reads, a folder of nnU-Net a workdir."""

import math

import jax

from jaxseg import config as configs
from jaxseg import models, transfer
from jaxseg.cli import nnunet, workdir
from jaxseg.transfer import stored
from jaxseg.typing import UserError


def convert(arguments: workdir.Arguments) -> None:
    """Reads --input without running any code in it, converts it as --source says, and writes --output.

    Raises:
      UserError: flags are missing, or the file and the source do not fit together.
    """
    if len(arguments.inputs) != 1 or not arguments.output or not arguments.source:
        known = ", ".join(sorted(transfer.SOURCES))
        raise UserError(
            f"--mode convert needs --input FILE, --output DIR and --source, one of {known}; or {nnunet.SOURCE}, for a "
            "folder that nnU-Net has trained; fields that the file does not show follow as --field encoder=resnet18."
        )
    fields = dict(_field(text) for text in arguments.fields)
    if arguments.source == nnunet.SOURCE:
        nnunet.convert(arguments, fields)
        return
    weights = transfer.read_weights(arguments.inputs[0])
    model, variables = transfer.from_torch(weights, arguments.source, **fields)
    channels = models.input_channels(model, variables)  # the file's own layout depends on who wrote it
    stored.save(arguments.output, model, variables, source=arguments.source, in_channels=channels)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    print(f"{type(model).__name__} with {count:,} parameters in {arguments.output}; use it with init.path")


def _field(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--field {text} should read NAME=VALUE, such as encoder=resnet18 or strides=(1,2,2).")
    return name, configs.literal(value)
