"""Writes tests/golden/nnunet_*: tiny trained folders of nnU-Net v2, and what nnU-Net itself predicts with them.

    python tests/golden/make_nnunet_folder.py      # needs nnunetv2 (made with 2.8.1) and PyTorch (2.14), on the CPU

The weights are drawn, not trained. `labels` are nnU-Net's own; `labels_single` and `probabilities` are nnU-Net's with
its sums over windows in single in place of half precision. Half precision rounds logits to whole numbers at the rims of
windows, which changes labels of networks that have learnt nothing. Tests read images by `image`, and need no PyTorch.
"""

import json
import os
import pathlib
import sys
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).parent
RESAMPLING = {
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
}
# Name of the folder -> the scan's spacing along x, y, z (negative: the axis runs the other way), and what is trained
CASES = {
    # y is the coarse axis: brought first, and not interpolated
    "nnunet_3d": {"spacing": (0.9, 4.5, 1.1), "shape": (26, 8, 22), "channels": 2, "folds": ("0", "1")},
    # slices along z of a scan that runs to the left and to the front
    "nnunet_2d": {"spacing": (-1.2, -0.7, 2.0), "shape": (20, 24, 6), "channels": 1, "folds": ("all",)},
}
CONFIGURATION = {"nnunet_3d": "3d_fullres", "nnunet_2d": "2d_residual"}


def image(name: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns the channels `(x, y, z)` of a made-up scan, zero around an ellipsoid, and its affine."""
    case = CASES[name]
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in case["shape"]), indexing="ij")
    inside = x**2 + y**2 + z**2 < 1.4
    waves = [np.cos(5 * x + 2 * k) * np.cos(4 * y - k) + np.cos(7 * z * (k + 1) + x) for k in range(case["channels"])]
    channels = [np.where(inside, np.round(100 * wave + 300), 0).astype(np.int16) for wave in waves]
    return [np.pad(channel, [(2, 1), (0, 0), (1, 0)]) for channel in channels], np.diag([*case["spacing"], 1.0])


def plans(name: str) -> tuple[dict, dict]:
    """Returns plans.json and dataset.json."""
    flat = name == "nnunet_2d"
    dimensions = 2 if flat else 3
    arguments = {
        "n_stages": 2,
        "features_per_stage": [4, 6],
        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        "kernel_sizes": [[3, 3], [3, 3]] if flat else [[1, 3, 3], [3, 3, 3]],
        "strides": [[1, 1], [2, 2]] if flat else [[1, 1, 1], [1, 2, 2]],
        "n_conv_per_stage_decoder": [1],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
        "n_blocks_per_stage" if flat else "n_conv_per_stage": [1, 2] if flat else [2, 2],
    }
    network = "ResidualEncoderUNet" if flat else "PlainConvUNet"
    architecture = {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{network}",
        "arch_kwargs": arguments,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    base = {
        "data_identifier": "nnUNetPlans",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [14, 16] if flat else [6, 16, 20],
        "median_image_size_in_voxels": [20, 20] if flat else [8, 24, 24],
        "spacing": [0.9, 1.0] if flat else [5.0, 1.0, 1.0],
        "normalization_schemes": ["RescaleTo01Normalization"] if flat else ["ZScoreNormalization", "CTNormalization"],
        "use_mask_for_norm": [False] if flat else [True, False],
        "batch_dice": False,
        "architecture": architecture,
        **RESAMPLING,
    }
    configurations = {"2d": base, "2d_residual": {"inherits_from": "2d"}} if flat else {"3d_fullres": base}
    statistics = {"max": 700.0, "median": 300.0, "min": 1.0, "mean": 310.0, "std": 90.0}
    statistics |= {"percentile_00_5": 140.0, "percentile_99_5": 460.0}
    content = {
        "dataset_name": "Dataset001_Golden",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "NibabelIOWithReorient" if flat else "SimpleITKIO",
        "transpose_forward": [0, 1, 2] if flat else [1, 0, 2],
        "transpose_backward": [0, 1, 2] if flat else [1, 0, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(k): statistics for k in range(2)},
        "configurations": configurations,
    }
    if flat:
        labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
        dataset = {"channel_names": {"0": "rescale_to_0_1"}, "labels": labels, "regions_class_order": [1, 2]}
    else:
        dataset = {"channel_names": {"0": "MRI", "1": "CT"}, "labels": {"background": 0, "shell": 1, "core": 2}}
    return content, {**dataset, "numTraining": 5, "file_ending": ".nii.gz"}


def write_folder(folder: pathlib.Path, name: str) -> None:
    """Writes the folder with drawn weights, its checkpoints as nnU-Net's trainer saves them."""
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    content, dataset = plans(name)
    chosen = PlansManager(content).get_configuration(CONFIGURATION[name])
    outputs = 2 if "regions_class_order" in dataset else 3
    for number, fold in enumerate(CASES[name]["folds"]):
        torch.manual_seed(number)
        network = get_network_from_plans(
            chosen.network_arch_class_name,
            chosen.network_arch_init_kwargs,
            chosen.network_arch_init_kwargs_req_import,
            len(dataset["channel_names"]),
            outputs,
            deep_supervision=True,
        )
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.5 if parameter.ndim > 1 else 0.3)
        with torch.no_grad():  # centred on waves, so that each class is found somewhere
            patch = [torch.linspace(0, 9, n) for n in chosen.patch_size]
            waves = torch.stack(torch.meshgrid(*patch, indexing="ij")).sum(0).sin()
            outcome = network(waves.expand(1, len(dataset["channel_names"]), *waves.shape))
            network.decoder.seg_layers[-1].bias -= outcome[0].mean(dim=tuple(range(2, outcome[0].ndim)))[0]
        optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.99)
        checkpoint = {
            "network_weights": network.state_dict(),
            "optimizer_state": optimizer.state_dict(),
            "grad_scaler_state": None,
            "logging": {"mean_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(0.1)]},
            "_best_ema": np.float64(0.5),
            "current_epoch": 3,
            "init_args": {
                "plans": content,
                "configuration": CONFIGURATION[name],
                "fold": fold if fold == "all" else int(fold),
                "dataset_json": dataset,
                "device": torch.device("cpu"),
            },
            "trainer_name": "nnUNetTrainer_5epochs",
            "inference_allowed_mirroring_axes": (0, 1) if name == "nnunet_2d" else (0, 2),
        }
        path = folder / f"fold_{fold}" / "checkpoint_final.pth"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, path)
    (folder / "plans.json").write_text(json.dumps(content, indent=1))
    (folder / "dataset.json").write_text(json.dumps(dataset, indent=1))


def predict(folder: pathlib.Path, name: str, sums: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns nnU-Net's labels `(x, y, z)` and probabilities `(K, z, y, x)`; `sums` is the type of its sums."""
    import nibabel
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    half = torch.half
    channels, affine = image(name)
    with tempfile.TemporaryDirectory() as place:
        inputs, output = pathlib.Path(place, "in"), pathlib.Path(place, "out")
        inputs.mkdir()
        output.mkdir()
        for number, data in enumerate(channels):
            nibabel.save(nibabel.Nifti1Image(data, affine), inputs / f"case_{number:04d}.nii.gz")
        torch.half = getattr(torch, sums)
        try:
            predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
            predictor.initialize_from_trained_model_folder(str(folder), CASES[name]["folds"])
            predictor.predict_from_files_sequential(str(inputs), str(output), save_probabilities=True)
        finally:
            torch.half = half
        labels = np.asarray(nibabel.load(output / "case.nii.gz").dataobj)
        probabilities = np.load(output / "case.npz")["probabilities"]
        if name == "nnunet_2d":  # NibabelIOWithReorient turns labels back to the file's axes, but not probabilities
            probabilities = probabilities[:, :, ::-1, ::-1]
        return labels, probabilities


def main() -> None:
    os.environ.setdefault("nnUNet_def_n_proc", "1")
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(variable, tempfile.gettempdir())
    for name in sys.argv[1:] or CASES:
        folder = HERE / name
        write_folder(folder, name)
        labels, _ = predict(folder, name, "float16")
        exact, probabilities = predict(folder, name, "float32")
        found = {"labels": labels, "labels_single": exact, "probabilities": probabilities.astype(np.float32)}
        np.savez_compressed(HERE / f"{name}_labels.npz", **found)
        print(name, labels.shape, np.bincount(labels.ravel()), "half and single agree on", (labels == exact).mean())


if __name__ == "__main__":
    main()
