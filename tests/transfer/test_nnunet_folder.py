"""Trained folders of nnU-Net: what is read from them, and one sentence for each that cannot be imported."""

import copy
import json
import pickle
import shutil

import numpy as np
import pytest

from jaxseg.transfer import nnunet_folder, nnunet_plan
from jaxseg.typing import UserError

THREE = "3d_fullres"


@pytest.fixture
def folder(golden, tmp_path):
    return shutil.copytree(golden / "nnunet_3d", tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres")


def plan_of(made, tmp_path, *, name="nnunet_3d", configuration=THREE, dataset=None, **changes):
    """Writes the golden plans with changes, `a__b=value` for a key within a key, and reads them."""
    plans, data = copy.deepcopy(made.plans(name))
    for place, value in changes.items():
        *above, key = place.split("__")
        target = plans if above[:1] == ["plans"] else plans["configurations"][configuration]
        for part in above[1:] if above[:1] == ["plans"] else above:
            target = target[part]
        target[key] = value
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    (tmp_path / "dataset.json").write_text(json.dumps({**data, **(dataset or {})}))
    return nnunet_plan.read(tmp_path, configuration)


def test_a_folder_of_two_folds(golden):
    found = nnunet_folder.read(golden / "nnunet_3d")
    assert [(member.fold, member.epochs) for member in found.members] == [("0", 3), ("1", 3)]
    assert found.trainer == "nnUNetTrainer_5epochs" and found.flip_axes == (0, 2)
    plan, settings = found.plan, found.plan.settings
    assert plan.patch_size == (6, 16, 20) and plan.channels == ("MRI", "CT")
    assert plan.classes == ("background", "shell", "core") and plan.label_values == (0, 1, 2) and plan.regions is None
    assert settings.spacing == (5.0, 1.0, 1.0) and settings.axis_order == (1, 0, 2) and settings.orientation == "keep"
    assert settings.normalize == ("zscore_mask", "ct") and settings.statistics[0] is None
    assert settings.statistics[1] == {"mean": 310.0, "std": 90.0, "p005": 140.0, "p995": 460.0}
    model = found.members[0].model
    assert model.strides == ((1, 1, 1), (1, 2, 2)) and model.kernels == ((1, 3, 3), (3, 3, 3)) and not model.residual
    kernels = [member.variables["params"]["head"]["kernel"] for member in found.members]
    assert not np.array_equal(*kernels)


def test_slices_regions_and_a_configuration_that_inherits(golden):
    found = nnunet_folder.read(golden / "nnunet_2d")
    plan, settings = found.plan, found.plan.settings
    assert [member.fold for member in found.members] == ["all"] and plan.name == "2d_residual"
    assert settings.spacing == (None, 0.9, 1.0) and settings.axis_order is None and settings.orientation == "canonical"
    assert plan.regions == ((1, 2), (2,)) and plan.classes == ("background", "whole", "core") and plan.ignore_value == 3
    assert found.members[0].model.residual and found.members[0].model.blocks == (1, 2)


def test_folds_and_checkpoints_are_chosen(folder):
    assert [member.fold for member in nnunet_folder.read(folder, folds=(1,)).members] == ["1"]
    (folder / "fold_1" / "checkpoint_final.pth").rename(folder / "fold_1" / "checkpoint_best.pth")
    assert [member.fold for member in nnunet_folder.read(folder).members] == ["0"]
    assert [m.fold for m in nnunet_folder.read(folder, checkpoint="checkpoint_best.pth").members] == ["1"]
    with pytest.raises(UserError, match=r"no checkpoint_final\.pth of fold 1, 4; it has that of 0"):
        nnunet_folder.read(folder, folds=(0, 1, 4))


def test_bad_folders_are_one_sentence(folder, tmp_path, golden):
    with pytest.raises(UserError, match=r"should be the folder of a trained nnU-Net .* but is not there"):
        nnunet_folder.read(tmp_path / "nowhere")
    with pytest.raises(UserError, match=rf"fold_0 has no plans\.json; name {folder}\."):
        nnunet_folder.read(folder / "fold_0")
    with pytest.raises(UserError, match=rf"has no plans\.json; name {folder}\."):
        nnunet_folder.read(tmp_path)
    shutil.copy(golden / "nnunet_2d" / "fold_all" / "checkpoint_final.pth", folder / "fold_1")
    with pytest.raises(UserError, match=r"fold_1/checkpoint_final\.pth does not fit .*plans\.json: "):
        nnunet_folder.read(folder)
    shutil.rmtree(folder / "fold_1")
    (folder / "fold_0" / "checkpoint_final.pth").rename(folder / "fold_0" / "checkpoint_best.pth")
    with pytest.raises(
        UserError, match=r"has no fold with a checkpoint_final\.pth .* --field checkpoint=checkpoint_be"
    ):
        nnunet_folder.read(folder)
    shutil.rmtree(folder / "fold_0")
    with pytest.raises(UserError, match=r"has no fold with a .* train a fold with nnU-Net"):
        nnunet_folder.read(folder)
    (folder / "plans.json").unlink()
    with pytest.raises(UserError, match=r"has no plans\.json; copy the whole folder"):
        nnunet_folder.read(folder)


def test_a_checkpoint_that_names_code_is_refused(folder):
    class Hostile:
        def __reduce__(self):
            return print, ("run",)

    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(pickle.dumps({"network_weights": Hostile()}))
    with pytest.raises(
        UserError, match=r"asks for '(builtins|__builtin__)\.print', and nothing that a file names is run"
    ):
        nnunet_folder.read(folder)


def test_a_plan_that_does_not_fit_the_weights(folder):
    path = folder / "plans.json"
    plans = json.loads(path.read_text())
    arguments = plans["configurations"][THREE]["architecture"]["arch_kwargs"]
    arguments["features_per_stage"] = [8, 6]
    path.write_text(json.dumps(plans))
    with pytest.raises(UserError, match=r"features \(4, 6\) in the checkpoint, \(8, 6\) in the plan\."):
        nnunet_folder.read(folder)
    dataset = json.loads((folder / "dataset.json").read_text())
    dataset["labels"]["third"] = 3
    (folder / "dataset.json").write_text(json.dumps(dataset))
    with pytest.raises(UserError, match="outputs 3 in the checkpoint, 4 in the plan"):
        nnunet_folder.read(folder)
    arguments["strides"] = [[1, 1, 1], [2, 2, 2]]
    path.write_text(json.dumps(plans))
    with pytest.raises(UserError, match=r"does not fit .*decoder\.transpconvs\.0\.weight"):
        nnunet_folder.read(folder)


@pytest.mark.parametrize(
    ("trainer", "known"),
    [
        *((name, True) for name in ("nnUNetTrainer", "nnUNetTrainer_250epochs_NoMirroring", "nnUNetTrainerBN")),
        *((name, True) for name in ("nnUNetTrainer_onlyMirror01_1500ep", "nnUNetTrainerBenchmark_5epochs")),
        *((name, False) for name in ("nnUNetTrainerUMamba", "SwinTrainer", "nnUNetTrainerMedNeXt_5epochs")),
    ],
)
def test_trainers_with_networks_of_their_own(trainer, known, tmp_path):
    if known:
        assert nnunet_folder._check_trainer(trainer, tmp_path) is None
    else:
        with pytest.raises(UserError, match=f"trained by {trainer}, whose network is not known here"):
            nnunet_folder._check_trainer(trainer, tmp_path)


ARCHITECTURE = "architecture__arch_kwargs__"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"previous_stage": "3d_lowres"}, "second stage of a cascade, which cannot be imported yet"),
        ({"preprocessor_name": "MyPreprocessor"}, "preprocessor_name 'MyPreprocessor'"),
        ({"normalization_schemes": ["ZScoreNormalization", "Mine"]}, "the normalisation 'Mine'"),
        ({"normalization_schemes": ["ZScoreNormalization"]}, "for each of 2 channels"),
        ({"resampling_fn_data": "resample_torch_fornnunet"}, r"resampling_fn_data = resample_torch_fornnunet\("),
        ({"resampling_fn_probabilities_kwargs": {"order": 0}}, r"resample_data_or_seg_to_shape\(order=0\)"),
        ({"resampling_fn_data": nnunet_plan.NO_RESAMPLING}, "images but not logits"),
        ({"patch_size": [8]}, "patch_size as two or three positive numbers"),
        ({"architecture__network_class_name": "lab.UNet"}, "the network lab.UNet, and only PlainConvUNet and"),
        ({ARCHITECTURE + "norm_op": "torch.nn.GroupNorm"}, "norm_op = 'torch.nn.GroupNorm' in place of InstanceNorm"),
        ({ARCHITECTURE + "nonlin": "torch.nn.GELU"}, "nonlin = 'torch.nn.GELU' in place of LeakyReLU"),
        ({ARCHITECTURE + "nonlin_kwargs": {"negative_slope": 0.2}}, "nonlin_kwargs .* in place of a slope of 0.01"),
        ({ARCHITECTURE + "dropout_op": "torch.nn.Dropout3d"}, "dropout_op = 'torch.nn.Dropout3d'"),
        ({ARCHITECTURE + "squeeze_excitation": True}, "squeeze_excitation = True"),
        ({ARCHITECTURE + "anything": 1}, "anything = 1"),
        ({ARCHITECTURE + "kernel_sizes": [3]}, "kernel_sizes for 2 stages"),
        ({"plans__image_reader_writer": "MyIO"}, "image_reader_writer 'MyIO'"),
        ({"plans__transpose_forward": [0, 1]}, "each of three axes once in transpose_forward"),
        ({"plans__foreground_intensity_properties_per_channel": {}}, "channel 1 as CT, but"),
        ({"dataset": {"labels": {"background": 1}}}, "a background 0"),
        ({"configuration": "3d_lowres"}, "no configuration '3d_lowres'; it has 3d_fullres"),
        ({"inherits_from": "3d_fullres"}, "inherits from itself"),
    ],
)
def test_what_cannot_be_predicted_alike_is_named(made, tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        plan_of(made, tmp_path, **changes)
    assert str(tmp_path) in str(caught.value)


def test_plans_of_the_first_version_2(made, tmp_path):
    today = plan_of(made, tmp_path)
    plans, _ = made.plans("nnunet_3d")
    chosen = plans["configurations"][THREE]
    arguments = chosen.pop("architecture")["arch_kwargs"]
    chosen |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 6,
        "n_conv_per_stage_encoder": arguments["n_conv_per_stage"],
        "n_conv_per_stage_decoder": arguments["n_conv_per_stage_decoder"],
        "pool_op_kernel_sizes": arguments["strides"],
        "conv_kernel_sizes": arguments["kernel_sizes"],
    }
    plans["foreground_intensity_properties_by_modality"] = plans.pop("foreground_intensity_properties_per_channel")
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    assert nnunet_plan.read(tmp_path, THREE) == today


def test_images_of_two_axes_and_lists_of_one_label(made, tmp_path):
    changes = {"plans__image_reader_writer": "NaturalImage2DIO", "spacing": [1.0, 1.0]}
    plan = plan_of(made, tmp_path, name="nnunet_2d", configuration="2d", **changes)
    assert plan.settings.spacing == (1.0, 1.0) and plan.settings.orientation == "keep"
    labels = {"background": 0, "shell": [1], "core": 2}
    assert plan_of(made, tmp_path, dataset={"labels": labels}).regions is None
    none = {field: nnunet_plan.NO_RESAMPLING for field in ("resampling_fn_data", "resampling_fn_probabilities")}
    assert plan_of(made, tmp_path, **none).settings.spacing is None
