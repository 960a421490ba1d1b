from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser

import pytest

from qexport.report.charts import CHARTS
from qexport.report.html import page
from qexport.report.palette import DARK, LIGHT
from qexport.report.table import build_table


class Reader(HTMLParser):
    """Attributes of every element, and the text outside scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.attributes, self.tags, self.words, self.scripts = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        (self.scripts if self.tags[-1:] == ["script"] else self.words).append(data)


@pytest.fixture(scope="module")
def text(table):
    return page(table, title="reference", charts=CHARTS)


def test_nothing_is_loaded_from_outside(text):
    read = Reader(text)
    assert not [a for a in read.attributes if a[1] in {"src", "href", "srcset", "action", "poster", "data"}]
    assert not {"link", "img", "iframe", "object", "embed", "form", "base"} & set(read.tags)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    own = read.scripts[-1]
    assert not re.search(r"https?:|fetch|import|XMLHttpRequest|WebSocket", own)
    assert not re.search(r"\bimport\s*[({\"'*]", "".join(read.scripts))


def test_a_policy_forbids_every_request_and_eval(text):
    (policy,) = (value for tag, name, value in Reader(text).attributes if name == "content" and "default-src" in value)
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert "unsafe-eval" not in policy
    assert text.index("Content-Security-Policy") < text.index("<style>")


def test_charts_share_one_vega_and_the_page_stays_small(text):
    assert text.count("window.vegaEmbed") == 1
    assert len(text.encode()) < 1_200_000
    start = text.index('id="charts">') + len('id="charts">')
    data = json.loads(text[start : text.index("</script>", start)])
    assert list(data["layouts"]) == [chart.name for chart in CHARTS if chart.name not in {"tasks", "session"}]
    assert all(len(layouts) == 3 for layouts in data["layouts"].values())


def test_placeholders_are_in_every_theme(text):
    placeholders = set(re.findall(r'"@(\w+)"', text))
    assert placeholders
    assert all(hasattr(theme, name) for theme in (LIGHT, DARK) for name in placeholders)
    assert "prefers-color-scheme: dark" in text


def test_the_table_tells_figures_and_what_is_missing(text):
    words = " ".join(Reader(text).words)
    for expected in ("1.263", "0.262×", "published 130.97", "1.0201× (1.0176 to 1.0226)", "no measurable difference"):
        assert expected in words
    assert "bnb-nf4: bitsandbytes is not installed" in words


def test_names_are_escaped(make):
    evil = '</script><script>alert("x")</script>'
    records = [
        record.model_copy(update={"row": f"{record.row}{evil}", "model": evil, "recipe": record.recipe})
        for record in make(published=True, skip={"bnb-nf4": evil})
    ]
    found = page(build_table(records), title=evil, charts=CHARTS)
    assert '<script>alert("x")' not in found
    assert Reader(found).tags.count("script") == 3


def test_a_broken_model_is_shown_as_such(make):
    def broken(record):
        if record.row == "int8-static (all)" and record.metric == "perplexity":
            return record.model_copy(update={"samples": tuple((math.nan, n) for _, n in record.samples)})
        return record

    found = page(build_table([broken(record) for record in make()]), title="t", charts=CHARTS)
    assert "not finite" in found
    assert "nan%" not in found
    assert "NaN" not in found[found.index('id="charts">') : found.index("</script>", found.index('id="charts">'))]


def test_same_records_same_page(text, table):
    assert page(table, title="reference", charts=CHARTS) == text


def test_there_is_a_table_for_each_group_with_the_same_rows(full):
    table = full
    found = page(table, title="t", charts=())
    assert re.findall(r'<h3 id="table-(\w+)">', found) == ["memory", "speed", "quality", "tasks", "session"]
    assert found.count('data-name="fp32"') == 5
    assert "right in 5 of 5" in found
    assert "unstable: rounds differ by 32 %" in found
    assert len(found.encode()) < 1_600_000


def test_more_is_better_falls_first(full):
    found = page(full, title="t", charts=())
    falling = re.findall(r'data-first="descending"><button type="button">([^<]+)', found)
    tasks = [column.title for column in full.columns if column.group == "tasks"]
    assert len(tasks) == 11
    rates = ["Tokens per second", "Tokens per second, batch"]
    assert [title.strip() for title in falling] == [*rates, "Same top token", *tasks, "Answer correct"]


def test_merged_runs_have_a_legend_and_a_stand_in_a_notice(make, merged):
    found = page(merged, title="t", charts=())
    assert '<h2 id="runs">Runs</h2>' in found
    assert "The runs differ in machine" in found
    assert 'data-value="B">run B</button>' in found
    notice = page(build_table(make(stand_in=True)), title="t", charts=())
    assert '<p class="notice">reference is a stand-in' in notice


def test_accuracies_have_interval_ratio_test_and_published(answered):
    words = Reader(page(answered, title="t", charts=())).words
    at = words.index("0.417 ")
    low, high = words[at + 1].split(" to ")
    assert 0.3 < float(low) < 0.417 < float(high) < 0.52
    assert words[at + 2].startswith("0.833× (")
    assert "p 0.039 (10 lost, 2 gained)" in words[at : at + 6]
    assert "published 61.0 %" in words[at : at + 7]
    assert "p < 0.001 (48 lost, 0 gained)" in words
    assert words.count("no measurable difference") == 0


def test_whiskers_of_accuracies_lie_within_their_cell(answered):
    places = re.findall(r"left:(-?[\d.]+)%", page(answered, title="t", charts=()))
    assert len(places) == 6  # 1, the interval's low end and the value, of two rows
    assert all(0 <= float(place) <= 100 for place in places)


def test_how_tasks_were_scored_stands_below_the_tables(answered):
    found = page(answered, title="t", charts=())
    assert "<h3>How tasks were scored</h3>" in found
    assert "<li>GSM8K was scored on its train split.</li>" in found
    assert "<li>3 contexts of GSM8K were cut from the left: longer than the model&#x27;s context.</li>" in found
    assert "<dt>Questions of GSM8K, strict</dt><dd>96 questions, train split, 5-shot, task version 3.0" in found
