"""Mask R-CNN (He et al. 2017) on a feature pyramid (Lin et al. 2017), in static shapes; torchvision's architecture.

Layers: `backbone/...`, `neck/{lateral,output}_4..32`, `proposal_head/{conv,objectness,deltas}`,
`box_head/{dense_0,dense_1,classes,deltas}`, `mask_head/{conv_0..3,up,head}`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxseg import ops
from jaxseg.models import backbones, layers, proposals

Pyramid = Mapping[int, Array]  # by stride


def small_normal(deviation: float):
    """Normal weights of that standard deviation: heads that begin undecided."""
    return lambda key, shape, dtype=jnp.float32: deviation * jax.random.normal(key, shape, dtype)


class PyramidNeck(nn.Module):
    """Laterals, a top-down path and 3x3 convolutions; one more level by striding the coarsest (P6)."""

    features: int
    finest: int = 4
    norm: str = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, stages: Mapping[int, Array], train: bool) -> dict[int, Array]:
        block = {"norm": self.norm, "activation": "none", "kernel_init": layers.he_normal(1.0), "dtype": self.dtype}
        x, pyramid = None, {}
        for stride in sorted((stride for stride in stages if stride >= self.finest), reverse=True):
            lateral = layers.ConvBlock(self.features, (1, 1), name=f"lateral_{stride}", **block)(stages[stride], train)
            x = lateral if x is None else layers.double(x) + lateral
            pyramid[stride] = layers.ConvBlock(self.features, (3, 3), name=f"output_{stride}", **block)(x, train)
        coarsest = max(pyramid)
        return {**dict(sorted(pyramid.items())), 2 * coarsest: pyramid[coarsest][:, ::2, ::2]}


class ProposalHead(nn.Module):
    """For each anchor whether it holds an object, and how its box should move; shared by all levels."""

    anchors: int  # a cell
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, level: Float[Array, "B H W C"]) -> tuple[Float[Array, "B A"], Float[Array, "B A 4"]]:
        init = small_normal(0.01)
        x = layers.Conv(level.shape[-1], (3, 3), kernel_init=init, dtype=self.dtype, name="conv")(level)
        x = nn.relu(x)
        logits = layers.Conv(self.anchors, (1, 1), kernel_init=init, dtype=self.dtype, name="objectness")(x)
        deltas = layers.Conv(4 * self.anchors, (1, 1), kernel_init=init, dtype=self.dtype, name="deltas")(x)
        batch = level.shape[0]
        return logits.reshape(batch, -1).astype(jnp.float32), deltas.reshape(batch, -1, 4).astype(jnp.float32)


class BoxHead(nn.Module):
    """Two dense layers; the class of each box, and one refined box a class."""

    num_classes: int
    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N o o C"]) -> tuple[Float[Array, "B N K"], Float[Array, "B N K 4"]]:
        x = x.reshape(*x.shape[:2], -1).astype(self.dtype)
        for i in range(2):
            x = nn.relu(nn.Dense(self.features, dtype=self.dtype, name=f"dense_{i}")(x))
        x = x.astype(jnp.float32)
        logits = nn.Dense(self.num_classes, kernel_init=small_normal(0.01), name="classes")(x)
        deltas = nn.Dense(4 * self.num_classes, kernel_init=small_normal(0.001), name="deltas")(x)
        return logits, deltas.reshape(*deltas.shape[:2], self.num_classes, 4)


class MaskHead(nn.Module):
    """Four convolutions and a doubling: one mask a class on twice the grid of its input."""

    num_classes: int
    features: int
    convs: int = 4
    norm: str = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N o o C"], train: bool) -> Float[Array, "B N m m K"]:
        batch, number = x.shape[:2]
        x = x.reshape(batch * number, *x.shape[2:])
        init = layers.he_normal(0.0, fan_in=layers.fan_out)
        block = {"norm": self.norm, "activation": "relu", "kernel_init": init, "dtype": self.dtype}
        for i in range(self.convs):
            x = layers.ConvBlock(self.features, (3, 3), name=f"conv_{i}", **block)(x, train)
        x = nn.relu(layers.ConvTranspose(self.features, (2, 2), kernel_init=init, dtype=self.dtype, name="up")(x))
        x = layers.logits_head(x, self.num_classes, dtype=self.dtype)
        return x.reshape(batch, number, *x.shape[1:])


class MaskRCNN(nn.Module):
    """Boxes, classes and masks of the objects in 2D images of any number of channels.

    A call returns detections. Training calls the parts: `dense`, then `box_outputs` and `mask_outputs` of the boxes
    that the task samples.

    Attributes:
      num_classes: with the background, which is class 0.
      backbone: a name of `backbones` or an outside "package.module:attr"; its stages from `finest` on are used.
      ndim: 2.
      features: channels of the pyramid.
      finest: stride of the pyramid's finest level: 4, or 2 for objects of less than ten pixels.
      box_features: width of the box head.
      mask_features, mask_convs: width and depth of the mask head.
      anchor_sizes: pixels, one or more a level from `finest` on; there is a level more than the backbone has stages.
      anchor_ratios: heights to widths.
      anchor_offset: where in a cell the anchors' centre lies: 0.5 in its middle, 0 as in torchvision.
      canonical_size: side in pixels of a box that is read at stride 16.
      aligned, sampling_ratio: of RoIAlign; torchvision has aligned=False.
      proposals_before, proposals_after: boxes into suppression a level and out of it, at prediction.
      training_proposals_before, training_proposals_after: and in training.
      proposal_threshold: IoU of that suppression.
      score_threshold: least score of a detection.
      detection_threshold: IoU of suppression within a class.
      max_detections: an image.
      backbone_fields: further fields of the backbone, as pairs of name and value.
      norm: the backbone's: "frozen_batch" with pretrained weights; "batch", "group8" and others of `layers.norm_layer`.
      head_norm: that of the pyramid and the mask head.
      axis_name: mapped axis over whose devices batch norm averages.
      dtype: what is computed in; boxes, scores and losses stay float32.
    """

    num_classes: int = 2
    backbone: str = "resnet50"
    ndim: int = 2
    features: int = 256
    finest: int = 4
    box_features: int = 1024
    mask_features: int = 256
    mask_convs: int = 4
    anchor_sizes: tuple[Any, ...] = (32, 64, 128, 256, 512)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    anchor_offset: float = 0.5
    canonical_size: float = 224.0
    aligned: bool = True
    sampling_ratio: int = 2
    proposals_before: int = 1000
    proposals_after: int = 1000
    training_proposals_before: int = 2000
    training_proposals_after: int = 1000
    proposal_threshold: float = 0.7
    score_threshold: float = 0.05
    detection_threshold: float = 0.5
    max_detections: int = 100
    backbone_fields: tuple[tuple[str, Any], ...] = ()
    norm: str = "frozen_batch"
    head_norm: str = "none"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self):
        if self.ndim != 2:
            raise ValueError(f"Mask R-CNN works on 2D images; ndim is {self.ndim}.")
        common = {"axis_name": self.axis_name, "dtype": self.dtype}
        fields = {"ndim": 2, "norm": self.norm, **common, **dict(self.backbone_fields)}
        self.network = backbones.create(self.backbone, name="backbone", **fields)
        self.neck = PyramidNeck(self.features, self.finest, self.head_norm, dtype=self.dtype)
        shapes = np.size(self.anchor_sizes[0]) * len(self.anchor_ratios)
        self.proposal_head = ProposalHead(int(shapes), dtype=self.dtype)
        self.box_head = BoxHead(self.num_classes, self.box_features, dtype=self.dtype)
        self.mask_head = MaskHead(
            self.num_classes, self.mask_features, self.mask_convs, self.head_norm, dtype=self.dtype
        )

    @property
    def divisor(self) -> tuple[int, ...]:
        """What each axis of the input must be divisible by."""
        return (32, 32)

    def __call__(
        self,
        image: Float[Array | np.ndarray, "B H W C"],
        train: bool = False,
        size: Float[Array | np.ndarray, "B 2"] | None = None,
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Returns the detections and what led to them.

        Args:
          image: padded below and to the right to a size that `divisor` divides.
          train: see `dense`.
          size: (height, width) of each image without the padding; None: all of it.

        Returns:
          The fields of `proposals.Detections` by name, with "masks" `(B, D, m, m)`, probabilities on a grid over each
          box; and `aux`: what `dense` returns, "proposals", "class_logits" and "class_deltas".

        Raises:
          ValueError: the image's rank or size does not fit.
        """
        image = jnp.asarray(image)
        canvas = jnp.array(image.shape[1:3], jnp.float32)
        limits = jnp.tile(canvas, (image.shape[0], 1)) if size is None else jnp.asarray(size)
        aux = self.dense(image, train)
        found = self.propose(aux, image.shape[1:3], limits)
        logits, deltas = self.box_outputs(aux["pyramid"], found.boxes)

        def one(*given: Array) -> proposals.Detections:
            return proposals.detect(
                *given,
                score_threshold=self.score_threshold,
                threshold=self.detection_threshold,
                most=self.max_detections,
            )

        detections = jax.vmap(one)(logits, deltas, found.boxes, found.valid, limits)
        masks = self.mask_outputs(aux["pyramid"], detections.boxes, train)
        own = jnp.take_along_axis(masks, detections.labels[..., None, None, None], axis=-1)[..., 0]
        result = {**detections._asdict(), "masks": jax.nn.sigmoid(own)}
        return result, {**aux, "proposals": found, "class_logits": logits, "class_deltas": deltas}

    def dense(self, image: Float[Array, "B H W C"], train: bool = False) -> dict[str, Any]:
        """Returns `{"pyramid": by stride, "objectness": a level, "box_deltas": a level}`; train: batch statistics."""
        layers.check_rank("MaskRCNN", image, 2)
        layers.check_divisible("MaskRCNN", image, self.divisor)
        pyramid = self.neck(self.network(image, train), train)
        outputs = [self.proposal_head(level) for level in pyramid.values()]
        return {
            "pyramid": pyramid,
            "objectness": tuple(logits for logits, _ in outputs),
            "box_deltas": tuple(deltas for _, deltas in outputs),
        }

    def propose(
        self, dense: Mapping[str, Any], canvas: Sequence[int], size: Float[Array, "B 2"], train: bool = False
    ) -> proposals.Proposals:
        """Returns the proposals of each image; no gradient runs through them."""
        anchors = self.anchors(canvas, dense["pyramid"])
        before = self.training_proposals_before if train else self.proposals_before
        after = self.training_proposals_after if train else self.proposals_after

        def one(objectness, deltas, limit) -> proposals.Proposals:
            return proposals.propose(
                objectness, deltas, anchors, limit, before=before, after=after, threshold=self.proposal_threshold
            )

        return jax.lax.stop_gradient(jax.vmap(one)(dense["objectness"], dense["box_deltas"], size))

    def anchors(self, canvas: Sequence[int], pyramid: Pyramid) -> tuple[Float[np.ndarray, "_ 4"], ...]:
        """Returns the anchors of each level, host constants."""
        return ops.make_anchors(
            (int(canvas[0]), int(canvas[1])),
            [(level.shape[1], level.shape[2]) for level in pyramid.values()],
            sizes=self.anchor_sizes[: len(pyramid)],
            ratios=self.anchor_ratios,
            offset=self.anchor_offset,
        )

    def box_outputs(self, pyramid: Pyramid, boxes: Float[Array, "B N 4"]) -> tuple[Array, Array]:
        """Returns class logits `(B, N, K)` and box deltas `(B, N, K, 4)` of boxes."""
        return self.box_head(self.align(pyramid, boxes, output_size=7))

    def mask_outputs(self, pyramid: Pyramid, boxes: Float[Array, "B N 4"], train: bool = False) -> Array:
        """Returns the mask logits `(B, N, 28, 28, K)` of boxes."""
        return self.mask_head(self.align(pyramid, boxes, output_size=14), train)

    def align(self, pyramid: Pyramid, boxes: Float[Array, "B N 4"], *, output_size: int) -> Float[Array, "B N o o C"]:
        """Returns the features of boxes, each from the level that fits its size."""
        strides = sorted(pyramid)[:-1]  # the coarsest proposes only
        finest = int(np.log2(strides[0]))
        levels = ops.pyramid_level(
            boxes, finest=finest, coarsest=finest + len(strides) - 1, canonical_size=self.canonical_size
        )
        return ops.pyramid_roi_align(
            [pyramid[stride] for stride in strides],
            boxes,
            levels - finest,
            output_size=output_size,
            scales=[1 / stride for stride in strides],
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
        )
