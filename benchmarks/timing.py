"""The stopwatch of the benchmarks; needs nothing but Python, so that peers in other environments can use it."""

import statistics
import time
from collections.abc import Callable

RUNS = 3


def seconds(function: Callable[[], object]) -> float:
    """Median of RUNS calls after one that warms up or compiles."""
    function()
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return statistics.median(times)
