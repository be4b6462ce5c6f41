"""One measurement in a process of its own, for benchmarks/compare.py; needs nothing but Python and numpy.

    python -m benchmarks.alone MODULE:FUNCTION '{"options": {...}, "runs": 5, "seconds": 20, "result": "FILE.npy"}'

FUNCTION takes the options and returns what is to be timed, a function without arguments. Its first call warms up or
compiles and is not counted. Prints as JSON the seconds of each further call, the largest memory the process held during
them (resident pages, MiB) and what it held before. What the last call returned, if an array, is written to FILE.
"""

import ctypes
import importlib
import json
import pathlib
import re
import sys
import time

import numpy as np

STATUS, CLEAR = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")


def memory(field: str) -> float:
    """Returns MiB of a line of /proc/self/status: "VmRSS" (now) or "VmHWM" (the most so far)."""
    found = re.search(rf"^{field}:\s*(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    assert found, f"Linux tells {field} in {STATUS}"
    return int(found.group(1)) / 1024


def measure(target: str, *, options: dict, runs: int, seconds: float, result: str | None = None) -> dict:
    """Returns seconds of up to `runs` calls (no further one begins after `seconds`) and their peak memory."""
    module, name = target.split(":")
    run = getattr(importlib.import_module(module), name)(**options)
    run()
    ctypes.CDLL(None).malloc_trim(0)  # what compiling has freed goes back to the system
    before = memory("VmRSS")
    CLEAR.write_text("5")  # Linux: the most so far is now again what is held; compiling does not count
    times: list[float] = []
    while len(times) < runs and (not times or sum(times) < seconds):
        began = time.perf_counter()
        found = run()
        times.append(time.perf_counter() - began)
    peak = memory("VmHWM")
    if result is not None and found is not None:
        np.save(result, np.asarray(found))
    return {"seconds": times, "peak": peak, "before": before}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], **json.loads(sys.argv[2]))))
