"""Brain tissue in MRI, from a template that a Python package carries: nothing to download.

    python launch.py --config configs/quickstart.py          # a few minutes on 2 CPU cores
    python launch.py --config configs/quickstart.py:debug    # seconds

Axial slices of the MNI152 T1-weighted template (a real head, averaged over 152), three classes from its grey- and
white-matter maps; whole blocks of neighbouring slices are held out.
"""

from jaxseg.config import base_config, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, debug=False)
    config = base_config()

    config.data.name = "mni"
    config.data.split_kind = "nnunet"
    config.data.batch_size = 8
    config.data.patch_size = (128, 128)
    config.data.foreground = 1.0

    config.model.ndim = 2
    config.model.features = (16, 32, 64, 128)
    config.augment = "light(patch_size=(128, 128))"

    config.optim.lr = 3e-3
    config.optim.warmup_steps = 20
    config.train.total_steps = 300
    config.train.eval_steps = 100
    config.train.ckpt_steps = 100
    config.predict.batch_size = 4

    if arg.debug:
        config.data.step = 8
        config.data.downsample = 4
        config.data.batch_size = 2
        config.data.patch_size = (32, 32)
        config.augment = "light(patch_size=(32, 32))"
        config.model.features = (4, 8)
        config.train.total_steps = 4
        config.train.eval_steps = 4
    return config
