"""Hippocampus in T1-weighted MRI (Medical Segmentation Decathlon, Task 4): anterior and posterior part, 3D U-Net.

    python launch.py --config configs/unet3d_hippocampus.py:minutes=10 --config.data.root=DIR
    python launch.py --config configs/unet3d_hippocampus.py:minutes=10,network=vnet --config.data.root=DIR

DIR is the Decathlon folder (dataset.json, imagesTr, labelsTr); subjects.csv in it names which cases are two sides of
one person, and no person is on both sides of the split.

Measured on 2 CPU cores, 45 held-out cases of 220, mean Dice (95 % interval): minutes=10 (691 steps) 0.885 anterior,
0.868 posterior, 0.877 (0.867 to 0.887); minutes=30 (3,279 steps) 0.895, 0.878, 0.886 (0.876 to 0.896); 4,920
steps 0.897, 0.879, 0.888 (0.878 to 0.898). On fold 0 of nnU-Net's split, 5,000 steps: 0.890, nnU-Net's published run
0.891 on the same 44 cases; see docs/measurements.md. network=vnet and segresnet were not measured.
"""

from jaxseg.config import base_config, network, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, debug=False, minutes=10, network="")
    config = base_config()

    config.data.name = "msd"
    config.data.subjects = "subjects.csv"
    config.data.batch_size = 4
    config.data.patch_size = (32, 40, 32)
    config.data.foreground = 1.0

    config.model.features = (16, 32, 64, 128)
    config.model.convs = (1, 2, 2, 2)  # one convolution less on either side of the costly full resolution
    config.model.decoder_convs = (1, 2, 2)
    if arg.network:  # vnet, segresnet and others: see jaxseg.config.network
        config.model = network(arg.network, ndim=3)
    config.augment = "rotate_scale|brightness|gamma|mirror(axes=(2,))"

    config.optim.lr = 3e-3
    config.optim.warmup_steps = 20
    config.optim.ema = 0.99
    config.train.total_minutes = float(arg.minutes)
    config.train.eval_steps = 300
    config.train.eval_cases = 10
    config.predict.tta = True

    if arg.debug:
        config.data.patch_size = (16, 16, 16)
        if not arg.network:
            config.model.features = (4, 8)
            config.model.convs = (1, 1)
            config.model.decoder_convs = (1,)
        config.predict.tta = False
        config.train.total_minutes = None
        config.train.total_steps = 2
        config.train.eval_cases = 1
    return config
