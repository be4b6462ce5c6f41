"""How far our predictions with an imported nnU-Net agree with nnU-Net's own.

    nnUNetv2_predict -i scans -o theirs -d 4 -c 3d_fullres -f 0 1 -device cpu --save_probabilities
    python launch.py --mode convert --source nnunet --input nnUNet_results/.../nnUNetTrainer__nnUNetPlans__3d_fullres \
        --output runs/imported --field folds=0,1
    python launch.py --mode predict --workdir runs/imported --input scans --output ours --set predict.probabilities=True
    python -m benchmarks.nnunet_folder --theirs=theirs --ours=ours

Prints, for each case and for all, the share of voxels with the same label: of all voxels, and of those where either has
foreground; and the largest difference of the probabilities where both have kept them.
"""

import pathlib

import numpy as np
from absl import app, flags

from jaxseg.data import readers

THEIRS = flags.DEFINE_string("theirs", None, "Folder of nnU-Net's predictions.", required=True)
OURS = flags.DEFINE_string("ours", None, "Folder of ours.", required=True)


def difference(theirs: pathlib.Path, ours: pathlib.Path) -> float:
    """Returns the largest difference between nnU-Net's NAME.npz `(K, z, y, x)` and our NAME_probabilities; else NaN."""
    kept = theirs.with_name(f"{readers.stem(theirs)}.npz")
    own = ours.with_name(readers.output_name(ours, probabilities=True))
    if not (kept.exists() and own.exists()):
        return float("nan")
    probabilities = np.moveaxis(np.load(kept)["probabilities"], 0, -1).astype(np.float32)
    return float(np.abs(probabilities - readers.read(own).data.reshape(probabilities.shape)).max())


def main(_) -> None:
    files = sorted(path for path in pathlib.Path(THEIRS.value).iterdir() if readers.suffix(path))
    print(f"{'case':<24} {'voxels':>10} {'equal':>9} {'foreground':>10} {'equal':>9} {'probabilities':>13}")
    sums, largest = np.zeros(4, np.int64), []
    for path in files:
        other = pathlib.Path(OURS.value) / path.name
        theirs, ours = readers.read_label(path), readers.read_label(other)
        assert np.allclose(theirs.affine, ours.affine, atol=1e-4), f"{path.name}: the affines differ"
        equal, either = theirs.data == ours.data, (theirs.data > 0) | (ours.data > 0)
        row = np.array([equal.size, equal.sum(), either.sum(), (equal & either).sum()])
        largest.append(difference(path, other))
        _show(readers.stem(path), row, largest[-1])
        sums += row
    _show(f"all {len(files)}", sums, max(largest))


def _show(name: str, row: np.ndarray, probabilities: float) -> None:
    share, among = row[1] / row[0], row[3] / max(row[2], 1)
    print(f"{name:<24} {row[0]:>10} {share:>9.5%} {row[2]:>10} {among:>9.4%} {probabilities:>13.1e}")


if __name__ == "__main__":
    app.run(main)
