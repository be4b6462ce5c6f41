"""Plans: what patch, batch, spacing and network suit a data set."""

from jaxseg.plan.rules import PLANNERS, Planner, memory_score, network_topology, rule_plan

__all__ = ["PLANNERS", "Planner", "memory_score", "network_topology", "rule_plan"]
