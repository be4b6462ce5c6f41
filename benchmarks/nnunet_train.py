"""Trains small nnU-Nets with nnU-Net itself and predicts with them: what `benchmarks.nnunet_folder` compares ours with.

    NNUNET_PYTHON benchmarks/nnunet_train.py FOLDER MSD_HIPPOCAMPUS       # nnunetv2 (made with 2.8.1) and PyTorch, CPU

FOLDER/raw holds the data sets, FOLDER/results the trained folders, FOLDER/predictions/half nnU-Net's predictions and
FOLDER/predictions/single those with sums over windows in single precision. What is there already is left alone.
"""

import json
import os
import pathlib
import sys

import nibabel
import numpy as np

ITERATIONS = 100
TEST_CASES = 2
# data set, training cases, configuration, folds
JOBS = (
    ("Dataset501_Hippocampus", 20, "3d_fullres", [0, 1]),
    ("Dataset502_Anisotropic", 10, "3d_fullres", [0]),
    ("Dataset503_Regions", 10, "3d_fullres", ["all"]),
    ("Dataset501_Hippocampus", 20, "2d", [0]),
    ("Dataset501_Hippocampus", 20, "3d_residual", [0]),
    ("Dataset502_Anisotropic", 10, "2d", [0]),
)


def prepare_environment(root: pathlib.Path) -> None:
    """nnU-Net reads these when it is imported."""
    for name in ("raw", "preprocessed", "results"):
        (root / name).mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{name}"] = str(root / name)
    os.environ |= {"nnUNet_n_proc_DA": "1", "nnUNet_compile": "f", "nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1"}


def variant(name: str, image: np.ndarray, label: np.ndarray, affine: np.ndarray, draw) -> tuple:
    """Returns channels, label and affine of a case as the data set wants them."""
    channels = [image]
    if "Anisotropic" in name:  # y is the coarse axis; zero around an ellipsoid; two channels
        image, label = image[:, ::3], label[:, ::3]
        grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in image.shape), indexing="ij")
        image = (image + 1) * (sum(axis**2 for axis in grid) <= 1.1)
        around = [(5, 4), (1, 1), (3, 5)]
        image, label = np.pad(image, around).astype(np.float32), np.pad(label, around)
        channels = [image, np.sqrt(image)]
        affine = affine @ np.diag([draw.uniform(0.8, 1.25), draw.uniform(4, 6), draw.uniform(0.8, 1.25), 1])
    if "Regions" in name:  # and CT's normalisation, an ignore label, spacings that differ
        label[:, :, :2] = 3
        affine = affine @ np.diag([*draw.uniform(0.8, 1.25, 3), 1])
    return channels, label, affine


def make(root: pathlib.Path, source: pathlib.Path, name: str, count: int) -> None:
    """Writes a raw data set."""
    folder, draw = root / "raw" / name, np.random.RandomState(0)
    if (folder / "dataset.json").exists():
        return
    for number, path in enumerate(sorted((source / "imagesTr").glob("*.nii.gz"))[: count + TEST_CASES]):
        part, stem = "Tr" if number < count else "Ts", path.name.removesuffix(".nii.gz")
        image, label = nibabel.load(path), nibabel.load(source / "labelsTr" / path.name)
        data = np.asarray(image.dataobj).astype(np.float32)
        truth = np.asarray(label.dataobj).astype(np.uint8)
        channels, truth, affine = variant(name, data, truth, image.affine, draw)
        files = {f"images{part}/{stem}_{k:04d}.nii.gz": channel for k, channel in enumerate(channels)}
        for file, values in {**files, f"labels{part}/{stem}.nii.gz": truth}.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(values, affine), folder / file)
    content = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "Anterior": 1, "Posterior": 2}}
    if "Anisotropic" in name:
        content["channel_names"] = {"0": "MRI", "1": "rescale_to_0_1"}
    if "Regions" in name:
        content["channel_names"] = {"0": "CT"}
        content["labels"] = {"background": 0, "whole": [1, 2], "posterior": [2], "ignore": 3}
        content["regions_class_order"] = [1, 2]
    (folder / "dataset.json").write_text(json.dumps({**content, "numTraining": count, "file_ending": ".nii.gz"}))


def plan(root: pathlib.Path, name: str) -> pathlib.Path:
    """Plans and preprocesses as nnU-Net does, with the networks cut down to three narrow stages."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    path = root / "preprocessed" / name / "nnUNetPlans.json"
    if (path.parent / "done").exists():
        return path
    number = int(name[7:10])
    api.extract_fingerprints([number], num_processes=1)
    api.plan_experiments([number])
    plans = json.loads(path.read_text())
    plans["configurations"] = {key: plans["configurations"][key] for key in ("2d", "3d_fullres")}
    for chosen in plans["configurations"].values():
        fields = chosen["architecture"]["arch_kwargs"]
        for field in ("kernel_sizes", "strides", "n_conv_per_stage"):
            fields[field] = fields[field][:3]
        fields |= {"n_stages": 3, "features_per_stage": [4, 8, 12]}
        fields["n_conv_per_stage_decoder"] = fields["n_conv_per_stage_decoder"][:2]
        flat, steps = len(chosen["patch_size"]) == 2, np.prod(fields["strides"], axis=0)
        wanted = (40, 36) if flat else (20, 24, 24)
        sizes = zip(wanted, chosen["patch_size"], steps, strict=True)
        chosen["patch_size"] = [int(max(step, min(size, most) // step * step)) for size, most, step in sizes]
        chosen["batch_size"] = 8 if flat else 2
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    fields = {**architecture["arch_kwargs"], "n_blocks_per_stage": [1, 2, 2], "n_conv_per_stage_decoder": [1, 1]}
    del fields["n_conv_per_stage"]
    network = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    residual = {**architecture, "network_class_name": network, "arch_kwargs": fields}
    plans["configurations"]["3d_residual"] = {"inherits_from": "3d_fullres", "architecture": residual}
    path.write_text(json.dumps(plans, indent=1))
    api.preprocess([number], configurations=["2d", "3d_fullres"], num_processes=[1, 1])
    (path.parent / "done").touch()
    return path


def train(root: pathlib.Path, name: str, path: pathlib.Path, configuration: str, fold: int | str) -> None:
    """Trains one fold for a few iterations of Adam."""
    import torch
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as module

    class nnUNetTrainer(module.nnUNetTrainer):  # the checkpoint keeps this name
        def __init__(self, plans, configuration, fold, dataset_json, device=None):
            super().__init__(plans, configuration, fold, dataset_json, torch.device("cpu"))
            self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, ITERATIONS, 1
            self.initial_lr, self.oversample_foreground_percent = 3e-3, 0.66

        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.network.parameters(), self.initial_lr)
            return optimizer, PolyLRScheduler(optimizer, self.initial_lr, 10)

        def perform_actual_validation(self, save_probabilities=False):
            pass

    if (folder_of(root, name, configuration) / f"fold_{fold}" / "checkpoint_final.pth").exists():
        return
    torch.manual_seed(0)
    np.random.seed(0)
    plans = {**json.loads(path.read_text()), "continue_training": False}
    nnUNetTrainer(
        plans, configuration, fold, json.loads((root / "raw" / name / "dataset.json").read_text())
    ).run_training()


def folder_of(root: pathlib.Path, name: str, configuration: str) -> pathlib.Path:
    return root / "results" / name / f"nnUNetTrainer__nnUNetPlans__{configuration}"


def predict(root: pathlib.Path, name: str, configuration: str, folds: list) -> None:
    """Predicts the test cases with the sums over windows in half precision, as nnU-Net keeps them, and in single."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    half = torch.half
    for kind, sums in (("half", torch.float16), ("single", torch.float32)):
        output = root / "predictions" / kind / f"{name}__{configuration}"
        if output.exists():
            continue
        output.mkdir(parents=True)
        torch.half = sums
        try:
            predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
            predictor.initialize_from_trained_model_folder(str(folder_of(root, name, configuration)), folds)
            inputs = str(root / "raw" / name / "imagesTs")
            predictor.predict_from_files_sequential(inputs, str(output), save_probabilities=True)
        finally:
            torch.half = half


def main() -> None:
    root, source = (pathlib.Path(text).absolute() for text in sys.argv[1:3])
    prepare_environment(root)
    for name, count, configuration, folds in JOBS:
        make(root, source, name, count)
        path = plan(root, name)
        for fold in folds:
            train(root, name, path, configuration, fold)
        predict(root, name, configuration, folds)
        print("done:", name, configuration, folds, flush=True)


if __name__ == "__main__":
    main()
