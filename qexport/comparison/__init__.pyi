from .evaluation import (
    EvalOptions as EvalOptions,
    evaluate_artifacts as evaluate_artifacts,
    plan_of as plan_of,
    rows_of as rows_of,
)
from .experiments import changed as changed, experiment_for as experiment_for, measuring as measuring, only as only
from .pipeline import compare as compare, report as report
from .rows import LATENCY_ROUNDS as LATENCY_ROUNDS, CompareOptions as CompareOptions
