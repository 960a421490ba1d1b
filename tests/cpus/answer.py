"""The process of :class:`tests.cpus.emulator.Emulated`: a question a line, answers in the files that questions name."""

from __future__ import annotations

import sys

from qexport import measure
from qexport.errors import QExportError

for line in sys.stdin:
    question = measure._Question.model_validate_json(line)
    try:
        answer = measure._answer(question)
    except QExportError as error:
        answer = measure.failed(error)
    question.answer.write_text(answer.model_dump_json())
    print("answered", flush=True)  # noqa: T201  # it is what the parent waits for
