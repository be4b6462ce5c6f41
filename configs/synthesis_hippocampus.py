"""Slices of hippocampus MRI out of label maps (SPADE): images where there are too few.

    python launch.py --config configs/synthesis_hippocampus.py --config.data.root=Task04_Hippocampus
    python launch.py --config configs/synthesis_hippocampus.py:cases=10 --config.data.root=...
    python launch.py --mode synthesize --workdir runs/synthesis_hippocampus --output made -n 500

The generator learns from the training cases only (cases=N: from N of them). What it makes is trained on beside them by
`--config.data.extra="('made',)"`; whether that helps is measured in docs/generation.md.
"""

from jaxseg.config import base_config, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, debug=False, cases=0, steps=2000)
    config = base_config()
    config.task = "synthesis"

    config.data.name = "msd"
    config.data.subjects = "subjects.csv"
    config.data.train_cases = arg.cases
    config.data.batch_size = 8
    config.data.patch_size = (48, 40)  # slices: 2D patches of volumes
    config.data.foreground = 0.9
    config.data.normalize = "zscore"
    config.data.crop = False
    config.augment = "mirror"

    config.model = dict(
        name="spade", ndim=2, features=8, widths=(8, 8, 4, 2), hidden=16, style_features=16, spectral=True
    )
    config.adversarial.weight = 1.0
    config.adversarial.loss = "hinge"
    config.adversarial.discriminator = "patch_gan(features=24, layers=2, spectral=True)"
    config.adversarial.feature_matching = 10.0
    config.adversarial.rate_factor = 4.0  # two time scales: 1e-4 and 4e-4, as SPADE
    config.adversarial.augment = "brightness=0.5,translation=0.125,cutout=0.5"

    config.synthesis.labels = "elastic(magnitude=2.0, sigma=8.0)|affine(max_shift=0.05)"

    config.optim.name = "adam"
    config.optim.lr = 2e-4
    config.optim.betas = (0.0, 0.9)
    config.optim.weight_decay = 0.0
    config.optim.clip_norm = 0.0
    config.optim.schedule = "constant"
    config.optim.ema = 0.999

    config.train.total_steps = arg.steps
    config.train.eval_steps = 500
    config.train.ckpt_steps = 500
    config.train.log_steps = 50

    if arg.debug:
        config.data.batch_size = 2
        config.model.update(features=4, hidden=4, style_features=4)
        config.adversarial.discriminator = "patch_gan(features=4, layers=1)"
        config.train.total_steps = 2
    return config
