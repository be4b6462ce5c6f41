"""One agent improves a mask by classical operators, which it learns to choose by Q-learning (lungs, JSRT, 64 x 64).

    python launch.py --config configs/rl_operators.py --config.data.root=DIR
    python launch.py --mode predict --workdir runs/rl_operators --input IMAGES --output MASKS [--initial OTHER_MASKS]

DIR holds images/ and masks/ of equal names. Episodes start from Otsu's threshold; initial=WORKDIR takes the
probabilities of a trained run on such images.
"""

from jaxseg.config import base_config, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, debug=False, initial="threshold(above=False)", steps=1000)
    config = base_config()

    config.data.name = "image_mask"
    config.data.images = "images"
    config.data.labels = "masks"
    config.data.label_threshold = 127.0
    config.data.classes = ("background", "lung")
    config.data.spacing = "3.5,3.5"
    config.data.crop = False
    config.data.batch_size = 8
    config.data.patch_size = (64, 64)  # whole images, about which the agent decides
    config.data.foreground = 0.0
    config.augment = "mirror"

    config.task = "operators"
    config.model = {"name": "q_network", "ndim": 2, "features": (16, 32, 64)}
    config.rl.initial = arg.initial
    config.rl.steps = 6
    config.rl.replay = 500
    config.rl.transitions = 128
    config.rl.target_rate = 0.02

    config.optim.name = "adam"
    config.optim.lr = 1e-3
    config.optim.schedule = "constant"
    config.optim.weight_decay = 0.0
    config.train.total_steps = arg.steps
    config.train.eval_steps = min(250, arg.steps)
    config.evaluate.surfaces = False

    if arg.debug:
        config.data.patch_size = (32, 32)
        config.data.batch_size = 2
        config.model.features = (4,)
        config.rl.steps = 2
        config.rl.replay = 8
        config.rl.transitions = 4
        config.train.total_steps = 2
        config.train.eval_steps = 2
        config.train.eval_cases = 1
    return config
