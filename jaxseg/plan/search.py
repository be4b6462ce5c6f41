"""The largest patch that fits a device, then the largest batch: a search that asks the compiler as seldom as it can.

What a candidate takes is measured by a function that is handed in, such as one that compiles the real train step.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxseg.plan.rules import SMALLEST_BATCH, Topology

FIRST, SECOND = 1 / 32, 1 / 8  # of the largest load: the small programs that are measured to begin with
PATIENCE = 5  # guesses by a straight line before the rest is bisected


class Candidate(NamedTuple):
    """What may be trained: a patch with its network, a batch over all devices, a compute type, recomputation or not."""

    topology: Topology
    batch: int
    dtype: str
    remat: bool

    @property
    def load(self) -> float:
        """Voxels of the batch: memory is close to a straight line over them."""
        return float(self.batch * math.prod(self.topology.patch))


class Trial(NamedTuple):
    """A candidate that was measured: bytes a device (None: the compiler refused), and whether they are there."""

    candidate: Candidate
    peak: int | None
    fits: bool


def search(
    topologies: Sequence[Topology],
    measure: Callable[[Candidate], int | None],
    *,
    limit: int,
    largest_batch_voxels: float,
    dtypes: Sequence[str] = ("bfloat16",),
    ways: int = 1,
    show: Callable[[Trial], None] = lambda trial: None,
) -> tuple[Candidate | None, tuple[Trial, ...]]:
    """Returns the best candidate that fits (None: none does) and all that were measured, in order.

    The largest patch comes first: the first of `topologies` of which the smallest batch fits in any way, in the first
    of the types and without recomputation where that is enough. Then the largest batch of it.

    Memory is taken to grow with the patch and with the batch. The first measurements are of small programs; a straight
    line through them says where the limit is reached, and the candidate there and the next larger one are measured.

    Args:
      topologies: the largest patch first, as `rules.patches` gives them.
      measure: bytes a device that a candidate takes; None if the compiler finds no way to fit it in.
      limit: bytes a device that it may take.
      largest_batch_voxels: what one batch may show at most, unless that is less than the smallest batch.
      dtypes: compute types, the preferred one first.
      ways: devices that share a batch; it is a multiple of them.
      show: is told each trial as it is made.
    """
    trials: list[Trial] = []
    ascending = sorted(topologies, key=lambda topology: math.prod(topology.patch))
    smallest = -(-SMALLEST_BATCH // ways) * ways

    def last(candidates: Sequence[Candidate], *, fitting: int) -> int:
        """The place of the last candidate that fits; all up to `fitting` are known to."""
        alike = [(trial.candidate.load, trial.peak) for trial in trials if trial.candidate[2:] == candidates[0][2:]]
        samples = [(load, float(peak)) for load, peak in alike if peak is not None]

        def peak(place: int) -> int | None:
            candidate = candidates[place]
            found = measure(candidate)
            trials.append(Trial(candidate, found, found is not None and found <= limit))
            show(trials[-1])
            return found

        return last_that_fits([own.load for own in candidates], peak, limit=limit, fitting=fitting, samples=samples)

    best, chosen = -1, None
    for dtype in dtypes:
        for remat in (False, True):
            if best == len(ascending) - 1:
                break
            candidates = [Candidate(topology, smallest, dtype, remat) for topology in ascending]
            found = last(candidates, fitting=best)
            if found > best:
                best, chosen = found, candidates[found]
    if chosen is None:
        return None, tuple(trials)
    most = round(largest_batch_voxels / math.prod(chosen.topology.patch))
    batches = range(smallest, max(most, smallest) + 1, ways)
    candidates = [chosen._replace(batch=batch) for batch in batches]
    return candidates[last(candidates, fitting=0)], tuple(trials)


def last_that_fits(
    loads: Sequence[float],
    peak: Callable[[int], int | None],
    *,
    limit: float,
    fitting: int = -1,
    samples: Sequence[tuple[float, float]] = (),
) -> int:
    """Returns the place of the last entry whose peak is within the limit, -1 if there is none.

    Args:
      loads: ascending; peaks grow with them, close to a straight line.
      peak: of the entry at a place; None: more than the limit.
      limit: the most that fits.
      fitting: a place up to which all are known to fit.
      samples: pairs of load and peak that are known from elsewhere.
    """
    low, high, known = fitting, len(loads), list(samples)
    calls = 0
    while high - low > 1:
        place = (low + high) // 2 if calls >= PATIENCE else _guess(loads, low, high, limit, known)
        found = peak(place)
        calls += 1
        if found is not None:
            known.append((loads[place], float(found)))
        if found is not None and found <= limit:
            low = place
        else:
            high = place
    return low


def _guess(loads: Sequence[float], low: int, high: int, limit: float, known: Sequence[tuple[float, float]]) -> int:
    """Where to look next between `low` and `high`: at two small ones, then where a line through the latest two says."""
    latest = list(dict(known).items())[-2:]  # of different loads
    if len(latest) < 2:
        place = int(np.searchsorted(loads, (SECOND if latest else FIRST) * loads[-1]))
    else:
        (first_load, first), (second_load, second) = latest
        slope = (second - first) / (second_load - first_load)
        if slope <= 0:
            return (low + high) // 2
        place = int(np.searchsorted(loads, second_load + (limit - second) / slope, side="right")) - 1
    return min(max(place, low + 1), high - 1)
