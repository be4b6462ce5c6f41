"""Checkpoints through Orbax: WORKDIR/checkpoints/<step>/{state,metadata}; async; the latest and the best are kept."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxseg import paths
from jaxseg.train import parallel
from jaxseg.train.state import State
from jaxseg.transfer.stored import check_intact
from jaxseg.typing import UserError

FOLDER = "checkpoints"
SCORE = "score"  # the validation figure that decides which checkpoint is the best
UNSCORED = -1.0  # below every Dice: Orbax warns when a checkpoint has no metric at all


class Restored(NamedTuple):
    """A checkpoint in memory: the state, the step it was taken at and the JSON metadata stored beside it."""

    state: State
    step: int
    metadata: dict[str, Any]


class Checkpoints:
    """Thin wrapper of Orbax' manager; a class because it owns a background writer that must be closed."""

    def __init__(self, workdir: str | paths.Path, *, latest: int = 1):
        policies = ocp.checkpoint_managers
        self.folder = paths.absolute(workdir) / FOLDER
        best = policies.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(latest), best]),
            best_fn=_score,
            best_mode="max",
            create=True,
            enable_async_checkpointing=True,
        )
        handlers = {"state": ocp.StandardCheckpointHandler(), "metadata": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.folder, item_handlers=handlers, options=options)

    def save(self, state: State, metadata: Mapping[str, Any], *, score: float | None = None) -> None:
        """Starts writing the state in the background; a step that is already stored is left alone.

        Of several processes all call this; Orbax decides what each of them writes.
        """
        step, state = int(jax.device_get(parallel.local(state.step))), parallel.whole(state)
        if step in self._manager.all_steps():
            return
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), metadata=ocp.args.JsonSave(dict(metadata)))
        self._manager.save(step, args=args, metrics={SCORE: UNSCORED if score is None else float(score)}, force=True)

    def steps(self) -> list[int]:
        """Returns the stored steps in ascending order."""
        return sorted(self._manager.all_steps())

    def pick(self, which: str) -> int | None:
        """Returns the step of "best", "latest" or a number; None where nothing is stored.

        Raises:
          UserError: a step that is not stored, or a word that is none of these.
        """
        steps = self.steps()
        if which in ("best", "latest"):
            best = self._manager.best_step() if which == "best" else None
            scored = best is not None and _score(self._manager.metrics(best)) > UNSCORED
            return best if scored else (steps[-1] if steps else None)
        if not which.isdigit() or int(which) not in steps:
            stored = ", ".join(map(str, steps)) or "none"
            raise UserError(f"predict.checkpoint must be best, latest or a stored step ({stored}), got {which!r}.")
        return int(which)

    def metadata(self, step: int) -> dict[str, Any]:
        """Returns the JSON metadata of a stored step."""
        return self._manager.restore(step, args=ocp.args.Composite(metadata=ocp.args.JsonRestore()))["metadata"]

    def restore(self, like: State, *, step: int) -> Restored:
        """Reads a stored step into the shapes of `like` (arrays, or what `jax.eval_shape` gives).

        Raises:
          UserError: the checkpoint is damaged, or holds another model; the first differing parameter is named.
        """
        check_intact(self.folder / str(step) / "state")
        stored = self._manager.item_metadata(step)["state"]
        _compare(_shapes(getattr(stored, "tree", stored)), _shapes(like), self.folder / str(step))
        target = jax.tree.map(_target, like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target), metadata=ocp.args.JsonRestore())
        items = self._manager.restore(step, args=args)
        return Restored(items["state"], step, items["metadata"])

    def read(self, step: int) -> dict[str, Any]:
        """Returns a stored state as nested dicts, whatever model and devices it came from.

        Raises:
          UserError: the checkpoint is damaged.
        """
        check_intact(self.folder / str(step) / "state")
        stored = self._manager.item_metadata(step)["state"]
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
            getattr(stored, "tree", stored),
            is_leaf=lambda leaf: hasattr(leaf, "shape"),
        )
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        return self._manager.restore(step, args=args)["state"]

    def close(self) -> None:
        """Waits for the background writer."""
        self._manager.wait_until_finished()
        self._manager.close()


def _target(leaf: Any) -> jax.ShapeDtypeStruct:
    """Arrays come back where `like` has them; shapes alone mean this host's first device."""
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _score(metrics: Mapping[str, float] | None) -> float:
    return float(metrics[SCORE]) if metrics else UNSCORED


def _shapes(tree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))[0]
    return {
        "/".join(str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path): tuple(
            np.shape(leaf) if not hasattr(leaf, "shape") else leaf.shape
        )
        for path, leaf in leaves
    }


def _compare(stored: dict, wanted: dict, folder: paths.Path) -> None:
    def parameters(shapes):
        return {name: shape for name, shape in shapes.items() if "params" in name.split("/")[0]}

    stored, wanted = parameters(stored), parameters(wanted)
    differing = sorted(name for name in stored.keys() | wanted.keys() if stored.get(name) != wanted.get(name))
    if differing:
        name = differing[0]
        raise UserError(
            f"The checkpoint {folder} belongs to another model: {len(differing)} parameters differ, "
            f"the first is {name} (stored {stored.get(name, 'nothing')}, config {wanted.get(name, 'nothing')}); "
            "use the config that trained it, or another --workdir."
        )
