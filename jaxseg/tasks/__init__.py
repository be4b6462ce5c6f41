"""Tasks: a model, its losses and its counts bound into pure functions that the training loop can drive."""

from jaxseg.tasks.boosted import boosted, variables_of, with_earlier
from jaxseg.tasks.critic import with_critic
from jaxseg.tasks.cycle import Cycle, unpaired
from jaxseg.tasks.images import Fidelity, Intensities, super_resolution, synthesis, translation
from jaxseg.tasks.instance import Sampling, instance
from jaxseg.tasks.players import Rules
from jaxseg.tasks.semantic import semantic

__all__ = [
    "Cycle",
    "Fidelity",
    "Intensities",
    "Rules",
    "Sampling",
    "boosted",
    "instance",
    "semantic",
    "super_resolution",
    "synthesis",
    "translation",
    "unpaired",
    "variables_of",
    "with_critic",
    "with_earlier",
]
