"""Inference: wrappers on `PredictFn`, each takes and returns one; then whole cases, and folders of files."""

from jaxseg.predict import choice, formats, postprocess
from jaxseg.predict.array import predict_array, whole_window
from jaxseg.predict.ensemble import average
from jaxseg.predict.images import predict_image, predict_images_folder, write_made
from jaxseg.predict.instance_files import (
    coco_results,
    label_image,
    object_table,
    write_coco,
    write_label_image,
)
from jaxseg.predict.instances import above, predict_instances
from jaxseg.predict.predictor import Prediction, label_map, predict_case, predict_folder, reduce, write_prediction
from jaxseg.predict.sliding_window import sliding_window
from jaxseg.predict.tta import flip_tta
from jaxseg.predict.watershed import otsu_watershed, watershed_instances

__all__ = [
    "Prediction",
    "above",
    "average",
    "choice",
    "coco_results",
    "flip_tta",
    "formats",
    "label_image",
    "label_map",
    "object_table",
    "otsu_watershed",
    "postprocess",
    "predict_array",
    "predict_case",
    "predict_folder",
    "predict_image",
    "predict_images_folder",
    "predict_instances",
    "reduce",
    "sliding_window",
    "watershed_instances",
    "whole_window",
    "write_coco",
    "write_label_image",
    "write_made",
    "write_prediction",
]
