"""Inference: wrappers on `PredictFn`, each takes and returns one; then whole cases, and folders of files."""

from jaxseg.predict import postprocess
from jaxseg.predict.array import predict_array
from jaxseg.predict.ensemble import average
from jaxseg.predict.predictor import Prediction, predict_case, predict_folder, write_prediction
from jaxseg.predict.sliding_window import sliding_window
from jaxseg.predict.tta import flip_tta

__all__ = [
    "Prediction",
    "average",
    "flip_tta",
    "postprocess",
    "predict_array",
    "predict_case",
    "predict_folder",
    "sliding_window",
    "write_prediction",
]
