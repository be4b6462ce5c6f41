"""What actions were worth: returns of an episode, with neighbours' rewards if wanted, and the actor-critic's loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg import ops


def identity_kernel(width: int, *, ndim: int) -> Float[Array, "*W 1 1"]:
    """Returns a reward map's kernel that leaves rewards where they are, as pixelRL's training starts."""
    kernel = jnp.zeros((width,) * ndim + (1, 1))
    return kernel.at[(width // 2,) * ndim].set(1.0)


def spread(returns: Float[Array, "B *S P"], kernel: Float[Array, "*W 1 1"] | None) -> Float[Array, "B *S P"]:
    """Convolves each plane with the kernel: an agent's action counts for its neighbours' later rewards too."""
    if kernel is None:
        return returns
    planes = jnp.moveaxis(returns, -1, 0)
    flat = planes.reshape(-1, *returns.shape[1:-1], 1)
    return jnp.moveaxis(ops.conv(flat, kernel).reshape(planes.shape), 0, -1)


def n_step_returns(
    rewards: Float[Array, "T B *S P"],
    values: Float[Array, "T B *S P"],
    *,
    discount: float,
    horizon: int = 0,
    kernel: Float[Array, "*W 1 1"] | None = None,
) -> Float[Array, "T B *S P"]:
    """Returns R_t = r_t + g w * (r_(t+1) + g w * (...)), after n steps with the critic's value in place of the rest.

    `w *` is `spread`. An episode ends after T steps: what follows the last reward is 0.

    Args:
      rewards, values: by step; values are those of the state before the step.
      discount: g.
      horizon: n; 0: the whole episode, so that values are not asked.
      kernel: of the reward map, or None.

    Source: Mnih et al. 2016 (n-step returns); Furuta et al. 2019, equation 11 (reward-map convolution).
    """
    length = len(rewards)
    steps = min(horizon or length, length)
    found = []
    for start in range(length):
        end = start + steps
        value = values[end] if end < length else jnp.zeros_like(rewards[0])
        for time in reversed(range(start, min(end, length))):
            value = rewards[time] + discount * spread(value, kernel)
        found.append(value)
    return jnp.stack(found)


def actor_critic_loss(
    log_probabilities: Float[Array, "T B *S P"],
    entropies: Float[Array, "T B *S P"],
    values: Float[Array, "T B *S P"],
    returns: Float[Array, "T B *S P"],
    seen: Float[Array, "B *S 1"],
    *,
    entropy: float,
    value: float,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Returns the loss whose gradient is the policy gradient's estimate, summed over steps, a mean over pixels.

    A step adds -log p(a) A - entropy H + value (V - R)^2 / 2 with A = R - V; with value = 0 there is no critic, and
    A = R. No gradient reaches the critic by A. One reaches whatever the returns depend on (a reward map's kernel), as
    in pixelRL.

    Args:
      log_probabilities: of the actions that were taken.
      entropies: of the policy at each pixel.
      values: of the critic.
      returns: of `n_step_returns`.
      seen: 1 where a pixel counts.
      entropy, value: weights.
    """
    baseline = jax.lax.stop_gradient(values) if value else jnp.zeros_like(values)
    advantage = returns - baseline
    actor = -log_probabilities * advantage
    critic = 0.5 * (values - returns) ** 2
    disorder = pixel_mean(entropies, seen)
    parts = {"loss/actor": pixel_mean(actor, seen), "entropy": disorder / len(entropies)}
    total = parts["loss/actor"] - entropy * disorder
    if value:
        parts["loss/critic"] = pixel_mean(critic, seen)
        total = total + value * parts["loss/critic"]
    return total, parts


def pixel_mean(maps: Float[Array, "T B *S P"], seen: Float[Array, "B *S 1"]) -> Float[Array, ""]:
    """Sums over steps, and averages over the planes of all pixels that count."""
    return (maps * seen).sum() / jnp.maximum(seen.sum() * maps.shape[-1], 1.0)
