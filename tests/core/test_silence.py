"""Silence covers the exporter's thread and nothing else, and ends with the block."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import threading
import warnings

import pytest

from qexport.core.silence import quiet
from tests.inputs.test_models import shard


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


def test_a_model_in_shards_loads_without_a_bar(tiny, tmp_path, capfd):
    """``--quiet`` must hold for transformers' bars too."""
    from qexport.inputs.models import load_tokenizer, load_torch_model, locate_model

    folder = shutil.copytree(tiny("gpt2"), tmp_path / "model")
    shard(folder)
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"revisionn": "x"}))
    source = locate_model(folder)
    load_torch_model(source)
    load_tokenizer(source)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
