"""Several predictors of volumes as one: members of an ensemble, or the networks of several workdirs."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxseg import ensemble, predict
from jaxseg.cli import build
from jaxseg.typing import Volume

Observe = Callable[[int, np.ndarray], None]  # is told each member's probabilities


class Rule(NamedTuple):
    """How members become one.

    Attributes:
      how: probabilities, logits, vote, staple or learner.
      weights: one a member.
      learner: stacking: features -> probabilities.
    """

    how: str
    weights: tuple[float, ...]
    learner: Callable[[np.ndarray], np.ndarray] | None = None


def cleaned(run: Callable[..., predict.Prediction], chain: str, volume: Volume, **options: Any) -> predict.Prediction:
    """Returns what `run` predicts, after the post-processing `chain` ("": none)."""
    found = run(volume, **options)
    if not chain:
        return found
    labels = predict.postprocess.from_string(chain)(found.labels, spacing=volume.spacing).astype(np.int16)
    return found._replace(labels=labels)


def predict_together(
    members: Sequence[Callable[..., predict.Prediction]],
    rule: Rule,
    known: build.Facts,
    volume: Volume,
    *,
    keep_probabilities: bool = False,
    only: Sequence[int] | None = None,
    observe: Observe | None = None,
    **options: Any,
) -> predict.Prediction:
    """Asks one member after the other; but for stacking no more than one's probabilities are held beside the sum.

    Args:
      members: predictors of one volume each.
      rule: how they become one.
      known: the classes.
      volume: the image.
      keep_probabilities: also give them.
      only: the members to ask (out-of-bag); None: all.
      observe: is told what each says.
      options: of the members' predictors.
    """
    chosen = range(len(members)) if only is None else only
    parts: list[np.ndarray] = []
    total: Any = None
    by_labels = rule.how in ("vote", "staple")
    for place in chosen:
        found = members[place](volume, keep_probabilities=not by_labels or observe is not None, **options)
        if observe is not None:
            observe(place, np.asarray(found.probabilities))
        if by_labels:
            parts.append(np.asarray(found.labels))
            continue
        probabilities = np.asarray(found.probabilities)
        if rule.how == "learner":
            parts.append(probabilities)
        else:
            if rule.how == "logits":
                probabilities = ensemble.as_logits(probabilities, sigmoid=bool(known.regions))
            score = np.float32(rule.weights[place]) * probabilities
            total = score if total is None else total + score
    weights = [rule.weights[place] for place in chosen]
    if by_labels:
        labels, probabilities = _agreed(parts, rule.how, len(known.classes))
    else:
        if rule.how == "learner":
            assert rule.learner is not None
            probabilities = rule.learner(np.asarray(ensemble.member_features(parts)))
        else:
            probabilities = total / np.float32(sum(weights))
        if rule.how == "logits":
            activate = predict.postprocess.sigmoid if known.regions else predict.postprocess.softmax
            probabilities = activate(probabilities)
        labels = predict.reduce(probabilities, known.regions)
    return predict.Prediction(labels, probabilities if keep_probabilities else None)


def _agreed(label_maps: Sequence[np.ndarray], how: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels and, as probabilities, the share of the votes or STAPLE's posterior."""
    if how == "staple" and len(label_maps) > 1:
        found = ensemble.staple(label_maps, num_classes=count, keep_probabilities=True)
        return found.labels, np.asarray(found.probabilities, np.float32)
    labels = ensemble.majority_vote(label_maps, num_classes=count)
    shares = np.stack([np.mean([one == k for one in label_maps], axis=0) for k in range(count)], axis=-1)
    return labels, shares.astype(np.float32)
