"""Feature pyramid network for semantic segmentation (Kirillov et al. 2019, panoptic FPN's semantic branch).

As segmentation_models.pytorch's `FPN`. Layers: `backbone/...`, `lateral_4` to `lateral_32`, `level_4_conv_0`, `head`.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg import ops
from jaxseg.models import backbones, layers

STRIDES = (32, 16, 8, 4)


class FPN(nn.Module):
    """A top-down pyramid of strides 32 to 4; each level is convolved up to stride 4, and the sum gives the logits.

    Attributes:
      backbone: a name of `backbones`, or an outside "package.module:attr".
      num_classes: channels of the logits.
      ndim: spatial axes.
      features: channels of the pyramid.
      segmentation_features: channels of the branches that lead to stride 4.
      segmentation_norm: their normalisation.
      dropout: rate of whole channels before the head when training (needs the "dropout" key).
      backbone_fields: further fields of the backbone, as pairs of name and value.
      norm: the backbone's, see `layers.norm_layer`.
      axis_name: mapped axis over whose devices batch norm averages.
      dtype: what is computed in; parameters and logits stay float32.
    """

    backbone: str = "resnet50"
    num_classes: int = 2
    ndim: int = 2
    features: int = 256
    segmentation_features: int = 128
    segmentation_norm: str = "group32"
    dropout: float = 0.2
    backbone_fields: tuple[tuple[str, Any], ...] = ()
    norm: str = "batch"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @property
    def divisor(self) -> tuple[int, ...]:
        """What each axis of the input must be divisible by."""
        return (STRIDES[0],) * self.ndim

    @nn.compact
    def __call__(
        self, image: Float[Array, "B *S C"], train: bool = False
    ) -> tuple[Float[Array, "B *S K"], dict[str, Any]]:
        """Returns the logits and `{"stages": the backbone's, "pyramid": by stride, "features": before the head}`.

        Raises:
          ValueError: the image's rank or size does not fit.
        """
        layers.check_rank("FPN", image, self.ndim)
        layers.check_divisible("FPN", image, self.divisor)
        common = {"axis_name": self.axis_name, "dtype": self.dtype}
        fields = {"ndim": self.ndim, "norm": self.norm, **common, **dict(self.backbone_fields)}
        stages = backbones.create(self.backbone, name="backbone", **fields)(image, train)
        pyramid = self._pyramid(stages)
        block = {
            "use_bias": False,
            "norm": self.segmentation_norm,
            "activation": "relu",
            "kernel_init": layers.he_normal(0.0),
            **common,
        }
        total = jnp.zeros((), self.dtype)
        for stride in STRIDES:
            x, doublings = pyramid[stride], STRIDES[::-1].index(stride)
            for i in range(max(1, doublings)):
                name = f"level_{stride}_conv_{i}"
                x = layers.ConvBlock(self.segmentation_features, (3,) * self.ndim, name=name, **block)(x, train)
                if doublings:
                    x = ops.resize(x, [2 * n for n in x.shape[1:-1]], align_corners=True)
            total = total + x
        whole_channels = tuple(range(1, self.ndim + 1))
        x = nn.Dropout(self.dropout, broadcast_dims=whole_channels, deterministic=not train, name="dropout")(total)
        logits = layers.logits_head(x, self.num_classes, dtype=self.dtype)
        logits = ops.resize(logits, image.shape[1:-1], align_corners=True)
        return logits, {"stages": stages, "pyramid": pyramid, "features": x}

    def _pyramid(self, stages: dict[int, Array]) -> dict[int, Array]:
        """Returns the merged maps by stride."""
        x, pyramid = None, {}
        for stride in STRIDES:
            lateral = layers.Conv(
                self.features,
                (1,) * self.ndim,
                kernel_init=layers.he_normal(0.0),
                dtype=self.dtype,
                name=f"lateral_{stride}",
            )(stages[stride])
            x = lateral if x is None else layers.double(x) + lateral
            pyramid[stride] = x
        return pyramid
