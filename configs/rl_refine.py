"""Pixel-wise agents refine the masks of a coarse network (polyps in colonoscopy, Kvasir-SEG, at 64 x 64).

    python launch.py --config configs/rl_refine.py:coarse --config.data.root=DIR --workdir runs/coarse
    python launch.py --config configs/rl_refine.py:initial=runs/coarse --config.data.root=DIR
    python launch.py --mode predict --workdir runs/rl_refine --input IMAGES --output MASKS [--initial OTHER_MASKS]

The first command trains the coarse network, a small U-Net for a few steps. DIR holds images/ and masks/ of equal names.
"""

from jaxseg.config import base_config, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, debug=False, coarse=False, initial="", learner="actor_critic", clicks=0, size=64)
    config = base_config()

    config.data.name = "image_mask"
    config.data.images = "images"
    config.data.labels = "masks"
    config.data.label_threshold = 127.0
    config.data.classes = ("background", "polyp")
    config.data.spacing = f"{352 / arg.size},{352 / arg.size}"
    config.data.crop = False
    config.data.batch_size = 8
    config.data.patch_size = (arg.size, arg.size)
    config.data.foreground = 0.0
    config.augment = "rotate_scale|brightness|contrast|mirror"
    config.evaluate.surfaces = False
    config.optim.weight_decay = 0.0

    if arg.coarse:
        config.model = {"name": "unet", "ndim": 2, "features": (8, 16, 32, 64), "deep_supervision": False}
        config.optim.lr = 1e-3
        config.train.total_steps = 100
        config.train.eval_steps = 100
    else:
        config.task = "refinement"
        config.rl.initial = arg.initial or None
        config.rl.learner = arg.learner
        config.rl.clicks = arg.clicks
        config.model = {"name": "pixel_actor_critic", "ndim": 2, "features": 24}
        config.optim.name = "adam"
        config.optim.lr = 1e-3
        config.optim.schedule = "poly(power=0.9)"
        config.optim.clip_norm = 5.0
        config.train.total_steps = 400
        config.train.eval_steps = 100

    if arg.debug:
        config.data.patch_size = (32, 32)
        config.data.batch_size = 2
        config.model.features = (4, 8) if arg.coarse else 4
        config.train.total_steps = 2
        config.train.eval_cases = 1
        config.rl.steps = 2
        config.evaluate.clicks = 2
    return config
