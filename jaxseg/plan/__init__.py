"""Plans: what patch, batch, spacing and network suit a data set."""

from jaxseg.plan.rules import PLANNERS, Planner, network_topology, rule_plan, target_spacing

__all__ = ["PLANNERS", "Planner", "network_topology", "rule_plan", "target_spacing"]
