"""What is wrong with a config that makes images, or that has a discriminator: part of `validation`."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from jaxseg.config import MAKERS, is_ensemble, ndim_of

LOSSES = ("hinge", "least_squares", "logistic", "relativistic")
NOT_NEGATIVE = (
    "weight", "start", "pixel", "feature_matching", "perceptual", "label_consistency", "cycle", "identity", "pool",
    "gradient_penalty",
)  # fmt: skip
RECIPES = ("nnunet", "light", "em", "fundus")  # of augmentation
GENERATORS = ("spade", "pix2pix", "resnet_generator", "super_resolution")


def problems(config: ConfigDict) -> Iterator[str]:
    """Yields a sentence for every setting that cannot be, with its field and the fix."""
    yield from _game_problems(config)
    if config.task in MAKERS:
        yield from _maker_problems(config)
    elif config.model.name in GENERATORS:
        yield f"model.name = {config.model.name!r} makes images; set task to {', '.join(MAKERS)}, or another model."
    elif config.adversarial.weight:
        yield from _critic_problems(config)
    if config.task == "translation":
        yield from _translation_problems(config)
    if config.task == "super_resolution":
        yield from _super_resolution_problems(config)


def _game_problems(config: ConfigDict) -> Iterator[str]:
    options = config.adversarial
    for name in NOT_NEGATIVE:
        if not 0 <= options[name] < float("inf"):
            yield f"adversarial.{name} must be 0 or more, got {options[name]}."
    for name in ("rate_factor", "clip"):
        if not 0 < options[name] < float("inf"):
            yield f"adversarial.{name} must be positive, got {options[name]}."
    if options.loss not in LOSSES:
        yield f"adversarial.loss must be one of {', '.join(LOSSES)}, got {options.loss!r}."
    if options.perceptual and not options.network:
        yield "adversarial.perceptual compares features of a fixed network; name its workdir in adversarial.network."
    if options.label_consistency and not options.network:
        yield "adversarial.label_consistency asks a segmentation run; name its workdir in adversarial.network."
    if options.label_consistency and config.task != "synthesis":
        yield f"adversarial.label_consistency is for task='synthesis', whose images have labels, got {config.task!r}."
    if len(config.optim.betas) != 2 or not all(0 <= beta < 1 for beta in config.optim.betas):
        yield f"optim.betas must be two numbers from 0 to below 1, got {tuple(config.optim.betas)}."


def _critic_problems(config: ConfigDict) -> Iterator[str]:
    if config.task != "semantic":
        yield f"adversarial.weight is for semantic tasks and makers of images, not for task = {config.task!r}."
    if is_ensemble(config) or config.ensemble.kind:
        yield "a critic of masks does not go with an ensemble; set adversarial.weight=0.0 or ensemble.kind=''."


def _maker_problems(config: ConfigDict) -> Iterator[str]:
    if config.ensemble.kind or config.data.fold == "all":
        yield f"task = {config.task!r} trains one network on one fold; leave ensemble.kind empty, data.fold a number."
    if config.augment in RECIPES:
        yield (
            f"augment = {config.augment!r} changes intensities, and images would be made that way; set it to mirror, "
            "rotate_scale or none."
        )
    if config.data.previous:
        yield "data.previous is for semantic tasks; leave it out where images are made."
    if config.data.spacing != "keep":
        yield f"images are made on their own grid; set data.spacing='keep', got {config.data.spacing!r}."
    if config.parallel.spatial > 1 or config.train.together:
        yield "parallel.spatial and train.together are for semantic tasks; leave them where images are made."
    if config.train.sync_batch_norm:
        yield "train.sync_batch_norm is for semantic tasks; leave it off, or set parallel.kind='mesh', where it holds."
    if config.predict.tta:
        yield "predict.tta averages flips, which blurs images; leave it off where images are made."
    if 0 in config.data.patch_size and config.task == "super_resolution":
        yield "data.patch_size must be set for super-resolution, the size of patches of high resolution."
    if not any(config.adversarial[name] for name in ("weight", "pixel", "perceptual")):
        yield "nothing says what images should look like; set adversarial.weight, pixel or perceptual above 0."


def _translation_problems(config: ConfigDict) -> Iterator[str]:
    options = config.translation
    for name in ("source", "target"):
        if not options[name]:
            yield f"translation.{name} must name channels, such as ('T1',)."
    if options.paired and len(options.other):
        yield "translation.other is a data set without pairs; set translation.paired=False."
    if not options.paired and not config.adversarial.weight:
        yield "an unpaired translation needs its discriminators; set adversarial.weight=1.0."
    if not options.paired and config.adversarial.pixel:
        yield "without pairs there is no true image; set adversarial.pixel=0.0 (adversarial.cycle takes its place)."
    if not options.paired and config.optim.accumulate > 1:
        yield "an unpaired translation draws from its pool once a step; set optim.accumulate=1."
    same = set(options.source or ()) & set(options.target or ())
    if same and not len(options.other):
        yield f"translation.source and target must be different channels, both name {', '.join(sorted(same))}."


def _super_resolution_problems(config: ConfigDict) -> Iterator[str]:
    if config.super_resolution.degrade not in ("fourier", "gaussian"):
        yield f"super_resolution.degrade must be fourier or gaussian, got {config.super_resolution.degrade!r}."
    scale = max(1, config.model.get("scale", 4))  # what the network refuses, it refuses in its own words
    axes = config.model.get("axes") or range(ndim_of(config))
    for axis in axes:
        if axis < len(config.data.patch_size) and config.data.patch_size[axis] % scale:
            yield f"data.patch_size {tuple(config.data.patch_size)} must be divisible by model.scale = {scale}."
            return
