"""Tasks: a model, its losses and its counts bound into pure functions that the training loop can drive."""

from jaxseg.tasks.boosted import boosted, variables_of, with_earlier
from jaxseg.tasks.instance import Sampling, instance
from jaxseg.tasks.semantic import semantic

__all__ = ["Sampling", "boosted", "instance", "semantic", "variables_of", "with_earlier"]
