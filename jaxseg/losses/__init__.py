"""Losses: pure functions `(logits, labels, *, ...) -> (B,)`, one value a sample, in float32.

`logits` are `(B, *S, K)`, `labels` class ids `(B, *S)` or soft targets `(B, *S, K)`. A new loss is a file and a line
in `TABLE`; a loss outside the house is named "package.module:function". `from_string` joins several:
`from_string("dice_loss(ignore_background=True) + 0.5*cross_entropy")`.

Losses of generators and discriminators (`adversarial`) take no labels and stand outside the table.
"""

from jaxseg.losses.adversarial import (
    discriminator_loss,
    feature_matching,
    generator_loss,
    gradient_penalty_r1,
)
from jaxseg.losses.boundary import boundary_loss, hausdorff_dt_loss
from jaxseg.losses.combine import deep_supervision, from_string, names
from jaxseg.losses.cross_entropy import (
    binary_cross_entropy,
    border_weights,
    cross_entropy,
    focal_loss,
    top_k_cross_entropy,
)
from jaxseg.losses.lovasz import lovasz_softmax_loss
from jaxseg.losses.overlap import (
    dice_loss,
    focal_tversky_loss,
    generalized_dice_loss,
    jaccard_loss,
    tversky_loss,
)

TABLE = {
    "binary_cross_entropy": "jaxseg.losses.cross_entropy:binary_cross_entropy",
    "boundary_loss": "jaxseg.losses.boundary:boundary_loss",
    "cross_entropy": "jaxseg.losses.cross_entropy:cross_entropy",
    "dice_loss": "jaxseg.losses.overlap:dice_loss",
    "focal_loss": "jaxseg.losses.cross_entropy:focal_loss",
    "focal_tversky_loss": "jaxseg.losses.overlap:focal_tversky_loss",
    "generalized_dice_loss": "jaxseg.losses.overlap:generalized_dice_loss",
    "hausdorff_dt_loss": "jaxseg.losses.boundary:hausdorff_dt_loss",
    "jaccard_loss": "jaxseg.losses.overlap:jaccard_loss",
    "lovasz_softmax_loss": "jaxseg.losses.lovasz:lovasz_softmax_loss",
    "top_k_cross_entropy": "jaxseg.losses.cross_entropy:top_k_cross_entropy",
    "tversky_loss": "jaxseg.losses.overlap:tversky_loss",
}

__all__ = [
    "TABLE",
    "binary_cross_entropy",
    "border_weights",
    "boundary_loss",
    "cross_entropy",
    "deep_supervision",
    "dice_loss",
    "discriminator_loss",
    "feature_matching",
    "focal_loss",
    "focal_tversky_loss",
    "from_string",
    "generalized_dice_loss",
    "generator_loss",
    "gradient_penalty_r1",
    "hausdorff_dt_loss",
    "jaccard_loss",
    "lovasz_softmax_loss",
    "names",
    "top_k_cross_entropy",
    "tversky_loss",
]
