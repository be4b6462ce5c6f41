"""Operations on arrays: pure functions of jax.numpy, channels last, with no Flax, config or files."""

from jaxseg.ops import image_pool
from jaxseg.ops.boxes import (
    box_area,
    box_coverage,
    box_intersection,
    box_iou,
    box_mask_share,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    generalized_box_iou,
    make_anchors,
    pyramid_level,
)
from jaxseg.ops.components import connected_components
from jaxseg.ops.conv import conv, conv_transpose
from jaxseg.ops.distance import distance_transform
from jaxseg.ops.frequency import degrade, enlarge
from jaxseg.ops.morphology import border, close, dilate, erode, fill_holes, keep_largest, open
from jaxseg.ops.nms import batched_nms, nms
from jaxseg.ops.paste import paste_masks
from jaxseg.ops.pixel_shuffle import pixel_shuffle
from jaxseg.ops.pool import average_pool, max_pool, max_pool_indices, max_unpool
from jaxseg.ops.resize import resize
from jaxseg.ops.roi_align import pyramid_roi_align, roi_align, roi_axis_weights
from jaxseg.ops.warp import affine_matrix, sample
from jaxseg.ops.windows import gaussian_window, nnunet_window

__all__ = [
    "affine_matrix",
    "average_pool",
    "batched_nms",
    "border",
    "box_area",
    "box_coverage",
    "box_intersection",
    "box_iou",
    "box_mask_share",
    "clip_boxes",
    "close",
    "connected_components",
    "conv",
    "conv_transpose",
    "decode_boxes",
    "degrade",
    "dilate",
    "distance_transform",
    "encode_boxes",
    "enlarge",
    "erode",
    "fill_holes",
    "gaussian_window",
    "generalized_box_iou",
    "image_pool",
    "keep_largest",
    "make_anchors",
    "max_pool",
    "max_pool_indices",
    "max_unpool",
    "nms",
    "nnunet_window",
    "open",
    "paste_masks",
    "pixel_shuffle",
    "pyramid_level",
    "pyramid_roi_align",
    "resize",
    "roi_align",
    "roi_axis_weights",
    "sample",
]
