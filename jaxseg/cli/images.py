"""What the parts of a run are otherwise where images are made: generator, discriminator, rules, channels, task."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxseg import models, paths, registry, tasks
from jaxseg.config import MAKERS, base_config
from jaxseg.data import datasets, preprocess, store, value_range
from jaxseg.tasks.cycle import BACKWARD, FORWARD
from jaxseg.tasks.players import DISCRIMINATOR, GENERATOR
from jaxseg.typing import DataSet, Task, UserError

INTENSITY_CASES = 50  # cases whose mean and deviation are averaged for what a translation writes
MODEL = "model"  # the parameter group of everything that segments
# Fields of config.data that are options of a layout; the others are read by `build`.
LAYOUT_OPTIONS = (
    "images", "labels", "roi", "label_values", "label_threshold", "ignore_value", "classes", "channels", "subjects",
    "flip_pairs", "builder", "split", "data_dir", "image_key", "label_key", "affine_tolerance_mm", "overlap", "step",
    "downsample", "block", "noise", "bias", "target", "border_width",
)  # fmt: skip
LAYOUT_FIELDS = ("name", "root", *LAYOUT_OPTIONS)
ADD_LABELS = {  # by layout: what to do where labels are missing
    "image_mask": "set data.labels to the folder or pattern of the masks",
    "nnunet_raw": 'add the folder labelsTr, and "labels" to dataset.json',
    "msd": 'add "labels" to dataset.json, and a "label" to each of its cases',
}
STRENGTHS = ("brightness", "translation", "cutout")


def makes_images(config: ConfigDict) -> bool:
    """Whether the run's network gives images, not class maps."""
    return config.task in MAKERS


def needs_labels(config: ConfigDict) -> bool:
    """Whether the run learns from labels."""
    return config.task not in ("translation", "super_resolution")


def check_labels(config: ConfigDict, dataset: DataSet) -> DataSet:
    """Returns the data set.

    Raises:
      UserError: it has no labels, but the task learns from them.
    """
    if needs_labels(config) and not datasets.is_labelled(dataset):
        name, root = config.data.name, config.data.root
        found = "data.labels is not set" if name == "image_mask" else f"The data set in {root} has no labels"
        remedy = ADD_LABELS.get(name, "choose a data set with labels")
        raise UserError(
            f"{found}, but task={config.task!r} learns from labels; {remedy} (only translation and super_resolution "
            "do without)."
        )
    return dataset


def groups(config: ConfigDict) -> tuple[str, ...]:
    """Returns the parameter groups, the network's first."""
    own = GENERATOR if makes_images(config) else MODEL
    return (own, DISCRIMINATOR) if config.adversarial.weight else (own,)


def places(channels: Sequence[str], names: Sequence[str], *, field: str) -> tuple[int, ...]:
    """Returns where the named channels stand among those of the data.

    Raises:
      UserError: a name that is none of the channels.
    """
    unknown = [name for name in names if name not in channels]
    if unknown:
        raise UserError(
            f"{field} names {', '.join(map(repr, unknown))}, but the data have the channels {', '.join(channels)}."
        )
    return tuple(channels.index(name) for name in names)


def source(config: ConfigDict, channels: Sequence[str]) -> tuple[int, ...]:
    """Returns the places of the channels that a translation is given; of the others makers, all."""
    if config.task != "translation":
        return tuple(range(len(channels)))
    return places(channels, config.translation.source, field="translation.source")


def target(config: ConfigDict, channels: Sequence[str]) -> tuple[int, ...]:
    """Returns the places of the channels that are made, in the data that show them."""
    if config.task != "translation":
        return tuple(range(len(channels)))
    names = config.translation.target
    return tuple(range(len(names))) if has_other(config) else places(channels, names, field="translation.target")


def has_other(config: ConfigDict) -> bool:
    """Whether the images to be made alike come from a data set of their own."""
    return config.task == "translation" and len(config.translation.other) > 0


def kinds(config: ConfigDict, channels: Sequence[str]) -> tuple[str, ...]:
    """Returns the normalisation of each channel, which a maker of images must know beforehand.

    Raises:
      UserError: it is left to the data, or has no range.
    """
    named = tuple(config.data.normalize.split(","))
    known = ", ".join(value_range.IN_DEVIATIONS)
    if not set(named) <= set(value_range.IN_DEVIATIONS):
        raise UserError(
            f"data.normalize = {config.data.normalize!r}: where images are made, it should name one of {known}, or one "
            "a channel."
        )
    return named * len(channels) if len(named) == 1 else named


def intensities(config: ConfigDict, channels: Sequence[str]) -> tasks.Intensities:
    """How the images of the data set are encoded."""
    return tasks.Intensities(kinds(config, channels), config.adversarial.clip)


def target_coding(config: ConfigDict, channels: Sequence[str]) -> tasks.Intensities:
    """How the images that are made are encoded."""
    own = intensities(config, config.translation.target if has_other(config) else channels)
    return own.of(target(config, channels))


def generator(config: ConfigDict, channels: Sequence[str], *, made: int | None = None, **fields: Any) -> Any:
    """Returns the Flax module that makes images of `made` channels (None: of the target's)."""
    own = {**config.model.to_dict(), **fields}
    name = own.pop("name")
    count = len(target(config, channels)) if made is None else made
    return models.create_generator(name, channels=count, **own)


def discriminator(config: ConfigDict, *, ndim: int, dtype: str) -> Any:
    """Returns the Flax module that judges, or None where nothing does."""
    if not config.adversarial.weight:
        return None
    name, fields = registry.parse_call(config.adversarial.discriminator)
    return models.create_discriminator(name, **{"ndim": ndim, "dtype": dtype, **fields})


def rules(config: ConfigDict) -> tasks.Rules | None:
    """Returns how the players play; None without a discriminator.

    Raises:
      UserError: adversarial.augment cannot be read.
    """
    options = config.adversarial
    if not options.weight:
        return None
    return tasks.Rules(
        loss=options.loss,
        weight=options.weight,
        start=options.start * config.optim.accumulate,  # lessons, of which a step gives one a micro-batch
        feature_matching=options.feature_matching,
        gradient_penalty=options.gradient_penalty,
        augment=strengths(options.augment),
    )


def strengths(text: str) -> dict[str, float]:
    """Reads "brightness=0.5,translation=0.125"; what is not named is off, and nothing named is no augmentation.

    Raises:
      UserError: another name, no number, or one that is out of range.
    """
    if not text:
        return {}
    _, given = registry.parse_call(f"f({text})")
    wrong = [name for name, value in given.items() if name not in STRENGTHS or not isinstance(value, int | float)]
    if wrong:
        raise UserError(
            f"adversarial.augment = {text!r} should read brightness=0.5,translation=0.125,cutout=0.5 or a part of it."
        )
    if any(value < 0 or (value > 1 and name != "brightness") for name, value in given.items()):
        raise UserError(f"adversarial.augment = {text!r}: none may be negative, translation and cutout not above 1.")
    return {**dict.fromkeys(STRENGTHS, 0.0), **{name: float(value) for name, value in given.items()}}


def task(config: ConfigDict, channels: Sequence[str], num_classes: int, *, ndim: int, dtype: str) -> Task:
    """Binds generator, discriminator and losses as config.task asks."""
    judge, game = discriminator(config, ndim=ndim, dtype=dtype), rules(config)
    coding = intensities(config, channels)
    make = functools.partial(generator, config, channels, dtype=dtype)
    options = config.adversarial
    likeness = tasks.Fidelity(options.pixel, options.perceptual, perceive(config), options.label_consistency)
    if config.task == "synthesis":
        return tasks.synthesis(make(), judge, game, likeness, num_classes=num_classes, intensities=coding)
    if config.task == "super_resolution":
        network, degrade = make(), config.super_resolution.degrade
        return tasks.super_resolution(
            network, judge, game, likeness, factors=factors(network), degrade=degrade, intensities=coding
        )
    given, made = source(config, channels), target(config, channels)
    if config.translation.paired:
        return tasks.translation(make(), judge, game, likeness, source=given, target=made, intensities=coding)
    assert game is not None  # validation
    return tasks.unpaired(
        {FORWARD: make(), BACKWARD: make(made=len(given))},
        judge,
        game,
        tasks.Cycle(options.cycle, options.identity if len(given) == len(made) else 0.0, options.pool),
        source=given,
        target=made,
        intensities=coding,
        other=intensities(config, config.translation.target) if has_other(config) else coding,
    )


def factors(network: Any) -> tuple[int, ...]:
    """How many times longer a network makes each spatial axis.

    Raises:
      UserError: the network does not say.
    """
    found = getattr(network, "factors", None)
    if found is None:
        raise UserError("task='super_resolution' needs a network that enlarges: set model.name='super_resolution'.")
    return tuple(found)


def perceive(config: ConfigDict) -> Callable | None:
    """Returns `image -> features` of the run that `adversarial.network` names, loaded when it is first asked."""
    if not (config.adversarial.perceptual or config.adversarial.label_consistency):
        return None

    def seen(image: jax.Array) -> list[jax.Array]:
        from jaxseg.cli import features  # which loads a run, through what loads this module

        return features.of_run(config.adversarial.network)(image)

    return seen


def check_features(config: ConfigDict, channels: Sequence[str], patch: Sequence[int], num_classes: int) -> None:
    """Reads the fixed network of `perceive` and asks it for the shapes of features of a made patch.

    Raises:
      UserError: there is none in that workdir, or it does not take such images, or does not tell these classes apart.
    """
    look = perceive(config) if makes_images(config) else None
    if look is not None:
        jax.eval_shape(look, jax.ShapeDtypeStruct((1, *patch, len(target(config, channels))), np.float32))
        if config.adversarial.label_consistency:
            from jaxseg.cli import features

            features.check_classes(config.adversarial.network, num_classes)


def with_other(augment: Callable) -> Callable:
    """Returns the augmentation for batches that hold a second image, which is changed by draws of its own."""

    def both(key: jax.Array, batch: dict) -> dict:
        first, second = jax.random.split(key)
        rest = {name: value for name, value in batch.items() if name != "other"}
        label = jnp.zeros(batch["other"].shape[:-1], jnp.int32)
        other = augment(second, {"image": batch["other"], "label": label, "index": batch["index"]})
        return {**augment(first, rest), "other": other["image"]}

    return both


def beside(first: Iterator[dict], second: Iterator[dict]) -> Iterator[dict]:
    """Yields the first's batches with the second's images as "other"; closing it closes both."""
    try:
        for one, two in zip(first, second):
            yield {**one, "other": two["image"]}
    finally:
        for each in (first, second):
            getattr(each, "close")()  # noqa: B009 (generators have it, iterators need not)


def other_data(config: ConfigDict) -> ConfigDict:
    """Returns the config of the target's own data set (`translation.other`): its layout, the rest as it is."""
    own = ConfigDict(config.to_dict(), type_safe=False)
    fresh = base_config().data
    for name in LAYOUT_FIELDS:
        own.data[name] = fresh[name]
    if "name" not in config.translation.other:
        raise UserError("translation.other should name its layout, such as dict(name='msd', root='Task05_Prostate').")
    unknown = sorted(set(config.translation.other) - set(LAYOUT_FIELDS))
    if unknown:
        raise UserError(
            f"translation.other says where the target's images lie and has no field {', '.join(unknown)}; its fields "
            f"are {', '.join(LAYOUT_FIELDS)}."
        )
    for name, value in config.translation.other.items():
        own.data[name] = value
    return own


def sides(config: ConfigDict, training: list, folder: paths.Path) -> tuple[list, list]:
    """Returns what the two sides of an unpaired translation are trained on; of every other run (all, none).

    Args:
      config: of the run.
      training: its training cases.
      folder: where its prepared cases lie.
    """
    if config.task != "translation" or config.translation.paired:
        return training, []
    if has_other(config):
        return training, list(store.open(other_folder(folder)))
    return halves(training, seed=config.seed)


def other_folder(folder: paths.Path) -> paths.Path:
    """Where the prepared cases of the target's own data set lie, beside those of the source's."""
    return folder.parent / f"{folder.name}_other"


def halves(cases: Sequence[Any], *, seed: int) -> tuple[list, list]:
    """Returns the cases of two halves of the subjects, drawn by seed: no subject shows both sides of a translation.

    Raises:
      UserError: there is one subject only.
    """
    subjects = sorted({case.subject or case.name for case in cases})
    if len(subjects) < 2:
        raise UserError(
            "An unpaired translation within one data set needs two training subjects or more, there is "
            f"{len(subjects)}; name the target's own data set in translation.other."
        )
    order = np.random.RandomState(seed).permutation(len(subjects))
    first = {subjects[place] for place in order[: (len(subjects) + 1) // 2]}
    sides: tuple[list, list] = ([], [])
    for case in cases:
        sides[(case.subject or case.name) not in first].append(case)
    return sides


def target_intensities(
    config: ConfigDict, dataset: DataSet, settings: preprocess.Settings
) -> list[tuple[float, float]]:
    """Returns mean and deviation of each channel that a translation makes, averaged over cases of the data set."""
    places = target(config, dataset.channels)
    cases = [dataset.cases[place] for place in _spread(len(dataset.cases))]
    found = [preprocess.scales_of(dataset.load(case).image, settings) for case in cases]
    mean = np.mean([[lines[place] for place in places] for lines in found], axis=0)
    return [(float(offset), float(scale)) for offset, scale in mean]


def _spread(count: int) -> Sequence[int]:
    return np.unique(np.linspace(0, count - 1, min(count, INTENSITY_CASES)).round().astype(int)).tolist()
