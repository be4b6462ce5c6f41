"""Whole cases where images are made: what a generator is given, what it should make, and the simple ways beside it."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxseg import config as configs
from jaxseg import metrics, ops, paths, predict, viz
from jaxseg.cli import build, images
from jaxseg.data import made, store, writers
from jaxseg.tasks import Intensities
from jaxseg.tasks.images import style_length
from jaxseg.train import collapse, parallel, processes
from jaxseg.train import state as states
from jaxseg.typing import Task

PANELS, WARNINGS = "panels", "warnings.txt"
EXAMPLES = 3  # cases that are drawn again and again through the training
STYLE_SEED = 7
EQUAL_DB = 100.0  # stands for the infinite PSNR of equal images, which would be no score


class Made(NamedTuple):
    """One prepared case, encoded: what was given, what was made of it, and the real image where there is one."""

    given: np.ndarray  # (*S, C), or a label map (*S)
    made: np.ndarray
    true: np.ndarray | None


def evaluator(
    config: ConfigDict,
    known: build.Facts,
    task: Task,
    held_out: Sequence[store.StoredCase],
    training: Sequence[store.StoredCase],
    folder: paths.Path,
) -> Callable[[states.State], dict[str, float]]:
    """Returns `state -> {"score", ...}`, which also draws the same few cases as WORKDIR/panels/step_<n>.png.

    The score is the mean PSNR of held-out cases in decibels, of intensities from -1 to 1. Where there is no true image
    to compare with (synthesis, unpaired data sets), no figure is trusted to choose a checkpoint: the later the better.
    """
    chosen = held_out[: config.train.eval_cases or None] if has_truth(config) else ()
    shown = [*held_out, *training][:EXAMPLES]
    look = maker(config, known, task)

    def psnr(variables: Any, case: store.StoredCase) -> list[float]:
        found = look(variables, *read(case))
        assert found.true is not None  # has_truth
        value = metrics.peak_signal_to_noise(found.made, found.true, data_range=2.0)
        return [min(value, EQUAL_DB), metrics.mean_absolute_error(found.made, found.true)]

    def evaluate(state: states.State) -> dict[str, float]:
        variables = parallel.local(states.inference_variables(state))
        step = int(np.max(jax.device_get(parallel.local(state.step))))
        if processes.is_first():
            _draw(config, known, functools.partial(look, variables), shown, folder / PANELS, step)
        if not chosen:
            return {"score": float(step)}
        found = processes.share(functools.partial(psnr, variables), chosen)
        decibels, error = np.mean(np.array(found), axis=0)
        return {"score": float(decibels), "psnr_db": float(decibels), "mae": float(error)}

    return evaluate


def has_truth(config: ConfigDict) -> bool:
    """Whether a held-out case holds the image that should be made of it, and only that one would be right."""
    return config.task == "super_resolution" or (config.task == "translation" and not images.has_other(config))


def read(case: store.StoredCase) -> tuple[np.ndarray, np.ndarray]:
    """Returns image and label of a whole prepared case."""
    return store.read_patch(case, (0,) * len(case.shape), case.shape)


def maker(config: ConfigDict, known: build.Facts, task: Task) -> Callable[[Any, np.ndarray, np.ndarray], Made]:
    """Returns `(variables, image, label) -> Made` of a prepared case, by the config's windows."""
    apply = jax.jit(task.predict)
    coding = images.intensities(config, known.channels)
    given, target = images.source(config, known.channels), images.target(config, known.channels)
    theirs = images.target_coding(config, known.channels)
    options = window_options(config, known)

    def run(variables: Any, image: np.ndarray) -> np.ndarray:
        return predict.predict_array(build.device_predict(apply, variables), image, **options)

    def translated(variables: Any, image: np.ndarray, label: np.ndarray) -> Made:
        shown = image[..., list(given)]
        true = encoded(theirs, image[..., list(target)]) if has_truth(config) else None
        return Made(encoded(coding.of(given), shown), encoded(theirs, run(variables, shown)), true)

    def enlarged(variables: Any, image: np.ndarray, label: np.ndarray) -> Made:
        low, high = lowered(config, known, image)
        return Made(*(encoded(coding, each) for each in (low, run(variables, low), high)))

    def synthesised(variables: Any, image: np.ndarray, label: np.ndarray) -> Made:
        shown = from_labels(config, known, build.device_predict(apply, variables), label, seed=STYLE_SEED)
        return Made(label, encoded(coding, shown), encoded(coding, image))

    return {"translation": translated, "super_resolution": enlarged, "synthesis": synthesised}[config.task]


def window_options(config: ConfigDict, known: build.Facts) -> dict[str, Any]:
    """Keyword arguments of `predict.predict_array`: of super-resolution, windows of the low resolution."""
    options = build.predict_options(config)
    if config.task == "super_resolution":
        factors = images.factors(build.model(config, known))
        window = config.predict.window or [size // factor for size, factor in zip(config.data.patch_size, factors)]
        options = {**options, "window": tuple(window), "factors": factors}
    return options


def lowered(config: ConfigDict, known: build.Facts, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (low, high): a case cut to what the factors divide, and what a scanner of fewer voxels gives of it."""
    factors = images.factors(build.model(config, known))
    leading = image.ndim - 1 - len(factors)
    every = (*(1,) * leading, *factors)
    cut = image[tuple(slice(size // factor * factor) for size, factor in zip(image.shape, every))]
    axes = tuple(axis for axis, factor in enumerate(every) if factor > 1)
    low = ops.degrade(cut, factor=max(every), axes=axes, method=config.super_resolution.degrade)
    return np.asarray(low), cut


def from_labels(
    config: ConfigDict, known: build.Facts, predict_fn: Callable, label: np.ndarray, *, seed: int
) -> np.ndarray:
    """Returns the normalised image `(*S, C)` of a label map; of volumes slice by slice where the generator is 2D."""
    network, ndim = build.model(config, known), configs.ndim_of(config)
    style = np.random.default_rng(seed).standard_normal((1, style_length(network))).astype(np.float32)
    one = functools.partial(
        made.image_of,
        lambda segmentation, style: predict_fn((segmentation, style)),
        style=style,
        num_classes=len(known.classes),
        divisor=build.divisor(config, known),
        source="a case",
    )
    return np.stack([one(label=each) for each in label]) if label.ndim > ndim else one(label=label)


def watched(write: Callable[[int, dict], None], config: ConfigDict, folder: paths.Path) -> Callable[[int, dict], None]:
    """Returns `write` that also says, once, when a player has stopped to learn; WORKDIR/warnings.txt keeps it."""
    record = [collapse.Watch()]

    def write_and_watch(step: int, values: dict) -> None:
        write(step, values)
        figures = {name.removeprefix("train/"): value for name, value in values.items()}
        if step <= config.adversarial.start or not processes.is_first():
            return
        record[0], message = collapse.update(record[0], step, figures)
        if message is not None:
            print(f"warning: {message}")
            with (folder / WARNINGS).open("a") as file:
                file.write(message + "\n")

    return write_and_watch


def encoded(coding: Intensities, image: np.ndarray) -> np.ndarray:
    """Normalised intensities from -1 to 1, on the host."""
    return np.asarray(coding.encode(jnp.asarray(image)))


def _draw(config, known, look: Callable, cases: Sequence[store.StoredCase], folder: paths.Path, step: int) -> None:
    """Writes what is made of the same cases as ever; of volumes a slice is drawn."""
    rows = []
    for case in cases:
        found = look(*_middle(config, known, case))
        row = {"given": found.given, "made": found.made}
        rows.append(row if found.true is None else {**row, "real": found.true})
    panel = viz.grid_panel(rows, classes=known.classes, title=f"step {step}")
    with writers.replacing(folder / f"step_{step:06d}.png", overwrite=True) as partial:
        partial.write_bytes(viz.png_bytes(panel))


def _middle(config: ConfigDict, known: build.Facts, case: store.StoredCase) -> tuple[np.ndarray, np.ndarray]:
    """Returns image and label of the patch in the middle of a case, of a volume in 2D its middle slice."""
    size = tuple(config.data.patch_size)
    middle = [max(0, (whole - part) // 2) for whole, part in zip(case.shape[-len(size) :], size)]
    if len(case.shape) == len(size):
        return store.read_patch(case, middle, size)
    image, label = store.read_patch(case, (case.shape[0] // 2, *middle), (1, *size))
    return image[0], label[0]
