"""nnU-Net's side of benchmarks/step.py and benchmarks/sliding_window.py: its network, losses and optimiser.

    python -m benchmarks.step_nnunet FILE.npz '{"patch": [40, 56, 40], "batch": 2, "features": [32, 64]}'

writes the network's state dict. What both sides share (inputs, strides) stands here and needs numpy only.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence

import numpy as np

CLASSES = 3
RATE = 1e-9  # of learning: every call computes the same


def strides(features: Sequence[int]) -> tuple[int, ...]:
    """Into each level."""
    return (1,) + (2,) * (len(features) - 1)


def images_and_labels(patch: Sequence[int], batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns noise `(B, *S, 1)` and random classes `(B, *S)`."""
    draw = np.random.default_rng(0)
    image = draw.normal(size=(batch, *patch, 1)).astype(np.float32)
    return image, draw.integers(0, CLASSES, (batch, *patch)).astype(np.int32)


def network(patch: Sequence[int], features: Sequence[int]):
    """Returns PlainConvUNet as nnU-Net's plans build it, He-initialised, on as many threads as cores."""
    import torch
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    kind = {2: (torch.nn.Conv2d, torch.nn.InstanceNorm2d), 3: (torch.nn.Conv3d, torch.nn.InstanceNorm3d)}[len(patch)]
    net = PlainConvUNet(
        1, len(features), list(features), kind[0], 3, list(strides(features)), 2, CLASSES, 2,
        conv_bias=True, norm_op=kind[1], norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU, nonlin_kwargs={"inplace": True}, deep_supervision=True,
    )  # fmt: skip
    net.apply(net.initialize)
    return net


def theirs(work: str, patch: Sequence[int], batch: int, features: Sequence[int]) -> Callable[[], np.ndarray]:
    """Returns one call of the work: gives the logits, the loss, or loss and norm of the gradient."""
    import torch
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    net = network(patch, features)
    image, label = images_and_labels(patch, batch)
    data = torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 1)))
    if work == "forward":
        net.eval()
        net.decoder.deep_supervision = False

        def forward():
            with torch.inference_mode():
                return np.moveaxis(net(data).numpy(), 1, -1)

        return forward
    levels = len(features) - 1
    sizes = [tuple(length // 2**level for length in patch) for level in range(levels)]
    truth = torch.from_numpy(label[:, None].astype(np.float32))
    targets = [torch.nn.functional.interpolate(truth, size=size, mode="nearest-exact") for size in sizes]
    weights = np.array([0.5**level for level in range(levels)])
    weights[-1] = 0 if levels > 1 else 1
    dice = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
    loss = DeepSupervisionWrapper(
        DC_and_CE_loss(dice, {}, weight_ce=1, weight_dice=1, dice_class=MemoryEfficientSoftDiceLoss),
        weights / weights.sum(),
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, weight_decay=3e-5, momentum=0.99, nesterov=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        value = loss(net(data), targets)
        value.backward()
        told = value.item() + 1  # its Dice loss is minus the Dice score, ours 1 minus it
        if work == "gradients":
            return np.array([told])
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 12)
        optimizer.step()
        return np.array([told, norm.item()])

    return step


def write_weights(path: str, *, patch: Sequence[int], features: Sequence[int], batch: int) -> None:
    """Writes the state dict of `network` as arrays."""
    state = network(patch, features).state_dict()
    np.savez(path, **{name: value.numpy() for name, value in state.items()})


if __name__ == "__main__":
    write_weights(sys.argv[1], **json.loads(sys.argv[2]))
