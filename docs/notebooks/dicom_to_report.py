# %% [markdown]
# # From DICOM to a report
#
# Folders of DICOM are read where they lie: a network is trained on them, a new scan is segmented, the mask goes back
# as a DICOM segmentation that refers to the scan it was found in, and a report and a model card say how good the
# network is.
#
# The scans are made here from the MNI152 brain template that comes with `nilearn`: five "patients", each a part of
# the template with its own brightness. Run it as a notebook (`jupytext --to ipynb dicom_to_report.py`) or as it
# stands (`python dicom_to_report.py`); it writes into the current folder.

# %%
import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

import jaxseg
from jaxseg import evaluate
from jaxseg.data import readers, writers

here = pathlib.Path.cwd()
launch = pathlib.Path(jaxseg.__file__).parents[1] / "launch.py"

# %% [markdown]
# ## Scans as a hospital would send them
#
# A series is one file a slice; what matters for the geometry are the orientation, the position of the first pixel and
# the spacing. DICOM counts to the left, to the back and up.

# %%
STEP = 4  # mm; every fourth voxel of the template
PATIENT = "Doe^Jane"


def write_series(folder, voxels, number):
    """Writes (z, y, x) with x to the left, y to the back and z upwards, a file a slice, in any order."""
    folder.mkdir(parents=True)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for place in np.random.default_rng(number).permutation(len(voxels)):
        slice_ = pydicom.Dataset()
        slice_.file_meta = FileMetaDataset()
        slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_.file_meta.MediaStorageSOPClassUID = slice_.SOPClassUID = MRImageStorage
        slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID = generate_uid()
        slice_.StudyInstanceUID, slice_.SeriesInstanceUID, slice_.FrameOfReferenceUID = study, series, frame
        slice_.PatientName, slice_.PatientID, slice_.Modality = PATIENT, f"ID{number}", "MR"
        slice_.PatientBirthDate, slice_.PatientSex, slice_.StudyID = "", "", "1"
        slice_.StudyDate = slice_.StudyTime = slice_.AccessionNumber = slice_.ReferringPhysicianName = ""
        slice_.SeriesNumber, slice_.InstanceNumber = 1, int(place) + 1
        slice_.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        slice_.ImagePositionPatient = [-90.0, -110.0, -60.0 + STEP * int(place)]
        slice_.PixelSpacing, slice_.SliceThickness = [STEP, STEP], STEP
        slice_.Rows, slice_.Columns = voxels.shape[1:]
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 0
        slice_.PixelData = voxels[place].astype("<u2").tobytes()
        slice_.save_as(folder / f"{place:03d}.dcm", enforce_file_format=True)


templates = pathlib.Path(importlib.util.find_spec("nilearn").origin).parent / "datasets" / "data"
# the template's axes increase upwards, to the front and to the right: the last two are turned round
t1, white = (
    readers.read(templates / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz")
    .data[20:140:STEP, ::-STEP, ::-STEP, 0]
    .astype(np.uint16)
    for kind in ("t1", "wm")
)
for number in range(5):
    part = slice(6 * number, 6 * number + 6)
    write_series(here / "scans" / f"case_{number}", t1[part] * (3 + number), number)
print(sorted(path.name for path in (here / "scans" / "case_0").iterdir()))

# %% [markdown]
# ## Read as a volume
#
# The reader sorts slices by position, not by name or number, and gives the spacing and the affine in mm. A label may
# be a DICOM SEG, an RTSTRUCT, or as here a NIfTI file on the same grid.

# %%
for number in range(5):
    volume = readers.read(here / "scans" / f"case_{number}")
    label = (white[6 * number : 6 * number + 6] > 127).astype(np.uint8)
    assert volume.data.shape == (*label.shape, 1) and np.allclose(volume.spacing, STEP)
    assert np.array_equal(volume.data[..., 0], t1[6 * number : 6 * number + 6] * (3 + number))
    if number < 4:  # the last one is new
        (here / "labels").mkdir(exist_ok=True)
        writers.write(here / "labels" / f"case_{number}.nii.gz", label, volume)
os.makedirs(here / "training", exist_ok=True)
for number in range(4):
    (here / "scans" / f"case_{number}").rename(here / "training" / f"case_{number}")
print(volume.data.shape, volume.spacing)

# %% [markdown]
# ## Trained
#
#     python launch.py --config dicom_config.py --workdir run
#
# A few seconds of training on three patients; the fourth is held out and scored.

# %%
CONFIG = '''
"""White matter in MR from DICOM."""

from ml_collections import ConfigDict

from jaxseg.config import base_config


def get_config():
    config = base_config()
    config.data.name, config.data.root = "image_mask", "."
    config.data.images, config.data.labels, config.data.label_values = "training", "labels", (0, 1)
    config.data.classes, config.data.channels = ("background", "white matter"), ("T1",)
    config.data.patch_size, config.data.batch_size, config.data.folds = (4, 16, 16), 4, 4
    config.model = ConfigDict({"name": "pixel_features", "ndim": 3, "features": (8,), "sigmas": (0.7,)})
    config.augment, config.optim.lr = "mirror(axes=(2,))", 0.05
    config.train.total_steps, config.train.eval_steps = 60, 60
    config.evaluate.overlays = 1
    return config
'''
(here / "dicom_config.py").write_text(CONFIG)


def run(*arguments):
    """Runs the command as a terminal would and shows the end of what it says."""
    done = subprocess.run([sys.executable, str(launch), *arguments], capture_output=True, text=True)
    print(done.stdout[-900:], done.stderr[-600:])
    assert done.returncode == 0


run("--config", "dicom_config.py", "--workdir", "run")

# %% [markdown]
# ## A new scan
#
#     python launch.py --mode predict --workdir run --input scans --output masks --set 'predict.format=nifti|dicom_seg'
#
# Both formats hold the same mask. The segmentation names the series that it belongs to, so that a viewer lays one
# over the other.

# %%
run(
    "--mode", "predict", "--workdir", "run", "--input", "scans", "--output", "masks",
    "--set", "predict.format=nifti|dicom_seg",
)  # fmt: skip
scan = here / "scans" / "case_4"
files = {path.suffix: path for path in (here / "masks").rglob("*") if path.is_file()}
mask = readers.read_label(files[".gz"]).data
segmentation = pydicom.dcmread(files[".dcm"])
source = pydicom.dcmread(next(scan.iterdir()))
print(segmentation.Modality, [segment.SegmentLabel for segment in segmentation.SegmentSequence])
assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
again = readers.read_label(files[".dcm"], like=readers.read(scan)).data
assert np.array_equal(again > 0, mask > 0) and mask.any()

# %% [markdown]
# ## The report and the model card
#
# `run/report.html` is one page with everything inside; `run/model_card.md` says what the network is for and where it
# ends. Neither names a patient. The score is no good one, and rests on one scan: the lowest part of the brain, unlike
# the three that were learnt from. The card says so.

# %%
dice = evaluate.read_summary("run/evaluation/summary.json")["classes"]["white matter"]["dice"]
print(f"Dice {dice['mean']:.3f}, n {dice['n']}")
assert dice["mean"] > 0.5 and dice["n"] == 1
card = (here / "run" / "model_card.md").read_text()
print(card[card.index("## Limits") :])
assert "the scores rest on 1 case" in card
for file in (here / "run").rglob("*"):
    assert not file.is_file() or PATIENT.encode() not in file.read_bytes()
