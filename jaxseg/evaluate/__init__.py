"""From predictions to what a person reads: rows, tables, pictures, one page."""

from jaxseg.evaluate import episodes, files, page, search
from jaxseg.evaluate.certainty import certainty_section, ensemble_sections, members_section
from jaxseg.evaluate.compare import compare_runs
from jaxseg.evaluate.data_section import data_section
from jaxseg.evaluate.evaluator import CaseResult, Scored, evaluate_cases, merge, score_cases
from jaxseg.evaluate.files import read_cases, read_summary, summary_table, write, write_results
from jaxseg.evaluate.image_quality import (
    ImageResult,
    read_images,
    score_image_cases,
    score_images,
    summarize_images,
    text_table,
    write_images,
)
from jaxseg.evaluate.instances import InstanceResult, evaluate_instances, merge_instances, score_instances
from jaxseg.evaluate.model_card import write_card
from jaxseg.evaluate.report import write_report
from jaxseg.evaluate.set_quality import compare_sets, set_table

__all__ = [
    "CaseResult",
    "ImageResult",
    "InstanceResult",
    "Scored",
    "certainty_section",
    "compare_runs",
    "compare_sets",
    "data_section",
    "ensemble_sections",
    "episodes",
    "evaluate_cases",
    "evaluate_instances",
    "files",
    "members_section",
    "merge",
    "merge_instances",
    "page",
    "read_cases",
    "read_images",
    "read_summary",
    "score_cases",
    "score_image_cases",
    "score_images",
    "score_instances",
    "search",
    "set_table",
    "summarize_images",
    "summary_table",
    "text_table",
    "write",
    "write_card",
    "write_images",
    "write_report",
    "write_results",
]
