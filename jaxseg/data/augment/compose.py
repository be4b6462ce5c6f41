"""From one-sample functions to what a train step calls: chains, batches, and pipelines named in a config."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jaxtyping import Array

from jaxseg import registry
from jaxseg.data.augment.draw import Sample
from jaxseg.typing import AugmentFn, UserError


def chain(functions: Sequence[Callable]) -> Callable:
    """Returns `(key, sample) -> sample` that runs the functions one after another, each with its own key.

    Functions of samples give a function of samples; functions of batches give one of batches.
    """
    functions = tuple(functions)

    def run(key: Array, sample: Any) -> Any:
        for place, function in enumerate(functions):
            sample = function(jax.random.fold_in(key, place), sample)
        return sample

    return run


def batched(function: Callable[[Array, Sample], Sample]) -> AugmentFn:
    """Returns `(key, batch) -> batch` that augments every sample of a batch by itself.

    A sample's key is `fold_in(key, batch["index"][i])`, its place in the global batch: the numbers are the same on any
    number of devices. Only "image" and "label" are augmented; other entries pass through untouched.

    Accelerators take the whole batch at once (vmap: every change is computed, then kept or not). A CPU takes one sample
    after another and skips what was not drawn: nnU-Net's chain is five times faster so.

    Raises:
      ValueError: (when called) the batch has no "image", "label" or "index".
    """

    def augment(key: Array, batch: Mapping[str, Any]) -> dict[str, Any]:
        missing = {"image", "label", "index"} - set(batch)
        if missing:
            raise ValueError(
                f"A batch to augment needs image, label and index, but lacks {', '.join(sorted(missing))}."
            )
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(batch["index"])
        sample = {"image": batch["image"], "label": batch["label"]}
        changed = jax.lax.platform_dependent(keys, sample, cpu=_one_by_one(function), default=jax.vmap(function))
        return {**batch, **changed}

    return augment


def _one_by_one(function):
    return lambda keys, sample: jax.lax.map(lambda pair: function(*pair), (keys, sample))


def none(key: Array, sample: Sample) -> Sample:
    """Changes nothing."""
    del key
    return sample


def pipeline(
    text: str, table: Mapping[str, str], *, patch_size: Sequence[int], defaults: Mapping[str, Any]
) -> tuple[Callable[[Array, Sample], Sample], tuple[int, ...]]:
    """Reads "name(option=value)|name|..." into one function of samples, and the size it wants to read.

    Sizes are found from the end: the last function returns `patch_size`, and each gives the one before it the size that
    it wants itself. A function that takes `patch_size`, or one of `defaults`, and is not given it in the text, gets it.

    Args:
      text: the pipeline; "name_degrees" is an option in degrees of a function that takes `name` in radians.
      table: name -> "module:attr".
      patch_size: what the pipeline returns.
      defaults: option -> value.

    Raises:
      UserError: a name or an option is unknown, or an option without a default is missing.
    """
    size = tuple(int(n) for n in patch_size)
    functions = []
    for part in reversed(_split(text)):
        name, given = registry.parse_call(part)
        function = registry.resolve(name, table, kind="augmentation")
        options = _options(name, function, given, {"patch_size": size, **defaults})
        functions.append(functools.partial(function, **options))
        if hasattr(function, "input_size"):
            wanted = {word: value for word, value in options.items() if word != "patch_size"}
            size = tuple(function.input_size(options.get("patch_size", size), **wanted))
        elif "patch_size" in given:
            size = options["patch_size"]
    return chain(functions[::-1]), size


def _options(name: str, function: Callable, given: dict, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Checks the options in the text against the function's signature, and fills in the defaults it takes."""
    parameters = inspect.signature(function).parameters.values()
    known = {p.name: p for p in list(parameters)[2:] if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    takes_all = any(p.kind == p.VAR_KEYWORD for p in parameters)
    options = {word: value for word, value in defaults.items() if word in known}
    for word, value in given.items():
        bare = word.removesuffix("_degrees")
        if word not in known and bare != word and bare in known:
            options[bare] = _radians(value)
        elif word in known or takes_all:
            options[word] = value
        else:
            raise UserError(f"The augmentation {name!r} has no option {word!r}; it has {', '.join(known) or 'none'}.")
    missing = [word for word, p in known.items() if p.default is p.empty and word not in options]
    if missing:
        raise UserError(f"The augmentation {name!r} needs {', '.join(missing)}: write {name}({missing[0]}=...).")
    return options


def _radians(value: float | Sequence[float]) -> float | tuple[float, ...]:
    return tuple(map(math.radians, value)) if isinstance(value, Sequence) else math.radians(value)


def _split(text: str) -> list[str]:
    """Splits at the bars that stand outside brackets."""
    parts = registry.split(text, "|")
    if not all(parts):
        raise UserError(f"The augmentation {text!r} should read name|name(option=value)|...; for none write 'none'.")
    return parts


def mirrored_axes(text: str, table: Mapping[str, str], *, ndim: int) -> tuple[int, ...]:
    """Returns the axes that a pipeline may flip, which are those that flips at test time may average over.

    A function says so itself: by an option `mirror_axes` (None is all), by being `mirror` (option `axes`), or by an
    attribute `mirrors_all`.

    Raises:
      UserError: as `pipeline`.
    """
    axes: set[int] = set()
    for part in _split(text):
        name, given = registry.parse_call(part)
        function = registry.resolve(name, table, kind="augmentation")
        option = "axes" if name == "mirror" else "mirror_axes"
        if option in inspect.signature(function).parameters:
            chosen = given.get(option)
            axes |= set(range(ndim)) if chosen is None else {axis % ndim for axis in chosen}
        elif getattr(function, "mirrors_all", False):
            axes |= set(range(ndim))
    return tuple(sorted(axes))
