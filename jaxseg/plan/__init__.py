"""Plans: what patch, batch, spacing and network suit a data set."""

from jaxseg.plan.compiled import Cost, Traffic, as_json, collectives, cost
from jaxseg.plan.rules import PLANNERS, Planner, memory_score, network_topology, rule_plan

__all__ = [
    "PLANNERS",
    "Cost",
    "Planner",
    "Traffic",
    "as_json",
    "collectives",
    "cost",
    "memory_score",
    "network_topology",
    "rule_plan",
]
