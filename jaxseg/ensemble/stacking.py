"""Stacking: a second model learns, from the members' probabilities, whom to believe (Wolpert 1992).

What it learns from must be out of fold: a member is not asked about the cases that it was trained on, where it knows
better than it ever will again (`out_of_fold`). Then `member_features` -> `sample` -> `fit_logistic`, or `fit_conv` on
crops, and `stacked` predicts. All of it is for exclusive classes (softmax).
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32, Int32, Integer, PRNGKeyArray, UInt32

from jaxseg import losses, models
from jaxseg.typing import IGNORE, Params, PredictFn

FitFn = Callable[[tuple[int, ...]], Callable[[Any], Any]]  # indices to train on -> predictor of one input


class Sampled(NamedTuple):
    """Pixels drawn for a meta-learner.

    Attributes:
      features: `(n, F)`.
      labels: `(n,)` class ids.
      weights: `(n,)`, how many pixels of its case and class each of them stands for.
    """

    features: Float32[np.ndarray, "n F"]
    labels: Int32[np.ndarray, " n"]
    weights: Float32[np.ndarray, " n"]


class Logistic(NamedTuple):
    """Multinomial logistic regression: `softmax(features @ kernel + bias)`.

    Attributes:
      kernel: `(F, K)`.
      bias: `(K,)`.
    """

    kernel: Float32[Array | np.ndarray, "F K"]
    bias: Float32[Array | np.ndarray, " K"]


def member_features(
    probabilities: Sequence[Float[Array | np.ndarray, "*S K"]], *, floor: float = 1e-4
) -> Float32[Array | np.ndarray, "*S MK"]:
    """Returns the members' log-probabilities, each member's centred over its classes, one member after the other.

    This is the centred log-ratio (Aitchison 1986): a member that gives all classes alike has zeros, and what softmax
    would take out anyway carries no weight. NumPy in, NumPy out; else jnp, safe under jit.

    Args:
      probabilities: one array a member, of one shape and order of classes.
      floor: smaller probabilities count as this, so that one sure mistake cannot outweigh everything.

    Raises:
      ValueError: no member, members that disagree in shape, or a floor outside 0..1.
    """
    if not probabilities:
        raise ValueError("member_features needs the probabilities of at least one member, got none.")
    shapes = [tuple(member.shape) for member in probabilities]
    if len(set(shapes)) > 1:
        raise ValueError(f"All members should give one shape, got {' and '.join(map(str, dict.fromkeys(shapes)))}.")
    if not 0 < floor < 1:
        raise ValueError(f"floor should lie between 0 and 1, not {floor}.")
    library = np if all(isinstance(member, np.ndarray) for member in probabilities) else jnp
    parts = []
    for member in probabilities:
        logs = library.log(library.clip(member.astype(np.float32), floor, None))
        parts.append(logs - logs.mean(axis=-1, keepdims=True))
    return library.concatenate(parts, axis=-1)


def sample(
    features: Float[Array | np.ndarray, "*S F"],
    labels: Integer[Array | np.ndarray, "*S"],
    *,
    per_class: int,
    seed: int,
) -> Sampled:
    """Draws pixels of one case, as many of each class if there are; concatenate the cases' draws, field by field.

    A weighted sum over them is, in expectation, the sum over all counted pixels: the weights of a class sum to its
    pixels. Pixels of label IGNORE are never drawn.

    Args:
      features: of `member_features`.
      labels: class ids, or IGNORE.
      per_class: pixels of each class to draw, without replacement; all of a class that has fewer.
      seed: of the draw; give each case its own.

    Raises:
      ValueError: shapes that do not fit, `per_class` below 1, or a negative label other than IGNORE.
    """
    values, ids = np.asarray(features), np.asarray(labels).reshape(-1)
    if values.shape[:-1] != tuple(labels.shape):
        raise ValueError(f"labels should have the pixels of the features, {values.shape[:-1]}; got {labels.shape}.")
    if per_class < 1:
        raise ValueError(f"per_class should be 1 or more, not {per_class}.")
    if ids.size and ids.min() < IGNORE:
        raise ValueError(f"labels should be class ids from 0 up, or {IGNORE} to ignore; one is {ids.min()}.")
    generator = np.random.default_rng(seed)
    places, weights = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    for class_id in np.unique(ids[ids != IGNORE]):
        found = np.flatnonzero(ids == class_id)
        drawn = generator.choice(found, size=min(per_class, found.size), replace=False, shuffle=False)
        places.append(drawn)
        weights.append(np.full(drawn.size, found.size / drawn.size, np.float32))
    chosen = np.concatenate(places)
    flat = values.reshape(-1, values.shape[-1])[chosen]
    return Sampled(flat.astype(np.float32), ids[chosen].astype(np.int32), np.concatenate(weights))


def fit_logistic(
    features: Float[Array | np.ndarray, "n F"],
    labels: Integer[Array | np.ndarray, " n"],
    *,
    num_classes: int,
    l2: float = 1e-4,
    sample_weights: Float[Array | np.ndarray, " n"] | None = None,
    initial: Logistic | None = None,
    tolerance: float = 1e-6,
    max_steps: int = 500,
) -> Logistic:
    """Fits multinomial logistic regression: the least weighted mean of -log p(label) plus `l2 / 2 * |kernel|**2`.

    The bias is not penalised; its entries are given with mean 0, since a common constant changes nothing. L-BFGS
    (Liu and Nocedal 1989) on standardised features, while the penalty stays on the kernel as returned. scikit-learn's
    `LogisticRegression(C=1 / (l2 * sum(sample_weights)))` has the same minimum (`C = 1 / (l2 * n)` without weights).

    Args:
      features: one row a pixel.
      labels: class ids, without IGNORE (`sample` leaves it out).
      num_classes: K; a class without pixels is allowed.
      l2: strength of the penalty.
      sample_weights: one non-negative weight a row; None weighs all alike.
      initial: where to start; None starts from zeros.
      tolerance: it ends when no entry of the gradient exceeds this,
      max_steps: or after so many steps of L-BFGS.

    Raises:
      ValueError: no rows, shapes that do not fit, a label outside 0..K-1, features or weights that are not finite, or
        weights or l2 that are negative.
    """
    rows, ids = np.asarray(features, np.float32), np.asarray(labels, np.int32)
    weights = np.ones(len(rows), np.float32) if sample_weights is None else np.asarray(sample_weights, np.float32)
    _check_rows(rows, ids, weights, num_classes)
    if l2 < 0:
        raise ValueError(f"l2 should be 0 or more, not {l2}.")
    shape = (rows.shape[1], num_classes)
    start = Logistic(jnp.zeros(shape), jnp.zeros(num_classes)) if initial is None else initial
    if start.kernel.shape != shape or start.bias.shape != shape[1:]:
        raise ValueError(f"initial should hold a kernel {shape} and its bias; it holds {start.kernel.shape}.")
    shares = weights / weights.sum()
    mean = shares @ rows
    spread = np.sqrt(shares @ np.square(rows - mean))
    scale = np.where(spread > 1e-6 * np.maximum(1, np.abs(mean)), spread, 1).astype(np.float32)  # constant: as it is
    inside = Logistic(start.kernel * scale[:, None], start.bias + mean @ start.kernel)
    kernel, bias = _minimise((rows - mean) / scale, ids, shares, scale, l2, inside, tolerance, max_steps)
    kernel = kernel / scale[:, None]
    bias = bias - mean @ kernel
    return Logistic(kernel, bias - bias.mean())


def _check_rows(rows: np.ndarray, ids: np.ndarray, weights: np.ndarray, num_classes: int) -> None:
    if not len(rows) or len(ids) != len(rows) or len(weights) != len(rows):
        raise ValueError(
            f"fit_logistic needs a label and a weight for each of one or more rows; got {len(rows)} rows, {len(ids)} "
            f"labels and {len(weights)} weights."
        )
    if ids.min() < 0 or ids.max() >= num_classes:
        raise ValueError(
            f"labels should be class ids from 0 to {num_classes - 1}; they go from {ids.min()} to {ids.max()} "
            f"(`sample` leaves pixels of {IGNORE} out)."
        )
    if not np.isfinite(rows).all():
        raise ValueError("features should be finite; some are not: were the probabilities clipped by member_features?")
    if (weights < 0).any() or not 0 < weights.sum() < np.inf:
        raise ValueError("sample_weights should be non-negative, finite, and not all zero.")


@jax.jit
def _minimise(rows, ids, shares, scale, l2, start: Logistic, tolerance, max_steps) -> Logistic:
    def objective(own: Logistic) -> Array:
        cost = optax.softmax_cross_entropy_with_integer_labels(rows @ own.kernel + own.bias, ids)
        return shares @ cost + 0.5 * l2 * jnp.sum(jnp.square(own.kernel / scale[:, None]))

    solver = optax.lbfgs()
    value_and_gradient = optax.value_and_grad_from_state(objective)  # takes what the line search has already seen

    def step(carry):
        own, state, _, count = carry
        value, gradient = value_and_gradient(own, state=state)
        updates, state = solver.update(gradient, state, own, value=value, grad=gradient, value_fn=objective)
        return optax.apply_updates(own, updates), state, largest(optax.tree.get(state, "grad")), count + 1

    def largest(gradient: Logistic) -> Array:
        return jnp.maximum(jnp.abs(gradient.kernel).max(), jnp.abs(gradient.bias).max())

    def unfinished(carry) -> Array:
        return (carry[2] > tolerance) & (carry[3] < max_steps)

    own = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), start)
    with jax.default_matmul_precision("highest"):
        return jax.lax.while_loop(unfinished, step, (own, solver.init(own), jnp.inf, 0))[0]


def as_params(logistic: Logistic, *, ndim: int = 2) -> Params:
    """Returns the parameters with which `models.create("logistic", ndim=ndim, num_classes=K)` is this regression."""
    kernel = jnp.asarray(logistic.kernel)
    return {"logistic": {"kernel": kernel.reshape(*(1,) * ndim, *kernel.shape), "bias": jnp.asarray(logistic.bias)}}


def member_weights(
    kernel: Float[Array | np.ndarray, "F K"], *, members: int, scale: Float[Array | np.ndarray, " F"]
) -> Float[np.ndarray, " M"]:
    """Returns each member's share of influence on the logits; they sum to 1.

    A member's influence is the Frobenius norm of its block of the kernel, centred over its inputs and over the outputs
    (what softmax does not see, or centred features do not), each row times its feature's standard deviation. If all
    are 0, all shares are alike. Members that say the same divide their influence as the penalty pleases.

    Args:
      kernel: of `fit_logistic`, the members' features one after the other.
      members: M, which divides F.
      scale: the standard deviation of each feature over the pixels fitted on.

    Raises:
      ValueError: F is not a multiple of M, or `scale` does not fit.
    """
    inputs = len(kernel)
    if members < 1 or inputs % members:
        raise ValueError(f"The kernel's {inputs} rows should divide evenly among the members; there are {members}.")
    if len(scale) != inputs:
        raise ValueError(f"scale should have an entry for each of {inputs} features, not {len(scale)}.")
    blocks = np.asarray(kernel, np.float64).reshape(members, -1, kernel.shape[1])
    blocks = blocks - blocks.mean(axis=1, keepdims=True)
    blocks = blocks - blocks.mean(axis=2, keepdims=True)
    norms = np.sqrt(np.sum(np.square(blocks * np.asarray(scale).reshape(members, -1, 1)), axis=(1, 2)))
    return norms / norms.sum() if norms.sum() > 0 else np.full(members, 1 / members)


def fit_conv(
    key: PRNGKeyArray | UInt32[Array, "2"],
    crops: Float[Array | np.ndarray, "n *P F"],
    labels: Integer[Array | np.ndarray, "n *P"],
    *,
    num_classes: int,
    ndim: int,
    steps: int = 300,
    learning_rate: float = 1e-2,
    l2: float = 1e-4,
    features: int = 8,
    initial: Logistic | None = None,
) -> Params:
    """Trains the network `stacking_conv` on crops, from a fitted logistic regression on; returns its parameters.

    Cross-entropy over all counted pixels plus `l2 / 2` times the squares of all kernels; Adam on all crops at once,
    with a rate that falls to 0 along a cosine.

    Args:
      key: draws the hidden layer.
      crops: features of `member_features`, crops of one size.
      labels: class ids, or IGNORE.
      num_classes: K.
      ndim: spatial axes.
      steps: of Adam; 0 returns the network that it starts from.
      learning_rate: at first.
      l2: strength of the penalty, of the logistic regression too.
      features: channels of the hidden layer.
      initial: the logistic regression to start from; None fits it on the crops' counted pixels.

    Raises:
      ValueError: shapes that do not fit, no counted pixel, a label outside 0..K-1 other than IGNORE.
    """
    if crops.ndim != ndim + 2 or tuple(labels.shape) != crops.shape[:-1]:
        raise ValueError(
            f"fit_conv with ndim={ndim} takes crops (n, *P, F) of {ndim + 2} axes and labels (n, *P); got "
            f"{crops.shape} and {labels.shape}."
        )
    if initial is None:
        flat, ids = np.asarray(crops).reshape(-1, crops.shape[-1]), np.asarray(labels).reshape(-1)
        counted = ids != IGNORE
        initial = fit_logistic(flat[counted], ids[counted], num_classes=num_classes, l2=l2)
    model = models.create("stacking_conv", num_classes=num_classes, ndim=ndim, features=features)
    crops, labels = jnp.asarray(crops, jnp.float32), jnp.asarray(labels, jnp.int32)
    params = {**model.init(key, crops[:1])["params"], **as_params(initial, ndim=ndim)}
    state = optax.scale_by_adam().init(params)
    # A loop on the host: XLA's CPU backend runs a convolution inside a scan up to ten times slower.
    for number in range(steps):
        rate = 0.5 * learning_rate * (1 + math.cos(math.pi * number / steps))
        params, state = _step(model, params, state, crops, labels, l2, rate)
    return params


@functools.partial(jax.jit, static_argnames="model")
def _step(model, params: Params, state: Any, crops, labels, l2, rate) -> tuple[Params, Any]:
    """One step of Adam on all crops."""

    def objective(params: Params) -> Array:
        logits, _ = model.apply({"params": params}, crops)
        cost = losses.cross_entropy(logits, labels, ignore_label=IGNORE, batch=True)[0]
        return cost + 0.5 * l2 * sum(jnp.sum(jnp.square(layer["kernel"])) for layer in params.values())

    updates, state = optax.scale_by_adam().update(jax.grad(objective)(params), state)
    return jax.tree.map(lambda own, update: own - rate * update, params, updates), state


def stacked(predict_fns: Sequence[PredictFn], apply: Callable[[Any], Any], *, floor: float = 1e-4) -> PredictFn:
    """Returns a predictor that gives what a meta-learner makes of several predictors.

    Args:
      predict_fns: each `(B, *S, C) -> (B, *S, K)`, in the order of the features that the meta-learner was fitted on.
      apply: the meta-learner, `features -> (logits, aux)` as networks are: `partial(model.apply, {"params": params})`.
      floor: of `member_features`; as at the fit.

    Raises:
      ValueError: no predictor; when called, predictors that disagree in shape.
    """
    predict_fns = tuple(predict_fns)
    if not predict_fns:
        raise ValueError("stacked needs at least one predictor, got none.")

    def predict(image: Float[Array | np.ndarray, "B *S C"]) -> Float[Array, "B *S K"]:
        features = member_features([jnp.asarray(predict_fn(image)) for predict_fn in predict_fns], floor=floor)
        return jax.nn.softmax(apply(features)[0], axis=-1)

    return predict


def out_of_fold(
    fit: FitFn,
    folds: Sequence[tuple[Sequence[int], Sequence[int]]],
    inputs: Sequence[Any],
    *,
    subjects: Sequence[str] | None = None,
) -> list[Any]:
    """Returns the prediction of each input by a member that was not trained on it, in the order of the inputs.

    Args:
      fit: takes the indices to train on, returns the predictor of one input.
      folds: (indices to train on, indices held out); every input is held out once.
      inputs: what the predictors take, one a case: images, or `range(n)` for predictors that go by index.
      subjects: the subject of each input ("" is its own): no subject may be on both sides of a fold.

    Raises:
      ValueError: the folds do not hold every input out exactly once, train on what they hold out (or its subject), or
        name an index that there is not; before anything is fitted.
    """
    _check_folds(folds, len(inputs), subjects)
    found: dict[int, Any] = {}
    for train, held_out in folds:
        predict_fn = fit(tuple(train))
        found |= {index: predict_fn(inputs[index]) for index in held_out}
    return [found[index] for index in range(len(inputs))]


def _check_folds(folds, count: int, subjects: Sequence[str] | None) -> None:
    if subjects is not None and len(subjects) != count:
        raise ValueError(f"subjects should name one for each of {count} inputs, not {len(subjects)}.")
    owners = [(subjects[index] if subjects else "") or index for index in range(count)]
    held = [index for _, held_out in folds for index in held_out]
    if sorted(held) != list(range(count)):
        wrong = sorted({*range(count)} ^ {*held}) or sorted({index for index in held if held.count(index) > 1})
        raise ValueError(f"Folds should hold each of {count} inputs out exactly once; they do not for {wrong[:5]}.")
    for number, (train, held_out) in enumerate(folds):
        if outside := sorted({*train} - {*range(count)}):
            raise ValueError(f"Fold {number} trains on {outside[:5]}; the inputs go from 0 to {count - 1}.")
        if not len(train):
            raise ValueError(f"Fold {number} has nothing to train on.")
        if both := {owners[index] for index in train} & {owners[index] for index in held_out}:
            raise ValueError(f"Fold {number} trains on what it holds out: {', '.join(sorted(map(str, both))[:5])}.")
