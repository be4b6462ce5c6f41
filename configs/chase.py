"""Vessels in fundus photographs of children (CHASE_DB1), the first observer's masks: a small network of your choice.

    python launch.py --config configs/chase.py:network=unet --config.data.root=DIR

`network` is unet, attention_unet, unetplusplus, segnet, fcn, fcn_resnet, deeplabv3, deeplabv3plus or fpn, at a width
that two CPU cores train in minutes (jaxseg.config.NETWORKS). DIR is the folder of Image_01L.jpg, Image_01L_1stHO.png
and so on. The split by blocks keeps both eyes of a child together where all parts have an even number of images: five
parts of the first 20 images; with all 28, add --config.data.folds=7. The set has no field-of-view masks: scores and ROC
areas count the dark corners too, and do not compare with DRIVE's. Not measured.
"""

from jaxseg.config import base_config, network, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, debug=False, network="unet", steps=250)
    config = base_config()

    config.data.name = "image_mask"
    config.data.images = "{stem}.jpg"
    config.data.labels = "{stem}_1stHO.png"
    config.data.label_values = (0, 1)
    config.data.classes = ("background", "vessel")
    config.data.split_kind = "blocks"
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
        config.predict.window = (480, 512)
        config.evaluate.curves = False
    return config
