"""Machines to compile for, by name: TPU topologies, which the TPU compiler knows without a TPU, and this machine."""

import math
import os
import re
from collections.abc import Sequence
from typing import Any

from jaxseg.typing import UserError

GIB = 2**30
# Memory of one chip, as Google's documentation of each TPU generation gives it.
MEMORY = {"v2": 16 * GIB, "v3": 32 * GIB, "v4": 32 * GIB, "v5e": 16 * GIB, "v5p": 95 * GIB, "v6e": 32 * GIB}
_TPU = re.compile(r"(v\d+[a-z]*):\d+x\d+(x\d+)?")


def devices(target: str) -> Sequence[Any]:
    """Returns the devices of a target: "cpu" for those of this machine, or a TPU topology such as "v5e:2x2".

    Raises:
      UserError: the name is neither, or the TPU compiler is not installed or does not know it.
    """
    import jax

    if target == "cpu":
        return jax.devices("cpu")
    if not _TPU.fullmatch(target):
        known = ", ".join(f"{kind}:2x2" for kind in MEMORY)
        raise UserError(f"--target should be cpu or a TPU topology such as {known} or v5p:2x2x1, not {target!r}.")
    from jax.experimental import topologies

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # do not ask a metadata server which TPU this is
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=target).devices
    except Exception as error:  # the plugin's own errors have no common kind
        text = " ".join(str(error).split())[:200]
        raise UserError(
            f"--target {target} cannot be compiled for ({text}); pip install -r requirements-tpu.txt brings the TPU "
            "compiler, and the topology must be one that exists."
        ) from error


def memory(target: str, devices: int) -> int | None:
    """Returns the bytes that each of a target's devices has, where a chip may be two; None where that is not known."""
    kind, _, shape = target.partition(":")
    if kind not in MEMORY:
        return None
    return MEMORY[kind] * math.prod(int(side) for side in shape.split("x")) // devices
