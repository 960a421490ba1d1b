from __future__ import annotations

import pytest

from qexport.core.errors import InputError
from qexport.core.metrics import CATALOGUE
from qexport.gating.budgets import DISTANCES, DRIFT, GATED, SAME_RUN, Budget, load_gate_plan
from qexport.gating.verdict import Bounds
from qexport.inputs.bundle import bundled

LEAST = 'budgets.perplexity = { at_most = 1.01, of = "baseline" }\n'
OF = 'of = "baseline"'


@pytest.fixture
def write(tmp_path):
    def write(content, name="budgets.toml"):
        path = tmp_path / name
        path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)
        return path

    return write


def refused(path, *parts):
    with pytest.raises(InputError) as caught:
        load_gate_plan(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    for part in parts:
        assert part in message, message


def budget(metric, words):
    return f"budgets.{metric} = {{ {words} }}\n"


# What is read


def test_the_least_that_makes_a_gate(write):
    plan = load_gate_plan(write(LEAST))
    assert plan.budgets == {"perplexity": (Budget(of="baseline", at_most=1.01),)}
    assert plan.metrics == ("perplexity",)
    assert (plan.window, plan.windows, plan.sentences, plan.new_tokens, plan.rounds) == (512, None, 64, 32, 3)
    assert plan.text_path == bundled("calibration/evaluation.jsonl")
    assert plan.prompts_path == bundled("calibration/prompts.txt")
    (only,) = plan.of("int8-static")["perplexity"]
    assert only.bounds == Bounds(at_most=1.01)


def test_pyproject_has_a_table_for_it_among_others(write):
    text = '[project]\nname = "mine"\n[tool.other]\nx = 1\n[tool.qexport.gate]\nwindows = 3\n'
    there = load_gate_plan(write(text + LEAST, "pyproject.toml"))
    assert there == load_gate_plan(write("windows = 3\n" + LEAST))
    assert there.windows == 3


def test_paths_are_relative_to_the_file(write, tmp_path, monkeypatch):
    text = 'text = "mine/text.txt"\nprompts = "ask.txt"\n' + LEAST + '[tasks]\ndata = "asked"\nlimit = 3\n'
    path = write(text)
    monkeypatch.chdir(tmp_path)
    for given in (path, path.relative_to(tmp_path)):
        plan = load_gate_plan(given)
        assert plan.text_path == tmp_path / "mine" / "text.txt"
        assert plan.prompts_path == tmp_path / "ask.txt"
        assert plan.tasks.data == tmp_path / "asked"
        assert plan.tasks.limit_of("piqa") == 3
    text = text.replace('"mine/text.txt"', "'/elsewhere/text.txt'")
    assert str(load_gate_plan(write(text)).text_path) == "/elsewhere/text.txt"


def test_several_budgets_of_one_metric(write):
    one, other = f"{{ at_most = 1.01, {OF} }}", '{ at_least = 0.9, at_most = 1.2, of = "fp32" }'
    plan = load_gate_plan(write(f"budgets.perplexity = [{one}, {other}]\n"))
    assert plan.of("int8-static") == {
        "perplexity": (Budget(of="baseline", at_most=1.01), Budget(of="fp32", at_least=0.9, at_most=1.2))
    }


def test_a_recipe_has_its_own_budgets_instead_of_the_common_ones(write):
    text = (
        budget("perplexity", f"at_most = 1.01, {OF}")
        + budget("disk_bytes", f"at_most = 1.001, {OF}")
        + "[recipes.int8-static]\n"
        'perplexity = [{ at_most = 1.3, of = "fp32" }, { at_most = 1.02, of = "baseline" }]\n'
        'drift = { at_most = 0.1, of = "baseline" }\n'
    )
    plan = load_gate_plan(write(text))
    disk = (Budget(of="baseline", at_most=1.001),)
    assert plan.of("int8-dynamic") == {"perplexity": (Budget(of="baseline", at_most=1.01),), "disk_bytes": disk}
    assert plan.of("int8-static") == {
        "perplexity": (Budget(of="fp32", at_most=1.3), Budget(of="baseline", at_most=1.02)),
        "disk_bytes": disk,
        "drift": (Budget(of="baseline", at_most=0.1),),
    }
    assert plan.metrics == ("perplexity", "disk_bytes")


def test_recipes_alone_may_have_budgets(write):
    plan = load_gate_plan(write('recipes.fp8.weight_bytes = { at_most = 0.3, of = "fp32" }\n'))
    assert plan.of("int8-static") == {}
    assert plan.metrics == ("weight_bytes",)


def test_fp32_has_no_budget_of_itself(write):
    both = f'[{{ at_most = 1.01, {OF} }}, {{ at_most = 1.2, of = "fp32" }}]'
    text = f'budgets = {{ perplexity = {both}, latency_s = {{ at_most = 1.1, of = "fp32" }} }}\n'
    plan = load_gate_plan(write(text))
    assert plan.of("fp32") == {"perplexity": (Budget(of="baseline", at_most=1.01),)}
    assert plan.of("int8-static").keys() == {"perplexity", "latency_s"}


def test_drift_is_measured_as_perplexity(write):
    plan = load_gate_plan(write(budget("drift", f"at_most = 0.1, {OF}")))
    assert plan.metrics == ("perplexity",)
    assert plan.of("fp32") == {"drift": (Budget(of="baseline", at_most=0.1),)}


@pytest.mark.parametrize("metric", GATED)
def test_what_a_budget_may_be_of(write, metric):
    of = '"fp32"' if metric in SAME_RUN else '"baseline"'
    plan = load_gate_plan(write(budget(metric, f"at_most = 1.1, of = {of}")))
    beside = () if metric not in DISTANCES else ("perplexity",)  # whose pass measures them
    assert metric == DRIFT or plan.metrics == (*beside, metric)


# What is refused


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["has no budgets", "budgets.perplexity = {"]),
        ("[budgets]\n", ["has no budgets"]),
        ("[recipes.int8-static]\n", ["has no budgets"]),
        ("windows = 3\n", ["has no budgets"]),
        (budget("perplexitie", f"at_most = 1.1, {OF}"), ["budgets.perplexitie", "did you mean", "perplexity"]),
        (budget("peak_rss_bytes", f"at_most = 1.1, {OF}"), ["budgets.peak_rss_bytes", 'of = "fp32"']),
        (budget('""', f"at_most = 1.1, {OF}"), ["not a metric that can have a budget"]),
        ('recipes.fp8.perplexitie = { at_most = 1.1, of = "fp32" }\n', ["fp8.perplexitie", "perplexity"]),
        (budget("drift", 'at_most = 0.1, of = "fp32"'), ["budgets.drift", 'at_most and of = "baseline"']),
        (budget("drift", f"at_least = 0.1, {OF}"), ["budgets.drift", 'at_most and of = "baseline"']),
        (budget("drift", f"at_least = 0.1, at_most = 0.2, {OF}"), ["budgets.drift", "at_most"]),
        (budget("perplexity", OF), ["budgets.perplexity", "has no bound", "at_most or at_least"]),
        (budget("perplexity", f"at_least = 1.1, at_most = 1.0, {OF}"), ["at_least 1.1 is above at_most 1", "nothing"]),
        (budget("perplexity", "at_most = 1.1"), ["budgets.perplexity", "of is missing"]),
        (budget("perplexity", 'at_most = 1.1, of = "fp16"'), ["budgets.perplexity", "of", "fp32", "baseline"]),
        (budget("perplexity", f"at_most = inf, {OF}"), ["budgets.perplexity", "at_most", "finite"]),
        (budget("perplexity", f"at_most = nan, {OF}"), ["budgets.perplexity", "at_most"]),
        (budget("perplexity", f"at_least = -inf, {OF}"), ["budgets.perplexity", "at_least"]),
        (budget("perplexity", f"at_most = 0, {OF}"), ["at_most", "greater than 0"]),
        (budget("perplexity", f"at_most = 0.0, {OF}"), ["at_most", "greater than 0"]),
        (budget("perplexity", f"at_least = -0.5, {OF}"), ["at_least", "greater than 0"]),
        (budget("perplexity", f"at_most = true, {OF}"), ["budgets.perplexity", "at_most"]),
        (budget("perplexity", f'at_most = "1.01", {OF}'), ["budgets.perplexity", "at_most"]),
        (budget("perplexity", f'at_most = "many", {OF}'), ["budgets.perplexity", "at_most"]),
        (budget("perplexity", f"at_most = [1.1], {OF}"), ["budgets.perplexity", "at_most"]),
        (budget("perplexity", f"at_most = 1979-05-27, {OF}"), ["budgets.perplexity", "at_most"]),
        (budget("perplexity", f"at_mots = 1.1, {OF}"), ["unknown key", "at_mots", "did you mean at_most"]),
        ("budgets.perplexity = []\n", ["budgets.perplexity", "at least 1"]),
        ("budgets.perplexity = 1.01\n", ["budgets.perplexity"]),
        ("budgets = 3\n", ["budgets"]),
        ("recipes = 3\n", ["recipes"]),
        ("recipes.fp8 = 3\n", ["recipes.fp8"]),
        (f"budgets.perplexity = [{{ at_most = 1.1, {OF} }}, {{ {OF} }}]\n", ["budgets.perplexity.1", "no bound"]),
        ("windos = 3\n" + LEAST, ["unknown key windos", "did you mean", "windows"]),
        ("budget.perplexity = 3\n" + LEAST, ["unknown key budget", "did you mean", "budgets"]),
        ("window = 2\n" + LEAST, ["window", "3"]),
        ("window = 512.5\n" + LEAST, ["window"]),
        ("windows = 0\n" + LEAST, ["windows", "greater than 0"]),
        ("windows = -1\n" + LEAST, ["windows", "greater than 0"]),
        ("windows = true\n" + LEAST, ["windows"]),
        ('windows = "4"\n' + LEAST, ["windows"]),
        ("sentences = 0\n" + LEAST, ["sentences", "greater than 0"]),
        ("new_tokens = 1\n" + LEAST, ["new_tokens", "2"]),
        ("rounds = 0\n" + LEAST, ["rounds", "greater than 0"]),
        ("text = 3\n" + LEAST, ["text"]),
        ("tasks.limit = 0\n" + LEAST, ["tasks.limit", "greater than 0"]),
        ("tasks.num_fewshots = 5\n" + LEAST, ["unknown key tasks.num_fewshots", "did you mean num_fewshot"]),
        ('"wind\\nows" = 3\n' + LEAST, ["unknown key"]),
        ("budgets = ", ["not TOML"]),
        (LEAST + LEAST, ["not TOML"]),
        (b'text = "\xff"\n' + LEAST.encode(), ["not UTF-8"]),
    ],
)
def test_bad_budgets(write, content, parts):
    refused(write(content), *parts)


def test_a_metric_with_a_line_break_in_its_name_is_still_one_line(write):
    refused(write(budget('"a\\nb"', f"at_most = 1.1, {OF}")), "not a metric that can have a budget")


@pytest.mark.parametrize("metric", SAME_RUN)
def test_times_are_not_compared_with_another_run(write, metric):
    refused(write(budget(metric, f"at_most = 1.1, {OF}")), f"budgets.{metric}", 'of = "fp32"', "same run")
    refused(write(f"recipes.fp8.{metric} = {{ at_most = 1.1, {OF} }}\n"), f"fp8.{metric}", 'of = "fp32"')


@pytest.mark.parametrize("metric", [name for name in CATALOGUE if name not in GATED])
def test_what_no_budget_can_be_of(write, metric):
    refused(write(budget(metric, f"at_most = 1.1, {OF}")), f"budgets.{metric}: not a metric that can have a budget")


@pytest.mark.parametrize(
    "content",
    [
        "",
        '[project]\nname = "mine"\n',
        "[tool.other]\n",
        "[tool.qexport]\n",
        "[tool.qexport]\ngate = 3\n",
        "[[tool.qexport.gate]]\n",
        "tool = 3\n",
        "tool = [1]\n",
        'tool = "x"\n',
        "[tool]\nqexport = 1\n",
        '[tool]\nqexport = "gate"\n',
        "[[tool.qexport]]\n",
        LEAST,  # of another file
    ],
)
def test_a_pyproject_without_the_table(write, content):
    refused(write(content, "pyproject.toml"), "has no [tool.qexport.gate]", "add")


def test_a_file_of_its_own_that_begins_as_a_pyproject_does(write):
    refused(write("[tool.qexport.gate.budgets]\n"), "is a table of pyproject.toml", "write [budgets] for")


def test_a_byte_order_mark_is_no_part_of_a_file(write, tmp_path):
    path = write(LEAST)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_gate_plan(path) == load_gate_plan(write(LEAST))


def test_a_table_without_budgets(write):
    refused(write("[tool.qexport.gate]\n", "pyproject.toml"), "[tool.qexport.gate] has no budgets; add")


def test_a_file_that_is_not_there(tmp_path):
    refused(tmp_path / "pyproject.toml", "No such file", "--config")
    refused(tmp_path, "Is a directory", "--config")
