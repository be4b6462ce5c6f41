"""T2-weighted MRI out of T1-weighted, slice by slice: pix2pix from paired scans, or CycleGAN without pairs.

    python launch.py --config configs/translation_t1_t2.py --config.data.root=DIR
    python launch.py --config configs/translation_t1_t2.py:unpaired --config.data.root=DIR
    python launch.py --mode predict --workdir runs/translation_t1_t2 --input T1_SCANS --output made

DIR is an nnU-Net folder whose dataset.json names the channels T1 and T2, aligned: imagesTr/NAME_0000.nii.gz and
NAME_0001.nii.gz. Scans in other places: --config.data.name=image_mask --config.data.channels="('T1','T2')"
--config.data.images="{stem}/T1W.nii.gz;{stem}/T2W.nii.gz". What was measured stands in docs/generation.md.
"""

from jaxseg.config import base_config, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, debug=False, unpaired=False, steps=2000)
    config = base_config()
    config.task = "translation"
    config.translation.source = ("T1",)
    config.translation.target = ("T2",)
    config.translation.paired = not arg.unpaired

    config.data.name = "nnunet_raw"
    config.data.batch_size = 4
    config.data.patch_size = (96, 96)
    config.data.foreground = 0.0
    config.data.normalize = "zscore_mask"
    config.augment = "mirror(axes=(1,))"
    config.predict.window = (192, 192)
    config.predict.batch_size = 4

    if arg.unpaired:
        config.model = dict(name="resnet_generator", ndim=2, features=16, downs=2, blocks=4)
        config.adversarial.loss = "least_squares"
    else:
        config.model = dict(name="pix2pix", ndim=2, features=16, n_downs=5, dropout=0.0)
        config.adversarial.loss = "logistic"
        config.adversarial.pixel = 100.0
    config.adversarial.weight = 1.0
    config.adversarial.discriminator = "patch_gan(features=16, layers=3)"

    config.optim.name = "adam"
    config.optim.lr = 1e-3
    config.optim.betas = (0.5, 0.999)
    config.optim.weight_decay = 0.0
    config.optim.clip_norm = 0.0
    config.optim.schedule = "poly(power=1.0)"
    config.train.total_steps = arg.steps
    config.train.eval_steps = 500
    config.train.ckpt_steps = 500
    config.train.log_steps = 50

    if arg.debug:
        config.data.patch_size = (32, 32)
        config.predict.window = (32, 32)
        config.data.batch_size = 2
        config.model.update(features=4)
        if not arg.unpaired:
            config.model.n_downs = 3
        config.adversarial.discriminator = "patch_gan(features=4, layers=1)"
        config.train.total_steps = 2
        config.train.eval_cases = 1
    return config
