"""Silence covers the exporter's thread and nothing else, and ends with the block."""

from __future__ import annotations

import logging
import sys
import threading
import warnings

import pytest

from qexport.quiet import quiet


def test_this_thread_is_not_heard_and_others_are(capsys, caplog):
    def other():
        print("from another thread", file=sys.stderr)  # noqa: T201

    with quiet():
        print("out")  # noqa: T201
        print("err", file=sys.stderr)  # noqa: T201
        logging.getLogger("torch.onnx").warning("log")
        warnings.warn("warning", stacklevel=1)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    captured = capsys.readouterr()
    assert (captured.out, captured.err, caplog.text) == ("", "from another thread\n", "")


def test_everything_is_heard_again_even_after_an_error(capsys, caplog):
    with pytest.raises(ZeroDivisionError), quiet():
        1 / 0  # noqa: B018
    print("heard")  # noqa: T201
    logging.getLogger("torch.onnx").warning("heard too")
    with pytest.warns(UserWarning, match="and this"):
        warnings.warn("and this", stacklevel=1)
    assert capsys.readouterr().out == "heard\n"
    assert "heard too" in caplog.text
