"""Lung fields in chest radiographs (JSRT, 224 x 224): a small network of your choice.

    python launch.py --config configs/jsrt_lungs.py:network=deeplabv3plus --config.data.root=DIR

`network` is unet, attention_unet, unetplusplus, segnet, fcn, fcn_resnet, deeplabv3, deeplabv3plus or fpn, at a width
that two CPU cores train in minutes (jaxseg.config.NETWORKS). DIR holds images/ and masks/ of equal names.
Measured (`python -m benchmarks.networks`, one CPU core, 250 steps, 20 held-out images), Dice: unet 0.971, fcn 0.968,
deeplabv3plus 0.967, segnet 0.962; see docs/networks.md. 1 minute (deeplabv3plus) to 5 (segnet).
"""

from jaxseg.config import base_config, network, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, debug=False, network="unet", steps=250)
    config = base_config()

    config.data.name = "image_mask"
    config.data.images = "images"
    config.data.labels = "masks"
    config.data.label_threshold = 127.0
    config.data.classes = ("background", "lung")
    config.data.crop = False
    config.data.batch_size = 4
    config.data.patch_size = (224, 224)  # whole images
    config.data.foreground = 0.0

    config.model = network(arg.network, ndim=2)
    config.augment = "rotate_scale(max_angle_degrees=10)|brightness|contrast"

    config.optim.lr = 2e-3
    config.optim.warmup_steps = 20
    config.train.total_steps = arg.steps
    config.train.eval_steps = arg.steps
    config.predict.batch_size = 4
    config.evaluate.surfaces = False

    if arg.debug:
        config.data.patch_size = (32, 32)
        config.data.batch_size = 2
        config.train.total_steps = 2
        config.train.eval_cases = 1
    return config
