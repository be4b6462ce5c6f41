"""Gradient boosting of networks, pixel by pixel: each round adds a network to a frozen sum of the earlier ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxseg.losses.targets import prepare, weighted_mean
from jaxseg.tasks.semantic import read_outputs, semantic, train_call
from jaxseg.typing import IGNORE, LossFn, Task, UserError

EARLIER = "earlier"  # where `extra` keeps the networks of the rounds before
KINDS = ("loss", "gradient")


def boosted(
    model,
    loss: LossFn,
    *,
    earlier: int,
    num_classes: int,
    regions: Sequence[Sequence[int]] | None = None,
    shrinkage: float = 0.5,
    fits: str = "loss",
    group: str = "model",
    sync_batch_norm: bool = False,
    logits: bool = False,
    auxiliary_weight: float = 0.5,
) -> Task:
    """Binds round m = `earlier` of gradient boosting in function space (Friedman 2001) into a Task.

    The whole model is a sum of logits, F_m = f_0 + shrinkage * (f_1 + ... + f_m), all f of the one architecture. Round
    m trains f_m alone. The earlier networks lie in `extra["earlier"]` = {"0": variables of f_0, "1": ...}: a checkpoint
    of round m is the whole model, and patches meet the exact F_{m-1} however they were augmented. They run as in
    inference (train=False) and no step changes them. Round 0 is `tasks.semantic` itself.

        task = tasks.boosted(model, loss, earlier=len(networks), num_classes=3)
        params, extra = task.init(key, image)
        extra = tasks.with_earlier(extra, networks)         # forgotten, F_{m-1} is a sum of untrained networks
        ...                                                 # train
        networks = tasks.variables_of(params, extra)        # for the next round

    What is fitted for m > 0:
    - "loss": the configured loss of F_{m-1} + shrinkage * f_m. The shrinkage limits how far a round can go.
    - "gradient": the squared error between f_m and the pseudo-residual, the negative gradient of the cross-entropy at
      F_{m-1}: one-hot - softmax(F_{m-1}), or target - sigmoid(F_{m-1}) for regions; summed over K, averaged over the
      counted pixels of each sample. This is Friedman's algorithm 1; the configured loss is not asked. His algorithm 6
      then multiplies each leaf of a tree by a Newton step, in which (K - 1) / K stands for the constraint that the K
      scores sum to 0. A network has no leaves, so neither the step nor that factor is applied.

    Only the main logits of f_m are trained for m > 0: what deep supervision or an auxiliary head adds would have to be
    compared with an F_{m-1} of that head. f_m starts at its own initial values, not at 0, so the first steps of a
    round may lie above the loss of F_{m-1}.

    Time and memory: each training step of round m runs m more networks forward; prediction runs m + 1.

    Args:
      model: a Flax module, as for `semantic`.
      loss: `(logits, targets, *, axis_name) -> (B,)`.
      earlier: number of networks trained before, m.
      num_classes: classes with background; counts are (K, K) confusions of them.
      regions: None for softmax; else the class ids of each sigmoid region.
      shrinkage: above 0 and at most 1; the same in all rounds.
      fits: "loss" or "gradient".
      group: name of the one parameter group.
      sync_batch_norm: batch norm of the new network takes its statistics over all devices of the mapped axis.
      logits: `Task.predict` gives the logits F_m in place of probabilities.
      auxiliary_weight: of the auxiliary head's loss in round 0.

    Raises:
      UserError: a negative number of networks, a shrinkage out of range, an unknown `fits`, a group called "earlier".
    """
    _check(earlier, shrinkage, fits, group)
    shared: dict[str, Any] = dict(
        num_classes=num_classes,
        regions=regions,
        group=group,
        auxiliary_weight=auxiliary_weight,
        sync_batch_norm=sync_batch_norm,
        logits=logits,
    )
    first = semantic(model, loss, **shared)
    if not earlier:
        return first
    outputs = read_outputs(num_classes=num_classes, regions=regions)

    def init(key, image):
        params, extra = first.init(key, image)
        networks = {}
        for place in range(earlier):
            own, rest = first.init(jax.random.fold_in(key, place), image)
            networks[str(place)] = {"params": own[group], **rest[group]}
        return params, {**extra, EARLIER: networks}

    def sum_before(extra, image):
        """F_{m-1}, without a gradient."""
        total: Any = 0.0
        for place in range(earlier):
            added = model.apply(extra[EARLIER][str(place)], image, train=False)[0].astype(jnp.float32)
            total = total + (shrinkage * added if place else added)
        return jax.lax.stop_gradient(total)

    def compute_loss(params, extra, batch, key, *, axis_name=None):
        variables = {"params": params[group], **extra[group]}
        shared_axis = axis_name if sync_batch_norm else None
        (new, _), updated = train_call(model, variables, batch["image"], key, axis_name=shared_axis)
        before, targets = sum_before(extra, batch["image"]), outputs.targets(batch["label"])
        total = before + shrinkage * new
        if fits == "loss":
            value = loss(total, targets, axis_name=axis_name).mean()
        else:
            value = _residual_error(new, before, targets, outputs.activate).mean()
        counts = outputs.count_logits(total, batch["label"])
        return value, ({"counts": counts}, {**extra, group: {**extra[group], **updated}})

    def scores(variables, image):
        extra = variables["extra"]
        own = {"params": variables["params"][group], **extra[group]}
        return sum_before(extra, image) + shrinkage * model.apply(own, image, train=False)[0]

    def probabilities(variables, image):
        return outputs.activate(scores(variables, image))

    def counts(variables, batch):
        return outputs.count(probabilities(variables, batch["image"]), batch["label"])

    predict = scores if logits else probabilities
    return Task(init=init, losses={group: compute_loss}, counts=counts, predict=predict)


def with_earlier(extra: Mapping[str, PyTree], networks: Sequence[Mapping[str, PyTree]]) -> dict[str, PyTree]:
    """Returns `extra` with the networks of the earlier rounds in their places.

    Args:
      extra: as `boosted(..., earlier=len(networks)).init` gives it.
      networks: variables of f_0, f_1, ..., each {"params": ..., other collections}, as `variables_of` gives them.

    Raises:
      UserError: another number of networks than `extra` has places, or networks of another architecture.
    """
    places = extra.get(EARLIER, {})
    if len(networks) != len(places):
        raise UserError(
            f"This round has {len(places)} earlier networks, got {len(networks)}; "
            "build the task with earlier= the number of networks trained before."
        )
    filled = {}
    for place, network in enumerate(networks):
        wanted, given = _shapes(places[str(place)]), _shapes(network)
        if wanted != given:
            differing = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
            raise UserError(
                f"Network {place} should have the arrays of the model that is boosted, but {differing[0]} is "
                f"{given.get(differing[0], 'missing')} in place of {wanted.get(differing[0], 'none')}; "
                "boost with one architecture."
            )
        filled[str(place)] = dict(network)
    return {**extra, EARLIER: filled} if filled else dict(extra)


def variables_of(params: Mapping[str, PyTree], extra: Mapping[str, PyTree]) -> list[dict[str, PyTree]]:
    """Returns the networks f_0, ..., f_m of a finished round, in the form that `with_earlier` takes for the next one.

    Args:
      params: of the state, its one group; or their running average.
      extra: of the state.

    Raises:
      UserError: parameters of several groups, which no boosted task has.
    """
    if len(params) != 1:
        raise UserError(f"A boosted model has one parameter group, got {len(params)}: {', '.join(sorted(params))}.")
    (group,) = params
    before = extra.get(EARLIER, {})
    # In the order of the rounds: as strings, "10" would come before "9".
    networks = [dict(before[str(place)]) for place in range(len(before))]
    return [*networks, {"params": params[group], **extra.get(group, {})}]


def _residual_error(new, before, targets, activate):
    """`(B,)`: mean over counted pixels of the squared distance between f_m and the pseudo-residual."""
    prepared = prepare(before, targets, ignore_label=IGNORE)
    residual = prepared.target - activate(prepared.logits)
    return weighted_mean(((new - residual) ** 2).sum(-1), prepared.mask)


def _shapes(tree) -> dict[str, str]:
    """Each array's path and its shape, told."""
    return {
        jax.tree_util.keystr(path): f"{jnp.shape(leaf)}" for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _check(earlier: int, shrinkage: float, fits: str, group: str) -> None:
    if earlier < 0:
        raise UserError(f"The number of earlier networks should not be negative, got {earlier}.")
    if not 0 < shrinkage <= 1:
        raise UserError(f"shrinkage should be above 0 and at most 1, got {shrinkage}.")
    if fits not in KINDS:
        raise UserError(f"fits should be {' or '.join(map(repr, KINDS))}, got {fits!r}.")
    if group == EARLIER:
        raise UserError(f"The parameter group may not be called {EARLIER!r}, where the earlier networks lie.")
