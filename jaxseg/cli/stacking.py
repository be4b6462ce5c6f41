"""Stacking (ensemble.kind): networks of several kinds, and a small one that learns how far to believe each."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxseg import ensemble, models, paths
from jaxseg.cli import build, cascade, inference, member, workdir
from jaxseg.config import ndim_of
from jaxseg.data import patches
from jaxseg.train import logging
from jaxseg.transfer import stored
from jaxseg.typing import IGNORE

FOLDER = "learner"
PIXELS = 2000  # of each class, drawn from every training case for the logistic learner
CROP = {2: 64, 3: 16}  # voxels along each axis of what the convolutional learner is trained on
CROPS = 2  # of every training case
STEPS = 200  # of Adam on all crops


def train(
    arguments: workdir.Arguments, members: Sequence[workdir.Arguments], prepared: dict[str, Any]
) -> dict[str, Any]:
    """Trains every network without each part of the training cases in turn, then the learner on what they say of it."""
    for one in members:
        member.train(one, prepared)
    return {"members": [one.workdir.name for one in members], **fit(arguments, members)}


def fit(arguments: workdir.Arguments, members: Sequence[workdir.Arguments]) -> dict[str, Any]:
    """Fits the learner to out-of-fold probabilities: of every training case by networks that have not seen it.

    So the learner never sees what a network says of the cases that it was trained on, and the fold that is held out in
    the end is seen by neither.
    """
    config = arguments.config
    known = build.stored_facts(workdir.record(arguments.workdir))
    found = _fit(config, members, known)
    _save(arguments.workdir, found["model"], found["params"], channels=found["channels"])
    shares = dict(zip(config.ensemble.networks, map(float, found["shares"])))
    print("weights of the networks: " + ", ".join(f"{name} {share:.3f}" for name, share in shares.items()))
    return {"shares": shares}


def _fit(config: ConfigDict, members: Sequence[workdir.Arguments], known: build.Facts) -> dict[str, Any]:
    count, classes = len(config.ensemble.networks), len(known.classes)
    sampled, crops = [], []
    ndim = ndim_of(config)
    rng = np.random.default_rng(config.seed)
    for features, label in _out_of_fold(config, members):
        seed = int(rng.integers(2**31))
        sampled.append(ensemble.sample(features, label, per_class=PIXELS, seed=seed))
        if config.ensemble.learner == "convolutional":
            crops += list(_crops(rng, features, label, ndim))
    features, labels, weights = (np.concatenate([getattr(one, part) for one in sampled]) for part in sampled[0]._fields)
    logistic = ensemble.fit_logistic(features, labels, num_classes=classes, sample_weights=weights)
    scale = features.std(0)
    shares = ensemble.member_weights(np.asarray(logistic.kernel), members=count, scale=scale)
    if config.ensemble.learner == "logistic":
        model = models.create("logistic", ndim=ndim, num_classes=classes)
        params = ensemble.as_params(logistic, ndim=ndim)
        return {"model": model, "params": params, "shares": shares, "channels": features.shape[1]}
    model = models.create("stacking_conv", ndim=ndim, num_classes=classes)
    pictures, maps = (np.stack(part) for part in zip(*crops))
    params = ensemble.fit_conv(
        jax.random.key(config.seed), pictures, maps, num_classes=classes, ndim=ndim, initial=logistic, steps=STEPS
    )
    return {"model": model, "params": params, "shares": shares, "channels": features.shape[1]}


def _out_of_fold(config: ConfigDict, members: Sequence[workdir.Arguments]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (features, labels) of every training case, on the grid of its file."""
    folds = config.ensemble.folds
    total = sum(len(workdir.record(one.workdir)["split"]["held out"]) for one in members[:folds])
    done = 0
    with logging.progress(total, label="out of fold") as show:
        for fold in range(folds):
            trained = [inference.load(one.workdir, one.config) for one in members[fold::folds]]
            before = cascade.of_cases(trained[0], members[fold].workdir)
            dataset = build.dataset(config)
            for case in dataset.cases:
                if case.name not in trained[0].held_out:
                    continue
                sample = dataset.load(case)
                assert sample.label is not None  # a training case has one
                options = {"previous": before[case.name]} if case.name in before else {}
                found = [one.predict(sample.image, keep_probabilities=True, **options) for one in trained]
                features = ensemble.member_features([np.asarray(one.probabilities) for one in found])
                yield np.asarray(features), sample.label.data
                done += 1
                show(done, case=case.name)


def _crops(rng: np.random.Generator, features: np.ndarray, label: np.ndarray, ndim: int) -> Iterator[tuple]:
    """Yields crops of one size, most of them where a labelled class is; past the border nothing counts."""
    flat = label.ndim - ndim
    size = (1,) * flat + (CROP[ndim],) * ndim
    missing = [(0, max(0, want - have)) for want, have in zip(size, label.shape)]
    label = np.pad(label, missing, constant_values=IGNORE)
    features = np.pad(features, [*missing, (0, 0)])
    places = np.argwhere(label > 0)
    for _ in range(CROPS):
        centre = places[rng.integers(len(places))] if len(places) else rng.integers(label.shape)
        start = patches.centred_start(centre, label.shape, size)
        where = tuple(slice(a, a + s) for a, s in zip(start, size))
        yield features[where].reshape(*size[flat:], -1), label[where].reshape(size[flat:]).astype(np.int32)


def _save(folder: paths.Path, model: Any, params: Any, *, channels: int) -> None:
    """Replaces the learner of an earlier command."""
    target = folder / FOLDER
    if target.exists():
        paths.remove_tree(target)
    stored.save(target, model, {"params": params}, source="stacking", in_channels=channels)


def load(folder: paths.Path) -> Any:
    """Returns the learner of a workdir as a function: features `(*S, F)` -> probabilities `(*S, K)`, slab by slab."""
    model, variables = stored.load(folder / FOLDER)
    apply = jax.jit(lambda variables, features: jax.nn.softmax(model.apply(variables, features, train=False)[0]))

    def learner(features: np.ndarray) -> np.ndarray:
        flat = features.ndim - 1 - model.ndim
        batch = features if flat else features[None]
        if flat:  # slices of a volume, one after the other: as large as one of them is what is held twice
            found = np.concatenate([np.asarray(apply(variables, one[None])) for one in batch])
        else:
            found = np.asarray(apply(variables, batch))[0]
        return found

    return learner
