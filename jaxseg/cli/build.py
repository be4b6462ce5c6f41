"""From a config to the parts of an experiment: data set, prepared cases, task, optimiser, loader."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxseg import config as configs
from jaxseg import losses, models, paths, tasks, transfer
from jaxseg.cli import agents, images, instances
from jaxseg.data import augment, datasets, loader, preprocess, store
from jaxseg.train import optim, parallel
from jaxseg.train import state as states
from jaxseg.train.step import make_step
from jaxseg.typing import DataSet, StepFn, Task, UserError

CLASS_LOSS = "dice_loss(ignore_background=True) + cross_entropy"
REGION_LOSS = "dice_loss(activation='sigmoid') + binary_cross_entropy"
OTHER_SEED = 500  # between the draws of both sides of an unpaired translation
TAKE_ANY = ("none", "nnunet")  # augmentations that fit all images, and the second one takes half a second to trace
LARGEST_PATCH = {2: 512, 3: 128}  # along each axis, where data.patch_size leaves it open


class Facts(NamedTuple):
    """What the data set says about itself, as stored in config.json, so that predict needs no data set."""

    channels: tuple[str, ...]
    classes: tuple[str, ...]
    label_values: tuple[int, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    regions: tuple[tuple[int, ...], ...] | None
    ignore_value: int | None


def facts(dataset: DataSet) -> Facts:
    """Returns the part of a data set's description that outlives its files."""
    return Facts(**{name: getattr(dataset, name) for name in Facts._fields})


def stored_facts(record: dict[str, Any]) -> Facts:
    """The inverse of writing `facts(...)._asdict()` to JSON."""

    def tuples(value):
        return tuple(tuples(item) for item in value) if isinstance(value, list) else value

    return Facts(**{name: tuples(value) for name, value in record["dataset"].items()})


def dataset(config: ConfigDict, **other: Any) -> DataSet:
    """Lists the data set; only fields that are set are handed to the layout, which refuses those it does not take.

    `other` are options that replace the config's (None: unset). A task that learns from labels refuses a set without.
    """
    given = {**{name: config.data[name] for name in images.LAYOUT_OPTIONS}, **other}
    options = {name: value for name, value in given.items() if value is not None}
    return images.check_labels(config, datasets.load(config.data.name, root=config.data.root, **options))


def store_folder(config: ConfigDict, workdir: paths.Path) -> paths.Path:
    """Where the prepared cases lie."""
    return paths.path(config.data.store) if config.data.store else workdir / "prepared"


def normalization(config: ConfigDict, channels: Sequence[str]) -> tuple[str, ...]:
    """Returns the normalisation of each channel that the config names; "auto" is decided by the fingerprint.

    Raises:
      UserError: an unknown scheme, or not one for all channels or one each.
    """
    schemes = tuple(config.data.normalize.split(","))
    unknown = sorted(set(schemes) - {"auto", *preprocess.NORMALIZATIONS})
    if unknown:
        known = ", ".join(preprocess.NORMALIZATIONS)
        raise UserError(f"data.normalize should be auto or of {known}, got {', '.join(unknown)}.")
    if len(schemes) not in (1, len(channels)):
        raise UserError(
            f"data.normalize names {len(schemes)} schemes for {len(channels)} channels ({', '.join(channels)}); "
            "give one for all or one each."
        )
    return schemes * len(channels) if len(schemes) == 1 else schemes


def check_model(config: ConfigDict, known: Facts) -> None:
    """Builds the task without data, so that a wrong model, loss, augmentation or schedule is told before preparing."""
    optimizers(config)
    schedule(config)
    normalization(config, known.channels)
    order = config.data.axis_order
    if order is not None and known.flip_pairs and order[-1] != len(order) - 1:
        raise UserError(
            f"data.axis_order = {tuple(order)} puts another axis than left-right last, where flips exchange left and "
            "right classes; leave that axis last, or set data.flip_pairs=()."
        )
    spatial = config.parallel.spatial
    parallel.check_batch(config.data.batch_size, patch_size=config.data.patch_size, spatial=spatial)
    # Sizes that the data will decide are stood in for by some that any data could have.
    steps = divisor(config, known)
    patch = tuple(size or 2 * step for size, step in zip(config.data.patch_size, steps))
    _check_augmentation(config, known, patch)
    shape = (1, *patch, input_channels(config, known))
    try:
        image = jax.ShapeDtypeStruct(shape, np.float32)
        params, _ = jax.eval_shape(task(config, known).init, jax.random.key(0), image)
        images.check_features(config, known.channels, patch, len(known.classes))
    except UserError:
        raise  # is a ValueError too, but says what is wrong and where
    except ValueError as error:
        raise UserError(f"data.patch_size {config.data.patch_size} does not fit the model: {error}") from error
    patterns = [("optim.lr_factors", pattern) for pattern, _ in config.optim.lr_factors]
    for field, pattern in [("optim.freeze", config.optim.freeze), *patterns]:
        if pattern:
            transfer.check_pattern(params[images.groups(config)[0]], pattern, field=field)


def patch_size(config: ConfigDict, known: Facts, cases: Sequence[store.StoredCase]) -> tuple[int, ...]:
    """Returns the training patch: as the config says, and where it says 0 the median case, at most LARGEST_PATCH.

    Raises:
      UserError: a size of the config is longer than every case along its axis, so that it would always be padded.
    """
    wanted = tuple(config.data.patch_size)
    result = []
    for axis, (size, step) in enumerate(zip(wanted, divisor(config, known))):
        sizes = [case.shape[axis - len(wanted)] for case in cases]
        enough = -(-max(sizes) // step) * step
        if size > enough:
            raise UserError(
                f"data.patch_size {wanted} is longer along axis {axis} than the largest prepared case ({max(sizes)}); "
                f"{enough} is enough there, and 0 fits it to the data."
            )
        middle = min(int(np.median(sizes)), LARGEST_PATCH[len(wanted)])
        result.append(size or max(step, middle // step * step))
    return tuple(result)


def model(config: ConfigDict, known: Facts):
    """Returns the Flax module of the config, in the compute type that fits the device."""
    if images.makes_images(config):
        return images.generator(config, known.channels, dtype=compute_dtype(config))
    fields = config.model.to_dict()  # also what is nested in it, such as backbone_fields
    name = fields.pop("name")
    fields["num_classes"] = len(known.regions) if known.regions else len(known.classes)
    if agents.is_agent(config):
        fields |= agents.fields(config, known)
    fields["dtype"] = compute_dtype(config)
    return models.create(name, **fields)


def divisor(config: ConfigDict, known: Facts) -> tuple[int, ...]:
    """What a patch must be divisible by, one number a spatial axis."""
    network = model(config, known)
    own = models.divisor(network, ndim=configs.ndim_of(config))
    if agents.is_agent(config):
        return agents.common(own, agents.divisor(config))
    return images.factors(network) if config.task == "super_resolution" else own


def scored_classes(known: Facts) -> tuple[str, ...]:
    """Names of what is scored: the foreground classes, or the class that each region writes."""
    return tuple(known.classes[region[0]] for region in known.regions) if known.regions else known.classes[1:]


def input_channels(config: ConfigDict, known: Facts) -> int:
    """The channels that the network sees: those of the images, and one a class of the previous stage."""
    return len(known.channels) + (len(known.classes) - 1 if config.data.previous else 0)


def compute_dtype(config: ConfigDict) -> str:
    """bfloat16 on accelerators, float32 on CPU (where bfloat16 is slower), unless the config says."""
    if config.train.dtype != "auto":
        return config.train.dtype
    return "float32" if jax.devices()[0].platform == "cpu" else "bfloat16"


def loss_text(config: ConfigDict, known: Facts) -> str:
    """Returns the loss to build; "auto" is Dice + cross-entropy with the activation that the data asks for.

    Raises:
      UserError: a loss of exclusive classes for data with overlapping regions.
    """
    if config.loss == "auto":
        return REGION_LOSS if known.regions else CLASS_LOSS
    if known.regions and "sigmoid" not in config.loss and "binary_cross_entropy" not in config.loss:
        raise UserError(
            f"The data names overlapping regions, which need a sigmoid loss such as {REGION_LOSS!r}, "
            f"got {config.loss!r}."
        )
    return config.loss


def task(config: ConfigDict, known: Facts, *, logits: bool = False) -> Task:
    """Binds model and loss; with `logits`, semantic tasks predict these in place of probabilities."""
    if config.task == "instance":
        return _frozen(config, instances.task(config, model(config, known)))
    if agents.is_agent(config):
        return _frozen(config, agents.task(config, known, model(config, known)))
    shape: dict[str, Any] = {"ndim": configs.ndim_of(config), "dtype": compute_dtype(config)}
    if images.makes_images(config):
        return _frozen(config, images.task(config, known.channels, len(known.classes), **shape))
    loss = losses.from_string(loss_text(config, known))
    options: dict[str, Any] = {
        "num_classes": len(known.classes),
        "regions": known.regions,
        "sync_batch_norm": config.train.sync_batch_norm,
        "logits": logits,
    }
    if earlier := earlier_rounds(config):
        rules = {"shrinkage": config.ensemble.shrinkage, "fits": config.ensemble.fits}
        return _frozen(config, tasks.boosted(model(config, known), loss, earlier=earlier, **rules, **options))
    network = model(config, known)
    bound = tasks.semantic(network, loss, **options)
    game = images.rules(config)
    if game is not None:
        judge = images.discriminator(config, **shape)
        same = {name: options[name] for name in ("num_classes", "regions", "sync_batch_norm")}
        bound = tasks.with_critic(bound, network, judge, game, loss, **same)
    return _frozen(config, bound)


def earlier_rounds(config: ConfigDict) -> int:
    """How many networks of earlier rounds a network adds to (gradient boosting); 0 of every other."""
    return (config.ensemble.member or 0) if config.ensemble.kind == "gradient_boosting" else 0


def _frozen(config: ConfigDict, bound: Task) -> Task:
    for_good = config.optim.freeze and not config.optim.freeze_steps
    return transfer.freeze(bound, config.optim.freeze, groups=images.groups(config)[:1]) if for_good else bound


def _check_augmentation(config: ConfigDict, known: Facts, patch: tuple[int, ...]) -> None:
    """Traces the augmentation, so that an axis or a channel that images lack is told before they are prepared."""
    own = ConfigDict(config.to_dict(), type_safe=False)
    own.data.patch_size = patch
    augmentation = transforms(own, known)
    if config.augment in TAKE_ANY:
        return
    try:
        jax.eval_shape(augmentation, jax.eval_shape(lambda: jax.random.key(0)), batch_shapes(own, known))
    except UserError:
        raise
    except ValueError as error:
        channels = len(known.channels)
        axes = f"{len(patch)} axes and {channels} channel{'s' * (channels > 1)}"
        raise UserError(f"augment = {config.augment!r} does not suit images of {axes}. {error}") from error


def batch_shapes(config: ConfigDict, known: Facts) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes and types of a batch of patches as the loader gives it."""
    size, patch = config.data.batch_size, augment.raw_patch_size(config.augment, tuple(config.data.patch_size))
    maps = ("label", "previous") if config.data.previous else ("label",)
    pictures = {"image": len(known.channels)}
    if config.task == "translation" and not config.translation.paired:
        pictures["other"] = len(config.translation.target if images.has_other(config) else known.channels)
    return {
        **{name: jax.ShapeDtypeStruct((size, *patch, count), np.float32) for name, count in pictures.items()},
        **{name: jax.ShapeDtypeStruct((size, *patch), np.int32) for name in maps},
        "index": jax.ShapeDtypeStruct((size,), np.int32),
    }


def transforms(config: ConfigDict, known: Facts) -> Callable:
    """Returns the augmentation of training batches."""
    found = augment.from_string(
        config.augment,
        patch_size=tuple(config.data.patch_size),
        flip_pairs=known.flip_pairs,
        num_classes=len(known.classes),
        with_previous=bool(config.data.previous),
    )
    unpaired = config.task == "translation" and not config.translation.paired
    return images.with_other(found) if unpaired else found


def optimizers(config: ConfigDict) -> dict:
    """One optimiser a parameter group; patterns of layers are those of the network, not of its discriminator."""
    options = config.optim
    make = functools.partial(
        optim.optimizer,
        options.name,
        weight_decay=options.weight_decay,
        no_decay=options.no_decay,
        momentum=options.momentum,
        betas=tuple(options.betas),
        clip_norm=options.clip_norm,
    )
    factors = optim.parameter_factors(options.lr_factors, freeze=options.freeze, freeze_steps=options.freeze_steps)
    network, *judges = images.groups(config)
    return {
        network: make(last=factors),
        **{name: make(last=optim.parameter_factors([("", config.adversarial.rate_factor)])) for name in judges},
    }


def schedule(config: ConfigDict) -> Callable:
    """The learning rate by step and horizon."""
    return optim.schedule(config.optim.schedule, lr=config.optim.lr, warmup_steps=config.optim.warmup_steps)


def train_step(config: ConfigDict, known: Facts, task: Task, *, devices: Sequence[Any] | None = None) -> StepFn:
    """Returns the step of `train.step`, with the augmentation, for the devices of this run or others."""
    augmentation = parallel.pin(
        transforms(config, known), kind=config.parallel.kind, spatial=config.parallel.spatial, devices=devices
    )
    return make_step(
        task,
        optimizers(config),
        schedule(config),
        augment=augmentation,
        accumulate=config.optim.accumulate,
        ema=config.optim.ema,
    )


def state_shapes(config: ConfigDict, known: Facts, task: Task) -> states.State:
    """Returns shapes and types of the training state; nothing is computed."""
    create = functools.partial(
        states.create, task=task, optimizers=optimizers(config), horizon=1, ema=config.optim.ema > 0
    )
    image = jax.ShapeDtypeStruct((1, *config.data.patch_size, input_channels(config, known)), np.float32)
    return jax.eval_shape(lambda key, image: create(key, image=image), jax.random.key(0), image)


def batches(
    config: ConfigDict,
    cases: Sequence[store.StoredCase],
    *,
    start_step: int,
    weights: Sequence[float] | Callable[[int], Sequence[float]] | None = None,
    others: Sequence[store.StoredCase] = (),
):
    """Host batches from `start_step` on, larger than the patch where augmentation crops; cases drawn by `weights`.

    Images of `others`, where there are any, stand beside them as "other", drawn by themselves.
    """
    draw = functools.partial(
        loader.batches,
        patch_size=augment.raw_patch_size(config.augment, tuple(config.data.patch_size)),
        batch_size=config.data.batch_size,
        start_step=start_step,
        foreground=config.data.foreground,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        ndim=configs.ndim_of(config),
        inner_size=config.data.patch_size,
    )
    own = draw(cases, seed=config.seed, weights=weights)
    return images.beside(own, draw(others, seed=config.seed + OTHER_SEED)) if others else own


def predict_options(config: ConfigDict) -> dict[str, Any]:
    """Keyword arguments of `predict.predict_array` and of the predictor."""
    mirrored = config.predict.flip_axes
    if mirrored is None:
        mirrored = augment.mirror_axes(config.augment, ndim=configs.ndim_of(config))
    return {
        "ndim": configs.ndim_of(config),
        "window": tuple(config.predict.window or config.data.patch_size),
        "overlap": config.predict.overlap,
        "weight": config.predict.weight,
        "batch_size": config.predict.batch_size,
        "flip_axes": tuple(mirrored) if config.predict.tta else (),
    }


def output_pairs(known: Facts) -> tuple[tuple[int, int], ...]:
    """Returns the pairs of output channels that a left-right flip exchanges: class ids, or places among the regions."""
    if not known.regions:
        return known.flip_pairs
    places = {region: place for place, region in enumerate(known.regions)}
    pairs = [((left,), (right,)) for left, right in known.flip_pairs]
    return tuple((places[left], places[right]) for left, right in pairs if left in places and right in places)


def device_predict(apply: Callable, variables) -> Callable:
    """Returns a PredictFn that compiles once for all parameters: they are an argument, not constants."""
    return functools.partial(apply, variables)
