"""Training batches out of prepared cases: every batch is a pure function of the seed and the step (Grain)."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float

from jaxseg.data import patches, store
from jaxseg.data.store import StoredCase
from jaxseg.typing import Objects, UserError

ENDLESS = 2**40  # steps
Weights = Sequence[float] | Float[np.ndarray, "N"]  # one a case


def batches(
    cases: Sequence[StoredCase],
    *,
    patch_size: Sequence[int],
    batch_size: int,
    seed: int,
    steps: int | None = None,
    start_step: int = 0,
    foreground: float = 1 / 3,
    process_index: int = 0,
    process_count: int = 1,
    ndim: int | None = None,
    inner_size: Sequence[int] | None = None,
    transform: Callable[[dict], dict] | None = None,
    threads: int = 4,
    weights: Weights | Callable[[int], Weights] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields this host's rows of the global batches start_step, start_step + 1, ..., steps - 1.

    Sample j of step n depends on (seed, n, j) and the list of cases alone: any number of hosts sees the same global
    batch, and a run that resumes at step k sees what an uncut run sees from there. Cases are drawn with replacement,
    uniformly unless `weights` say otherwise. Patches are read ahead in threads; closing the generator ends them.

    Args:
      cases: prepared cases, in the same order on every host.
      patch_size: of the patches read. Two values take from 3D cases one random slice of the first axis.
      batch_size: of all hosts together.
      seed: not negative.
      steps: the run's total number of steps (the step to stop before), None for no end.
      start_step: the first step to yield.
      foreground: share of the batch that is centred on a foreground voxel (`patches.is_forced`).
      process_index, process_count: this host and their number.
      ndim: 2 or 3, checked against `patch_size` if given.
      inner_size: what stays of the patch after a later centre crop; every corner of the volume is reached by it. The
        patch itself if None.
      transform: applied to each batch of numpy arrays.
      threads: patches read at a time.
      weights: one a case, not negative: cases are drawn in proportion to them (boosting), and never with weight 0.
        Their sum is free. None draws uniformly; equal weights do so too, but with other random numbers. Or a function
        that gives them for a step, so that they change in the course of a training.

    Returns:
      Iterator of dict(image (B, *patch, C) float32, label (B, *patch) int32, index (B,) int32), B the rows of this host
      and index their places in the global batch. Outside the volume image and label are 0. Where the label is an object
      map, also members (B, V, L) int32, classes (B, M) int32 and crowd (B, M) bool, padded alike for all cases. With
      class maps of a previous stage also previous (B, *patch) int32.

    Raises:
      UserError: no cases, cases of unequal channels, a batch that the hosts cannot share, a patch of other axes,
        weights that do not fit.
    """
    size = tuple(int(value) for value in patch_size)
    inner = size if inner_size is None else tuple(int(value) for value in inner_size)
    _check(cases, size, inner, batch_size, seed, process_count, ndim)
    shares_at = _by_step(weights, len(cases))
    stop = ENDLESS if steps is None else steps
    cases = tuple(cases)
    local = batch_size // process_count
    tables = [case.objects for case in cases if case.objects is not None]
    most = [max(sizes) for sizes in zip(*(table.members.shape + table.classes.shape for table in tables))]

    def sample(place: int) -> dict[str, np.ndarray]:
        step, row = divmod(place, local)
        row += process_index * local
        forced = patches.is_forced(row, batch_size=batch_size, foreground=foreground)
        rng = np.random.default_rng((seed, step, row))
        case, drawn = draw(rng, cases, size, inner=inner, forced=forced, weights=shares_at(step))
        drawn = {**drawn, "index": np.asarray(row, np.int32)}
        return drawn if case.objects is None else {**drawn, **_padded(case.objects, most)}

    return _iterate(sample, range(start_step * local, max(stop, start_step) * local), local, transform, threads)


def beside(weights: Sequence[float] | Float[np.ndarray, "N"], *, others: int, share: float) -> Float[np.ndarray, "M"]:
    """Returns weights of N + `others` cases, of which the last ones get a share of all samples, equal among them.

    Args:
      weights: of the N first cases, as `batches` takes them; they keep their proportions.
      others: how many cases follow, at least one.
      share: of all samples that come from these, on average.

    Raises:
      UserError: weights that do not fit (see `batches`), or a share that is not from 0 to below 1.
      ValueError: there are no others.
    """
    if not 0 <= share < 1:
        raise UserError(f"The share of other cases should be from 0 to below 1, got {share}.")
    if others < 1:
        raise ValueError(f"there should be at least one other case, got {others}")
    own = (1 - share) * _shares(weights, len(weights))
    return np.concatenate([own, np.full(others, share / others)])


def draw(
    rng: np.random.Generator,
    cases: Sequence[StoredCase],
    size: tuple[int, ...],
    *,
    inner: tuple[int, ...],
    forced: bool,
    weights: Float[np.ndarray, "N"] | None = None,
) -> tuple[StoredCase, dict[str, np.ndarray]]:
    """Draws a case, with the probabilities `weights` (of sum 1; None: all alike), and a patch of it.

    Returns:
      the case, and image `(*size, C)` float32, label `(*size)` int32 and, where the case has one, previous, likewise.
    """
    # Without weights the generator is asked as ever: runs of older configs keep their numbers.
    case = cases[int(rng.integers(len(cases)) if weights is None else rng.choice(len(cases), p=weights))]
    flat = len(case.shape) - len(size)  # 1: a slice of a volume
    size, inner = (1,) * flat + size, (1,) * flat + inner
    voxel = patches.draw_voxel(rng, case.foreground) if forced else None
    if voxel is None:
        start = patches.uniform_start(rng, case.shape, size, inner=inner)
    else:
        start = patches.centred_start(voxel, case.shape, size, inner=inner)
    image, label = store.read_patch(case, start, size)
    drawn = {"image": image, "label": label}
    if case.previous is not None:
        drawn["previous"] = store.read_previous(case, start, size)
    return case, {name: value[0] for name, value in drawn.items()} if flat else drawn


def _padded(objects: Objects, most: Sequence[int]) -> dict[str, np.ndarray]:
    """Zeros up to the sizes (V, L, M) of the largest case."""
    members = np.zeros(most[:2], np.int32)
    members[: objects.members.shape[0], : objects.members.shape[1]] = objects.members
    missing = (0, most[2] - len(objects.classes))
    return {"members": members, "classes": np.pad(objects.classes, missing), "crowd": np.pad(objects.crowd, missing)}


def _iterate(
    sample: Callable[[int], dict], places: range, rows: int, transform: Callable[[dict], dict] | None, threads: int
) -> Iterator[dict[str, np.ndarray]]:
    import grain  # a second to import, and only training needs it

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, 2 * rows))
    data = grain.MapDataset.range(places.start, places.stop).map(sample)
    iterator = iter(data.to_iter_dataset(options).batch(rows, drop_remainder=True))
    try:
        for batch in iterator:
            yield batch if transform is None else transform(batch)
    finally:
        iterator.close()


def _by_step(
    weights: Weights | Callable[[int], Weights] | None, count: int
) -> Callable[[int], Float[np.ndarray, "N"] | None]:
    """Returns `step -> probabilities`; weights that do not change are checked at once."""
    if callable(weights):
        return lambda step: _shares(weights(step), count)
    shares = None if weights is None else _shares(weights, count)
    return lambda step: shares


def _shares(weights: Sequence[float] | Float[np.ndarray, "N"], count: int) -> Float[np.ndarray, "N"]:
    """Weights as probabilities of sum 1, or a UserError."""
    given = np.asarray(weights, np.float64)
    if given.shape != (count,):
        raise UserError(f"weights should be {count} numbers, one a case, got {given.size}.")
    if not np.isfinite(given).all() or (given < 0).any() or not given.any():
        wrong = given[~np.isfinite(given) | (given < 0)]
        came = f"among them {wrong[0]}" if len(wrong) else "all of them 0"
        raise UserError(f"weights should be finite, none negative and one at least above 0; got {count}, {came}.")
    # Divided by the largest first: the sum of huge weights would be infinite.
    given = given / given.max()
    return given / given.sum()


def _check(
    cases: Sequence[StoredCase],
    size: tuple[int, ...],
    inner: tuple[int, ...],
    batch_size: int,
    seed: int,
    process_count: int,
    ndim: int | None,
) -> None:
    if not cases:
        raise UserError("There should be at least one case to train on, got none; choose another data.fold.")
    if seed < 0:
        raise UserError(f"seed should not be negative, got {seed}.")
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"data.batch_size should be a positive multiple of the {process_count} processes, got {batch_size}."
        )
    if min(size) < 1 or (ndim is not None and ndim != len(size)):
        raise UserError(f"The patch size should have {ndim or 'two or three'} positive values, got {size}.")
    if len(inner) != len(size) or any(a > b for a, b in zip(inner, size)):
        raise UserError(
            f"The network's patch {inner} should have as many values as the patch read, {size}, and not exceed it."
        )
    for case in cases:
        if len(case.shape) < len(size):
            raise UserError(
                f"{case.name} has {len(case.shape)} axes, but the patch size {size} has {len(size)}; use a 2D patch."
            )
        if len(case.shape) > max(3, len(size)):
            raise UserError(f"{case.name} has {len(case.shape)} axes; patches are cut from 2D and 3D cases.")
        if case.channels != cases[0].channels:
            raise UserError(
                f"{case.name} has {case.channels} channels and {cases[0].name} has {cases[0].channels}; "
                "give every case the same channels."
            )
