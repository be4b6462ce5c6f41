"""Machines to compile for, by name: TPU topologies, which the TPU compiler knows without a TPU, and this machine."""

import math
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxseg.typing import UserError

GIB = 2**30
# Memory of one chip, as Google's documentation of each TPU generation gives it.
MEMORY = {"v2": 16 * GIB, "v3": 32 * GIB, "v4": 32 * GIB, "v5e": 16 * GIB, "v5p": 95 * GIB, "v6e": 32 * GIB}
# What a device of each (v2 to v4: half a chip) has left for a program: named by the compiler of libtpu 0.0.52 when it
# refuses a program that is larger ("exceeds available HBM").
AVAILABLE = {"v2": 7.48, "v3": 15.48, "v4": 15.25, "v5e": 15.75, "v5p": 95.73, "v6e": 31.24}
THREE_AXES = ("v4", "v5p")  # generations whose chips form a torus of three axes
GPUS = ("a10", "a100", "a6000", "b200", "h100", "h200", "l4", "l40s", "rtx", "t4", "v100")
WITHOUT_BFLOAT16 = ("t4", "v100")
MARGIN = 0.95  # of an accelerator's memory: the rest is for the next batch, what an evaluation compiles, fragments
GPU_SHARE = 0.75  # of a GPU's memory, which JAX takes unless XLA_CLIENT_MEM_FRACTION says otherwise
HOST_SHARE = 0.9  # of a host: the rest is for other programs
HOST_RESERVE = 1.5 * GIB  # of that, what a run holds beside the step: interpreter, compiler, data (docs/planning.md)
_TPU = re.compile(r"(v\d+[a-z]*):\d+x\d+(x\d+)?")


class Machine(NamedTuple):
    """What a plan is made for.

    Attributes:
      name: as given.
      target: what is compiled for, see `devices`.
      size: devices of it.
      limit: bytes a device that a train step may take.
      share: in words, of what that is which part.
      dtypes: compute types that suit it, the preferred one first.
      remark: what a reader of the figures should know; "" if nothing.
      runs: steps can be run here to see what they take beyond the compiler's sum.
    """

    name: str
    target: str
    size: int
    limit: int
    share: str
    dtypes: tuple[str, ...]
    remark: str = ""
    runs: bool = False


def machine(name: str) -> Machine:
    """Returns the machine of a name: "v5e", "v5e-4" (chips), "h100-80" (a GPU and its GiB), "cpu-24" (GiB of a host).

    Raises:
      UserError: the name is none of these.
    """
    kind, _, number = name.partition("-")
    size = 1 if name in AVAILABLE else int(number) if number.isdecimal() else 0
    if kind in AVAILABLE and size.bit_count() == 1:
        return _tpu(name, kind, size)
    if kind in GPUS and size:
        dtypes = ("float32",) if kind in WITHOUT_BFLOAT16 else ("bfloat16",)
        limit, share = int(size * GIB * GPU_SHARE * MARGIN), f"{MARGIN:.0%} of the {GPU_SHARE:.0%} that JAX takes"
        remark = "compiled for a CPU in the place of the GPU: an estimate"
        return Machine(name, "cpu", 1, limit, f"{share} of {size} GiB", dtypes, remark)
    if kind == "cpu" and size:
        limit, share = int(size * GIB * HOST_SHARE - HOST_RESERVE), f"{HOST_SHARE:.0%} of {size} GiB less 1.5 GiB"
        if limit <= 0:
            raise UserError(f"plan.device={name!r} leaves nothing for a train step; a CPU should have at least 2 GiB.")
        return Machine(name, "cpu", 1, limit, share, ("float32",), runs=True)
    raise UserError(
        f"plan.device should be a TPU ({', '.join(AVAILABLE)}, with a power of two of chips as in v5e-4), a GPU with "
        f"its GiB ({', '.join(GPUS)}, as in h100-80), or cpu with the host's GiB, as in cpu-24; it is {name!r}."
    )


def _tpu(name: str, kind: str, chips: int) -> Machine:
    per_chip = round(MEMORY[kind] / GIB / AVAILABLE[kind])  # v2 to v4 have two devices a chip
    limit = int(AVAILABLE[kind] * GIB * MARGIN)
    share = f"{MARGIN:.0%} of the {AVAILABLE[kind]:g} GiB that the compiler has"
    return Machine(name, f"{kind}:{topology(kind, chips)}", chips * per_chip, limit, share, ("bfloat16",))


def topology(kind: str, chips: int) -> str:
    """Returns the most compact arrangement of a power of two of chips, such as "2x4"."""
    axes = 3 if kind in THREE_AXES else 2
    power = chips.bit_length() - 1
    sides = [2 ** ((power + place) // axes) for place in range(axes)]
    return "x".join(map(str, sorted(sides, reverse=chips == 4 and axes == 3)))


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
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip is opened, so two commands may compile at once
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
