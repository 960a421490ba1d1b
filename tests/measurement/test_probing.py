from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import onnxruntime
import pytest

from qexport.core import stats
from qexport.core.errors import ContractError, InputError, NotComparable
from qexport.core.metrics import CATALOGUE
from qexport.core.record import Published
from qexport.core.version import VERSION
from qexport.inputs.text import TokenSet
from qexport.measurement import probing
from qexport.measurement.child import environment
from qexport.measurement.job import AnswerKey, Job, Question
from qexport.measurement.probes import PROBES, Probe
from qexport.measurement.probing import holds_words, measure_rounds, merge_rounds
from qexport.runtime.session import ProviderUnavailable
from tests import decoders

MIB = 2**20
WINDOWS = TokenSet("windows", "made up", "windows of at most 4 tokens", (np.array([0, 1, 2, 0]), np.array([2, 1])))
SENTENCES = TokenSet("sentences", "made up", "sentences", tuple(np.array([0, 1, 2]) for _ in range(12)))


PROMPTS = TokenSet("prompts", "made up", "3 new tokens after each of 2 prompts", (np.array([1, 2]), np.array([3])))


def job(artifact, probe, **changes) -> Job:
    spec = PROBES[probe]
    sets = {"windows": WINDOWS, "sentences": SENTENCES, "prompts": PROMPTS}
    tokens = sets[spec.tokens] if isinstance(spec, Probe) else None
    given = {"artifact": artifact.path, "row": "fp32", "probe": probe, "tokens": tokens, "threads": 1, "new_tokens": 3}
    return Job(**given | changes)


def measured(artifact, probe, **changes):
    """The measurements of one probe, by metric."""
    return {record.metric: record for record in probing.measure(job(artifact, probe, **changes))}


@pytest.fixture(scope="module")
def uniform(tmp_path_factory):
    """An artifact for which every token is as likely as any other."""
    return decoders.save(tmp_path_factory.mktemp("uniform") / "a", decoders.bigram(np.zeros((3, 3))))


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """An artifact whose child stops with an error of qexport: its graph was not fused as the manifest says."""
    model = decoders.quantized(decoders.UNFUSED)
    return decoders.save(tmp_path_factory.mktemp("broken") / "a", model, decoders.QUANTIZED_NODE)


# What a measurement holds


@pytest.mark.real_child
def test_perplexity_with_all_its_conditions(uniform):
    published = Published(value=2.0, source="a table")
    record = measured(uniform, "perplexity", published={"perplexity": published})["perplexity"]
    nll, tokens = np.array(record.samples).T
    assert tokens.tolist() == [3, 1]
    assert stats.perplexity(nll, tokens).value == pytest.approx(3.0, rel=1e-12)
    conditions = record.conditions
    assert conditions.text_sha256 == WINDOWS.sha256
    assert (conditions.sequence, conditions.text) == (WINDOWS.description, WINDOWS.origin)
    assert (conditions.provider, conditions.threads, conditions.device) == ("cpu", 1, "")
    assert conditions.runtime == f"onnxruntime {onnxruntime.__version__}"
    assert conditions.versions == {"numpy": np.__version__, "onnxruntime": onnxruntime.__version__}
    assert conditions.machine
    assert conditions.cores >= 1
    assert conditions.commit == VERSION
    assert record.artifact_sha256 == uniform.sha256
    assert (record.row, record.model, record.recipe) == ("fp32", "hand-made", "fp32")
    assert {count for fact, count in record.facts.items() if fact.endswith("_run")} == {0}
    assert record.facts["nodes_on_cpu"] > 0
    assert record.published == published


def test_stored_figures_start_no_process(uniform, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    records = measured(uniform, "files")
    assert records["disk_bytes"].samples == ((float(uniform.disk_bytes),),)
    record = records["weight_bytes"]
    assert (record.columns, record.samples) == (("weight_bytes",), ((36.0,),))


def test_device_memory_is_skipped_on_the_cpu(uniform, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    for record in measured(uniform, "device memory").values():
        assert record.skipped is not None
        assert "no device memory" in record.skipped
    # Nor is a whole session run for it alone.
    assert "no device memory" in measured(uniform, "session", metrics=("device_increase_bytes",))["load_s"].skipped


@pytest.mark.real_child
def test_the_onnx_child_stays_small(uniform):
    records = measured(uniform, "resident memory")
    ((peak,),) = records["peak_rss_bytes"].samples
    baseline = records["peak_rss_bytes"].facts["baseline_rss_bytes"]
    ((private,),), ((shared,),) = records["final_private_bytes"].samples, records["final_shared_bytes"].samples
    assert 0 < private < private + shared <= peak + MIB
    assert 20 * MIB < baseline <= peak < 130 * MIB  # measured 83 MiB; with torch and transformers 390 MiB


def test_the_onnx_child_imports_neither_torch_nor_transformers(uniform, tmp_path):
    """The child's own main runs here in a process that tells at its end what it had imported."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, sys\natexit.register(lambda: print('IMPORTED', *sys.modules, file=sys.stderr))\n"
    )
    question = Question(
        artifact=uniform.path,
        probe="perplexity",
        provider="cpu",
        threads=1,
        warmups=0,
        round=0,
        new_tokens=0,
        stop=(),
        sequences=tmp_path / "sequences.npz",
        answer=tmp_path / "answer.json",
    )
    np.savez(question.sequences, *WINDOWS.sequences)
    variables = environment(1)
    variables["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{variables['PYTHONPATH']}"
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "qexport.measurement.subject"],
        env=variables,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    child.stdin.write(question.model_dump_json() + "\n")
    child.stdin.flush()
    output = child.stderr.read()
    child.wait()
    child.stdin.close()
    child.stderr.close()
    imported = set(output.partition("IMPORTED")[2].split())
    assert question.answer.is_file()
    assert {"onnxruntime", "numpy"} <= imported
    assert not imported & {"torch", "transformers", "onnx", "datasets", "matplotlib", "huggingface_hub"}


def test_every_metric_is_measured_by_one_probe():
    metrics = [metric for probe in PROBES.values() for metric in probe.metrics]
    assert sorted(metrics) == sorted(name for name, metric in CATALOGUE.items() if not metric.task)


def test_generation_gives_figures_of_every_kind(fp32):
    records = measured(fp32("llama"), "generation", round=2)
    for metric in ("first_token_s", "token_latency_s", "generation_s"):
        assert records[metric].columns == (metric, "tokens", "round")
        assert [sample[2] for sample in records[metric].samples] == [2, 2]
        assert len(records[metric].warmups) == 2
    first, whole = records["first_token_s"].samples, records["generation_s"].samples
    assert [sample[1] for sample in first] == [2, 1]  # tokens of the prompts
    assert [sample[1] for sample in whole] == [3, 3]  # new ones
    for (one, *_), (each, *_), (total, *_) in zip(first, records["token_latency_s"].samples, whole, strict=True):
        assert one + 2 * each == pytest.approx(total)
    ((seconds, tokens, _),) = records["sequential_s"].samples
    assert (seconds, tokens) == (pytest.approx(sum(total for total, *_ in whole)), 6)
    ((rate, *_),) = records["tokens_per_s"].samples
    assert rate == pytest.approx(6 / seconds)
    assert len(records["tokens_per_s"].facts["tokens_0"].split()) == 3
    batch = measured(fp32("llama"), "batched generation")
    ((seconds, tokens, _),), ((rate, *_),) = batch["batch_s"].samples, batch["batch_tokens_per_s"].samples
    assert (rate * seconds, tokens) == (pytest.approx(6), 6)
    assert (batch["batch_s"].conditions.batch, records["tokens_per_s"].conditions.batch) == (2, 1)
    # Padding changes nothing that is said.
    assert batch["batch_tokens_per_s"].facts["tokens_1"] == records["tokens_per_s"].facts["tokens_1"]


def test_a_session_is_timed_and_judged(fp32):
    key = AnswerKey(read=lambda ids: f"it is {len(ids)}, no more", prompt="how many", expected=("4", "3"))
    records = measured(fp32("gpt2"), "session", key=key)
    parts = {metric: record.samples[0][0] for metric, record in records.items() if record.skipped is None}
    assert parts["total_s"] == pytest.approx(parts["load_s"] + parts["response_s"] + parts["free_s"])
    assert min(parts[name] for name in ("load_s", "response_s", "free_s", "checkpoint_load_s")) > 0
    for memory in ("rss", "system"):
        start, end = parts[f"{memory}_start_bytes"], parts[f"{memory}_end_bytes"]
        assert end - start == parts[f"{memory}_increase_bytes"]
    assert parts["response_tokens"] == 3
    right = records["response_correct"]
    assert right.samples == ((1.0, 0.0),)
    assert right.facts == {
        "prompt": "how many",
        "response": "it is 3, no more",
        "ended": "no",
        "expected": "4 | 3",
    }
    skipped = {metric for metric, record in records.items() if record.skipped}
    assert skipped == {"device_context_bytes", "device_increase_bytes"}


def test_an_answer_that_ends_itself_and_one_that_nobody_judges(fp32):
    said = measured(fp32("gpt2"), "session", key=AnswerKey(read=str, prompt="why"))
    assert "no answer is expected" in said["response_correct"].skipped
    (first, *_) = eval(said["response_tokens"].facts["response"])
    ended = measured(fp32("gpt2"), "session", stop=(first,), key=AnswerKey(read=str, prompt="why"))
    assert ended["response_tokens"].samples == ((0.0, 0.0),)
    assert ended["response_tokens"].facts["ended"] == "yes"


@pytest.mark.parametrize(
    ("text", "expected", "holds"),
    [
        ("It is Three.", "three", True),
        ("threefold", "three", False),
        ("a  new\nword", "new word", True),
        ("3.14", "3.14", True),
        ("3514", "3.14", False),
        ("", "three", False),
    ],
)
def test_an_answer_is_right_by_whole_words(text, expected, holds):
    assert holds_words(text, expected) == holds


def test_a_model_that_does_not_fit_is_not_loaded(uniform, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr("qexport.core.ram.available_bytes", lambda: 50_000_000)
    for record in measured(uniform, "resident memory").values():
        assert record.skipped.startswith("loading it takes about 0.1 GB of memory and 0.1 GB are free")


def test_rounds_take_turns_and_are_merged(uniform, tmp_path, monkeypatch):
    other = decoders.save(tmp_path / "b", decoders.bigram(np.eye(3)))
    order = []
    real = probing.measure
    monkeypatch.setattr(probing, "measure", lambda one: order.append((one.row, one.round)) or real(one))
    jobs = [job(uniform, "sentences", warmups=2), job(other, "sentences", warmups=2, row="other")]
    told = []
    (first,), (second,) = measure_rounds(jobs, rounds=2, done=told.append)
    assert told == [[first], [second]]
    assert order == [("fp32", 0), ("other", 0), ("fp32", 1), ("other", 1)]
    for record, row in ((first, "fp32"), (second, "other")):
        assert record.row == row
        assert len(record.samples) == 2 * len(SENTENCES.sequences)
        assert len(record.warmups) == 4
        assert [sample[2] for sample in record.samples] == [0] * 12 + [1] * 12
        assert min(sample[0] for sample in record.samples) > 0


def test_unlike_rounds_are_not_merged(uniform):
    record = measured(uniform, "files")["weight_bytes"]
    other = record.model_copy(update={"conditions": record.conditions.model_copy(update={"threads": 7})})
    with pytest.raises(NotComparable):
        merge_rounds([record, other])
    skipped = record.model_copy(update={"skipped": "a reason", "samples": ()})
    assert merge_rounds([record, skipped]).skipped == "a reason"


# What can go wrong


def children(threads: int, code: str) -> dict[str, str]:
    """Make the child run ``code`` first: PYTHONPATH reaches a sitecustomize."""
    variables = environment(threads)
    folder = os.environ["QEXPORT_TEST_SITE"]
    with open(f"{folder}/sitecustomize.py", "w") as handle:  # noqa: PTH123
        handle.write(f"import os, signal, sys, time\nif sys.argv[:1] == ['-m']:\n    {code}\n")
    variables["PYTHONPATH"] = f"{folder}{os.pathsep}{variables['PYTHONPATH']}"
    return variables


@pytest.fixture(autouse=True)
def _site(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setenv("QEXPORT_TEST_SITE", str(folder))


@pytest.mark.real_child
def test_an_error_of_the_child_is_raised_again(broken):
    with pytest.raises(ContractError, match="0 integer matmuls ran where the manifest names 1"):
        measured(broken, "perplexity")


def test_a_provider_that_is_not_there_is_an_error_for_the_whole_run(uniform):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("has a CUDA provider")
    with pytest.raises(ProviderUnavailable, match="--provider cuda"):
        probing.require_provider("cuda")
    # Lost in the middle: the row says why, and the run goes on.
    assert "--provider cuda" in measured(uniform, "perplexity", provider="cuda")["perplexity"].skipped


@pytest.mark.real_child
def test_what_cannot_run_here_is_skipped_with_its_reason(uniform, monkeypatch):
    hidden = "sys.modules['onnxruntime'] = None"
    monkeypatch.setattr("qexport.measurement.child.environment", lambda threads: children(threads, hidden))
    record = measured(uniform, "perplexity")["perplexity"]
    assert record.skipped is not None
    assert record.skipped.startswith("onnxruntime cannot be imported")
    assert record.samples == ()
    assert record.conditions.text_sha256 == WINDOWS.sha256


@pytest.mark.real_child
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "killed by signal 9 (SIGKILL), most likely out of memory: loading it takes about 0.1 GB, and running it more; free some, take a machine with more, or a smaller model",
        ),
        ("os.abort()", "killed by signal 6 (SIGABRT)"),
        ("print('no luck', file=sys.stderr, flush=True); os._exit(3)", "ended with exit code 3: no luck"),
    ],
)
def test_a_child_that_dies_is_skipped_and_the_next_one_runs(uniform, monkeypatch, code, reason):
    monkeypatch.setattr("qexport.measurement.child.environment", lambda threads: children(threads, code))
    assert measured(uniform, "perplexity")["perplexity"].skipped == reason
    monkeypatch.undo()
    assert measured(uniform, "perplexity")["perplexity"].skipped is None


@pytest.mark.real_child
def test_a_child_that_never_answers_is_stopped(uniform, monkeypatch):
    monkeypatch.setattr("qexport.measurement.child.environment", lambda threads: children(threads, "time.sleep(600)"))
    start = time.perf_counter()
    assert measured(uniform, "perplexity", timeout_s=1.0)["perplexity"].skipped == "no answer within 1 s"
    assert time.perf_counter() - start < 20


@pytest.mark.real_child
def test_noise_on_both_streams_does_not_reach_the_answer(uniform, monkeypatch, capfd):
    noise = "print('{\"columns\": []}' * 20000); print('noise', file=sys.stderr)"
    monkeypatch.setattr("qexport.measurement.child.environment", lambda threads: children(threads, noise))
    assert measured(uniform, "perplexity")["perplexity"].skipped is None
    assert capfd.readouterr() == ("", "")


def test_ctrl_c_and_a_killed_parent_take_the_child_along(uniform, tmp_path):
    for number in (signal.SIGINT, signal.SIGKILL):
        parent = subprocess.Popen([sys.executable, "-c", PARENT, str(uniform.path), str(tmp_path)])
        pid_file = tmp_path / "pid"
        wait_for(pid_file.is_file)
        child = int(pid_file.read_text())
        pid_file.unlink()
        parent.send_signal(number)
        assert parent.wait(timeout=20) != 0
        wait_for(lambda pid=child: not running(pid))


PARENT = """
import os, sys, pathlib, numpy as np
from qexport.measurement import probing as measure
from qexport.measurement.job import Job
from qexport.inputs.text import TokenSet
folder = pathlib.Path(sys.argv[2])
(folder / "sitecustomize.py").write_text(
    "import os, sys, time, pathlib\\n"
    "if sys.argv[:1] == ['-m']:\\n"
    "    import qexport.measurement.subject as m\\n"
    f"    m.open_session = lambda *a, **k: (pathlib.Path('{folder}/part').write_text(str(os.getpid())),"
    f" os.rename('{folder}/part', '{folder}/pid'), time.sleep(600))\\n"
    "    m.__name__ = '__main__'\\n"
    "    m.main()\\n"
)
sys.path.insert(0, str(folder))
tokens = TokenSet("windows", "", "", (np.array([0, 1, 2]),))
measure.measure(Job(artifact=pathlib.Path(sys.argv[1]), row="fp32", probe="perplexity", tokens=tokens))
"""


def wait_for(condition, seconds: float = 20.0) -> None:
    end = time.perf_counter() + seconds
    while not condition():
        assert time.perf_counter() < end, "did not come about"
        time.sleep(0.02)


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # An orphan without an init to reap it stays a zombie.
    stat = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(stat.strip()) and not stat.startswith("Z")


# Bad jobs


def test_an_unknown_probe_names_near_ones(uniform):
    with pytest.raises(InputError, match="did you mean perplexity"):
        probing.measure(Job(artifact=uniform.path, row="fp32", probe="perplexitty"))


@pytest.mark.parametrize("tokens", [None, SENTENCES])
def test_a_probe_without_its_tokens_is_refused(uniform, tokens):
    with pytest.raises(InputError, match="needs a token set of windows"):
        measured(uniform, "perplexity", tokens=tokens)
