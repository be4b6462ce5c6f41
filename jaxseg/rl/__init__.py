"""Segmentation as a sequence of decisions: environments as pure functions, agents that learn in them as Tasks.

`refine` is the world of agents that are pixels, `refinement` their Task; `operators` is the world of one agent that
applies classical operators, `q_learning` its Task. `start` says where their episodes begin.
"""

from jaxseg.rl import clicks, refine, start
from jaxseg.rl.planes import Planes, read_planes
from jaxseg.rl.refine import World
from jaxseg.rl.refinement import Refiner, Rules, Trace, outputs, refinement
from jaxseg.rl.start import Start

__all__ = [
    "Planes",
    "Refiner",
    "Rules",
    "Start",
    "Trace",
    "World",
    "clicks",
    "outputs",
    "read_planes",
    "refine",
    "refinement",
    "start",
]
