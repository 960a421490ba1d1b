from __future__ import annotations

import pytest

from qexport.comparison.experiments import DEFAULT_ROWS, default_experiment
from qexport.core.errors import InputError
from qexport.inputs.bundle import bundled
from qexport.inputs.experiment import SessionPlan, Tasks, load_experiment
from qexport.quantization.recipes import RECIPES

MINIMAL = 'title = "T"\nmodel = "gpt2"\n[[rows]]\nrecipe = "fp32"\n'


@pytest.fixture
def write(tmp_path):
    def write(content: str):
        path = tmp_path / "table.toml"
        path.write_text(content)
        return path

    return write


def refused(path, *parts: str) -> None:
    with pytest.raises(InputError) as caught:
        load_experiment(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    for part in parts:
        assert part in message, message


def test_the_least_that_makes_an_experiment(write):
    experiment = load_experiment(write(MINIMAL))
    assert experiment.model == "gpt2"
    assert [(row.recipe, row.nodes) for row in experiment.rows] == [("fp32", None)]
    assert experiment.evaluation_path == bundled("calibration/evaluation.jsonl")
    assert experiment.calibration_path == bundled("calibration/general.jsonl")
    assert experiment.published_for(experiment.rows[0], "weight_bytes") is None


def test_paths_are_relative_to_the_file(write, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    path = write(MINIMAL.replace("gpt2", "mine") + '[text]\nevaluation = "my.txt"\n')
    monkeypatch.chdir("/")
    experiment = load_experiment(path)
    assert experiment.model == str(tmp_path / "mine")
    assert experiment.evaluation_path == tmp_path / "my.txt"
    assert experiment.calibration_path == bundled("calibration/general.jsonl")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("title = ", ["not TOML", "at end of document"]),
        ("", ["key title is missing"]),
        ('title = "T"\nmodel = "gpt2"\nrows = []\n', ["rows"]),
        (MINIMAL + 'node = "attention"\n', ["unknown key rows.0.node", "did you mean nodes"]),
        (MINIMAL.replace("recipe", "recipes"), ["rows.0"]),
        ('windows = "many"\n' + MINIMAL, ["windows"]),
        ("window = 2\n" + MINIMAL, ["window"]),
        ("sentences = 0\n" + MINIMAL, ["sentences"]),
        (MINIMAL + '[[rows]]\nrecipe = "fp32"\n', ["the row fp32 is there twice"]),
        (MINIMAL + "published = { latency_s = 0.1 }\n", ["[published] names no source"]),
        ('[published]\nsource = "S"\n', ["missing"]),
        (
            MINIMAL + "published = { latency_s = -1.0 }\n[published]\nsource = 'S'\n",
            ["rows.0.published", "latency_s", "zero"],
        ),
        (MINIMAL + "published = { memory_mib = 1 }\n", ["rows.0.published", "memory_mib: no such metric"]),
        (MINIMAL + 'published = { latency_s = "3 miles" }\n', ["rows.0.published", "unknown unit miles"]),
        (MINIMAL + 'published = { latency_s = "3 MiB" }\n', ["rows.0.published", "wrong unit"]),
        (MINIMAL + "published = 3\n", ["rows.0.published", "not a table of figures"]),
        ('metrics = ["perplexitie"]\n' + MINIMAL, ["metrics: perplexitie: no such metric; did you mean", "perplexity"]),
        ('metrics = ["perplexity", "load_s", "perplexity"]\n' + MINIMAL, ["metrics: perplexity is there twice"]),
        ("metrics = []\n" + MINIMAL, ["metrics: no metric is named"]),
        ('metrics = "perplexity"\n' + MINIMAL, ["metrics"]),
        (MINIMAL + "[generation]\nnew_tokens = 1\n", ["generation.new_tokens", "2"]),
        (MINIMAL + "[generation]\nnew_token = 8\n", ["unknown key generation.new_token", "did you mean new_tokens"]),
        (MINIMAL + "[session]\nchat = true\n", ["key session.prompt is missing"]),
        (MINIMAL + '[session]\nprompt = " "\n', ["session.prompt"]),
        (MINIMAL + '[session]\nprompt = "Why?"\nexpected = [""]\n', ["session.expected.0"]),
        (MINIMAL + '[session]\nprompt = "Why?"\nmax_tokens = 0\n', ["session.max_tokens"]),
        (MINIMAL + "[architecture]\nhidden_size = 8\n", ["key architecture.model_type is missing"]),
        (MINIMAL + "[tasks]\nnum_fewshots = 5\n", ["unknown key tasks.num_fewshots", "did you mean num_fewshot"]),
        (MINIMAL + "[tasks]\nnum_fewshot = -1\n", ["tasks.num_fewshot", "0"]),
        (MINIMAL + "[tasks]\nlimit = 0\n", ["tasks.limit", "greater than 0"]),
        (MINIMAL + "[tasks]\nlimit = inf\n", ["tasks.limit", "finite"]),
        (MINIMAL + "[tasks]\nlimit = { piqa = 0 }\n", ["tasks.limit", "greater than 0"]),
        (MINIMAL + "[tasks]\nlimit = { piqua = 3 }\n", ["tasks.limit", "piqua", "did you mean piqa"]),
        (MINIMAL + '[tasks]\nlimit = "many"\n', ["tasks.limit"]),
        (MINIMAL + "[tasks]\ngen_kwargs = 8\n", ["tasks.gen_kwargs"]),
        ('metrics = ["arc_easy"]\n' + MINIMAL, ["arc_easy: no such metric; did you mean", "arc_easy_acc"]),
    ],
)
def test_bad_experiments(write, content, parts):
    refused(write(content), *parts)


def test_what_is_left_out_has_defaults(write):
    experiment = load_experiment(write(MINIMAL))
    assert experiment.metrics is None
    assert experiment.session is None
    assert experiment.architecture is None
    assert (experiment.generation.new_tokens, experiment.generation.chat) == (32, False)
    assert experiment.prompts_path == bundled("calibration/prompts.txt")


def test_what_an_experiment_may_say(write, tmp_path):
    experiment = load_experiment(
        write(
            'metrics = ["load_s", "perplexity"]\n' + MINIMAL + "[generation]\n"
            'prompts = "ask/my.txt"\nnew_tokens = 5\nchat = true\n'
            '[session]\nprompt = " Why? "\nexpected = ["because"]\nmax_tokens = 7\nchat = true\n'
            '[architecture]\nmodel_type = "gpt2"\nn_embd = 8\nrope = { factors = [1, 2.5] }\n'
        )
    )
    assert experiment.metrics == ("load_s", "perplexity")
    assert experiment.prompts_path == tmp_path / "ask/my.txt"
    assert (experiment.generation.new_tokens, experiment.generation.chat) == (5, True)
    assert experiment.session == SessionPlan(prompt="Why?", expected=("because",), max_tokens=7, chat=True)
    assert experiment.architecture is not None
    assert experiment.architecture.values == {"model_type": "gpt2", "n_embd": 8, "rope": {"factors": [1, 2.5]}}


def test_how_tasks_are_asked(write, tmp_path, monkeypatch):
    plain = load_experiment(write(MINIMAL)).tasks
    assert plain == Tasks()
    assert (plain.data, plain.num_fewshot, plain.seed, plain.fewshot_as_multiturn) == (None, None, 1234, True)
    assert [plain.limit_of(task) for task in ("piqa", "mmlu")] == [None, None]
    monkeypatch.chdir("/")
    tasks = load_experiment(
        write(
            'metrics = ["piqa_acc", "perplexity"]\n' + MINIMAL + "[tasks]\n"
            'data = "asked/mine"\nnum_fewshot = 0\nlimit = { piqa = 3, mmlu = 0.5 }\nseed = 7\n'
            'apply_chat_template = true\nfewshot_as_multiturn = false\nsystem_instruction = "Think."\n'
            'gen_kwargs = { max_gen_toks = 8, until = ["a", "b"], do_sample = false }\n'
        )
    ).tasks
    assert tasks.data == tmp_path / "asked/mine"
    assert [tasks.limit_of(task) for task in ("piqa", "mmlu", "gsm8k")] == [3, 0.5, None]
    assert tasks.gen_kwargs == {"max_gen_toks": 8, "until": ["a", "b"], "do_sample": False}
    assert (tasks.num_fewshot, tasks.seed, tasks.system_instruction) == (0, 7, "Think.")
    assert (tasks.apply_chat_template, tasks.fewshot_as_multiturn) == (True, False)
    one = load_experiment(write(MINIMAL + "[tasks]\nlimit = 4\n")).tasks
    assert [one.limit_of(task) for task in ("piqa", "mmlu")] == [4, 4]


def test_published_figures_come_in_the_recorded_unit(write):
    published = 'published = { weight_bytes = "2 MiB", token_latency_s = "239 ms", perplexity = 3 }\n'
    experiment = load_experiment(write(MINIMAL + published + '[published]\nsource = "S"\n'))
    (row,) = experiment.rows
    figures = {name: experiment.published_for(row, name) for name in ("weight_bytes", "token_latency_s", "perplexity")}
    assert {name: figure.value for name, figure in figures.items() if figure} == {
        "weight_bytes": 2 << 20,
        "token_latency_s": 0.239,
        "perplexity": 3.0,
    }
    assert {figure.source for figure in figures.values() if figure} == {"S"}
    assert experiment.published_for(row, "latency_s") is None


def test_a_file_that_is_not_there(tmp_path):
    refused(tmp_path / "none.toml", "No such file")


def test_not_utf8(tmp_path):
    path = tmp_path / "table.toml"
    path.write_bytes(b'title = "\xff"')
    refused(path, "not UTF-8")


def test_the_published_table_of_gpt2():
    experiment = load_experiment(bundled("models/gpt2.toml"))
    assert experiment.model == "openai-community/gpt2"
    assert len(experiment.revision or "") == 40
    rows = {(row.recipe, row.nodes): row for row in experiment.rows}
    assert rows.keys() <= {(row.recipe, row.nodes) for row in DEFAULT_ROWS}
    figure = experiment.published_for(rows["bnb-nf4", None], "sentence_perplexity")
    assert figure is not None
    assert figure.value == 276.55
    assert experiment.published_for(rows["bnb-nf4", None], "perplexity") is None
    assert experiment.published_for(rows["int8-dynamic", None], "latency_s") is None


def test_published_memory_is_in_mebibytes():
    """GPT-2's 124,439,808 weights of four bytes and its 12 causal masks of 1024 x 1024 bytes are the published 486.70."""
    experiment = load_experiment(bundled("models/gpt2.toml"))
    figure = experiment.published_for(experiment.rows[0], "weight_bytes")
    assert figure is not None
    assert figure.value == pytest.approx(124_439_808 * 4 + 12 * 1024 * 1024, rel=1e-5)


def test_the_reference_experiment_names_the_bundled_model():
    experiment = load_experiment(bundled("models/reference.toml"))
    assert experiment.model == str(bundled("models/reference"))
    assert {row.recipe for row in experiment.rows} == RECIPES.keys()
    assert [row for row in experiment.rows if row in DEFAULT_ROWS] == list(DEFAULT_ROWS)


def test_the_same_rows_for_any_model(tmp_path):
    local = default_experiment(str(tmp_path))
    assert (local.model, local.rows) == (str(tmp_path), DEFAULT_ROWS)
    assert default_experiment("openai-community/gpt2").model == "openai-community/gpt2"
