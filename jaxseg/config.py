"""Every setting of an experiment, with its default; a config file forks this and changes what it needs."""

import ast
import re
from collections.abc import Iterator

from ml_collections import ConfigDict, config_dict

from jaxseg.typing import UserError

# Networks at a width that two CPU cores train in minutes, for configs that let their user choose; 2D unless they say.
_SMALL_RESNET = {"backbone": "resnet18", "backbone_fields": {"width": 16}}
NETWORKS: dict[str, dict] = {
    "unet": {"features": (16, 32, 64, 128), "deep_supervision": False},
    "attention_unet": {"features": (16, 32, 64, 128)},
    "unetplusplus": {"features": (16, 32, 64, 128)},
    "segnet": {"width": 16},
    "fcn": {"width": 16, "fc_features": 256, "norm": "batch"},
    "fcn_resnet": _SMALL_RESNET,
    "deeplabv3": {**_SMALL_RESNET, "features": 64},
    "deeplabv3plus": {**_SMALL_RESNET, "features": 64, "low_level_features": 16},
    "fpn": {**_SMALL_RESNET, "features": 64, "segmentation_features": 32},
    "vnet": {"ndim": 3, "features": (4, 8, 16, 32), "encoder_convs": (1, 1, 2, 3), "decoder_convs": (1, 1, 2)},
    "segresnet": {"ndim": 3, "init_filters": 8},
}

optional = config_dict.placeholder  # a field that is unset until somebody sets it, but has its type from the start


def base_config() -> ConfigDict:
    """Returns the defaults: a small U-Net for semantic segmentation; `data.name` and the duration are still unset."""
    config = ConfigDict()
    config.seed = 0
    config.data = _data()
    config.model = ConfigDict({"name": "unet", "ndim": 3, "features": (16, 32, 64), "deep_supervision": True})
    config.task = "semantic"  # or instance: objects told apart, by model.name = "mask_rcnn"
    config.instance = ConfigDict(
        {
            "max_objects": 100,  # trained on a patch; the largest are taken where there are more
            "sampled_anchors": 256,  # trained on an image,
            "sampled_boxes": 512,  # and boxes for the heads, a quarter of them objects'
            "sampled_masks": optional(int),  # the most masks of those; unset: all of them
            "anchor_overlaps": (0.3, 0.7),  # IoU with an object below which an anchor is negative, and positive from
        }
    )
    config.loss = "auto"  # Dice + cross-entropy, softmax or (where the data names regions) sigmoid
    config.augment = "nnunet"
    config.init = ConfigDict(
        {
            "path": optional(str),  # weights to start from: a workdir, a converted folder, .pth, .safetensors or .npz
            "source": optional(str),  # whose names a file of weights has, such as torchvision:resnet18
            "fields": ConfigDict(),  # of that network, where the file does not show them, such as encoder
            "skip": "",  # pattern of parameters that start fresh: ^head (all but it), ^(?!backbone) (encoder only)
            "stem": "sum",  # how the first layer is adapted to other channels: sum, repeat
            "inflate": "centre",  # how 2D weights become 3D: centre, mean
        }
    )
    config.optim = ConfigDict(
        {
            "name": "adamw",  # sgd, adam, adamw, lamb
            "lr": 1e-3,
            "schedule": "cosine",  # constant, poly(power=0.9), cosine(final=0.0)
            "warmup_steps": 0,
            "weight_decay": 1e-5,
            "no_decay": r"(bias|scale)$",  # parameters whose path matches this are not decayed
            "momentum": 0.99,  # sgd only
            "clip_norm": 12.0,  # 0 turns clipping off
            "accumulate": 1,  # micro-batches a step; divides data.batch_size
            "ema": 0.0,  # decay of the running average of the weights; 0 turns it off
            "freeze": "",  # pattern of parameters that stay as they are, such as ^backbone
            "freeze_steps": 0,  # for how many steps; 0: to the end
            "lr_factors": (),  # (pattern, factor) pairs, the first match counts: (("^backbone", 0.1),)
        }
    )
    config.train = ConfigDict(
        {
            "total_steps": optional(int),
            "total_epochs": optional(float),  # an epoch is one pass: training cases / batch size
            "total_minutes": optional(float),  # times the first steps, then fixes the number of steps
            "ckpt_steps": 250,
            "eval_steps": 250,
            "log_steps": 10,
            "eval_cases": 0,  # how many held-out cases to score while training; 0: all
            "patience": 0,  # stop after so many evaluations without a better Dice; 0: never
            "dtype": "auto",  # compute type: bfloat16 on accelerators, float32 on CPU
            "sync_batch_norm": False,  # batch statistics over all devices under pmap (a mesh always does so)
        }
    )
    config.predict = ConfigDict(
        {
            "window": optional(tuple),  # unset: the training patch
            "overlap": 0.5,
            "weight": "gaussian",
            "batch_size": 1,
            "tta": False,  # average over flips of the axes that augmentation may mirror
            "postprocess": "",  # such as "keep_largest|remove_small(min_voxels=20)"; auto: what all folds have chosen
            "checkpoint": "best",  # best, latest, or a step number
            "probabilities": False,
            "watershed": "",  # instances out of a semantic network: watershed(inside=1,border=2,min_size=10)
            "min_score": 0.5,  # instances: what is written and counted; average precision looks at all
        }
    )
    config.evaluate = ConfigDict(
        {
            "tolerance_mm": 1.0,
            "surfaces": True,  # HD95, ASSD and NSD
            "curves": False,  # areas under ROC and precision-recall curves; takes the probabilities
            "background": False,  # score class 0 like the others, where it is a tissue of its own
            "overlays": 6,  # how many of the worst and of the best cases
        }
    )
    config.parallel = ConfigDict({"kind": "pmap", "spatial": 1})
    config.plan = ConfigDict(  # --mode plan
        {
            "planner": "plain",  # plain, resenc_m, resenc_l or resenc_xl
            "device": "",  # for which patch and batch are chosen by compiling: v5e, v5e-4, h100-80, cpu-24; "": by rule
            "configurations": ("2d", "3d_fullres", "3d_lowres"),  # which to look at
        }
    )
    return config


def _data() -> ConfigDict:
    return ConfigDict(
        {
            "name": optional(str),  # nnunet_raw, msd, image_mask, instance_masks, coco, tfds, mni, or module:function
            "root": optional(str),
            "images": optional(str),
            "labels": optional(str),
            "roi": optional(str),
            "label_values": optional(tuple),
            "label_threshold": optional(float),
            "ignore_value": optional(int),
            "classes": optional(tuple),
            "channels": optional(tuple),
            "subjects": optional(str),
            "flip_pairs": optional(tuple),
            "builder": optional(str),
            "split": optional(str),
            "data_dir": optional(str),
            "image_key": optional(str),
            "label_key": optional(str),
            "affine_tolerance_mm": optional(float),  # how far an image and its label may lie apart
            "target": optional(str),  # instance_masks: objects, or border (a class map for a semantic network)
            "border_width": optional(int),  # pixels of that border
            "step": optional(int),
            "downsample": optional(int),
            "block": optional(int),
            "noise": optional(float),
            "bias": optional(float),
            "store": optional(str),  # where prepared cases lie; unset: WORKDIR/prepared
            "fold": "0",  # the part that is held out; all: one part after the other; none: every case is trained on
            "folds": 5,
            "train_cases": 0,  # train on so many cases of the training folds, drawn by seed; 0: all
            "split_kind": "nnunet",  # nnunet: its seeded shuffle, by subject; blocks: neighbours stay together
            "split_file": optional(str),  # in its place: a JSON list of {"train": [names], "val": [names]}, a fold each
            "batch_size": 2,
            "patch_size": (64, 64, 64),  # 0 along an axis: the median case, at most 128 (3D) or 512 (2D)
            "spacing": "keep",  # keep, median (nnU-Net's rule), or mm such as "1.5,1,1" or "keep,1,1" in z,y,x
            "normalize": "auto",  # auto (by channel name), or one of zscore, zscore_mask, ct, unit, rgb, none a channel
            "orientation": "canonical",
            "crop": True,
            "foreground": 1 / 3,  # share of each batch that must show a labelled class
            "workers": 2,
        }
    )


def network(name: str) -> ConfigDict:
    """Returns the `config.model` of a network at a width that a laptop trains in minutes.

    Raises:
      UserError: there is no such entry in NETWORKS.
    """
    if name not in NETWORKS:
        raise UserError(f"There is no small network {name!r}; there are {', '.join(NETWORKS)}.")
    return ConfigDict({"name": name, "ndim": 2, **NETWORKS[name]})


def parse_arg(arg: str | None, **defaults) -> ConfigDict:
    """Reads what stands behind the colon of `--config file.py:debug,minutes=10`.

    Args:
      arg: comma-separated `name=value`; a bare name means True.
      **defaults: every name the config understands, with its default.

    Raises:
      UserError: a name that is not among the defaults.
    """
    given = {}
    for item in filter(None, (arg or "").split(",")):
        name, equals, value = item.partition("=")
        if name not in defaults:
            raise UserError(f"The config knows no argument {name!r} behind its colon; it takes {', '.join(defaults)}.")
        given[name] = literal(value) if equals else True
    return ConfigDict({**defaults, **given})


def literal(text: str):
    """Returns the Python literal that a text stands for; an unquoted word is a string."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def spacing_of(config: ConfigDict) -> str | tuple[float | None, ...]:
    """Returns "keep", "median" or the target spacing in mm (z, y, x), None where an axis keeps its own."""
    text = config.data.spacing
    if text in ("keep", "median"):
        return text
    return tuple(None if value.strip() == "keep" else float(value) for value in text.split(","))


def validate(config: ConfigDict) -> None:
    """Raises one UserError that lists every problem of the config, each with its field and the fix."""
    problems = list(_problems(config))
    if problems:
        raise UserError("The config cannot be run: " + " ".join(f"({n}) {text}" for n, text in enumerate(problems, 1)))


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
    yield from _number_problems(config)
    ndim = config.model.get("ndim", len(config.data.patch_size))
    if ndim not in (2, 3):
        yield f"model.ndim must be 2 or 3, got {ndim}."
    if len(config.data.patch_size) != ndim:
        yield f"data.patch_size {config.data.patch_size} must have model.ndim = {ndim} entries."
    if config.predict.window is not None and len(config.predict.window) != ndim:
        yield f"predict.window {config.predict.window} must have model.ndim = {ndim} entries."
    if config.parallel.kind not in ("pmap", "mesh"):
        yield f"parallel.kind must be 'pmap' or 'mesh', got {config.parallel.kind!r}."
    if config.parallel.spatial > 1 and config.parallel.kind != "mesh":
        yield "parallel.spatial > 1 needs parallel.kind='mesh'."
    yield from _pattern_problems(config)
    yield from _instance_problems(config, ndim)
    if config.init.path is None and (config.init.source is not None or config.init.skip):
        yield "init.source and init.skip say how to read init.path, which is not set."
    for field, known in (("stem", ("sum", "repeat")), ("inflate", ("centre", "mean"))):
        if config.init[field] not in known:
            yield f"init.{field} must be {' or '.join(known)}, got {config.init[field]!r}."


def _instance_problems(config: ConfigDict, ndim: int) -> Iterator[str]:
    if config.task not in ("semantic", "instance"):
        yield f"task must be semantic or instance, got {config.task!r}."
    if (config.model.name == "mask_rcnn") != (config.task == "instance"):
        yield f"model.name = {config.model.name!r} does not do task = {config.task!r}; mask_rcnn does instance."
    if config.task != "instance" and not config.predict.watershed:
        return
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
    patterns["init.skip"] = config.init.skip
    for pair in config.optim.lr_factors:
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[1], float | int)):
            yield f"optim.lr_factors takes pairs such as (('^backbone', 0.1),), got {pair!r}."
        else:
            patterns[f"optim.lr_factors {pair[0]!r}"] = pair[0]
    for field, pattern in patterns.items():
        try:
            re.compile(pattern)
        except re.error as error:
            yield f"{field} is not a regular expression: {error}."


def _data_problems(data: ConfigDict) -> Iterator[str]:
    if not data.fold.isdigit() and data.fold not in ("all", "none"):
        yield f"data.fold must be '0' to '{data.folds - 1}', 'all' or 'none', got {data.fold!r}."
    elif data.fold.isdigit() and int(data.fold) >= data.folds:
        yield f"data.fold is {data.fold} but there are data.folds = {data.folds}, counted from 0."
    if any(size < 0 for size in data.patch_size):
        yield f"data.patch_size must be positive, or 0 to fit it to the data, got {data.patch_size}."
    if data.split_kind not in ("nnunet", "blocks"):
        yield f"data.split_kind must be 'nnunet' or 'blocks', got {data.split_kind!r}."
    if data.orientation not in ("canonical", "keep"):
        yield f"data.orientation must be 'canonical' or 'keep', got {data.orientation!r}."
    if data.spacing not in ("keep", "median"):
        try:
            numbers = [float(value) for value in data.spacing.split(",") if value.strip() != "keep"]
        except ValueError:
            numbers = []
        if not numbers or min(numbers) <= 0:
            yield f"data.spacing must be keep, median or positive mm such as 1.5,1,1; got {data.spacing!r}."


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
        "parallel.spatial": 1,
        "optim.lr": 0.0,
        "optim.freeze_steps": 0,
        "optim.weight_decay": 0.0,
        "optim.clip_norm": 0.0,
    }
    for path, smallest in least.items():
        value = _get(config, path)
        if not value >= smallest:
            yield f"{path} must be at least {smallest}, got {value}."
    for path in ("data.foreground", "predict.overlap", "optim.ema"):
        value = _get(config, path)
        if not 0 <= value <= 1 or (value == 1 and path != "data.foreground"):
            yield f"{path} is a fraction from 0 to below 1, got {value}."
    if config.data.batch_size % config.optim.accumulate:
        micro = config.optim.accumulate
        yield f"data.batch_size = {config.data.batch_size} must be a multiple of optim.accumulate = {micro}."
    if config.train.dtype not in ("auto", "float32", "bfloat16"):
        yield f"train.dtype must be auto, float32 or bfloat16, got {config.train.dtype!r}."


def _get(config: ConfigDict, path: str):
    for name in path.split("."):
        config = config[name]
    return config
