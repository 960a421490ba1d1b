"""What recipes cost really trained models: ratios of perplexity to fp32, also where activations have outliers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.trained import Cost, Trained, reference, stories

INT8_BOUNDS = {
    ("stories260K", "int8-dynamic"): 1.009,
    ("reference", "int8-dynamic"): 1.006,
    ("stories260K", "int8-static"): 1.01,
    ("reference", "int8-static"): 1.01,
}
ATTENTION_BOUND = 1.004
OUTLIER_BOUNDS = {"int8-dynamic": 1.01, "int8-static": 1.015}
BETTER_ROUNDINGS = ("w4a16-hqq", "w4a16-gptq", "w4a16-awq")


def quality(work: Path) -> Iterator[Figure]:
    """Perplexity of stories260K and of the reference model: ONNX against torch, and every recipe against fp32."""
    small, bundled = stories(work), reference(work)
    for model in (small, bundled):
        yield Figure(
            what=f"{model.name} fp32, ONNX against torch: relative difference of perplexity",
            measured=abs(model.fp32_perplexity / model.torch_perplexity() - 1),
            bound=1e-5,
        )
    yield from _int8(small, engine="inc", nodes=("all", "attention"))
    yield from _int8(small, engine="ort", nodes=("all", "attention"))
    yield from _int8(bundled, engine="ort", nodes=("all",))
    for model in (small, bundled):
        yield _ratio(model, "w8a16-rtn all", model.cost("w8a16-rtn"), 1.001)
        yield from _four_bits(model)
        yield from _four_bit_floats(model)
        yield _ratio(model, "fp16", model.cost("fp16", None))
        yield _ratio(model, "bf16", model.cost("bf16", None))
        yield _ratio(model, "fp8 all", model.cost("fp8"))


def outliers(work: Path) -> Iterator[Figure]:
    """The same models with activation outliers: the recipes hold, naive INT8 collapses."""
    for get in (stories, reference):
        twin = get(work, twin=True)
        for recipe, bound in OUTLIER_BOUNDS.items():
            yield _ratio(twin, f"{recipe} all", twin.cost(recipe, engine="ort"), bound)
            naive = twin.cost(recipe, engine="ort", smooth=False, outlier_channels=False)
            yield _ratio(twin, f"{recipe} all, without smoothing", naive)
        (name, cost), (plain_name, plain) = _best(twin), _best(get(work))
        yield _ratio(twin, f"{name} all, the best of 4 bits", cost)
        yield Figure(
            what=f"{twin.name} {name} all: loss against that of {plain_name} on the plain model",
            measured=cost.loss / plain.loss,
            bound=1.5,
        )


def _ratio(model: Trained, recipe: str, cost: Cost, bound: float | None = None) -> Figure:
    return Figure(what=f"{model.name} {recipe}: perplexity ratio to fp32", measured=cost.ratio, bound=bound)


def _int8(model: Trained, *, engine: str, nodes: tuple[str, ...]) -> Iterator[Figure]:
    for recipe in ("int8-dynamic", "int8-static"):
        for chosen in nodes:
            bound = INT8_BOUNDS[model.name, recipe] if chosen == "all" else ATTENTION_BOUND
            yield _ratio(model, f"{recipe} {chosen}, engine {engine}", model.cost(recipe, chosen, engine=engine), bound)


def _four_bits(model: Trained) -> Iterator[Figure]:
    """Weights in 4 bits: what the better roundings gain over RTN, and the best of all against bitsandbytes."""
    rtn = model.cost("w4a16-rtn")
    yield _ratio(model, "w4a16-rtn all", rtn)
    for recipe in BETTER_ROUNDINGS:
        cost = model.cost(recipe)
        yield _ratio(model, f"{recipe} all", cost)
        yield Figure(
            what=f"{model.name} {recipe} all: perplexity ratio to RTN", measured=cost.ratio / rtn.ratio, bound=1
        )
    name, best = min(((recipe, model.cost(recipe)) for recipe in BETTER_ROUNDINGS), key=lambda pair: pair[1].ratio)
    yield Figure(
        what=f"{model.name} {name} all: share of RTN's loss that it makes good",
        measured=1 - best.loss / rtn.loss,
        bound=0.4,
        at_least=True,
    )
    (name, best), peer = _best(model), model.cost("bnb-nf4", None)
    yield _ratio(model, f"{name} all, the best of 4 bits, against bnb-nf4", best, peer.ratio)
    yield Figure(
        what=f"{model.name} {name} all, against bnb-nf4: bytes of the weights",
        measured=best.weight_bytes / 1e3,
        bound=peer.weight_bytes / 1e3,
        unit=" kB",
    )


def _best(model: Trained) -> tuple[str, Cost]:
    """Of all roundings to 4 bits the one that costs least, and its cost."""
    costs = {recipe: model.cost(recipe) for recipe in ("w4a16-rtn", *BETTER_ROUNDINGS)}
    return min(costs.items(), key=lambda pair: pair[1].ratio)


def _four_bit_floats(model: Trained) -> Iterator[Figure]:
    for kind in ("nf4", "fp4"):
        ours, peer = model.cost(kind, None), model.cost(f"bnb-{kind}", None)
        yield _ratio(model, f"bnb-{kind}", peer)
        yield _ratio(model, f"{kind} in ONNX", ours)
        yield Figure(
            what=f"{model.name} {kind}, ONNX against bitsandbytes: relative difference of perplexity",
            measured=abs(ours.ratio / peer.ratio - 1),
            bound=1e-3,
        )
