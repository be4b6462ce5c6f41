"""A 3D U-Net for your own volumes: name the layout and the folder on the command line.

    python launch.py --config configs/unet3d.py --config.data.name=msd --config.data.root=DIR
    python launch.py --mode predict --workdir runs/unet3d --input scans/ --output masks/

Nobody has published a score of this file: it is the starting point for new data. `:debug` ends in seconds.
"""

from jaxseg.config import base_config, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, debug=False)
    config = base_config()

    config.data.spacing = "median"
    config.data.batch_size = 2
    config.data.patch_size = (0, 0, 0)  # the median case, at most 128 voxels along an axis

    config.model.features = (32, 64, 128, 256, 320)
    config.augment = "nnunet"

    config.optim.name = "sgd"
    config.optim.lr = 1e-2
    config.optim.schedule = "poly(power=0.9)"
    config.optim.weight_decay = 3e-5
    config.train.total_steps = 25_000
    config.train.eval_steps = 2_500
    config.train.ckpt_steps = 500
    config.predict.tta = True

    if arg.debug:
        config.data.patch_size = (8, 8, 8)
        config.model.features = (4, 8)
        config.train.total_steps = 2
        config.train.eval_cases = 1
        config.predict.tta = False
    return config
