"""A fully convolutional actor and critic that share their first layers (pixelRL: Furuta, Inoue and Yamasaki 2019).

Layers: `trunk_1` to `trunk_4`; `policy_1`, `policy_2`, `policy`; `value_1`, `value_2`, `value`.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg.models import layers

TRUNK = (1, 2, 3, 4)  # dilations
BRANCH = (3, 2)
HEAD_DEVIATION = 0.01  # of the last layers' weights: all actions start about as likely, all values near 0


def near_zero(key, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Normal weights of deviation 0.01."""
    return nn.initializers.normal(HEAD_DEVIATION)(key, shape, dtype)


class PixelActorCritic(nn.Module):
    """Dilated 3x3 convolutions at full resolution; every output sees 31 pixels along each axis. Any image size.

    The published network has a convolutional GRU in its policy, for what an agent should remember. Here the state holds
    all that later steps depend on, and there is none.

    Attributes:
      num_classes: channels of the output: scores of the actions, then `values` values.
      values: channels of the critic.
      ndim: spatial axes.
      features: channels of every hidden layer (64 as published).
      dtype: what is computed in; parameters and outputs stay float32.
    """

    num_classes: int = 10
    values: int = 1
    ndim: int = 2
    features: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "B *S C"], train: bool = False
    ) -> tuple[Float[Array, "B *S K"], dict[str, Any]]:
        """Returns the scores of the actions with the values behind them, and nothing else.

        Raises:
          ValueError: an image of another rank, or no channel left for the actions.
        """
        layers.check_rank("PixelActorCritic", image, self.ndim)
        actions = self.num_classes - self.values
        if actions < 1 or self.values < 1:
            raise ValueError(
                f"PixelActorCritic.num_classes should be the actions' scores and the values together, but it is "
                f"{self.num_classes} with {self.values} values."
            )
        x = image.astype(self.dtype)
        for place, dilation in enumerate(TRUNK, start=1):
            x = self._hidden(f"trunk_{place}", dilation)(x)
        return jnp.concatenate([self._branch("policy", x, actions), self._branch("value", x, self.values)], axis=-1), {}

    def _branch(self, name: str, x: Float[Array, "B *S F"], channels: int) -> Float[Array, "B *S K"]:
        for place, dilation in enumerate(BRANCH, start=1):
            x = self._hidden(f"{name}_{place}", dilation)(x)
        head = layers.Conv(channels, (1,) * self.ndim, kernel_init=near_zero, dtype=self.dtype, name=name)
        return head(x).astype(jnp.float32)

    def _hidden(self, name: str, dilation: int) -> Callable[[Array], Array]:
        layer = layers.Conv(
            self.features,
            (3,) * self.ndim,
            dilation=dilation,
            kernel_init=layers.he_normal(slope=0.0),
            dtype=self.dtype,
            name=name,
        )
        return lambda x: nn.relu(layer(x))
