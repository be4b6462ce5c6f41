"""Weights to start a training from: another run's, a converted folder's, or a file's."""

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxseg import models, paths, transfer, validation
from jaxseg.cli import images, workdir
from jaxseg.tasks.images import style_length
from jaxseg.train import checkpoint
from jaxseg.train import state as states
from jaxseg.transfer import stored
from jaxseg.typing import UserError


def read(config: ConfigDict) -> dict[str, Any] | None:
    """Returns `{"params": ..., "batch_stats": ...}` of what `init.path` names, or None where it is not set.

    Raises:
      UserError: it is not there, cannot be read, or is a file without `init.source`.
    """
    validation.complete_init(config)
    if config.init.path is None:
        return None
    path, source = paths.path(config.init.path), config.init.source
    if not path.exists():
        raise UserError(f"init.path {path} is not there; name a workdir, a converted folder or a file of weights.")
    if path.is_file():
        if source is None:
            known = ", ".join(sorted(transfer.SOURCES))
            raise UserError(f"init.path {path} is a file: add init.source, whose names it has; one of {known}.")
        _, variables = transfer.from_torch(transfer.read_weights(path), source, **config.init.fields.to_dict())
        return variables
    if source is not None:
        raise UserError(f"init.path {path} is a folder, which needs no init.source; leave that out.")
    if (path / stored.MODEL).exists():
        return stored.load(path)[1]
    return _of_run(path, images.groups(config)[0])


def fill(config: ConfigDict, state: states.State, variables: dict[str, Any]) -> tuple[states.State, transfer.Merged]:
    """Puts weights into a fresh state and says what became of them.

    Raises:
      UserError: a shape differs, or nothing fits.
    """
    group = images.groups(config)[0]  # weights from elsewhere are the network's, not the discriminator's
    target = {"params": state.params[group], **state.extra[group]}
    validation.complete_init(config)
    options = {name: config.init[name] for name in ("skip", "stem", "stem_layer", "inflate")}
    if any(leaf.ndim == 5 for leaf in jax.tree.leaves(target["params"])):
        options["strides"] = _transposed_strides(config)
    merged = transfer.merge(jax.tree.map(np.asarray, target), variables, **options)
    params = dict(merged.variables)
    own = params.pop("params")
    collections = {**state.extra[group], **params}  # also those that hold nothing, which were not merged
    filled = states.with_variables(state, {**state.params, group: own}, {**state.extra, group: collections})
    return filled, merged


def _transposed_strides(config: ConfigDict) -> dict[str, tuple[int, ...]]:
    """Strides do not depend on the data, so neither classes nor channels need be its own; 64 has any groups of them."""
    fields = config.model.to_dict()
    name = fields.pop("name")
    if not images.makes_images(config):
        model = models.create(name, **{**fields, "num_classes": 64})
    else:
        model = models.create_generator(name, **{**fields, "channels": 1})
        if style_length(model):
            model = model.clone(style_features=0)
    return models.transposed_strides(model, (1, *config.data.patch_size, 1))


def _of_run(folder: paths.Path, group: str) -> dict[str, Any]:
    """The weights that prediction would take: the best checkpoint's, averaged ones where training kept them."""
    workdir.record(folder)
    if not (folder / checkpoint.FOLDER).exists():
        folds = sorted(path.parent.name for path in folder.glob(f"*/{checkpoint.FOLDER}"))
        fix = f"name one of its folds ({', '.join(folds)})" if folds else "train it first, or name another"
        raise UserError(f"init.path {folder} holds no checkpoint; {fix}.")
    checkpoints = checkpoint.Checkpoints(folder)
    try:
        step = checkpoints.pick("best")
        if step is None:
            raise UserError(f"init.path {folder} holds no finished checkpoint; train it first, or name another.")
        tree = checkpoints.read(step)
    finally:
        checkpoints.close()
    params = tree.get("ema") or tree["params"]
    if group not in params:
        raise UserError(
            f"init.path {folder} is a run of another kind, which has no {group}; name a run of the same task."
        )
    return {"params": params[group], **tree["extra"].get(group, {})}
