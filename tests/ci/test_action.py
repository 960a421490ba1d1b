"""The scripts of action.yml, run by bash as a runner runs them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.ci.conftest import lines, put

ROOT = Path(__file__).resolve().parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS = ACTION["runs"]["steps"]
INSTALL, GATE, COMMENT, VERDICT = STEPS
MARKER = "<!-- qexport gate -->"
PULL_REQUEST = 7
REPORTS = {"gate.md", "junit.xml", "code-quality.json", "gate.json"}

# Answers from EARLIER and notes what it was asked, with the body that it was handed; refuses what REFUSED is in.
GH = f"""#!{sys.executable}
import json, os, pathlib, subprocess, sys
words = sys.argv[1:]
assert os.environ["GH_TOKEN"] == "secret"
files = [word.removeprefix("body=@") for word in words if word.startswith("body=@")]
files += [words[at + 1] for at, word in enumerate(words) if word == "--body-file"]
body = pathlib.Path(files[0]).read_text() if files else None
with open(os.environ["GH_LOG"], "a") as log:
    log.write(json.dumps({{"words": words, "body": body}}) + "\\n")
if os.environ["REFUSED"] and os.environ["REFUSED"] in words:
    sys.exit("HTTP 403: Resource not accessible by integration")
if words[:2] == ["pr", "view"]:
    jq = ["jq", "-r", words[words.index("--jq") + 1]]
    sys.exit(subprocess.run(jq, input=os.environ["EARLIER"], text=True).returncode)
"""
needs_jq = pytest.mark.skipif(shutil.which("jq") is None, reason="no jq here, which gh has inside")

CONTEXT = re.compile(r"'[^']*'|[a-z_]+(?:\.[\w-]+)+")


def evaluate(expression, contexts):
    """An expression of GitHub's, as far as the action uses them: Python's ``and`` and ``or`` are its own."""

    def look_up(match):
        if match[0].startswith("'"):
            return match[0]
        value = contexts
        for name in match[0].split("."):
            value = value.get(name, "") if isinstance(value, dict) else ""
        return repr(value)

    text = CONTEXT.sub(look_up, expression.replace("!cancelled()", "True"))
    return eval(text.replace("&&", " and ").replace("||", " or "))


def fill(text, contexts):
    """A value with its expressions."""
    return re.sub(r"\$\{\{(.*?)\}\}", lambda match: str(evaluate(match[1].strip(), contexts)), str(text))


@dataclass
class Job:
    """What came of the action."""

    code: int = 0
    stdout: str = ""
    stderr: str = ""
    ran: list = field(default_factory=list)
    outputs: dict = field(default_factory=dict)
    summary: str = ""
    asked: list = field(default_factory=list)

    @property
    def warnings(self):
        return [line for line in self.stdout.splitlines() if line.startswith("::warning title=qexport gate::")]


@pytest.fixture
def job(tmp_path, path):
    """``job(artifacts=...)`` runs all steps but the first with these inputs, as on a pull request, in this folder."""
    put(path / "gh", GH)

    def run(*, steps=STEPS[1:], pull_request=True, earlier=(), refused="", environment=None, **inputs):
        given = {name.replace("_", "-"): value for name, value in inputs.items()}
        assert given.keys() <= ACTION["inputs"].keys()
        event = {"pull_request": {"number": PULL_REQUEST}} if pull_request else {}
        contexts = {"github": {"token": "secret", "event": event}, "steps": {}}
        defaults = {name: fill(about.get("default", ""), contexts) for name, about in ACTION["inputs"].items()}
        contexts["inputs"] = defaults | given
        done, summary, log = Job(), tmp_path / "summary", tmp_path / "gh.log"
        for old in (summary, log):
            old.unlink(missing_ok=True)
        for number, step in enumerate(steps):
            if done.code and "cancelled()" not in step.get("if", ""):
                continue
            if "if" in step and not evaluate(step["if"].removeprefix("${{").removesuffix("}}").strip(), contexts):
                continue
            script, outputs = tmp_path / f"step-{number}.sh", tmp_path / f"outputs-{number}"
            script.write_text(step["run"])
            outputs.write_text("")
            result = subprocess.run(
                [shutil.which("bash"), "--noprofile", "--norc", "-e", "-o", "pipefail", script],
                capture_output=True,
                text=True,
                check=False,
                env={
                    "PATH": f"{path}:{os.defpath}",
                    "HOME": str(tmp_path),
                    "LC_ALL": "C.UTF-8",
                    "GITHUB_ACTIONS": "true",
                    "GITHUB_ACTION_PATH": str(ROOT),
                    "GITHUB_OUTPUT": str(outputs),
                    "GITHUB_STEP_SUMMARY": str(summary),
                    "GITHUB_SERVER_URL": "https://github.com",
                    "GITHUB_REPOSITORY": "them/theirs",
                    "GITHUB_RUN_ID": "11",
                    "RUNNER_TEMP": str(tmp_path),
                    "GH_LOG": str(log),
                    "EARLIER": json.dumps({"comments": list(earlier)}),
                    "REFUSED": refused,
                    **{name: fill(value, contexts) for name, value in step.get("env", {}).items()},
                    **(environment or {}),
                },
            )
            done.ran.append(step["name"])
            done.stdout += result.stdout
            done.stderr += result.stderr
            done.code = done.code or result.returncode
            values = dict(line.split("=", 1) for line in outputs.read_text().splitlines())
            contexts["steps"][step.get("id", "")] = {"outputs": values}
        done.outputs = {name: fill(about["value"], contexts) for name, about in ACTION["outputs"].items()}
        done.summary = summary.read_text() if summary.exists() else ""
        done.asked = lines(log)
        return done

    return run


def judged(job, budgets, **inputs):
    return job(artifacts="artifacts/fp32 artifacts/int8", baseline="gate.json", config=f"{budgets}.toml", **inputs)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where artifacts are only names."""
    for name in ("artifacts/fp32", "artifacts/int8", "artifacts/with space", "more/w4", "-o"):
        (tmp_path / "home" / name).mkdir(parents=True)
    (tmp_path / "home" / "artifacts" / "README.md").write_text("")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def verdict(path, folder):
    """``verdict(1)`` puts a gate in the real one's place that writes its report and leaves with that exit code."""

    def stand_in(code):
        put(
            path / "qexport",
            f"#!{sys.executable}\n"
            "import json, pathlib, sys\n"
            "pathlib.Path('asked.json').write_text(json.dumps(sys.argv[1:]))\n"
            "folder = pathlib.Path(sys.argv[sys.argv.index('-o') + 1])\n"
            f"if {code} in (0, 1, 4):\n"
            "    folder.mkdir(exist_ok=True)\n"
            f"    (folder / 'gate.md').write_text('{MARKER}\\nthe report\\n')\n"
            f"sys.exit({code})\n",
        )

    return stand_in


def asked_of_gate():
    words = json.loads(Path("asked.json").read_text())
    return words[: words.index("--")], words[words.index("--") + 1 :]


# With the real command


@pytest.mark.slow
@needs_jq
def test_a_gate_that_passes(job, home):
    done = judged(job, "pass")
    assert (done.code, done.outputs) == (0, {"outcome": "pass", "report": "qexport-gate"}), done.stderr
    assert done.ran == [GATE["name"], COMMENT["name"], VERDICT["name"]]
    assert {entry.name for entry in (home / "qexport-gate").iterdir()} == REPORTS
    report = (home / "qexport-gate" / "gate.md").read_text()
    assert report.startswith(f"{MARKER}\n")
    assert report.strip() in done.summary
    assert done.asked[-1]["body"] == f"{report}\n<!-- baseline gate.json -->\n"
    assert "::error" not in done.stdout


@pytest.mark.slow
@needs_jq
def test_a_gate_that_fails_says_where_and_comments_first(job, home):
    done = judged(job, "fail", add_windows="false")
    assert (done.code, done.outputs) == (1, {"outcome": "fail", "report": "qexport-gate"}), done.stderr
    assert done.ran == [GATE["name"], COMMENT["name"], VERDICT["name"]]
    assert re.search(r"^::error file=gate\.json,line=\d+,.*int8", done.stdout, re.MULTILINE)
    assert done.asked[-1]["body"].startswith((home / "qexport-gate" / "gate.md").read_text())


@pytest.mark.slow
def test_an_inconclusive_gate_is_let_through_with_its_warning(job, home):
    done = judged(job, "undecided", pull_request=False, allow_inconclusive="true")
    assert (done.code, done.outputs["outcome"]) == (0, "inconclusive"), done.stderr
    assert "::warning file=gate.json" in done.stdout


@pytest.mark.slow
@needs_jq
def test_an_error_of_the_gate_is_commented_with_the_way_to_its_log(job, home):
    (home / "gate.json").write_text("{}")
    done = judged(job, "pass")
    assert (done.code, done.outputs) == (3, {"outcome": "error", "report": ""})
    assert "gate.json" in done.stderr
    assert done.asked[-1]["body"].startswith(f"{MARKER}\n**qexport gate: error.**")
    assert "https://github.com/them/theirs/actions/runs/11" in done.asked[-1]["body"]


# With one in its place that leaves with any exit code


@pytest.mark.parametrize(
    ("code", "allow", "became"),
    [
        (0, "false", (0, "pass")),
        (1, "false", (1, "fail")),
        (1, "true", (1, "fail")),
        (2, "true", (2, "error")),
        (3, "true", (3, "error")),
        (4, "false", (4, "inconclusive")),
        (4, "true", (0, "inconclusive")),
        (130, "true", (130, "error")),
    ],
)
def test_the_job_leaves_with_the_exit_code_of_the_gate(job, verdict, code, allow, became):
    verdict(code)
    done = job(artifacts="artifacts/int8", baseline="gate.json", allow_inconclusive=allow, pull_request=False)
    assert (done.code, done.outputs["outcome"]) == became
    assert done.outputs["report"] == ("" if "error" in became else "qexport-gate")


def test_what_the_gate_is_asked(job, verdict):
    verdict(0)
    job(artifacts="artifacts/int8", baseline="gate.json", pull_request=False)
    assert asked_of_gate() == (
        ["gate", "--baseline", "gate.json", "-o", "qexport-gate", "--add-windows"],
        ["artifacts/int8"],
    )
    job(
        artifacts="artifacts/int8",
        baseline="my gate.json",
        config="my gate.toml",
        output="my reports",
        add_windows="false",
        pull_request=False,
    )
    assert asked_of_gate() == (
        ["gate", "--baseline", "my gate.json", "-o", "my reports", "--config", "my gate.toml"],
        ["artifacts/int8"],
    )
    job(artifacts="artifacts/int8", against="the base", add_windows="false", pull_request=False)
    assert asked_of_gate() == (["gate", "--against", "the base", "-o", "qexport-gate"], ["artifacts/int8"])


@pytest.mark.parametrize(
    ("artifacts", "found"),
    [
        ("artifacts/fp32 \n\t artifacts/int8\n", ["artifacts/fp32", "artifacts/int8"]),
        ("artifacts/* more/*", ["artifacts/fp32", "artifacts/int8", "artifacts/with space", "more/w4"]),
        ("artifacts/with?space", ["artifacts/with space"]),
        ("-o", ["-o"]),
        ("more/w[0-9] artifacts/i*", ["more/w4", "artifacts/int8"]),
    ],
)
def test_folders_are_words_and_globs(job, verdict, artifacts, found):
    verdict(0)
    done = job(artifacts=artifacts, baseline="gate.json", pull_request=False)
    assert done.code == 0, done.stdout
    assert asked_of_gate()[1] == found


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"artifacts": "artifacts/none*"}, "input artifacts: no folder is called or matches artifacts/none*;"),
        (
            {"artifacts": "artifacts/int8 artifacts/with space"},
            "matches artifacts/with; a space in a name is written as ?",
        ),
        ({"artifacts": "artifacts/*.md"}, "matches artifacts/*.md;"),
        ({"artifacts": "$(touch run) `touch run` more/w4"}, "matches $(touch;"),
        ({"artifacts": " \n "}, "input artifacts: is empty"),
        ({"artifacts": "--update"}, "matches --update;"),
        ({"baseline": ""}, "input baseline: is empty, and so is against"),
        ({"against": "base"}, "input baseline: against is given too"),
        ({"output": ""}, "input output: is empty"),
        ({"add_windows": "yes"}, "input add-windows: 'yes' is neither 'true' nor 'false'"),
        ({"allow_inconclusive": ""}, "input allow-inconclusive: ''"),
        ({"comment": "True"}, "input comment: 'True'"),
    ],
)
def test_inputs_that_cannot_be_are_refused_before_anything_is_judged(job, folder, verdict, inputs, said):
    verdict(0)
    done = job(**{"artifacts": "artifacts/int8", "baseline": "gate.json", "pull_request": False, **inputs})
    assert (done.code, done.outputs) == (2, {"outcome": "error", "report": ""})
    [line] = done.stdout.splitlines()
    assert line.startswith("::error title=qexport gate::input ")
    assert said in line
    assert not (folder / "asked.json").exists()
    assert not (folder / "run").exists()


# The comment


def comment(number, body, mine=True):
    url = f"https://github.com/them/theirs/pull/{PULL_REQUEST}#issuecomment-{number}"
    return {"url": url, "body": body, "viewerDidAuthor": mine}


OURS = f"{MARKER}\nthe report\n\n<!-- baseline gate.json -->"


def commented(job, **settings):
    return job(artifacts="artifacts/int8", baseline="gate.json", **settings)


@needs_jq
def test_the_first_comment_is_made(job, verdict):
    verdict(1)
    others = (
        comment(1, OURS, mine=False),
        comment(2, f"What does {OURS} mean?"),
        comment(3, OURS.replace("gate.json", "other.json")),
    )
    done = commented(job, earlier=others)
    assert done.code == 1
    assert [ask["words"][:3] for ask in done.asked] == [["pr", "view", "7"], ["pr", "comment", "7"]]
    assert all("them/theirs" in ask["words"] for ask in done.asked)
    assert done.asked[1]["body"] == f"{OURS}\n"
    assert done.warnings == []


@needs_jq
def test_an_earlier_comment_is_edited(job, verdict):
    verdict(0)
    done = commented(job, earlier=(comment(1, "Nice!"), comment(23, OURS.replace("report", "last report"))))
    assert done.code == 0
    [_, edit] = done.asked
    assert edit["words"][:4] == ["api", "--silent", "--method", "PATCH"]
    assert edit["words"][4] == "repos/them/theirs/issues/comments/23"
    assert edit["body"] == f"{OURS}\n"


@needs_jq
@pytest.mark.parametrize(
    ("refused", "earlier", "said"),
    [
        ("view", (), "earlier comments cannot be read"),
        ("comment", (), "a comment cannot be made"),
        ("PATCH", (comment(23, OURS),), "the earlier comment cannot be edited"),
    ],
)
def test_a_comment_that_is_refused_is_a_warning_beside_the_verdict(job, verdict, refused, earlier, said):
    for code in (0, 1):
        verdict(code)
        done = commented(job, refused=refused, earlier=earlier)
        assert done.code == code
        [warning] = done.warnings
        assert said in warning
        assert "pull-requests: write" in warning
        assert "HTTP 403" in done.stderr


def test_without_gh_the_verdict_stands(job, verdict, path):
    verdict(1)
    (path / "gh").unlink()
    (path / "cp").symlink_to(shutil.which("cp"))
    done = commented(job, environment={"PATH": str(path)})
    assert done.code == 1
    assert len(done.warnings) == 1


@pytest.mark.parametrize("settings", [{"pull_request": False}, {"comment": "false"}])
def test_no_comment_where_there_is_no_pull_request_or_none_is_wanted(job, verdict, settings):
    verdict(1)
    done = commented(job, **settings)
    assert (done.code, done.asked, done.ran) == (1, [], [GATE["name"], VERDICT["name"]])


@needs_jq
def test_a_refused_input_replaces_an_earlier_verdict(job, verdict):
    verdict(0)
    assert commented(job).code == 0
    done = commented(job, allow_inconclusive="maybe", earlier=(comment(23, OURS),))
    assert done.code == 2
    assert "qexport gate: error." in done.asked[-1]["body"]
    assert "the report" not in done.asked[-1]["body"]


# The installation


def recorded(path, tmp_path, version):
    """A Python of some version that notes what it is asked to install."""
    put(
        path / "python",
        f'#!/bin/sh\ncase "$1" in -c) echo {version};; *) printf "%s\\n" "$@" "$PIP_EXTRA_INDEX_URL" > "{tmp_path}/pip";; esac\n',
    )


def test_the_actions_own_checkout_is_installed_or_what_is_asked_for(job, tmp_path, path):
    recorded(path, tmp_path, "3.12")
    pip = ["-m", "pip", "install", "--disable-pip-version-check"]
    assert job(steps=[INSTALL]).code == 0
    index = "https://download.pytorch.org/whl/cpu"
    own = ["-c", f"{ROOT}/constraints.txt", f"{ROOT}[cpu]", index]
    assert (tmp_path / "pip").read_text().splitlines() == pip + own
    done = job(steps=[INSTALL], version="qexport[cpu] @ file:///a b", environment={"PIP_EXTRA_INDEX_URL": ""})
    assert done.code == 0
    assert (tmp_path / "pip").read_text().split("\n")[:-1] == [*pip, "qexport[cpu] @ file:///a b", ""]


@pytest.mark.parametrize("version", ["3.10", "3.13", "2.7", ""])
def test_another_python_is_refused_and_nothing_is_installed(job, tmp_path, path, version):
    recorded(path, tmp_path, version)
    done = job(steps=[INSTALL, GATE], artifacts="a", baseline="b")
    assert (done.code, done.ran, done.outputs["outcome"]) == (3, [INSTALL["name"]], "error")
    assert f"needs Python 3.11 or 3.12 and found {version or 'none'};" in done.stdout
    assert not (tmp_path / "pip").exists()


@pytest.mark.slow
def test_it_installs_from_a_checkout(job, tmp_path, path):
    """Into an environment of its own, without an index: what the build and the command import lies in this one."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    [here] = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (here / "outer.pth").write_text(f"{Path(yaml.__file__).parents[1]}\n")
    put(path / "python", f'#!/bin/sh\nexec "{tmp_path}/venv/bin/python" "$@"\n')
    # pip reads this one the other way round: 0 is --no-build-isolation.
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_EXTRA_INDEX_URL": ""}
    done = job(steps=[INSTALL], environment=offline)
    assert done.code == 0, done.stdout + done.stderr
    assert (here / "qexport" / "gating" / "pipeline.py").is_file()
    shown = subprocess.run([tmp_path / "venv" / "bin" / "qexport", "gate", "--help"], capture_output=True, check=True)
    assert b"--baseline" in shown.stdout


# The form


def test_every_input_and_output_is_explained_and_used():
    text = (ROOT / "action.yml").read_text()
    used = set(re.findall(r"inputs\.([\w-]+)", text))
    assert used == set(ACTION["inputs"])
    for about in (*ACTION["inputs"].values(), *ACTION["outputs"].values()):
        assert about["description"].endswith(".")
    for about in ACTION["inputs"].values():
        assert isinstance(about.get("default", ""), str)
        assert ("default" in about) != about.get("required", False)
    assert set(re.findall(r"steps\.([\w-]+)\.outputs", text)) == {step["id"] for step in STEPS if "id" in step}


def test_scripts_take_nothing_but_their_environment():
    assert ACTION["runs"]["using"] == "composite"
    for step in STEPS:
        assert "${{" not in step["run"]
        assert step["shell"] == "bash"
        assert step["run"].startswith("set -euo pipefail\n")
        assert set(re.findall(r"\$\{?(GATE_\w+)", step["run"])) == {
            name for name in step["env"] if name.startswith("GATE_")
        }


def test_the_readme_calls_it_by_inputs_that_it_has():
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "ci" / "README.md").read_text(), re.DOTALL)
    workflows = [each for each in map(yaml.safe_load, blocks) if "jobs" in each]
    assert [
        workflow["jobs"]["gate"]["steps"][-1]["with"].keys() & {"against", "baseline"} for workflow in workflows
    ] == [
        {"against"},
        {"baseline"},
    ]
    for workflow in workflows:
        gate = workflow["jobs"]["gate"]
        assert gate["permissions"]["pull-requests"] == "write"
        with_ = gate["steps"][-1]["with"]
        assert {name for name, about in ACTION["inputs"].items() if about.get("required")} <= with_.keys()
        assert with_.keys() <= ACTION["inputs"].keys()
