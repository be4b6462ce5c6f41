"""A network that tells what each of a few actions is worth, given an image of the situation. Values are `(B, K)`."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg.models import layers

SMALL = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")  # first values are close to 0


class QNetwork(nn.Module):
    """Strided 3x3 convolutions, mean and maximum over space, a dense layer, and duelling heads (Wang et al. 2016).

    The worth of an action is the situation's value plus the action's advantage, less the mean advantage. Any image
    size; no normalisation, since how bright and how large things are is what it should tell.
    Layers: `conv_0` and so on, `hidden`, `value`, `advantage`.

    Attributes:
      num_classes: actions.
      ndim: spatial axes.
      features: channels of the convolutions, each of stride 2.
      hidden: width of the dense layer.
      axis_name: of the mapped axis; nothing here takes statistics over it.
      dtype: what is computed in; parameters and values stay float32.
    """

    num_classes: int = 2
    ndim: int = 2
    features: tuple[int, ...] = (16, 32, 64)
    hidden: int = 64
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "B *S C"], train: bool = False
    ) -> tuple[Float[Array, "B K"], dict[str, Any]]:
        """Returns the values and `{"features": what the heads were given, "value": (B, 1), "advantage": (B, K)}`.

        Raises:
          ValueError: an image of another rank.
        """
        layers.check_rank("QNetwork", image, self.ndim)
        x = image
        for number, width in enumerate(self.features):
            x = layers.ConvBlock(
                width,
                (3,) * self.ndim,
                strides=2,
                norm="none",
                activation="relu",
                kernel_init=layers.he_normal(0.0),
                dtype=self.dtype,
                name=f"conv_{number}",
            )(x, train)
        space = tuple(range(1, self.ndim + 1))
        pooled = jnp.concatenate([x.astype(jnp.float32).mean(space), x.astype(jnp.float32).max(space)], axis=-1)
        found = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(pooled))
        value = nn.Dense(1, kernel_init=SMALL, dtype=self.dtype, name="value")(found).astype(jnp.float32)
        advantage = nn.Dense(self.num_classes, kernel_init=SMALL, dtype=self.dtype, name="advantage")(found)
        advantage = advantage.astype(jnp.float32)
        values = value + advantage - advantage.mean(-1, keepdims=True)
        return values, {"features": found, "value": value, "advantage": advantage}
