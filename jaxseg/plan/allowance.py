"""What a step takes of a CPU beyond its compiler's sum: a straight line through two small steps that were run."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from jaxseg.plan.rules import SMALLEST_BATCH, Topology
from jaxseg.plan.search import Candidate

FIRST, SECOND = 1 / 16, 1 / 4  # of the largest load: the steps that are run


class Allowance(NamedTuple):
    """Bytes beyond the compiler's sum: what every step takes, and what it takes for each voxel of its batch."""

    fixed: float
    a_voxel: float

    def bytes(self, load: float) -> int:
        """Returns the bytes of a step whose batch has so many voxels."""
        return math.ceil(self.fixed + self.a_voxel * load)


def allowance(samples: Sequence[tuple[float, float]]) -> Allowance:
    """Returns the line through two pairs of (voxels of a batch, bytes beyond); it never falls towards larger batches.

    Raises:
      ValueError: the pairs are not two of different sizes.
    """
    if len({load for load, _ in samples}) != 2 or len(samples) != 2:
        raise ValueError(f"An allowance is a line through two batches of different sizes; it got {list(samples)}.")
    (first_load, first), (second_load, second) = sorted(samples)
    a_voxel = max(0.0, (second - first) / (second_load - first_load))
    return Allowance(max(0.0, second - a_voxel * second_load), a_voxel)


def small_candidates(topologies: Sequence[Topology], *, load: float, dtype: str) -> tuple[Candidate, Candidate]:
    """Returns two candidates, the smaller one first, near 1/16 and 1/4 of a load, for steps that are cheap to run.

    Args:
      topologies: what may be trained, as `rules.patches` gives it.
      load: voxels of the largest batch that is of interest.
      dtype: of the candidates; they do not recompute, which costs time and takes as much beyond.
    """
    batches = [SMALLEST_BATCH * 2**power for power in range(max(1, math.ceil(math.log2(max(load, 2)))))]
    known: dict[float, Candidate] = {}
    for topology in topologies:  # of equal loads the larger patch, whose network is more like that of the largest
        for batch in batches:
            candidate = Candidate(topology, batch, dtype, remat=False)
            known.setdefault(candidate.load, candidate)
    ascending = sorted(known)

    def nearest(loads: Sequence[float], wanted: float) -> float:
        return min(loads, key=lambda own: abs(math.log(own / wanted)))

    first = nearest(ascending[:-1], load * FIRST)
    second = nearest([own for own in ascending if own > first], max(load * SECOND, 2 * first))
    return known[first], known[second]
