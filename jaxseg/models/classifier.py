"""A backbone with the head it was pretrained with: whole images to classes. Logits are `(B, K)`."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxseg.models import backbones, layers
from jaxseg.models.backbones import efficientnet

POOLED = 7  # VGG's head sees 7x7 cells of the image, whatever its size


class Classifier(nn.Module):
    """ResNet and Xception: mean over space, one dense layer. VGG: 7x7 cells, two dense layers of 4096 more.
    EfficientNet-Lite0: a 1x1 convolution to 1280 channels, mean over space, one dense layer.

    Attributes:
      backbone: a name of `backbones`, or an outside "package.module:attr" (then the mean and one dense layer).
      num_classes: channels of the logits.
      ndim: spatial axes.
      dropout: rate before the dense layers when training (needs the "dropout" key).
      backbone_fields: further fields of the backbone, as pairs of name and value.
      norm: the backbone's; None: the one it was published with.
      axis_name: mapped axis over whose devices batch norm averages.
      dtype: what is computed in; parameters and logits stay float32.
    """

    backbone: str = "resnet18"
    num_classes: int = 1000
    ndim: int = 2
    dropout: float = 0.0
    backbone_fields: tuple[tuple[str, Any], ...] = ()
    norm: str | None = None
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "B *S C"], train: bool = False
    ) -> tuple[Float[Array, "B K"], dict[str, Any]]:
        """Returns the logits and `{"stages": the backbone's, "features": what the last layer was given}`."""
        layers.check_rank("Classifier", image, self.ndim)
        fields = {"ndim": self.ndim, "axis_name": self.axis_name, "dtype": self.dtype, **dict(self.backbone_fields)}
        if self.norm is not None:
            fields["norm"] = self.norm
        backbone = backbones.create(self.backbone, name="backbone", **fields)
        stages = backbone(image, train)
        x = stages[32]
        if self.backbone.startswith("vgg"):
            x = adaptive_average(x, (POOLED,) * self.ndim).reshape(x.shape[0], -1)
            for i in range(2):
                x = nn.relu(nn.Dense(4096, dtype=self.dtype, name=f"dense_{i}")(x))
                x = nn.Dropout(self.dropout, deterministic=not train, name=f"dropout_{i}")(x)
        else:
            if self.backbone.startswith("efficientnet"):
                x = layers.ConvBlock(
                    1280,
                    (1,) * self.ndim,
                    use_bias=False,
                    norm=backbone.norm,
                    epsilon=efficientnet.EPSILON,
                    activation="relu6",
                    axis_name=self.axis_name,
                    dtype=self.dtype,
                    name="expand",
                )(x, train)
            x = jnp.mean(x, axis=tuple(range(1, self.ndim + 1)), dtype=jnp.float32)
            x = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        logits = nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x)
        return logits.astype(jnp.float32), {"stages": stages, "features": x}


def adaptive_average(x: Float[Array, "B *S C"], size: tuple[int, ...]) -> Float[Array, "B *T C"]:
    """Means over `size` cells an axis, as PyTorch's: cell i of k goes from floor(i n / k) to ceil((i + 1) n / k)."""
    for axis, cells in enumerate(size, start=1):
        length = x.shape[axis]
        first, last = np.arange(cells) * length // cells, -(-np.arange(1, cells + 1) * length // cells)
        inside = (np.arange(length) >= first[:, None]) & (np.arange(length) < last[:, None])
        matrix = jnp.asarray(inside / inside.sum(1, keepdims=True), x.dtype)
        x = jnp.moveaxis(jnp.tensordot(matrix, x, axes=(1, axis)), 0, axis)
    return x
