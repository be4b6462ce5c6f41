"""How much memory of the host a command may still take."""

import pathlib
from collections.abc import Callable

from jaxseg.predict import Prediction
from jaxseg.typing import Volume

SHARE = 0.8  # of what is free, where no number is given: other programs and the system's own buffers need some too
PROC = pathlib.Path("/proc")
# Of either version of Linux's control groups: a container's bound, what it holds, and the statistics of that.
GROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
BUFFERS = ("inactive_file", "active_file", "total_inactive_file", "total_active_file")  # given back on demand


def left(gib: float) -> int | None:
    """Returns how many bytes this process may still take.

    Args:
      gib: what it may take in all, in GiB. 0: a share of what the machine, or the container that it runs in, has free.

    Returns:
      Bytes, below zero where it has taken too much already; None where `gib` is 0 and the system does not say.
    """
    if gib:
        return int(gib * 2**30) - (_field("self/status", "VmRSS") or 0)
    free = [_field("meminfo", "MemAvailable"), *(_left_of_group(*group) for group in GROUPS)]
    known = [value for value in free if value is not None]
    return int(SHARE * min(known)) if known else None


def within(one: Callable[..., Prediction], gib: float, volume: Volume, **options) -> Prediction:
    """Predicts a volume in what is left of `gib` at this moment, see `left`."""
    return one(volume, **{"memory": left(gib), **options})


def _field(name: str, field: str) -> int | None:
    """The bytes that a line of a file in /proc gives in kB; None where there is no such line."""
    try:
        lines = (PROC / name).read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def _left_of_group(folder: str, bound: str, held: str) -> int | None:
    """What a control group may still take; None where it has no bound. Contents of files that it buffers are free."""
    try:
        limit, taken = (int(pathlib.Path(folder, name).read_text()) for name in (bound, held))
        statistics = dict(line.split() for line in pathlib.Path(folder, "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such file, or the word "max"
        return None
    names = BUFFERS[2:] if BUFFERS[2] in statistics else BUFFERS[:2]
    return limit - taken + sum(int(statistics.get(name, 0)) for name in names)
