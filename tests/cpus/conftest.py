from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qexport import measure, pipeline
from qexport.artifact import load_artifact
from tests.cpus.emulator import CPUS, Emulated, missing

ROWS = {
    "fp32": None,
    "int8-dynamic": ("int8-dynamic", {}),
    "int8-static": ("int8-static", {}),
    "w8a16-rtn": ("w8a16-rtn", {}),
    "w8a16-rtn-int8": ("w8a16-rtn", {"compute": "int8"}),
    "w4a16-rtn": ("w4a16-rtn", {}),
    "w4a16-gptq": ("w4a16-gptq", {}),
    "nf4": ("nf4", {}),
    "fp8": ("fp8", {}),
}
"""Recipe and options of each row."""


@pytest.fixture(scope="session")
def rows(tmp_path_factory) -> dict[str, Path]:
    """The bundled model in every arithmetic, made on this CPU."""
    folder = tmp_path_factory.mktemp("rows")
    pipeline.export("reference", folder / "fp32")
    for name, made in ROWS.items():
        if made is not None:
            recipe, options = made
            pipeline.quantize(str(folder / "fp32"), folder / name, recipe_name=recipe, options=options)
    return {name: load_artifact(folder / name).path for name in ROWS}


@pytest.fixture(scope="session", params=list(CPUS))
def emulated(request) -> Iterator[Emulated]:
    """A process on an emulated CPU."""
    if reason := missing():
        pytest.skip(reason)
    process = Emulated(CPUS[request.param])
    yield process
    process.close()


@pytest.fixture
def on() -> Callable[[Emulated], object]:
    """``with on(emulated):`` measures there."""

    @contextmanager
    def there(emulated: Emulated) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(measure, "_ask_child", emulated.ask)
            yield

    return there
