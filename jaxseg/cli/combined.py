"""A trained ensemble as a function: volume in, what its members say together out."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jaxseg import ensemble, paths, predict
from jaxseg.cli import averaged, build, inference, instances, member, stacking, workdir
from jaxseg.typing import UserError, Volume

OF_ENSEMBLE = ("postprocess", "uncertainty", "temperature", "checkpoint")  # fields of config.predict no member takes
FLOOR = 1e-7  # of a probability whose logarithm is taken
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


def load(folder: paths.Path, config: ConfigDict, *, others: Sequence[str] = ()) -> inference.Trained:
    """Restores the members of an ensemble; `parts` of what comes holds each of them.

    Raises:
      UserError: it is not finished, or its members cannot become one as `ensemble.combine` says.
    """
    if others:
        raise UserError(f"{folder} is an ensemble and averages its own members; leave out --average.")
    record = workdir.record(folder)
    if "ensemble" not in record:
        raise UserError(f"{folder} holds no finished ensemble; run --mode train with this --workdir again.")
    found, how = record["ensemble"], member.combination(config)
    if how != found["combine"] and {how, found["combine"]} & {"weights", "greedy"}:
        raise UserError(f"{folder} was combined by {found['combine']}; run --mode train with ensemble.combine={how}.")
    held_out = tuple(record["split"]["held out"])
    own = functools.partial(_member, folder, config)
    names = found["members"]
    if how in ("weights", "greedy", "sum"):  # one network
        single = own(averaged.FOLDER if "averaged" in found else names[0])
        return _whole(single, folder, config, record, held_out, single.predict, ())
    if config.ensemble.kind == "stacking":
        folds, networks = config.ensemble.folds, config.ensemble.networks
        groups = [names[place * folds : (place + 1) * folds] for place in range(len(networks))]
        parts = tuple((text, own(*group)) for text, group in zip(networks, groups))
        rule = Rule(how, (1.0,) * len(parts), stacking.load(folder))
    else:
        parts = tuple((name, own(name)) for name in names)
        rule = Rule(how, tuple(found.get("weights") or (1.0,) * len(parts)))
    known = parts[0][1].known
    if known.regions and how in ("vote", "staple"):
        raise UserError(f"ensemble.combine={how} needs exclusive classes, but the data names overlapping regions.")
    run = functools.partial(_predict, [one.predict for _, one in parts], rule, known)
    return _whole(parts[0][1], folder, config, record, held_out, run, parts)


def _member(folder: paths.Path, config: ConfigDict, first: str, *rest: str) -> inference.Trained:
    """Loads one member, or several of one network as their mean, with the options that this command has given."""
    own = workdir.stored_config(folder / first)
    for field in config.predict:
        if field not in OF_ENSEMBLE or (field == "checkpoint" and config.predict.checkpoint != "best"):
            own.predict[field] = config.predict[field]
    own.evaluate, own.data.root = config.evaluate, config.data.root
    return inference.load(folder / first, own, others=[str(folder / name) for name in rest])


def _whole(first: inference.Trained, folder, config, record, held_out, run, parts) -> inference.Trained:
    config.data.patch_size = first.config.data.patch_size
    clean = functools.partial(_cleaned, run, config.predict.postprocess)
    find = instances.watershed(config, clean) if config.predict.watershed else None
    return first._replace(config=config, record=record, held_out=held_out, predict=clean, find=find, parts=parts)


def _cleaned(run: Callable[..., predict.Prediction], chain: str, volume: Volume, **options: Any) -> predict.Prediction:
    found = run(volume, **options)
    if not chain:
        return found
    labels = predict.postprocess.from_string(chain)(found.labels, spacing=volume.spacing).astype(np.int16)
    return found._replace(labels=labels)


def _predict(
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
    for place in chosen:
        found = members[place](volume, keep_probabilities=True, **options)
        probabilities = np.asarray(found.probabilities)
        if observe is not None:
            observe(place, probabilities)
        if rule.how == "learner":
            parts.append(probabilities)
        elif rule.how in ("vote", "staple"):
            parts.append(np.asarray(found.labels))
        else:
            share = np.float32(rule.weights[place])
            score = share * (_logits(probabilities, known) if rule.how == "logits" else probabilities)
            total = score if total is None else total + score
    weights = [rule.weights[place] for place in chosen]
    if rule.how in ("vote", "staple"):
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


def _logits(probabilities: np.ndarray, known: build.Facts) -> np.ndarray:
    """What softmax (or sigmoid) turns back into these probabilities."""
    logarithm = np.log(np.maximum(probabilities, FLOOR))
    return logarithm - np.log(np.maximum(1 - probabilities, FLOOR)) if known.regions else logarithm


def _agreed(label_maps: Sequence[np.ndarray], how: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels and, as probabilities, the share of the votes or STAPLE's posterior."""
    if how == "staple" and len(label_maps) > 1:
        found = ensemble.staple(label_maps, num_classes=count, keep_probabilities=True)
        return found.labels, np.asarray(found.probabilities, np.float32)
    labels = ensemble.majority_vote(label_maps, num_classes=count)
    shares = np.stack([np.mean([one == k for one in label_maps], axis=0) for k in range(count)], axis=-1)
    return labels, shares.astype(np.float32)
