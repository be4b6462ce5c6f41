"""Segments images with one exported file; needs jax, flatbuffers and numpy, nibabel for NIfTI, Pillow for pictures.

python load.py model.jaxseg image.nii.gz [further channels ...] mask.nii.gz
from load import load; predict = load("model.jaxseg"); mask = predict(array, spacing)"""

import functools, hashlib, importlib, io, itertools, json, os, sys, zipfile  # noqa: E401, I001  # fmt: skip
import jax.export, jax.numpy as jnp, numpy as np  # noqa: E401  # fmt: skip


def load(path):
    """Returns `predict(array, spacing, affine=None) -> mask`; `predict.about` is what the file says of itself."""
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    about = json.loads(parts["manifest.json"])
    if about["calling_convention"] > jax.export.maximum_supported_calling_convention_version:
        raise ValueError(f"{path} needs jax {about['versions']['jax']} or newer, got {jax.__version__}; update jax.")
    if broken := [n for n, digest in about["sha256"].items() if hashlib.sha256(parts[n]).hexdigest() != digest]:
        raise ValueError(f"{path} is damaged: {broken[0]} is not what was exported; copy the file again.")
    files = [io.BytesIO(parts[f"weights/{number}.npz"]) for number in range(about["networks"])]
    networks = [jax.device_put(dict(np.load(file))) for file in files]

    @functools.cache
    def program(bucket, name):
        exported = jax.export.deserialize(bytearray(parts[f"programs/{bucket}/{name}.bin"]))
        return jax.jit(exported.call, donate_argnums=(2,) if name == "look" else ())

    def predict(array, spacing, affine=None):
        """Takes (z, y, x) or (z, y, x, channels) and mm; with the affine of these axes, turns them as in training."""
        data, axes, flips = turned(np.asarray(array), affine, about)
        n, shape, spacing = len(axes), data.shape[:-1], [float(spacing[axis]) for axis in axes]
        if not (np.isfinite(spacing).all() and min(spacing) > 0 and np.isfinite(data).all()):
            raise ValueError(f"The image should hold finite numbers and have positive spacings (they are {spacing}).")
        seen = [(data != 0).any(tuple({*range(n + 1)} - {axis})).nonzero()[0] for axis in range(n)]
        box = tuple(slice(s[0], s[-1] + 1) if about["crop"] and len(s) else slice(None) for s in seen)
        data, target = data[box], [new or old for old, new in zip(spacing, about["spacing"] or [None] * n)]
        size = data.shape[:-1]
        grid = tuple(max(1, round(old / new * length)) for length, old, new in zip(size, spacing, target))
        rooms = [b for b in about["buckets"] if all(a >= b for a, b in zip(b["image"] + b["grid"], size + grid))]
        if not rooms:
            raise ValueError(f"An image of {size} voxels, {grid} to the network, is larger than every bucket; export "
                f"again with --set 'export.shapes=({grid},)' --set 'export.image_shapes=({size},)'.")  # fmt: skip
        prepare, look, finish = (program(rooms[0]["name"], name) for name in ("prepare", "look", "finish"))
        facts = np.array([size, grid, orders(spacing, target, 3), orders(target, spacing, 1)], np.int32)
        padded = np.zeros((*rooms[0]["image"], data.shape[-1]), np.float32)
        padded[tuple(map(slice, size))] = data
        image, sums = prepare(padded, facts), jnp.zeros((*rooms[0]["grid"], about["outputs"] + 1), jnp.float32)
        starts = [table[k - 1] for table, k in zip(json.loads(parts["starts.json"])[rooms[0]["name"]], grid)]
        corners, batch = list(itertools.product(*starts)), about["batch_size"]
        table = np.array(corners + [corners[0]] * batch, np.int32)  # so that the last batch is whole
        for network, *flip in itertools.product(networks, *[(False, True)] * about["flips"]):
            for k in range(0, len(corners), batch):
                sums = look(
                    network, image, sums, table[k : k + batch], np.int32(len(corners) - k), np.array(flip, bool)
                )
        inside = np.concatenate([finish(sums, facts, np.int32(r)) for r in range(0, size[0], rooms[0]["slab"])])
        mask = np.full(shape, about["values"][0], inside.dtype)
        mask[box] = inside[tuple(map(slice, size))]
        return np.flip(mask, np.flatnonzero(flips)).transpose(np.argsort(axes))

    predict.about = about
    return predict


def turned(data, affine, about):
    n = len(about["buckets"][0]["grid"])
    data = data[..., None] if data.ndim == n else data
    if data.ndim != n + 1 or data.shape[-1] != len(about["channels"]):
        raise ValueError(f"Give {n} axes and the channels {', '.join(about['channels'])} last, not {data.shape}.")
    axes, flips = range(n), [False] * n
    if n == 3 and affine is not None and about["orientation"] == "canonical":
        cosines = np.array(affine)[2::-1, :3] / np.linalg.norm(np.array(affine)[:3, :3], axis=0)  # to the S, A, R
        axes = max(itertools.permutations(axes), key=lambda axes: abs(cosines[[0, 1, 2], axes]).sum())
        flips = [cosines[row, axis] < 0 for row, axis in enumerate(axes)]
    axes, flips = zip(*[(axes[place], flips[place]) for place in about["axis_order"] or range(n)])
    return np.flip(data.transpose(*axes, n), np.flatnonzero(flips)), axes, flips


def orders(old, new, smooth):  # of the splines along each axis; nearest neighbour where slices are thick
    odd = next((steps for steps in (old, new) if len(steps) > 2 and max(steps) / min(steps) > 3), [])
    return [0 if odd.count(step) == 1 and step == max(odd) else smooth for step in odd or old]


def main(model, *paths):
    if os.path.exists(paths[-1]):
        raise ValueError(f"{paths[-1]} exists already; name another file for the mask.")
    if not paths[0].endswith((".nii", ".nii.gz")):
        Image = importlib.import_module("PIL.Image")
        return Image.fromarray(load(model)(np.asarray(Image.open(paths[0])), (1, 1))).save(paths[-1])
    nibabel = importlib.import_module("nibabel")
    files = [nibabel.load(name) for name in paths[:-1]]
    data = np.concatenate([np.asanyarray(file.dataobj).reshape(*file.shape[:3], -1) for file in files], -1)
    units = [{"meter": 1000, "micron": 0.001}.get(files[0].header.get_xyzt_units()[0], 1)] * 3 + [1]
    affine = (np.diag(units) @ files[0].affine)[:, [2, 1, 0, 3]]
    mask = load(model)(data.transpose(2, 1, 0, 3), np.linalg.norm(affine[:3, :3], axis=0), affine).T
    nibabel.save(nibabel.Nifti1Image(mask, files[0].affine, files[0].header, dtype=mask.dtype), paths[-1])


if __name__ == "__main__":
    sys.excepthook = lambda kind, error, trace: print(f"{kind.__name__}: {error}", file=sys.stderr)
    main(*sys.argv[1:])
