"""Every setting of an experiment, with its default; a config file forks this and changes what it needs."""

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict, config_dict

from jaxseg.registry import literal
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
    "pixel_features": {},
}

MAKERS = ("synthesis", "translation", "super_resolution")  # tasks whose networks make images
AGENTS = ("refinement", "operators")  # tasks whose networks change a segmentation step by step
FORMATS = ("nifti", "dicom_seg", "rtstruct")  # that class maps can be written in, whatever the input's own is

optional = config_dict.placeholder  # a field that is unset until somebody sets it, but has its type from the start


def base_config() -> ConfigDict:
    """Returns the defaults: a small U-Net for semantic segmentation; `data.name` and the duration are still unset."""
    config = ConfigDict()
    config.seed = 0
    config.data = _data()
    config.model = ConfigDict({"name": "unet", "ndim": 3, "features": (16, 32, 64), "deep_supervision": True})
    # instance (objects told apart); one of MAKERS, which makes images; one of AGENTS, which improves a segmentation
    config.task = "semantic"
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
            "stem_layer": "",  # pattern of the first layer's path, where it is not one of our own networks
            "stem": "sum",  # how the first layer is adapted to other channels: sum, repeat
            "inflate": "centre",  # how 2D weights become 3D: centre, mean
        }
    )
    config.optim = ConfigDict(
        {
            "name": "adamw",  # sgd, adam, adamw, lamb
            "lr": 1e-3,
            "schedule": "cosine",  # constant, poly(power=0.9), cosine(final=0.0), cycles(count=5)
            "warmup_steps": 0,
            "weight_decay": 1e-5,
            "no_decay": r"(bias|scale)$",  # parameters whose path matches this are not decayed
            "momentum": 0.99,  # sgd only
            "betas": (0.9, 0.999),  # adam, adamw, lamb: decay of the running means of gradients and of their squares
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
            "total_epochs": optional(float),  # an epoch is one pass: training cases (none of data.extra) / batch size
            "total_minutes": optional(float),  # times the first steps, then fixes the number of steps
            "ckpt_steps": 250,
            "eval_steps": 250,
            "log_steps": 10,
            "eval_cases": 0,  # how many held-out cases to score while training; 0: all
            "patience": 0,  # stop after so many evaluations without a better Dice; 0: never
            "dtype": "auto",  # compute type: bfloat16 on accelerators, float32 on CPU
            "together": "",  # data.fold=all: the folds as one program; auto, vmap, unroll; unset: one after the other
            "sync_batch_norm": False,  # batch statistics over all devices under pmap (a mesh always does so)
        }
    )
    config.predict = ConfigDict(
        {
            "window": optional(tuple),  # unset: the training patch
            "overlap": 0.5,
            "weight": "gaussian",  # of a window's middle over its rim: gaussian, constant, nnunet
            "average": "probabilities",  # what windows, flips and folds average: probabilities, logits (nnU-Net)
            "batch_size": 1,
            "memory_gib": 0.0,  # what the process may take of the host; 0: four fifths of what is free
            "tta": False,  # average over flips of the axes that augmentation may mirror
            "flip_axes": optional(tuple),  # other axes for that, such as (1, 2)
            "postprocess": "",  # such as "keep_largest|remove_small(min_voxels=20)"; auto: what all folds have chosen
            "checkpoint": "best",  # best, latest, or a step number
            "probabilities": False,
            "format": "same",  # the input's own (DICOM: nifti and dicom_seg), or some of FORMATS: nifti|dicom_seg
            "uncertainty": "",  # maps to write beside the masks: entropy, mutual_information, disagreement
            "temperature": "",  # of the probabilities: a number; auto: what the evaluation has fitted
            "watershed": "",  # instances out of a semantic network: watershed(inside=1,border=2,min_size=10)
            "min_score": 0.5,  # instances: what is written and counted; average precision looks at all
            "steps": optional(int),  # agents: how many to play; unset: as trained, rl.steps
        }
    )
    config.evaluate = ConfigDict(
        {
            "tolerance_mm": 1.0,
            "surfaces": True,  # HD95, ASSD and NSD
            "curves": False,  # areas under ROC and precision-recall curves; takes the probabilities
            "certainty": False,  # calibration, and what foretells a case's Dice; always measured for an ensemble
            "background": False,  # score class 0 like the others, where it is a tissue of its own
            "overlays": 6,  # how many of the worst and of the best cases
            "steps": 0,  # agents: scored after each of so many, more than trained perhaps; 0: twice rl.steps
            "clicks": 10,  # agents that know hints: scored after each of so many simulated clicks
        }
    )
    config.report = ConfigDict({"identify": False})  # True: outputs of DICOM are named by PatientID and description
    config.parallel = ConfigDict(
        {
            "kind": "pmap",  # or mesh
            "spatial": 1,  # devices that share one volume along its first axis (mesh only)
            "coordinator": optional(str),  # address:port of process 0; unset: what TPU pod slice, SLURM or MPI says
            "processes": optional(int),  # how many there are; 1: alone, whatever the environment says
            "process": optional(int),  # the number of this one, from 0
            "heartbeat_seconds": 100,  # without a sign of life for so long a process is lost, and the others end
        }
    )
    config.ensemble = ConfigDict(
        {
            "kind": "",  # seeds, bagging, boosting, gradient_boosting, stacking, snapshots, soup; "": one network
            "members": 5,  # networks, each trained as config.train says; of the boostings, at most so many
            "together": "",  # seeds, bagging, soup: as one program; auto, vmap, unroll; unset: one after the other
            "combine": "auto",  # probabilities, logits, vote, staple, weights, greedy; auto: what suits the kind
            "validation": 0.2,  # boostings, soup: share of the training subjects that chooses and trains no member
            "shrinkage": 0.5,  # boostings: of every round's step
            "patience": 2,  # boostings: rounds without a better validation score before they end; 0: all rounds
            "fits": "loss",  # gradient_boosting: loss (of the sum so far and the new network), gradient (its residual)
            "networks": (),  # stacking: of NETWORKS, options allowed: ("unet", "segnet(width=8)", "pixel_features")
            "folds": 3,  # stacking: every network is trained so often, each time without one part of the training cases
            "learner": "logistic",  # stacking: logistic, convolutional
            "trunk": 0.5,  # soup: share of the updates that the members have in common
            "member": optional(int),  # which one a workdir holds; set by the command itself
        }
    )
    config.adversarial = ConfigDict(
        {
            "weight": 0.0,  # of the adversarial loss; 0: no discriminator. With task="semantic": a critic of masks
            "loss": "hinge",  # hinge, least_squares, logistic, relativistic
            "discriminator": "patch_gan(features=32)",  # or multi_scale_patch_gan, with its options
            "start": 0,  # steps before the adversarial loss counts; the discriminator learns from the first one on
            "rate_factor": 1.0,  # learning rate of the discriminator over that of the network
            "pixel": 0.0,  # weight of the mean absolute error against the true image
            "feature_matching": 0.0,  # of the same in the discriminator's features
            "perceptual": 0.0,  # of the same in the features of a fixed network,
            "label_consistency": 0.0,  # of its cross-entropy in made images for their label map (synthesis):
            "network": optional(str),  # workdir of a segmentation run of the same kind of images
            "cycle": 10.0,  # of there and back (unpaired translation)
            "identity": 0.5,  # of leaving alone what is of the target kind already, times cycle
            "pool": 50,  # earlier images that the discriminator is shown some of (unpaired translation)
            "gradient_penalty": 0.0,  # gamma of R1
            "augment": "",  # differentiable, of real and made images: brightness=0.5,translation=0.125,cutout=0.5
            "clip": 3.0,  # standard deviations at which intensities end (normalisations zscore, zscore_mask and ct)
        }
    )
    config.translation = ConfigDict(
        {
            "source": optional(tuple),  # names of the channels that are given,
            "target": optional(tuple),  # and of those that are made
            "paired": True,  # False: CycleGAN; one half of the subjects shows the source, the other the target
            "other": ConfigDict(),  # unpaired: the target's own data set, as in data: dict(name=..., root=..., ...)
        }
    )
    config.synthesis = ConfigDict(
        {
            "labels": "recombine|elastic|affine",  # how --mode synthesize makes new label maps of the training cases'
            "seed": 0,  # of labels and styles
            "segmenter": optional(str),  # workdir of a run on real images: how well do images keep their labels?
            "min_dice": 0.0,  # of its prediction; images below that are made anew
        }
    )
    config.super_resolution = ConfigDict({"degrade": "fourier"})  # how training images lose resolution: or gaussian
    config.rl = ConfigDict(  # task refinement (every pixel an agent) and operators (one agent an image)
        {
            "initial": optional(str),  # where episodes start: workdir of a trained run, threshold(channel=0), blank
            "factor": 1,  # that run sees the image so many times smaller
            "steps": 5,  # of an episode; operators: at most
            "discount": 0.95,  # of later rewards
            "learner": "actor_critic",  # refinement: or supervised, the same network in the same episodes
            "reward": "cross_entropy",  # refinement: what a pixel's cross-entropy gains; or dice, the whole mask's gain
            "entropy": 0.01,  # refinement: weight of the policy's entropy
            "value": 0.5,  # refinement: weight of the critic's error; 0: no critic
            "horizon": 0,  # refinement: steps of reward before the critic's value stands for the rest; 0: all
            "reward_map": 0,  # refinement: width of a learnt kernel that shares rewards among neighbours; 0: none
            "clicks": 0,  # refinement: clicks of a simulated annotator in an episode; divides rl.steps
            "click_scale": 5.0,  # standard deviation of a hint, pixels
            "threshold_step": 0.1,  # operators: how far the threshold moves
            "step_cost": 0.001,  # operators: of every action but stopping, in Dice
            "epsilon": (1.0, 0.05),  # operators: share of random actions at the start, and
            "explore": 0.5,  # after this share of the updates
            "replay": 256,  # operators: episodes that are kept
            "transitions": 64,  # operators: drawn of them for each update
            "target_rate": 0.01,  # operators: how fast the target network follows
        }
    )
    config.plan = ConfigDict(  # --mode plan
        {
            "planner": "plain",  # plain, resenc_m, resenc_l or resenc_xl
            "device": "",  # for which patch and batch are chosen by compiling: v5e, v5e-4, h100-80, cpu-24; "": by rule
            "configurations": ("2d", "3d_fullres", "3d_lowres"),  # which to look at
        }
    )
    config.export = ConfigDict(  # --mode export
        {
            "format": "jax",  # one file of programs for the whole way from image to mask; onnx: the network alone
            "platforms": ("cpu", "cuda", "tpu"),  # that the programs run on
            "shapes": optional(tuple),  # of the network's grid; unset: median, 90 %, and 1.25 times the largest case
            "image_shapes": optional(tuple),  # of the images for these; unset: at the finest training case's spacing
            "dtype": "float32",  # that the programs compute in, on every platform: or bfloat16
        }
    )
    config.tune = ConfigDict(
        {
            "space": "",  # --mode tune: what is searched: optim.lr=log(1e-4,1e-2); optim.name=choice(adamw,sgd)
            "sampler": "tpe",  # tpe (learns from the trials before), random
            "startup": 8,  # tpe: the first trials, which are drawn at random
            "pruner": "halving",  # halving (a trial that lags behind ends early), none
            "first_rung": 0,  # halving: steps before the first comparison; 0: train.eval_steps
            "reduction": 3,  # halving: one trial in so many goes on to the next rung, so many times as long
            "trials": 20,
            "together": 1,  # trials at a time, each a process with its share of the devices
        }
    )
    return config


def _data() -> ConfigDict:
    return ConfigDict(
        {
            "name": optional(str),  # nnunet_raw, msd, image_mask, instance_masks, coco, tfds, mni, or module:function
            "root": optional(str),
            "images": optional(str),  # image_mask: folder or pattern; several with ";" between: one file a channel
            "labels": optional(str),  # unset where there are none (task translation or super_resolution)
            "roi": optional(str),
            "label_values": optional(tuple),
            "label_threshold": optional(float),
            "ignore_value": optional(int),
            "classes": optional(tuple),
            "terms": "",  # coded terms of classes, for DICOM: liver = SCT:10200004:Liver; tumour = ...
            "channels": optional(tuple),
            "subjects": optional(str),
            "flip_pairs": optional(tuple),
            "builder": optional(str),
            "split": optional(str),
            "data_dir": optional(str),
            "image_key": optional(str),
            "label_key": optional(str),
            "affine_tolerance_mm": optional(float),  # how far an image and its label may lie apart
            "overlap": optional(str),  # of regions in a DICOM label: refuse, or later (the class that comes later wins)
            "target": optional(str),  # instance_masks: objects, or border (a class map for a semantic network)
            "border_width": optional(int),  # pixels of that border
            "step": optional(int),
            "downsample": optional(int),
            "block": optional(int),
            "noise": optional(float),
            "bias": optional(float),
            "previous": optional(str),  # workdir of a finished run of all folds, whose class maps are further channels
            "store": optional(str),  # where prepared cases lie; unset: WORKDIR/prepared
            "extra": (),  # folders of made images with labels (--mode synthesize), trained on beside the training cases
            "extra_share": 0.5,  # of all samples that come from there, on average; epochs still count real cases
            "extra_until": 1.0,  # share of the updates after which real cases are trained on alone
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
            "axis_order": optional(tuple),  # then of axes, such as (2, 0, 1); patch_size and spacing are in this order
            "crop": True,
            "foreground": 1 / 3,  # share of each batch that must show a labelled class
            "workers": 2,
        }
    )


def network(name: str, *, ndim: int | None = None) -> ConfigDict:
    """Returns the `config.model` of a network at a width that a laptop trains in minutes.

    Args:
      name: of NETWORKS.
      ndim: spatial axes, 2 or 3; None: 2, but 3 for the networks that were published for volumes.

    Raises:
      UserError: there is no such entry in NETWORKS.
    """
    if name not in NETWORKS:
        raise UserError(f"There is no small network {name!r}; there are {', '.join(NETWORKS)}.")
    fields = {"name": name, "ndim": 2, **NETWORKS[name]}
    return ConfigDict(fields if ndim is None else {**fields, "ndim": ndim})


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


def flat(tree: Mapping[str, Any], prefix: str = "", *, whole: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the leaves of nested settings by dotted name; those named in `whole` stay in one piece."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and prefix + name not in whole:
            found.update(flat(value, f"{prefix}{name}.", whole=whole))
        else:
            found[prefix + name] = value
    return found


def is_ensemble(config: ConfigDict) -> bool:
    """Returns whether a config is that of an ensemble, and not of one of its members or of a single network."""
    return bool(config.ensemble.kind) and config.ensemble.member is None


def ndim_of(config: ConfigDict) -> int:
    """Returns the spatial axes of the network; one from outside without a field for them has those of the patch."""
    return config.model.get("ndim", len(config.data.patch_size))


def spacing_of(config: ConfigDict) -> str | tuple[float | None, ...]:
    """Returns "keep", "median" or the target spacing in mm (z, y, x), None where an axis keeps its own."""
    text = config.data.spacing
    if text in ("keep", "median"):
        return text
    return tuple(None if value.strip() == "keep" else float(value) for value in text.split(","))
