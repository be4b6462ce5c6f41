"""How near do made images look? Frechet and kernel distance, and copies, in features of a network of photographs.

    python launch.py --mode convert --source efficientnet:lite0 --input LITE0.pth --output weights/lite0
    python -m benchmarks.synthesis_sets --runs=runs/synthesis --pretrained=weights/lite0

Reads what benchmarks.synthesis has left: for every N the first seed's made images, the slices with hippocampus of the N
cases that its generator has seen, and of the held-out cases. Each image is enlarged to 96 x 96 and shown to
EfficientNet-Lite0 (ImageNet), whose 1,280 pooled features are compared.
"""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from jaxseg import evaluate, ops
from jaxseg.data import readers, store, value_range
from jaxseg.transfer import stored

RUNS = flags.DEFINE_string("runs", "runs/synthesis", "The --output of benchmarks.synthesis.")
PRETRAINED = flags.DEFINE_string("pretrained", None, "Converted EfficientNet-Lite0.", required=True)
SIZE, MOST, BATCH = 96, 300, 50


def seen_slices(cases: list[store.StoredCase]) -> list[np.ndarray]:
    """Slices that show a class, from -1 to 1; at most MOST."""
    found = []
    for case in cases:
        image, label = store.read_patch(case, (0, 0, 0), case.shape)
        found += [np.asarray(value_range.encode(i, ("zscore",))) for i, m in zip(image, label) if (m > 0).any()]
    places = np.unique(np.linspace(0, len(found) - 1, min(MOST, len(found))).round().astype(int))
    return [found[place] for place in places]


def made_images(folder: pathlib.Path) -> list[np.ndarray]:
    """Made images from -1 to 1."""
    return [readers.read(path).data / 127.5 - 1 for path in sorted((folder / "images").glob("*.png"))[:MOST]]


def vectors(look, images: list[np.ndarray]) -> np.ndarray:
    """Features of images, a row each."""
    large = [np.asarray(ops.resize(jnp.asarray(image, jnp.float32)[None], (SIZE, SIZE)))[0] for image in images]
    rows = []
    for start in range(0, len(large), BATCH):
        batch = large[start : start + BATCH]
        padded = np.stack(batch + [batch[-1]] * (BATCH - len(batch)))
        rows.append(np.asarray(look((padded + 1) / 2 * 255))[: len(batch)])
    return np.concatenate(rows)


def main(_) -> None:
    """Prints a table."""
    model, variables = stored.load(PRETRAINED.value)

    @jax.jit
    def look(image: jax.Array) -> jax.Array:
        shown = (jnp.repeat(image, 3, axis=-1) - 127) / 128
        return model.apply(variables, shown, train=False)[1]["features"]

    see = functools.partial(vectors, look)
    runs = pathlib.Path(RUNS.value)
    cases = {case.name: case for case in store.open(runs / "prepared")}
    print("| real cases | Frechet, made to real (real to real) | kernel, made to real | nearest training image |")
    print("| --- | --- | --- | --- |")
    for made in sorted(runs.glob("made_*_0"), key=lambda path: int(path.name.split("_")[1])):
        number = int(made.name.split("_")[1])
        split = json.loads((runs / f"generator_{number}_0" / "config.json").read_text())["split"]
        real, train = ([cases[name] for name in split[part]] for part in ("held out", "training"))
        found = evaluate.compare_sets(see(seen_slices(real)), see(made_images(made)), see(seen_slices(train)))
        near = found["reachable"]
        print(
            f"| {number} | {near['frechet_made']:.3g} ({near['frechet']:.3g}), {near['n']} a side | "
            f"{found['kernel']:.3g} | {found['memorisation']:.2f} (real images {found['memorisation_real']:.2f}) |"
        )


if __name__ == "__main__":
    app.run(main)
