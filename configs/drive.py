"""Vessels in fundus photographs (DRIVE), inside the field of view: a small network of your choice.

    python launch.py --config configs/drive.py:network=unet --config.data.root=DIR

`network` is unet, attention_unet, unetplusplus, segnet, fcn, fcn_resnet, deeplabv3, deeplabv3plus or fpn, at a width
that two CPU cores train in minutes (jaxseg.config.NETWORKS). DIR is the official folder with training/. Scores and ROC
areas count the field of view only.
Measured (`python -m benchmarks.networks`, one CPU core, 250 steps, 4 held-out images), Dice and ROC area: unet 0.736,
0.937; deeplabv3plus 0.637, 0.882; fcn 0.619, 0.897; segnet 0.544, 0.840; see docs/networks.md. 2.5 minutes (unet).
"""

from jaxseg.config import base_config, network, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, debug=False, network="unet", steps=250)
    config = base_config()

    config.data.name = "image_mask"
    config.data.images = "training/images/{stem}_training.tif"
    config.data.labels = "training/1st_manual/{stem}_manual1.gif"
    config.data.roi = "training/mask/{stem}_training_mask.gif"
    config.data.label_values = (0, 255)
    config.data.classes = ("background", "vessel")
    config.data.crop = False
    config.data.batch_size = 4
    config.data.patch_size = (160, 160)

    config.model = network(arg.network, ndim=2)
    config.augment = "rotate_scale|brightness|contrast|mirror"

    config.optim.lr = 2e-3
    config.optim.warmup_steps = 20
    config.train.total_steps = arg.steps
    config.train.eval_steps = arg.steps
    config.evaluate.surfaces = False
    config.evaluate.curves = True

    if arg.debug:
        config.data.patch_size = (32, 32)
        config.data.batch_size = 2
        config.train.total_steps = 2
        config.train.eval_cases = 1
        config.evaluate.curves = False
    return config
