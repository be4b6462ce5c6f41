"""Layers that training leaves alone: by a pattern of their parameters' paths."""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
from jaxtyping import PyTree

from jaxseg.typing import Task, UserError


def freeze(task: Task, pattern: str, *, groups: Collection[str] | None = None) -> Task:
    """Returns the task with gradients stopped at every parameter whose path matches, so that none is computed.

    Args:
      task: the task.
      pattern: `re.search` over paths inside a parameter group, such as "^backbone/(stem|stage_1)".
      groups: the parameter groups that are meant; None: all. A discriminator has layers of the same names.
    """

    def stopped(params: Mapping[str, PyTree]) -> dict[str, PyTree]:
        meant = params if groups is None else groups
        return {group: _stop(tree, re.compile(pattern)) if group in meant else tree for group, tree in params.items()}

    def wrap(loss: Callable) -> Callable:
        def frozen_loss(params, extra, batch, key, **options):
            return loss(stopped(params), extra, batch, key, **options)

        return frozen_loss

    return task._replace(losses={group: wrap(loss) for group, loss in task.losses.items()})


def check_pattern(params: Mapping[str, Any], pattern: str, *, field: str) -> None:
    """Raises UserError when a pattern is no regular expression or matches none of a group's parameters."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"{field} {pattern!r} is not a regular expression: {error}.") from error
    paths = [_path(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    if not any(expression.search(path) for path in paths):
        layers = ", ".join(sorted({path.split("/")[0] for path in paths}))
        raise UserError(f"{field} {pattern!r} matches no parameter; the model's layers are {layers}.")


def _stop(tree: PyTree, pattern: re.Pattern) -> PyTree:
    def leaf(path, value):
        return jax.lax.stop_gradient(value) if pattern.search(_path(path)) else value

    return jax.tree_util.tree_map_with_path(leaf, tree)


def _path(path) -> str:
    return "/".join(str(getattr(part, "key", part)) for part in path)
