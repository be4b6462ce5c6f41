"""Meta-learners of stacking: what weighs the members' probabilities at each pixel (`jaxseg.ensemble.stacking`).

Layers: `logistic`; `hidden` and `head` beside it where neighbours count too.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg.models import layers

ZEROS = nn.initializers.zeros


def _logistic(x: Array, num_classes: int, dtype: Any) -> Array:
    ones = (1,) * (x.ndim - 2)
    return layers.Conv(num_classes, ones, kernel_init=ZEROS, dtype=dtype, name="logistic")(x).astype(jnp.float32)


class LogisticRegression(nn.Module):
    """Multinomial logistic regression at each pixel: one 1x1 convolution with bias, zero at first.

    Its parameters come from `ensemble.fit_logistic`, or from training as those of any network.

    Attributes:
      num_classes: channels of the logits.
      ndim: spatial axes.
      dtype: what is computed in; parameters and logits stay float32.
    """

    num_classes: int = 2
    ndim: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "B *S C"], train: bool = False
    ) -> tuple[Float[Array, "B *S K"], dict[str, Any]]:
        """Returns the logits and no intermediates.

        Raises:
          ValueError: an image of another rank.
        """
        layers.check_rank("LogisticRegression", image, self.ndim)
        return _logistic(image, self.num_classes, self.dtype), {}


class StackingConv(nn.Module):
    """Logistic regression at each pixel, plus a 3x3(x3) convolution, ReLU and a 1x1 convolution that starts at zero.

    So it begins as the logistic regression, and learns what the neighbours add: that a lone pixel is noise, that a
    member is right in the middle of an organ and wrong at its rim. Beyond the border features are 0, which in the
    log-ratio form of `ensemble.member_features` stands for even probabilities.

    Attributes:
      num_classes: channels of the logits.
      ndim: spatial axes.
      features: channels of the hidden layer.
      dtype: what is computed in; parameters and logits stay float32.
    """

    num_classes: int = 2
    ndim: int = 2
    features: int = 8
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "B *S C"], train: bool = False
    ) -> tuple[Float[Array, "B *S K"], dict[str, Any]]:
        """Returns the logits and `{"logistic": the logistic regression's part of them}`.

        Raises:
          ValueError: an image of another rank.
        """
        layers.check_rank("StackingConv", image, self.ndim)
        linear = _logistic(image, self.num_classes, self.dtype)
        hidden = layers.Conv(
            self.features, (3,) * self.ndim, kernel_init=layers.he_normal(0.0), dtype=self.dtype, name="hidden"
        )(image)
        # No bias: the logistic regression has one.
        head = layers.Conv(
            self.num_classes,
            (1,) * self.ndim,
            kernel_init=ZEROS,
            use_bias=False,
            dtype=self.dtype,
            name="head",
        )
        return linear + head(nn.relu(hidden)).astype(jnp.float32), {"logistic": linear}
