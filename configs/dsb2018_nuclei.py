"""Nuclei one by one (2018 Data Science Bowl): a small Mask R-CNN, or a U-Net of inside and border with watershed.

    python launch.py --config configs/dsb2018_nuclei.py --config.data.root=DIR/stage1_train
    python launch.py --config configs/dsb2018_nuclei.py:unet --config.data.root=DIR/stage1_train --workdir=runs/nuclei2

DIR/stage1_train holds one folder an image, with images/*.png and one file a nucleus in masks/*.png. Images of several
microscopes and stains, 256 to 1024 pixels; patches of 256 x 256 train either way, and tiles of that size predict.
Measured on one CPU core, 1,600 steps: Mask R-CNN (21 min) DSB score 0.534, AP50 0.712; U-Net (32 min) 0.463, 0.552;
Otsu with watershed 0.444, 0.506; 20 held-out images. backbone=efficientnet_lite0 with converted weights: 0.546, 0.767.
The commands and what else was tried: docs/instances.md.
"""

from jaxseg.config import base_config, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, debug=False, unet=False, steps=1600, backbone="resnet18")
    config = base_config()

    config.data.name = "instance_masks"
    config.data.classes = ("background", "nucleus")
    config.data.crop = False
    config.data.normalize = "zscore"  # an image at a time: grey levels mean nothing across microscopes
    config.data.batch_size = 2
    config.data.patch_size = (256, 256)
    config.data.foreground = 1.0  # around a nucleus, drawn evenly over all
    config.augment = "rotate_scale(probability=0.5,scale=(0.7,1.4))|mirror|rotate90|brightness|contrast|gamma"

    if arg.unet:
        config.data.target = "border"
        config.model = {"name": "unet", "ndim": 2, "features": (16, 32, 64, 128), "deep_supervision": False}
        config.predict.watershed = "watershed(inside=1,border=2,min_size=16)"
    else:
        config.task = "instance"
        config.model = {
            "name": "mask_rcnn",
            "ndim": 2,
            "backbone": arg.backbone,
            "backbone_fields": {"width": 32},
            "norm": "group8",
            "features": 64,
            "box_features": 256,
            "mask_features": 64,
            "anchor_sizes": ((8, 12), (16, 24), (32, 48), (64, 96), (128, 192)),
            "anchor_ratios": (0.65, 1.0, 1.5),
            "canonical_size": 112.0,  # nuclei of up to 56 pixels are read at stride 4
            "proposals_before": 1000,
            "proposals_after": 500,
            "training_proposals_before": 500,
            "training_proposals_after": 300,
            "max_detections": 300,
        }
        config.instance.max_objects = 150
        config.instance.sampled_boxes = 128
        config.instance.anchor_overlaps = (0.3, 0.5)  # 0.7 leaves small nuclei one anchor each

    config.optim.lr = 1e-3
    config.optim.warmup_steps = 40
    config.optim.weight_decay = 1e-4
    config.train.total_steps = arg.steps
    config.train.eval_steps = arg.steps
    config.predict.overlap = 0.25
    config.predict.min_score = 0.5

    if arg.debug:
        config.data.patch_size = (128, 128)
        config.train.total_steps = 2
        config.train.eval_steps = 2
        config.train.eval_cases = 1
        config.evaluate.overlays = 1
        if not arg.unet:
            config.model.features = 8
            config.model.box_features = 16
            config.model.mask_features = 8
            config.model.backbone_fields = {"width": 8, "blocks": (1, 1, 1, 1)}
            config.instance.sampled_boxes = 16
            config.model.max_detections = 5
    return config
