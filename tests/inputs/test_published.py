"""The bundled experiments have the figures of the tables they are named after, typed here a second time by hand."""

from __future__ import annotations

import pytest

from qexport.core.metrics import CATALOGUE
from qexport.inputs.bundle import bundled
from qexport.inputs.experiment import Experiment, Row, load_experiment
from qexport.measurement.tasks.subjects import MMLU_SUBJECTS
from qexport.quantization.recipes import recipe

MIB, GIB = 1 << 20, 1 << 30

PHI3_COLUMNS = [
    "total_s",
    "load_s",
    "response_s",
    "free_s",
    "checkpoint_load_s",
    "device_increase_bytes",
    "peak_device_bytes",
    "system_start_bytes",
    "rss_start_bytes",
    "system_end_bytes",
    "rss_end_bytes",
    "system_increase_bytes",
    "rss_increase_bytes",
    "warning_count",
]
PHI3 = {
    "bnb-int8 fp16": (
        28.48,
        7.24,
        19.23,
        0.09,
        6,
        3877.68,
        3877.68,
        1161.49,
        386.92,
        1913.28,
        1187.52,
        751.79,
        800.59,
        2,
    ),
    "bnb-fp4 fp16": (8.61, 3.51, 3.10, 0.09, 2, 2324.63, 2332.77, 1164.47, 389.64, 1696.14, 965.97, 531.66, 576.33, 1),
    "torch-fp16": (7.63, 2.87, 2.59, 0.22, 2, 7288.38, 7296.52, 1164.63, 389.68, 1701.95, 949.45, 537.32, 559.77, 1),
}

GPT2_COLUMNS = ["weight_bytes", "latency_s", "sentence_perplexity"]
GPT2 = {
    "fp32": (486.70, 0.0083, 261.66),
    "int8-static": (130.97, 0.0081, 309.76),
    "int8-static attention": (405.70, 0.0081, 272.28),
    "bnb-int8": (168.35, 0.0474, 267.02),
    "bnb-fp4": (127.85, 0.0220, 284.91),
    "bnb-nf4": (127.85, 0.0262, 276.55),
}

LLAMA_COLUMNS = [
    "load_s",
    "loaded_device_bytes",
    "sequential_s",
    "batch_s",
    "batch_tokens_per_s",
    "peak_device_bytes",
    "arc_easy_acc",
    "arc_easy_acc_norm",
    "gsm8k_strict",
    "gsm8k_flexible",
    "hellaswag_acc",
    "hellaswag_acc_norm",
    "piqa_acc",
    "piqa_acc_norm",
]
LLAMA_TASKS = {
    "fp16": (0.820, 0.832, 0.736, 0.732, 0.552, 0.672, 0.784, 0.816),
    "w8a16-gptq": (0.824, 0.832, 0.752, 0.748, 0.552, 0.668, 0.784, 0.820),
    "int8-dynamic": (0.812, 0.836, 0.756, 0.756, 0.548, 0.664, 0.780, 0.824),
    "w4a16-gptq": (0.832, 0.844, 0.728, 0.716, 0.548, 0.672, 0.756, 0.804),
    "w4a16-awq": (0.816, 0.844, 0.720, 0.720, 0.540, 0.676, 0.776, 0.812),
    "w8a16-rtn": (0.824, 0.828, 0.736, 0.736, 0.556, 0.672, 0.776, 0.820),
    "fp8": (0.828, 0.832, 0.764, 0.760, 0.552, 0.672, 0.784, 0.820),
}
LLAMA = {
    "fp16": (132.01, 43.97, 18.33, 3.97, 161.27, 44.85, *LLAMA_TASKS["fp16"]),
    "w8a16-gptq": (84.08, 43.95, 10.40, 2.16, 296.15, 44.83, *LLAMA_TASKS["w8a16-gptq"]),
    "int8-dynamic": (85.55, 44.00, 11.54, 2.36, 271.10, 44.87, *LLAMA_TASKS["int8-dynamic"]),
    "w4a16-gptq": (101.10, 43.98, 6.42, 1.35, 472.68, 44.85, *LLAMA_TASKS["w4a16-gptq"]),
    "w4a16-awq": (98.73, 43.94, 6.43, 1.36, 471.55, 44.81, *LLAMA_TASKS["w4a16-awq"]),
    "w8a16-rtn": (83.19, 44.14, 10.40, 2.16, 296.25, 45.01, *LLAMA_TASKS["w8a16-rtn"]),
    "fp8": (95.63, 44.00, 10.30, 2.16, 296.23, 44.87, *LLAMA_TASKS["fp8"]),
}

QWEN_COLUMNS = ["weight_bytes", "token_latency_s", "mmlu_acc", "arc_easy_acc", "arc_challenge_acc"]
QWEN = {
    "torch-fp32": (11.50, 0.239, 0.610, 0.905, 0.905),
    "torch-fp16": (5.75, 0.109, 0.610, 0.905, 0.905),
    "bnb-nf4 fp32": (1.87, 0.412, 0.585, 0.900, 0.900),
    "bnb-nf4 fp16": (1.87, 0.197, 0.585, 0.900, 0.900),
    "bnb-fp4 fp32": (1.87, 0.405, 0.505, 0.840, 0.840),
    "bnb-fp4 fp16": (1.87, 0.197, 0.510, 0.840, 0.840),
    "bnb-int8 fp32": (3.16, 0.409, 0.600, 0.895, 0.895),
    "bnb-int8 fp16": (3.16, 0.409, 0.600, 0.895, 0.895),
}

MISTRAL_COLUMNS = ["generation_s", "tokens_per_s", "device_increase_bytes", "disk_bytes"]
MISTRAL = {
    "torch-fp16": (214.55, 0.95, 275.62, 13_000),
    "bnb-nf4 fp16": (19.00, 9.14, 321.96, 4_000),
}

TABLES = [
    ("phi-3-mini-128k-instruct", PHI3_COLUMNS, PHI3, MIB, ["fp16", "w8a16-rtn", "w4a16-rtn"]),
    ("gpt2", GPT2_COLUMNS, GPT2, MIB, ["int8-dynamic", "int8-dynamic attention"]),
    ("llama-3-8b", LLAMA_COLUMNS, LLAMA, 10**9, []),
    ("qwen2.5-3b", QWEN_COLUMNS, QWEN, GIB, ["fp32", "fp16", "nf4"]),
    ("mistral-7b", MISTRAL_COLUMNS, MISTRAL, MIB, ["fp16", "w4a16-rtn"]),
]


def read(name: str) -> Experiment:
    return load_experiment(bundled(f"models/{name}.toml"))


def key(row: Row) -> str:
    return " ".join(filter(None, (row.recipe, row.nodes, str(row.options.get("compute", "")))))


@pytest.mark.parametrize(
    ("name", "columns", "table", "unit", "unpublished"), TABLES, ids=[table[0] for table in TABLES]
)
def test_the_figures_of_a_published_table(name, columns, table, unit, unpublished):
    experiment = read(name)
    rows = {key(row): row for row in experiment.rows}
    assert rows.keys() == {*table, *unpublished}
    assert len(rows) == len(experiment.rows)
    for label, row in rows.items():
        figures = dict(zip(columns, table.get(label, ()), strict=label in table))
        assert row.published.keys() == figures.keys(), label
        for metric, figure in figures.items():
            published = experiment.published_for(row, metric)
            assert published is not None
            assert published.value == pytest.approx(figure * (unit if metric.endswith("_bytes") else 1), rel=1e-12)
            assert published.source.endswith("on hardware that is not named")


@pytest.mark.parametrize("name", [table[0] for table in TABLES])
def test_every_published_column_is_measured(name):
    experiment = read(name)
    published = {metric for row in experiment.rows for metric in row.published}
    assert experiment.metrics is None or published <= set(experiment.metrics)
    assert experiment.architecture is not None


@pytest.mark.parametrize("name", [table[0] for table in TABLES])
def test_every_row_names_a_recipe_and_options_that_it_has(name):
    for row in read(name).rows:
        recipe(row.recipe).configured(row.options)


def weights(experiment: Experiment) -> tuple[int, int]:
    """How many weights the layers' products have, and how many the model has, biases of qwen2 included."""
    values = experiment.architecture.values
    width, inner, layers = (values[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    shared = width // values["num_attention_heads"] * values["num_key_value_heads"]
    products = layers * (2 * width * width + 2 * shared * width + 3 * width * inner)
    tables = values["vocab_size"] * width * (1 if values["tie_word_embeddings"] else 2)
    vectors = (2 * layers + 1) * width + (layers * (width + 2 * shared) if values["model_type"] == "qwen2" else 0)
    return products, products + tables + vectors


def test_the_units_are_what_the_architectures_prove():
    """The header comments of the experiments, recomputed."""
    phi3, qwen, llama, mistral = (
        weights(read(name)) for name in ("phi-3-mini-128k-instruct", "qwen2.5-3b", "llama-3-8b", "mistral-7b")
    )
    assert (phi3[1], qwen[1], llama[1], mistral[1]) == (3_821_079_552, 3_085_938_688, 8_030_261_248, 7_241_732_096)
    assert phi3[1] * 2 / MIB == pytest.approx(7288.38, abs=0.3)
    assert (phi3[0] * (1 / 2 + 4 / 64) + (phi3[1] - phi3[0]) * 2) / MIB == pytest.approx(2324.63, rel=0.002)
    assert round(qwen[1] * 4 / GIB, 2) == 11.50
    assert round(qwen[1] * 2 / GIB, 2) == 5.75
    assert round((qwen[0] / 2 + (qwen[1] - qwen[0]) * 2) / GIB, 2) == 1.87
    assert round((qwen[0] + (qwen[1] - qwen[0]) * 2) / GIB, 2) == 3.16
    for _load, _memory, _sequence, seconds, rate, *_others in LLAMA.values():
        assert seconds * rate == pytest.approx(5 * 128, rel=0.004)


@pytest.mark.parametrize(("name", "questions"), [("llama-3-8b", 250), ("qwen2.5-3b", 200)])
def test_the_accuracies_prove_how_many_questions_were_asked(name, questions):
    """Whatever was answered rightly, a smaller number of them cannot give a task's published figures."""
    by_task: dict[str, set[float]] = {}
    for row in read(name).rows:
        for metric, figure in row.published.items():
            if CATALOGUE[metric].task:
                by_task.setdefault(CATALOGUE[metric].task, set()).add(figure.value)

    def possible(figures: set[float], count: int) -> bool:
        return figures <= {round(right / count, 3) for right in range(count + 1)}

    for task, figures in by_task.items():
        assert next(count for count in range(1, 1000) if possible(figures, count)) == questions, task
        assert all(figure * questions == pytest.approx(round(figure * questions), abs=1e-9) for figure in figures)


def test_the_tasks_are_cut_to_what_the_accuracies_prove():
    llama, qwen = read("llama-3-8b"), read("qwen2.5-3b")
    assert {llama.tasks.limit_of(task) for task in ("arc_easy", "gsm8k", "hellaswag", "piqa")} == {250}
    assert [qwen.tasks.limit_of(task) for task in ("arc_easy", "arc_challenge", "mmlu")] == [200, 200, 4]
    assert min(range(1, 20), key=lambda limit: abs(limit * len(MMLU_SUBJECTS) - 200)) == 4
    assert (llama.tasks.num_fewshot, qwen.tasks.num_fewshot) == (None, None)


def test_what_is_asked_of_a_model_is_in_its_experiment():
    phi3 = read("phi-3-mini-128k-instruct")
    assert phi3.session is not None
    assert phi3.session.prompt.startswith("What is the number that rhymes")
    assert (phi3.session.expected, phi3.session.chat) == (("Three",), True)
    assert read("llama-3-8b").generation.new_tokens == 128
    assert read("llama-3-8b").rows[2].options == {"per_token": True}
    assert len(phi3.architecture.values["rope_scaling"]["long_factor"]) == 3072 // 32 // 2
