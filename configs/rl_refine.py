"""Pixel-wise agents refine masks, step by step: of a coarse network, or of a mere threshold.

    python launch.py --config configs/rl_refine.py:coarse --config.data.root=DIR --workdir runs/coarse
    python launch.py --config configs/rl_refine.py --config.data.root=DIR
    python launch.py --mode predict --workdir runs/rl_refine --input IMAGES --output MASKS [--initial OTHER_MASKS]

The first command trains the coarse network, a small U-Net for a few steps. DIR holds images/ and masks/ of equal names:
polyps in colonoscopy (Kvasir-SEG), or with data=jsrt lung fields in radiographs, where a threshold is a start:

    python launch.py --config 'configs/rl_refine.py:data=jsrt,initial=threshold(above=False)' --config.data.root=DIR

learner=supervised trains the same network in the same episodes by cross-entropy and Dice; clicks=5 lets a simulated
annotator click on the worst error before every step.
"""

from jaxseg.config import base_config, parse_arg

SIDES = {"kvasir": 352, "jsrt": 224}  # pixels of the files
CLASSES = {"kvasir": "polyp", "jsrt": "lung"}


def get_config(arg=None):
    arg = parse_arg(
        arg,
        debug=False,
        data="kvasir",
        coarse=False,
        initial="runs/coarse",
        learner="actor_critic",
        clicks=0,
        steps=300,
    )
    config = base_config()

    config.data.name = "image_mask"
    config.data.images = "images"
    config.data.labels = "masks"
    config.data.label_threshold = 127.0
    config.data.classes = ("background", CLASSES[arg.data])
    config.data.spacing = f"{SIDES[arg.data] / 64},{SIDES[arg.data] / 64}"
    config.data.crop = False
    config.data.batch_size = 4
    config.data.patch_size = (64, 64)  # whole images
    config.data.foreground = 0.0
    config.augment = "rotate_scale(max_angle_degrees=10)|brightness|contrast"
    config.evaluate.surfaces = False
    config.optim.weight_decay = 0.0
    config.optim.lr = 1e-3

    if arg.coarse:
        config.model = {"name": "unet", "ndim": 2, "features": (8, 16, 32, 64), "deep_supervision": False}
        config.train.total_steps = 100
        config.train.eval_steps = 100
    else:
        config.task = "refinement"
        config.rl.initial = arg.initial
        config.rl.learner = arg.learner
        config.rl.clicks = arg.clicks
        config.model = {"name": "pixel_actor_critic", "ndim": 2, "features": 16}
        config.optim.name = "adam"
        config.optim.schedule = "poly(power=0.9)"
        config.optim.clip_norm = 5.0
        config.train.total_steps = arg.steps
        config.train.eval_steps = 50

    if arg.debug:
        config.data.patch_size = (32, 32)
        config.data.batch_size = 2
        config.model.features = (4, 8) if arg.coarse else 4
        config.train.total_steps = 2
        config.train.eval_cases = 1
        config.rl.steps = 2
        config.evaluate.clicks = 2
    return config
