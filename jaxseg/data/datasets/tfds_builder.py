"""Any of our data sets as a TFDS data set in array_record, written without TensorFlow and read by the layout "tfds".

dataset = datasets.load("msd", root="Task04_Hippocampus")
tfds_builder.write(dataset, name="hippocampus", data_dir="tensorflow_datasets")
datasets.load("tfds", root="tensorflow_datasets", builder="hippocampus")
"""

import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxseg.data.datasets.tfds import METADATA
from jaxseg.typing import DataSet, UserError


def make(dataset: DataSet, *, name: str, data_dir: Any, version: str = "1.0.0") -> Any:
    """Returns a `tfds.core.GeneratorBasedBuilder` over all cases as the split "train"; nothing is written yet.

    Features: image float32 `(*S, C)`, label int16 `(*S)` class ids with -1 for ignored voxels, spacing (mm, array
    order), affine, name, subject. Shapes may differ from case to case.

    Raises:
      UserError: `name` is no TFDS name, `version` is not x.y.z, or there is no case, or the first one is bad.
    """
    import tensorflow_datasets as tfds

    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"A TFDS name should be lower case letters, digits and underscores, but is {name!r}.")
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise UserError(f"A TFDS version should read like 1.0.0, but is {version!r}.")
    if not dataset.cases:
        raise UserError("There is no case to write as a TFDS data set; check data.root.")
    ndim = len(dataset.load(dataset.cases[0]).image.spacing)
    dataset_name = name

    def array(shape: tuple[int | None, ...], dtype: Any) -> Any:
        return tfds.features.Tensor(shape=shape, dtype=dtype, encoding=tfds.features.Encoding.ZLIB)

    # mypy cannot see the lazily loaded base class, which takes the keyword.
    class FolderBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        """A folder data set; `__init__` and preparation are TFDS's own."""

        name = dataset_name
        VERSION = tfds.core.Version(version)

        def _info(self) -> Any:
            features = {
                "image": array((None,) * ndim + (len(dataset.channels),), np.float32),
                "label": array((None,) * ndim, np.int16),
                "spacing": tfds.features.Tensor(shape=(ndim,), dtype=np.float64),
                "affine": tfds.features.Tensor(shape=(ndim + 1, ndim + 1), dtype=np.float64),
                "name": tfds.features.Text(),
                "subject": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"Segmentation of {', '.join(dataset.classes[1:])}.",
                features=tfds.features.FeaturesDict(features),
                metadata=tfds.core.MetadataDict({METADATA: describe(dataset)}),
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
            return examples(dataset)

    return FolderBuilder(data_dir=str(data_dir))


def describe(dataset: DataSet) -> dict[str, Any]:
    """Returns what the layout "tfds" must know to give the same `DataSet` back, as plain JSON values."""
    return {
        "classes": list(dataset.classes),
        "channels": list(dataset.channels),
        "label_values": list(dataset.label_values),
        "flip_pairs": [list(pair) for pair in dataset.flip_pairs],
        "regions": None if dataset.regions is None else [list(region) for region in dataset.regions],
    }


def examples(dataset: DataSet) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (case name, features) for each case; see `make`.

    Raises:
      UserError: a case cannot be read or has no label.
    """
    for case in dataset.cases:
        image, label, _ = dataset.load(case)
        if label is None:
            raise UserError(
                f"Case {case.name} has no label and cannot become a training example; add it or leave it out."
            )
        yield (
            case.name,
            {
                "image": image.data.astype(np.float32, copy=False),
                "label": label.data,
                "spacing": np.asarray(image.spacing, np.float64),
                "affine": image.affine,
                "name": case.name,
                "subject": case.subject,
            },
        )


def write(dataset: DataSet, *, name: str, data_dir: Any, version: str = "1.0.0") -> pathlib.Path:
    """Writes the data set in array_record and returns its folder `data_dir/name/version`.

    Raises:
      UserError: as `make`; also when the folder exists already (nothing is overwritten) or a case is bad.
    """
    builder = make(dataset, name=name, data_dir=data_dir, version=version)
    folder = pathlib.Path(builder.data_dir)
    if folder.exists():
        raise UserError(f"{folder} exists already; remove it, or give another name or version.")
    builder.download_and_prepare(file_format="array_record")
    return folder
