"""What is wrong with a config: every problem at once, each with its field and the fix, before anything is read."""

import re
from collections.abc import Iterator

from ml_collections import ConfigDict

from jaxseg import registry, space, terms, validation_agents, validation_images
from jaxseg.config import AGENTS, FORMATS, MAKERS, base_config, flat, ndim_of
from jaxseg.typing import UserError

UNCERTAINTY = ("entropy", "mutual_information", "disagreement")
TOGETHER = ("seeds", "bagging", "soup")  # kinds of ensembles whose members can train as one program


def validate(config: ConfigDict) -> None:
    """Raises one UserError that lists every problem of the config, each with its field and the fix.

    Fields that `config.init` lacks are added first (see `complete_init`).
    """
    complete_init(config)
    problems = list(_problems(config))
    if problems:
        raise UserError("The config cannot be run: " + " ".join(f"({n}) {text}" for n, text in enumerate(problems, 1)))


def complete_init(config: ConfigDict) -> None:
    """Gives `config.init` the defaults of what it lacks, in place: `config.init = dict(path=...)` is a whole one."""
    with config.unlocked():
        if config.init is None:
            config.init = ConfigDict()
        for name, value in base_config().init.items():
            if name not in config.init:
                config.init[name] = value


def _problems(config: ConfigDict) -> Iterator[str]:
    durations = {name: config.train[name] for name in ("total_steps", "total_epochs", "total_minutes")}
    given = [name for name, value in durations.items() if value is not None]
    if len(given) != 1:
        found = " and ".join(f"train.{name}" for name in given) or "none"
        yield f"exactly one of train.total_steps, total_epochs, total_minutes must be set, found {found}."
    for name in given:
        if durations[name] <= 0:
            yield f"train.{name} must be positive, got {durations[name]}."
    if config.data.name is None:
        yield "data.name is not set; add --config.data.name=msd (or nnunet_raw, image_mask, tfds)."
    if config.predict.postprocess == "auto" and config.data.fold != "all":
        yield "predict.postprocess='auto' is what all folds have chosen; set data.fold='all', or name the steps."
    yield from _data_problems(config.data)
    if not isinstance(config.report.identify, bool):
        yield f"report.identify must be True or False, got {config.report.identify!r}."
    yield from _extra_problems(config)
    yield from _number_problems(config)
    ndim = ndim_of(config)
    if ndim not in (2, 3):
        yield f"model.ndim must be 2 or 3, got {ndim}."
    if len(config.data.patch_size) != ndim:
        yield f"data.patch_size {config.data.patch_size} must have model.ndim = {ndim} entries."
    if config.predict.window is not None and len(config.predict.window) != ndim:
        yield f"predict.window {config.predict.window} must have model.ndim = {ndim} entries."
    yield from _predict_problems(config.predict, ndim)
    yield from _format_problems(config)
    if config.train.together not in ("", "auto", "vmap", "unroll"):
        yield f"train.together must be auto, vmap, unroll or empty, got {config.train.together!r}."
    if config.train.together and (config.parallel.kind != "pmap" or config.task != "semantic"):
        yield "train.together spreads folds of a semantic task over devices by itself; leave parallel.kind as it is."
    if config.parallel.kind not in ("pmap", "mesh"):
        yield f"parallel.kind must be 'pmap' or 'mesh', got {config.parallel.kind!r}."
    if config.parallel.spatial > 1 and config.parallel.kind != "mesh":
        yield "parallel.spatial > 1 needs parallel.kind='mesh'."
    yield from _process_problems(config.parallel)
    yield from _pattern_problems(config)
    yield from _instance_problems(config, ndim)
    yield from _init_problems(config.init)
    yield from _tune_problems(config)
    yield from _ensemble_problems(config)
    yield from validation_images.problems(config)
    yield from validation_agents.problems(config)
    yield from _synthesis_problems(config.synthesis)


def _init_problems(init: ConfigDict) -> Iterator[str]:
    known_fields = tuple(base_config().init)
    if unknown := sorted(set(init) - set(known_fields)):
        yield f"init has no field {', '.join(unknown)}; its fields: {', '.join(known_fields)}."
    if init.path is None and (init.source is not None or init.skip):
        yield "init.source and init.skip say how to read init.path, which is not set."
    for field, known in (("stem", ("sum", "repeat")), ("inflate", ("centre", "mean"))):
        if init[field] not in known:
            yield f"init.{field} must be {' or '.join(known)}, got {init[field]!r}."


def _process_problems(parallel: ConfigDict) -> Iterator[str]:
    given = {name: parallel[name] for name in ("coordinator", "processes", "process")}
    missing = [f"parallel.{name}" for name, value in given.items() if value is None]
    if parallel.coordinator is not None and missing:
        yield f"parallel.coordinator needs {' and '.join(missing)} beside it."
    if parallel.coordinator is None and (parallel.processes or 1) > 1:
        yield "parallel.processes > 1 needs parallel.coordinator, the address:port of process 0; or leave both unset."
    if parallel.coordinator is not None and not re.fullmatch(r"\S+:\d+", parallel.coordinator):
        yield f"parallel.coordinator must be address:port, such as 10.0.0.1:8476, got {parallel.coordinator!r}."
    if parallel.processes is not None and not 0 <= (parallel.process or 0) < parallel.processes:
        yield f"parallel.process must be 0 to {parallel.processes - 1}, got {parallel.process}."
    if parallel.heartbeat_seconds < 10:
        yield f"parallel.heartbeat_seconds must be at least 10, got {parallel.heartbeat_seconds}."


def _predict_problems(predict: ConfigDict, ndim: int) -> Iterator[str]:
    for field, known in (("weight", ("gaussian", "constant", "nnunet")), ("average", ("probabilities", "logits"))):
        if predict[field] not in known:
            yield f"predict.{field} must be one of {', '.join(known)}, got {predict[field]!r}."
    axes = predict.flip_axes
    if axes is not None and (len(set(axes)) != len(axes) or not set(axes) <= set(range(ndim))):
        yield f"predict.flip_axes must name axes from 0 to {ndim - 1}, each once, got {tuple(axes)}."


def _format_problems(config: ConfigDict) -> Iterator[str]:
    names = formats(config.predict.format)
    if names != ("same",) and (not names or len(set(names)) < len(names) or not set(names) <= set(FORMATS)):
        known = ", ".join(FORMATS)
        yield f"predict.format must be same or some of {known}, with | between, got {config.predict.format!r}."
    elif names != ("same",) and (config.task not in ("semantic", *AGENTS) or config.predict.watershed):
        yield "predict.format is of class maps; leave it at 'same' where images are made or objects told apart."
    try:
        terms.parse(config.data.terms)
    except UserError as error:
        yield f"data.terms cannot be read: {error}"


def formats(text: str) -> tuple[str, ...]:
    """Returns the formats that `predict.format` names, with "|" or "," between."""
    return tuple(name.strip() for name in re.split(r"[|,]", str(text)) if name.strip())


def _instance_problems(config: ConfigDict, ndim: int) -> Iterator[str]:
    if config.task not in ("semantic", "instance", *MAKERS, *AGENTS):
        yield f"task must be semantic, instance, {', '.join((*MAKERS, *AGENTS))}; got {config.task!r}."
    if (config.model.name == "mask_rcnn") != (config.task == "instance"):
        yield f"model.name = {config.model.name!r} does not do task = {config.task!r}; mask_rcnn does instance."
    if config.task != "instance" and not config.predict.watershed:
        return
    if config.data.previous:
        yield "data.previous is for semantic tasks; leave it out where objects are told apart."
    if ndim != 2:
        yield "objects are told apart in 2D images only; set model.ndim = 2."
    if config.data.spacing != "keep" or config.data.crop:
        yield "objects are found on the image's own grid; set data.spacing='keep' and data.crop=False."
    if config.parallel.spatial > 1:
        yield "parallel.spatial > 1 works for semantic tasks only."
    for field, least in (("max_objects", 1), ("sampled_anchors", 2), ("sampled_boxes", 4), ("sampled_masks", 1)):
        if config.instance[field] is not None and config.instance[field] < least:
            yield f"instance.{field} must be at least {least}, got {config.instance[field]}."
    overlaps = tuple(config.instance.anchor_overlaps)
    if len(overlaps) != 2 or not 0 < overlaps[0] <= overlaps[1] <= 1:
        yield f"instance.anchor_overlaps must be two shares, the lower first, such as (0.3, 0.7); got {overlaps}."


def _pattern_problems(config: ConfigDict) -> Iterator[str]:
    patterns = {"optim.no_decay": config.optim.no_decay, "optim.freeze": config.optim.freeze}
    for field in ("skip", "stem_layer"):
        texts = config.init.get(field, "")
        if isinstance(texts, list | tuple):
            patterns.update({f"init.{field}[{place}]": text for place, text in enumerate(texts)})
        else:
            patterns[f"init.{field}"] = texts
    for pair in config.optim.lr_factors:
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[1], float | int)):
            yield f"optim.lr_factors takes pairs such as (('^backbone', 0.1),), got {pair!r}."
        else:
            patterns[f"optim.lr_factors {pair[0]!r}"] = pair[0]
    for field, pattern in patterns.items():
        if not isinstance(pattern, str):
            yield f"{field} must be a pattern, got {pattern!r}."
            continue
        try:
            re.compile(pattern)
        except re.error as error:
            yield f"{field} is not a regular expression: {error}."


def _data_problems(data: ConfigDict) -> Iterator[str]:
    if not data.fold.isdigit() and data.fold not in ("all", "none"):
        yield f"data.fold must be '0' to '{data.folds - 1}', 'all' or 'none', got {data.fold!r}."
    elif data.fold.isdigit() and int(data.fold) >= data.folds:
        yield f"data.fold is {data.fold} but there are data.folds = {data.folds}, counted from 0."
    if data.previous and data.fold == "none":
        yield "data.previous holds cases out fold by fold; set data.fold to a number or 'all'."
    if any(size < 0 for size in data.patch_size):
        yield f"data.patch_size must be positive, or 0 to fit it to the data, got {data.patch_size}."
    if data.overlap not in (None, "refuse", "later"):
        yield f"data.overlap must be 'refuse' or 'later' (the class that comes later wins), got {data.overlap!r}."
    if data.split_kind not in ("nnunet", "blocks"):
        yield f"data.split_kind must be 'nnunet' or 'blocks', got {data.split_kind!r}."
    if data.orientation not in ("canonical", "keep"):
        yield f"data.orientation must be 'canonical' or 'keep', got {data.orientation!r}."
    if data.axis_order is not None and sorted(data.axis_order) not in ([0, 1], [0, 1, 2]):
        yield f"data.axis_order must name each axis once, such as (2, 0, 1), got {tuple(data.axis_order)}."
    if data.spacing not in ("keep", "median"):
        try:
            numbers = [float(value) for value in data.spacing.split(",") if value.strip() != "keep"]
        except ValueError:
            numbers = []
        if not numbers or min(numbers) <= 0:
            yield f"data.spacing must be keep, median or positive mm such as 1.5,1,1; got {data.spacing!r}."


def _extra_problems(config: ConfigDict) -> Iterator[str]:
    folders = config.data.extra
    if not isinstance(folders, list | tuple) or not all(isinstance(one, str) and one for one in folders):
        yield f"data.extra must be a tuple of folders of made images, such as ('runs/made',), got {folders!r}."
        return
    if len(set(folders)) < len(folders):
        yield f"data.extra names a folder twice: {', '.join(folders)}; name each once."
    if folders and config.task != "semantic":
        yield f"data.extra holds images with class maps; leave it empty where task={config.task!r}."
    if not 0 < config.data.extra_until <= 1:
        yield f"data.extra_until is a share of the updates, above 0 and at most 1, got {config.data.extra_until}."
    if config.data.extra_until < 1 and (config.train.together or config.ensemble.together):
        yield "data.extra_until < 1 goes with one training at a time; leave train.together and ensemble.together empty."
    if folders and config.data.previous:
        yield "made images have no class maps of an earlier run; leave data.extra or data.previous out."


def _number_problems(config: ConfigDict) -> Iterator[str]:
    least = {
        "data.batch_size": 1,
        "data.folds": 2,
        "data.train_cases": 0,
        "data.workers": 1,
        "optim.accumulate": 1,
        "train.ckpt_steps": 1,
        "train.eval_steps": 1,
        "train.log_steps": 1,
        "predict.batch_size": 1,
        "predict.memory_gib": 0.0,
        "parallel.spatial": 1,
        "tune.startup": 1,
        "tune.first_rung": 0,
        "tune.reduction": 2,
        "tune.trials": 1,
        "tune.together": 1,
        "optim.lr": 0.0,
        "optim.freeze_steps": 0,
        "optim.weight_decay": 0.0,
        "optim.clip_norm": 0.0,
    }
    for path, smallest in least.items():
        value = _get(config, path)
        if not value >= smallest:
            yield f"{path} must be at least {smallest}, got {value}."
    for path in ("data.foreground", "data.extra_share", "predict.overlap", "optim.ema"):
        value = _get(config, path)
        if not 0 <= value <= 1 or (value == 1 and path != "data.foreground"):
            yield f"{path} is a fraction from 0 to below 1, got {value}."
    if config.data.batch_size % config.optim.accumulate:
        micro = config.optim.accumulate
        yield f"data.batch_size = {config.data.batch_size} must be a multiple of optim.accumulate = {micro}."
    if config.train.dtype not in ("auto", "float32", "bfloat16"):
        yield f"train.dtype must be auto, float32 or bfloat16, got {config.train.dtype!r}."


OUTPUTS = ("probabilities", "logits", "vote", "staple")
# How the networks of each kind of ensemble may become one; the first is what "auto" stands for.
COMBINE: dict[str, tuple[str, ...]] = {
    "seeds": OUTPUTS,
    "bagging": OUTPUTS,
    "snapshots": (*OUTPUTS, "weights"),
    "soup": ("greedy", "weights", *OUTPUTS),
    "boosting": ("logits", "probabilities"),
    "gradient_boosting": ("sum",),
    "stacking": ("learner",),
}


def _ensemble_problems(config: ConfigDict) -> Iterator[str]:
    options = config.ensemble
    maps = {name for name in config.predict.uncertainty.split(",") if name}
    if not maps <= set(UNCERTAINTY):
        yield f"predict.uncertainty takes {', '.join(UNCERTAINTY)}, got {config.predict.uncertainty!r}."
    if not _is_temperature(config.predict.temperature):
        yield f"predict.temperature must be auto or a positive number, got {config.predict.temperature!r}."
    if (maps or config.predict.temperature or config.evaluate.certainty) and config.task != "semantic":
        yield "uncertainty, temperature and certainty are of class maps; leave them out where task='instance'."
    if not options.kind:
        return
    if options.kind not in COMBINE:
        yield f"ensemble.kind must be one of {', '.join(COMBINE)} or empty, got {options.kind!r}."
        return
    if options.combine != "auto" and options.combine not in COMBINE[options.kind]:
        ways = ", ".join(COMBINE[options.kind])
        yield f"ensemble.combine of {options.kind} must be auto or one of {ways}, got {options.combine!r}."
    if config.data.fold == "all":
        yield "an ensemble is trained on one fold at a time; set data.fold to a number, or 'none'."
    if config.task != "semantic":
        yield "an ensemble averages class maps; set task='semantic' or leave ensemble.kind empty."
    if config.train.together:
        yield "train.together is of folds; members of an ensemble train at once by ensemble.together."
    if options.together not in ("", "auto", "vmap", "unroll"):
        yield f"ensemble.together must be auto, vmap, unroll or empty, got {options.together!r}."
    elif options.together and (options.kind not in TOGETHER or config.parallel.kind != "pmap"):
        yield f"ensemble.together is for {', '.join(TOGETHER)} with parallel.kind='pmap'; leave it empty."
    if options.kind != "stacking" and options.members < 2:
        yield f"ensemble.members must be at least 2, got {options.members}."
    if not 0 < options.validation <= 0.5:
        yield f"ensemble.validation must be a share above 0 and at most 0.5, got {options.validation}."
    if not 0 < options.shrinkage <= 1 or not 0 < options.trunk < 1:
        yield "ensemble.shrinkage must be above 0 and at most 1, ensemble.trunk between 0 and 1."
    for field, known in (("fits", ("loss", "gradient")), ("learner", ("logistic", "convolutional"))):
        if options[field] not in known:
            yield f"ensemble.{field} must be {' or '.join(known)}, got {options[field]!r}."
    if options.patience < 0 or options.folds < 2:
        yield "ensemble.patience must not be negative, and ensemble.folds at least 2."
    if options.kind == "stacking" and len(options.networks) < 2:
        yield "ensemble.networks must name at least two networks, such as ('unet', 'segnet', 'pixel_features')."


def _is_temperature(text: str) -> bool:
    try:
        return text in ("", "auto") or 0 < float(text) < float("inf")
    except ValueError:
        return False


def _synthesis_problems(options: ConfigDict) -> Iterator[str]:
    """Names and options of the sampler are known higher up (`label_samplers.check`); here it must read as one."""
    try:
        for part in registry.split(str(options.labels), "|"):
            registry.parse_call(part)
    except UserError as error:
        yield f"synthesis.labels should read name|name(option=value)|..., but {error}"
    if not isinstance(options.seed, int) or options.seed < 0:
        yield f"synthesis.seed must be a whole number from 0 on, got {options.seed}."
    if not isinstance(options.min_dice, float | int) or not 0 <= options.min_dice <= 1:
        yield f"synthesis.min_dice is a Dice from 0 to 1, got {options.min_dice}."


def _tune_problems(config: ConfigDict) -> Iterator[str]:
    yield from space.problems(config.tune.space, flat(config.to_dict()))
    for field, known in (("sampler", ("tpe", "random")), ("pruner", ("halving", "none"))):
        if config.tune[field] not in known:
            yield f"tune.{field} must be {' or '.join(known)}, got {config.tune[field]!r}."
    rung, evaluated = config.tune.first_rung, config.train.eval_steps
    if rung and rung < evaluated:
        yield f"tune.first_rung = {rung} comes before the first score, at train.eval_steps = {evaluated}."


def _get(config: ConfigDict, path: str):
    for name in path.split("."):
        config = config[name]
    return config
