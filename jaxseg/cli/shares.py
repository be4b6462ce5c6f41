"""This machine's devices, divided among processes: cores, GPUs or TPU chips."""

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from jaxseg.typing import UserError

# Asked of a process that ends at once: whoever lists the devices of a GPU or TPU holds them.
SURVEY = "import jax; devices = jax.local_devices(); print(devices[0].platform, len(devices))"


class Share(NamedTuple):
    """What one process may use: cores (empty: all) and the variables that show it its accelerators."""

    cores: tuple[int, ...]
    environment: dict[str, str]


def survey() -> tuple[str, int]:
    """Returns (platform, number of devices) of this machine without holding any; of a CPU the cores are counted.

    Raises:
      UserError: JAX finds no device.
    """
    done = subprocess.run([sys.executable, "-c", SURVEY], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"tune.together > 1 shares out devices, but JAX finds none here: {reason}")
    platform, count = done.stdout.split()[-2:]
    return platform, len(cores()) if platform == "cpu" else int(count)


def cores() -> tuple[int, ...]:
    """Returns the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def divide(platform: str, devices: int, ways: int, *, available: Sequence[int], visible: str = "") -> list[Share]:
    """Returns `ways` shares of equal size; what does not divide stays unused.

    Args:
      platform: cpu, gpu, cuda or tpu.
      devices: how many there are; of a CPU the cores.
      ways: processes.
      available: the cores.
      visible: CUDA_VISIBLE_DEVICES of this process, names parted by commas; "": all are seen.

    Raises:
      UserError: more processes than devices.
    """
    if ways > devices:
        kind = {"cpu": "CPU core", "tpu": "TPU chip"}.get(platform, "GPU")
        raise UserError(f"tune.together is {ways}, but there are {devices} devices ({kind}s); at most one trial each.")
    size, few = devices // ways, max(1, len(available) // ways)
    own = [tuple(available[place * few : (place + 1) * few]) if ways <= len(available) else () for place in range(ways)]
    if platform == "cpu":
        return [Share(part, {}) for part in own]
    if platform == "tpu":  # one chip each: how several chips are wired differs from generation to generation
        bounds = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
        return [Share(part, {"TPU_VISIBLE_CHIPS": str(place), **bounds}) for place, part in enumerate(own)]
    names = [name.strip() for name in visible.split(",")] if visible else [str(place) for place in range(devices)]
    groups = [names[place * size : (place + 1) * size] for place in range(ways)]
    return [Share(part, {"CUDA_VISIBLE_DEVICES": ",".join(group)}) for part, group in zip(own, groups)]


def enter(share: Share) -> None:
    """Confines this process to a share; before JAX looks for devices."""
    os.environ.update(share.environment)
    if share.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, share.cores)
