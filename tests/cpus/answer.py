"""The process of :class:`tests.cpus.emulator.Emulated`: a question a line, answers in the files that questions name."""

from __future__ import annotations

import sys

from qexport.core.errors import QExportError
from qexport.measurement.job import Question, failed
from qexport.measurement.subject import Subject

for line in sys.stdin:
    question = Question.model_validate_json(line)
    try:
        answer = Subject(question.artifact, question.provider).answer(question)
    except QExportError as error:
        answer = failed(error)
    question.answer.write_text(answer.model_dump_json())
    print("answered", flush=True)  # noqa: T201  # it is what the parent waits for
