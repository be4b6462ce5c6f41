"""Plans: what patch, batch, spacing and network suit a data set."""

from jaxseg.plan.allowance import Allowance, allowance, small_candidates
from jaxseg.plan.compiled import Cost, Traffic, as_json, collectives, cost
from jaxseg.plan.rules import (
    PLANNERS,
    Planner,
    Topology,
    memory_score,
    network,
    network_topology,
    patches,
    rule_plan,
)
from jaxseg.plan.search import Candidate, Trial, last_that_fits, search

__all__ = [
    "PLANNERS",
    "Allowance",
    "Candidate",
    "Cost",
    "Planner",
    "Topology",
    "Traffic",
    "Trial",
    "allowance",
    "as_json",
    "collectives",
    "cost",
    "last_that_fits",
    "memory_score",
    "network",
    "network_topology",
    "patches",
    "rule_plan",
    "search",
    "small_candidates",
]
