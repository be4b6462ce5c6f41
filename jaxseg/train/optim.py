"""Optimisers from optax by name; the learning rate stays outside, so that the horizon can be known late."""

import functools
import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from jaxseg import registry
from jaxseg.typing import UserError

Schedule = Callable[[Array, Array], Array]  # (step, horizon) -> factor of the base rate

SCHEDULES = {
    "constant": "jaxseg.train.optim:constant",
    "poly": "jaxseg.train.optim:poly",
    "cosine": "jaxseg.train.optim:cosine",
    "cycles": "jaxseg.train.optim:cycles",
}
NAMES = ("sgd", "adam", "adamw", "lamb")


def constant(progress: Float[Array, ""]) -> Float[Array, ""]:
    """The base rate throughout."""
    return jnp.ones_like(progress)


def poly(progress: Float[Array, ""], *, power: float = 0.9) -> Float[Array, ""]:
    """(1 - progress)^power, as in DeepLab and nnU-Net (power 0.9)."""
    return (1.0 - progress) ** power


def cosine(progress: Float[Array, ""], *, final: float = 0.0) -> Float[Array, ""]:
    """Half a cosine from 1 to `final` (Loshchilov and Hutter 2017)."""
    return final + (1.0 - final) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


def cycles(progress: Float[Array, ""], *, count: int = 5, final: float = 0.0) -> Float[Array, ""]:
    """`count` cosines of equal length, each from 1 to `final`, for snapshot ensembles (Huang et al. 2017, equation 2).

    A snapshot is taken at the end of each. Whatever lies past the horizon stays at `final`.

    Raises:
      UserError: count is not a whole number of 1 or more.
    """
    if count < 1 or count != int(count):
        raise UserError(f"The count of the schedule cycles should be a whole number of 1 or more, got {count}.")
    place = progress * count
    # A restart falls on its own step although step / horizon is rounded: 4 units in the last place are forgiven.
    cycle = jnp.minimum(jnp.floor(place * (1.0 + 5e-7)), count - 1.0)
    return cosine(jnp.clip(place - cycle, 0.0, 1.0), final=final)


def schedule(text: str, *, lr: float, warmup_steps: int = 0) -> Schedule:
    """Returns `(step, horizon) -> learning rate`: a linear warm-up, then the named decay until the horizon.

    Raises:
      UserError: an unknown schedule name.
    """
    decay = registry.build(text, SCHEDULES, kind="schedule")

    def rate(step: Array, horizon: Array) -> Array:
        step, horizon = step.astype(jnp.float32), horizon.astype(jnp.float32)
        progress = jnp.clip((step - warmup_steps) / jnp.maximum(horizon - warmup_steps, 1.0), 0.0, 1.0)
        warmup = jnp.minimum(1.0, (step + 1.0) / (warmup_steps + 1.0))
        return lr * warmup * decay(progress)

    return rate


def decay_mask(params: PyTree, *, no_decay: str) -> PyTree:
    """True for every parameter whose path ("encoder_0/conv/kernel") does not match the pattern."""
    pattern = re.compile(no_decay)

    def decays(path, _):
        return not pattern.search(_name(path))

    return jax.tree_util.tree_map_with_path(decays, params)


def parameter_factors(
    factors: Sequence[tuple[str, float]] = (), *, freeze: str = "", freeze_steps: int = 0
) -> optax.GradientTransformation | None:
    """Returns the last link of an optimiser: each parameter's own factor of the learning rate; None: all are 1.

    Args:
      factors: pairs of a pattern of paths ("^backbone/stage_1") and a factor; the first pattern that matches counts.
      freeze: pattern of parameters that do not move, whatever their factor.
      freeze_steps: how long; 0: to the end. Their moments are followed meanwhile, so that they start in step.
    """
    if not factors and not freeze:
        return None
    frozen = re.compile(freeze) if freeze else None
    patterns = [(re.compile(pattern), str(float(factor))) for pattern, factor in factors]

    def label(path, _) -> str:
        name = _name(path)
        own = next((factor for pattern, factor in patterns if pattern.search(name)), "1.0")
        return f"frozen {own}" if frozen and frozen.search(name) else own

    links: dict[str, optax.GradientTransformation] = {}
    for factor in {"1.0", *(factor for _, factor in patterns)}:
        scale = optax.scale(float(factor))
        links[factor] = scale
        later = optax.chain(scale, optax.scale_by_schedule(_after(freeze_steps)))
        links[f"frozen {factor}"] = later if freeze_steps else optax.set_to_zero()
    return optax.multi_transform(links, lambda params: jax.tree_util.tree_map_with_path(label, params))


def _after(steps: int) -> Callable[[Array], Array]:
    return lambda count: jnp.where(count < steps, 0.0, 1.0)


def _name(path) -> str:
    return "/".join(str(getattr(part, "key", part)) for part in path)


def optimizer(
    name: str,
    *,
    weight_decay: float,
    no_decay: str,
    momentum: float = 0.99,
    betas: tuple[float, float] = (0.9, 0.999),
    clip_norm: float = 0.0,
    last: optax.GradientTransformation | None = None,
) -> optax.GradientTransformation:
    """Returns the direction of descent, not yet scaled by the learning rate.

    `sgd` is Nesterov's with the decay inside the gradient (as PyTorch and nnU-Net have it), `adam` likewise; `adamw`
    and `lamb` decay beside the gradient; `betas` are theirs and Adam's: decays of the running mean and the mean square.
    `last` is applied to what comes out (see `parameter_factors`).

    Raises:
      UserError: an unknown name.
    """
    mask = functools.partial(decay_mask, no_decay=no_decay) if no_decay else None
    decay = [optax.add_decayed_weights(weight_decay, mask)] if weight_decay else []
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    first, second = betas
    chains = {
        "sgd": [*clip, *decay, optax.trace(momentum, nesterov=True)],
        "adam": [*clip, *decay, optax.scale_by_adam(first, second)],
        "adamw": [*clip, optax.scale_by_adam(first, second), *decay],
        "lamb": [*clip, optax.scale_by_adam(first, second, eps=1e-6), *decay, optax.scale_by_trust_ratio()],
    }
    if name not in chains:
        raise UserError(f"optim.name must be one of {', '.join(chains)}, got {name!r}.")
    return optax.chain(*chains[name], *([] if last is None else [last]))
