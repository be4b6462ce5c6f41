"""nnU-Net's and MONAI's side of benchmarks/sliding_window.py."""

import types
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks import step_nnunet


def volume(size: Sequence[int]) -> np.ndarray:
    """Returns smooth noise `(*S, 1)`, so that the labels form regions."""
    from scipy import ndimage

    noise = np.random.default_rng(0).normal(size=size).astype(np.float32)
    smooth = ndimage.gaussian_filter(noise, 3)
    return (smooth / smooth.std())[..., None]


def nnunet(volume: Sequence[int], patch: Sequence[int], features: Sequence[int]) -> Callable[[], np.ndarray]:
    """Returns one call of nnUNetPredictor's sliding window, with its defaults but for the flips."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=0.5, use_gaussian=True, use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False
    )
    # All that the sliding window asks of plans and data set.
    predictor.configuration_manager = types.SimpleNamespace(patch_size=list(patch))
    predictor.label_manager = types.SimpleNamespace(num_segmentation_heads=step_nnunet.CLASSES)
    predictor.network = _network(patch, features)
    image = _image(volume)[0]
    return lambda: predictor.predict_sliding_window_return_logits(image).numpy().argmax(0)


def monai(volume: Sequence[int], patch: Sequence[int], features: Sequence[int]) -> Callable[[], np.ndarray]:
    """Returns one call of MONAI's sliding_window_inference."""
    import torch
    from monai.inferers import sliding_window_inference

    net, image = _network(patch, features), _image(volume)

    def run():
        with torch.inference_mode():
            logits = sliding_window_inference(image, tuple(patch), 1, net, overlap=0.5, mode="gaussian")
        return logits[0].numpy().argmax(0)

    return run


def _network(patch: Sequence[int], features: Sequence[int]):
    net = step_nnunet.network(patch, features).eval()
    net.decoder.deep_supervision = False
    return net


def _image(size: Sequence[int]):
    import torch

    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(volume(size), -1, 0))[None])
