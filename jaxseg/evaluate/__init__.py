"""From predictions to what a person reads: rows, tables, pictures, one page."""

from jaxseg.evaluate import files, page, search
from jaxseg.evaluate.certainty import certainty_section, ensemble_sections, members_section
from jaxseg.evaluate.compare import compare_runs
from jaxseg.evaluate.data_section import data_section
from jaxseg.evaluate.evaluator import CaseResult, Scored, evaluate_cases, merge, score_cases
from jaxseg.evaluate.files import read_cases, read_summary, summary_table, write, write_results
from jaxseg.evaluate.instances import InstanceResult, evaluate_instances, merge_instances, score_instances
from jaxseg.evaluate.report import write_report

__all__ = [
    "CaseResult",
    "InstanceResult",
    "Scored",
    "certainty_section",
    "compare_runs",
    "data_section",
    "ensemble_sections",
    "evaluate_cases",
    "evaluate_instances",
    "files",
    "members_section",
    "merge",
    "merge_instances",
    "page",
    "read_cases",
    "read_summary",
    "score_cases",
    "score_instances",
    "search",
    "summary_table",
    "write",
    "write_report",
    "write_results",
]
