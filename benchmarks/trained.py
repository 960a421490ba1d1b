"""Really trained models, and what recipes cost them on text that calibration never saw."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qexport import exporting, quantization
from qexport.core.artifact import Artifact
from qexport.core.selection import parse_selector
from qexport.inputs.models import load_tokenizer, load_torch_model, locate_model
from qexport.inputs.text import Text, load_text, make_windows
from qexport.measurement.metrics.perplexity import sequence_nll
from qexport.quantization.recipes import recipe
from qexport.runtime import onnx_session
from tests.outliers import save_outlier_twin

if TYPE_CHECKING:
    import numpy as np

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("QEXPORT_DATA", ROOT.parent / "shared" / "data"))


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a recipe makes of a model."""

    ratio: float
    """Perplexity of the artifact, divided by that of the fp32 artifact."""
    weight_bytes: int

    @property
    def loss(self) -> float:
        return self.ratio - 1


class Trained:
    """A trained model with its texts; each recipe is taken once, however often its cost is asked for."""

    def __init__(self, name: str, folder: Path, *, calibration: Text, evaluation: Text, work: Path) -> None:
        self.name = name
        self._folder = folder
        self._calibration = calibration
        self._work = work
        self._costs: dict[str, Cost] = {}
        self._source = locate_model(folder)
        tokenizer = load_tokenizer(self._source)
        self._windows = make_windows(evaluation, tokenizer, window=self._source.context_length, limit=None).sequences
        self._fp32 = exporting.export(str(folder), work / "fp32")
        self.fp32_perplexity = self._perplexity(self._fp32)

    def torch_perplexity(self) -> float:
        """Perplexity of the model itself, in torch."""
        import torch

        model = load_torch_model(self._source)

        def logits(window: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return model(torch.from_numpy(window[None])).logits[0].numpy()

        return self._score(logits)

    def cost(self, name: str, nodes: str | None = "all", **options: object) -> Cost:
        """What a recipe makes of the model; ``nodes`` None takes those that the recipe is for."""
        chosen = recipe(name).configured(options)
        words = [name, nodes or "", *(f"{option}={value}" for option, value in sorted(options.items()))]
        label = re.sub(r"\W+", "-", " ".join(words)).strip("-")
        if label not in self._costs:
            artifact = quantization.quantize(
                # bitsandbytes quantizes the model and not its graph
                str(self._folder if name.startswith("bnb-") else self._fp32.path),
                self._work / label,
                recipe_name=name,
                selector=parse_selector(nodes) if nodes else None,
                options=options,
                text=self._calibration if getattr(chosen.scheme, "calibration", "") else None,
            )
            self._costs[label] = Cost(
                ratio=self._perplexity(artifact) / self.fp32_perplexity, weight_bytes=artifact.manifest.weight_bytes
            )
        return self._costs[label]

    def _perplexity(self, artifact: Artifact) -> float:
        session = onnx_session.open_session(artifact, observe="kernels")
        return self._score(lambda window: session.logits(window[None])[0])

    def _score(self, logits: Callable[[np.ndarray], np.ndarray]) -> float:
        scored = sum(len(window) - 1 for window in self._windows)
        return math.exp(sum(sequence_nll(logits(window), window) for window in self._windows) / scored)


@functools.cache
def stories(work: Path, *, twin: bool = False) -> Trained:
    """stories260K: calibrated on the first 64 stories, measured on the last 100; ``twin`` is the one with outliers."""
    documents = load_text(DATA / "text" / "tinystories_500.json").documents
    return _trained(
        "stories260K",
        DATA / "models" / "stories260K",
        calibration=Text("tinystories_500.json, first 64", documents[:64]),
        evaluation=Text("tinystories_500.json, last 100", documents[-100:]),
        work=work,
        twin=twin,
    )


@functools.cache
def reference(work: Path, *, twin: bool = False) -> Trained:
    """The bundled model on its held-out texts; ``twin`` is the one with outliers."""
    folder = ROOT / "models" / "reference"
    return _trained(
        "reference",
        folder,
        calibration=load_text(folder / "held_out_calibration.jsonl"),
        evaluation=load_text(folder / "held_out_evaluation.jsonl"),
        work=work,
        twin=twin,
    )


def _trained(name: str, folder: Path, *, calibration: Text, evaluation: Text, work: Path, twin: bool) -> Trained:
    place = work / (f"{name}-outliers" if twin else name)
    place.mkdir()
    if twin:
        folder = save_outlier_twin(folder, place / "source")
        name = f"{name} with outliers"
    return Trained(name, folder, calibration=calibration, evaluation=evaluation, work=place)
