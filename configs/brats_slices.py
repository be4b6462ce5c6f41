"""Whole tumours on axial slices of one MRI contrast, as `python -m benchmarks.cross_modality` writes them.

    python launch.py --config configs/brats_slices.py --config.data.root=DIR/flair
    python launch.py --config configs/brats_slices.py:init=runs/cross_modality/t1c_0 --config.data.root=DIR/flair

DIR/CONTRAST holds images/ and labels/. All slices are trained on; docs/transfer.md has what was measured.
"""

from jaxseg.config import base_config, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, debug=False, init="")
    config = base_config()

    config.data.name = "image_mask"
    config.data.images = "images"
    config.data.labels = "labels"
    config.data.label_values = (0, 1)
    config.data.classes = ("background", "tumour")
    config.data.fold = "none"
    config.data.crop = False
    config.data.spacing = "2,2"
    config.data.normalize = "none"  # both contrasts are normalised within the brain already
    config.data.batch_size = 4
    config.data.patch_size = (96, 96)

    config.model = {"name": "unet", "ndim": 2, "features": (16, 32, 64, 128), "deep_supervision": False}
    config.augment = "rotate_scale|brightness|gamma|mirror"

    config.optim.lr = 1e-3
    config.optim.warmup_steps = 10
    config.train.total_steps = 150
    config.evaluate.surfaces = False

    if arg.init:
        config.init.path = arg.init
    if arg.debug:
        config.data.patch_size = (32, 32)
        config.data.batch_size = 2
        config.model.features = (4, 8)
        config.train.total_steps = 2
    return config
