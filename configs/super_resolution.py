"""More voxels out of few: super-resolution of MRI in plane or through plane, trained on the scans themselves.

    python launch.py --config configs/super_resolution.py                # slices of the MNI template, no data needed
    python launch.py --config configs/super_resolution.py:msd --config.data.root=Task04_Hippocampus
    python launch.py --config configs/super_resolution.py:msd,scale=4 --config.data.root=...
    python launch.py --config configs/super_resolution.py:msd,through_plane --config.data.root=...
    python launch.py --config configs/super_resolution.py:msd,adversarial --config.data.root=... --config.init.path=RUN
    python launch.py --mode predict --workdir runs/super_resolution --input SCANS --output finer

Training scans lose resolution as a scanner of fewer samples would see them (k-space truncation, or "gaussian": a slice
profile); the network learns the way back. First by pixels alone; `:adversarial` goes on with a discriminator beside it,
which sharpens and costs PSNR. `:through_plane` makes thick slices thinner: it sees planes across them, and only their
first axis becomes longer. What was measured stands in docs/generation.md.
"""

from jaxseg.config import base_config, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, debug=False, scale=2, through_plane=False, adversarial=False, steps=1500, msd=False)
    config = base_config()
    config.task = "super_resolution"

    if arg.msd or arg.through_plane:
        config.data.name = "msd"
        config.data.subjects = "subjects.csv"
    else:
        config.data.name = "mni"
        config.data.fold = "2"  # two blocks of slices through the middle of the brain
    config.data.batch_size = 8
    config.data.foreground = 0.0
    config.data.normalize = "zscore"
    config.data.crop = False
    config.predict.batch_size = 16
    config.model = dict(name="super_resolution", features=32, blocks=4, scale=arg.scale)
    config.model.ndim = 2  # every slice by itself
    config.data.patch_size = (32, 32)
    if arg.through_plane:  # thick slices: planes across x, whose first axis is the one between the scan's slices
        config.data.axis_order = (2, 0, 1)
        config.model.axes = (0,)
        config.super_resolution.degrade = "gaussian"
    config.augment = "mirror"

    config.adversarial.pixel = 1.0
    if arg.adversarial:
        config.adversarial.pixel = 1.0
        config.adversarial.weight = 0.02
        config.adversarial.loss = "relativistic"
        config.adversarial.discriminator = "patch_gan(features=16, layers=2, spectral=True)"

    config.optim.name = "adam"
    config.optim.lr = 2e-4 if arg.adversarial else 1e-3
    config.optim.weight_decay = 0.0
    config.train.total_steps = arg.steps
    config.train.eval_steps = 500
    config.train.eval_cases = 8
    config.train.ckpt_steps = 500
    config.train.log_steps = 50

    if arg.debug:
        config.model.update(features=4, blocks=1)
        if arg.adversarial:
            config.adversarial.discriminator = "patch_gan(features=4, layers=1)"
        config.train.total_steps = 2
        config.train.eval_cases = 1
    return config
