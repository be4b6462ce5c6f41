"""Neuronal membranes in electron microscopy (ISBI 2012): a 2D U-Net on 512 x 512 slices.

    python launch.py --config configs/unet2d_isbi.py:minutes=10 --config.data.root=DIR
    python launch.py --config configs/unet2d_isbi.py:network=segnet,steps=250 --config.data.root=DIR

DIR holds image/ and label/ with PNG files of equal names. Neighbouring slices look alike, so the held-out slices are
one contiguous block (fold 0 of 5).

Measured on 2 CPU cores, Dice of 5 held-out slices: minutes=10 (396 steps) 0.807 membrane, 0.940 cell; minutes=25 (886
steps) 0.817, 0.941; see docs/measurements.md. On one core, steps=250 (`python -m benchmarks.networks`), membrane: unet
0.802, fcn 0.713, segnet 0.667, deeplabv3plus 0.629 (0.713 with steps=1000); see docs/networks.md.
"""

from jaxseg.config import base_config, network, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, debug=False, minutes=10, network="", steps=0)
    config = base_config()

    config.data.name = "image_mask"
    config.data.images = "image/{stem}.png"
    config.data.labels = "label/{stem}.png"
    config.data.label_values = (255, 0)
    config.data.classes = ("cell", "membrane")
    config.data.split_kind = "blocks"
    config.data.batch_size = 4
    config.data.patch_size = (160, 160)
    config.data.foreground = 0.0
    config.data.crop = False

    config.model.ndim = 2
    config.model.features = (32, 64, 128, 256)
    if arg.network:  # another one, at a small width: see jaxseg.config.network
        config.model = network(arg.network, ndim=2)
    config.augment = "em"
    config.loss = "dice_loss + cross_entropy"

    config.optim.lr = 2e-3
    config.optim.warmup_steps = 20
    if arg.steps:
        config.train.total_steps = arg.steps
    else:
        config.train.total_minutes = float(arg.minutes)
    config.train.eval_steps = 200
    config.predict.window = (256, 256)
    config.predict.tta = True
    config.evaluate.background = True  # the cells' inside is scored too

    if arg.debug:
        config.data.patch_size = (32, 32)
        config.data.batch_size = 2
        if not arg.network:
            config.model.features = (4, 8)
        config.predict.tta = False
        config.train.total_minutes = None
        config.train.total_steps = 2
        config.train.eval_cases = 1
    return config
