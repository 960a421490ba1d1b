"""Train the reference model: a small GPT-2 on generated children's stories.

    python models/reference/train.py --out models/reference --stories-json tinystories_500.json

The model has to be one that quantization hurts, or every row of a results table would read 1.000. Weights are
sensitive when they are saturated: few parameters, a narrow width, a high learning rate, no weight decay, and far more
tokens than parameters. :mod:`grammar` supplies those tokens without end, and no story is ever seen twice, so the loss
on the training text is a loss on unseen text. Real stories, where given, are mixed in to widen the language; the
first 400 are trained on, with other names for the characters each time, and the rest are held out.

A run depends on the seed, the settings and the number of threads, and on nothing else of the machine but its
floating-point arithmetic. It writes the model and its tokenizer in the layout of transformers, ``training_log.json``
and ``loss_curve.png``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import grammar
import matplotlib as mpl
import plots
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
"""Begins every story, and so also ends the one before it."""

KEEP_CHANCE = 0.25
"""How often a word of a real story that could be replaced is not."""

REAL_TRAINING_STORIES = 400
"""How many of the real stories are trained on; the others are held out."""

_KINDS: dict[str, Sequence[str]] = {"name, f": plots.ANY_NAMES["f"], "name, m": plots.ANY_NAMES["m"], **plots.KINDS}
_KIND_OF = {word: kind for kind, words in _KINDS.items() for word in words}
_WORD = re.compile(r"\b(" + "|".join(_KIND_OF) + r")\b")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides what the run computes."""

    seed: int = 0
    steps: int = 2_800

    vocabulary: int = 1_024
    context: int = 384
    width: int = 128
    layers: int = 3
    heads: int = 4

    rows: int = 8
    peak_rate: float = 5e-3
    warmup_steps: int = 100
    decay_share: float = 0.4
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    largest_gradient: float = 1.0

    real_chance: float = 0.12
    tokenizer_stories: int = 800
    held_out_stories: int = 200
    log_every: int = 50
    evaluate_every: int = 500


class Score(NamedTuple):
    """The negative log-likelihood of some text, and the number of tokens that it was summed over."""

    nats: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """exp(sum NLL / sum tokens)."""
        return math.exp(self.nats / self.tokens)


def vary(text: str, rng: random.Random) -> str:
    """The story with other words of the same kind, each in all its places, for most of the words that have a kind.

    A small corpus is read many times; without this the model would learn it by heart rather than learn from it.
    """
    free = {kind: rng.sample(words, len(words)) for kind, words in _KINDS.items()}
    chosen: dict[str, str] = {}

    def replacement(match: re.Match[str]) -> str:
        word = match.group(1)
        if word not in chosen:
            keep = rng.random() < KEEP_CHANCE or not free[_KIND_OF[word]]
            chosen[word] = word if keep else free[_KIND_OF[word]].pop()
        return chosen[word]

    return grammar.fix_articles(_WORD.sub(replacement, text))


def training_stories(real: Sequence[str], settings: Settings) -> Iterator[str]:
    """Stories without end: new ones from the grammar, with some chance of a real one, varied, before each."""
    rng = random.Random(f"qexport training {settings.seed}")
    for index in itertools.count():
        for seed in grammar.TRAINING_SEEDS:
            if real and rng.random() < settings.real_chance:
                yield vary(rng.choice(real), rng)
            yield grammar.story(seed, index)


def train_tokenizer(texts: Iterator[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE of the texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def batches(texts: Iterator[str], tokenizer: Tokenizer, settings: Settings) -> Iterator[torch.Tensor]:
    """Rows of ``context + 1`` tokens, each packed with whole stories from its start and cut at its end."""
    length = settings.context + 1
    while True:
        rows = []
        for _ in range(settings.rows):
            row: list[int] = []
            while len(row) < length:
                row += tokenizer.encode(END_OF_TEXT + next(texts)).ids
            rows.append(row[:length])
        yield torch.tensor(rows)


def learning_rate(step: int, settings: Settings) -> float:
    """Warm up, stay at the peak, and fall in a straight line to zero over the last steps."""
    decay_steps = settings.decay_share * settings.steps
    warm = (step + 1) / settings.warmup_steps
    left = (settings.steps - step) / decay_steps
    return settings.peak_rate * min(warm, 1.0, left)


@torch.no_grad()
def score(model: GPT2LMHeadModel, tokenizer: Tokenizer, texts: Sequence[str]) -> Score:
    """The score of the texts, each in a window of its own that begins with the end-of-text token."""
    model.eval()
    nats, tokens = 0.0, 0
    for text in texts:
        ids = torch.tensor([tokenizer.encode(END_OF_TEXT + text).ids[: model.config.n_positions]])
        logits = model(ids).logits[0, :-1]
        nats += cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        tokens += ids.shape[1] - 1
    model.train()
    return Score(nats, tokens)


def new_model(settings: Settings) -> GPT2LMHeadModel:
    """The untrained model. It has no dropout, because it never sees a generated story twice."""
    config = GPT2Config(
        vocab_size=settings.vocabulary,
        n_positions=settings.context,
        n_embd=settings.width,
        n_layer=settings.layers,
        n_head=settings.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        activation_function="gelu_pytorch_tanh",
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config)


def train(
    model: GPT2LMHeadModel,
    data: Iterator[torch.Tensor],
    tokenizer: Tokenizer,
    held_out: Sequence[str],
    settings: Settings,
) -> list[dict[str, float]]:
    """Train the model in place, printing the log as it grows; return the log."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.peak_rate, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
    )
    log: list[dict[str, float]] = []
    losses: list[float] = []
    begin = time.monotonic()
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        batch = next(data)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch[:, :-1], use_cache=False).logits
        loss = cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.largest_gradient)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())

        done = step + 1
        if done % settings.log_every and done != settings.steps:
            continue
        entry = {
            "step": done,
            "loss": round(sum(losses) / len(losses), 5),
            "tokens": done * settings.rows * settings.context,
            "seconds": round(time.monotonic() - begin, 1),
        }
        losses.clear()
        if done % settings.evaluate_every == 0 or done == settings.steps:
            entry["held_out_perplexity"] = round(score(model, tokenizer, held_out).perplexity, 4)
        log.append(entry)
        print(json.dumps(entry), flush=True)
    return log


def plot_loss(log: Sequence[dict[str, float]], path: Path) -> None:
    """Draw the loss against the tokens seen, with the held-out loss beside it."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    held_out = [entry for entry in log if "held_out_perplexity" in entry]
    axes.plot([e["tokens"] / 1e6 for e in log], [e["loss"] for e in log], label="training batches", linewidth=1)
    axes.plot(
        [e["tokens"] / 1e6 for e in held_out],
        [math.log(e["held_out_perplexity"]) for e in held_out],
        "o-",
        label="held-out grammar stories",
        markersize=4,
    )
    axes.set(xlabel="tokens seen (millions)", ylabel="loss (nats per token)", yscale="log")
    axes.grid(which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120, metadata={"Software": None})


def save(model: GPT2LMHeadModel, tokenizer: Tokenizer, out: Path) -> None:
    """Write the model and its tokenizer as transformers reads them."""
    model.config.activation_function = "gelu_new"  # the same function as in training, under GPT-2's name for it
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=0, pad_token_id=0)
    model.eval().save_pretrained(out)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        model_max_length=model.config.n_positions,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(out)


def run(settings: Settings, stories_json: Path | None, out: Path) -> None:
    """Train the tokenizer and the model and write everything to the folder."""
    torch.manual_seed(settings.seed)
    torch.use_deterministic_algorithms(mode=True)
    real: list[str] = json.loads(stories_json.read_text(encoding="utf-8")) if stories_json else []
    real = [story.strip() for story in real]
    real, real_held_out = real[:REAL_TRAINING_STORIES], real[REAL_TRAINING_STORIES:]
    held_out = list(grammar.stories(grammar.HELD_OUT_SEEDS[0], settings.held_out_stories))

    tokenizer_texts = [*grammar.stories(grammar.TRAINING_SEEDS[0], settings.tokenizer_stories), *real]
    tokenizer = train_tokenizer(iter(tokenizer_texts), settings.vocabulary)
    model = new_model(settings)
    data = batches(training_stories(real, settings), tokenizer, settings)
    log = train(model, data, tokenizer, held_out, settings)

    perplexity = {"grammar": score(model, tokenizer, held_out).perplexity}
    if real_held_out:
        perplexity["real"] = score(model, tokenizer, real_held_out).perplexity
    out.mkdir(parents=True, exist_ok=True)
    save(model, tokenizer, out)
    record = {
        "settings": asdict(settings),
        "threads": torch.get_num_threads(),
        "parameters": model.num_parameters(),
        "held_out_perplexity": perplexity,
        "log": log,
    }
    (out / "training_log.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    plot_loss(log, out / "loss_curve.png")
    print(json.dumps(perplexity))


def main() -> None:
    """Read the command line and train."""
    defaults = Settings()
    parser = argparse.ArgumentParser(description="Train the reference model.")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--stories-json", type=Path, help="a JSON list of real stories (TinyStories) to mix in")
    parser.add_argument("--threads", type=int, default=1, help="more change the rounding, and so the run")
    for name, value in asdict(defaults).items():
        if isinstance(value, int | float):
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    arguments = vars(parser.parse_args())
    torch.set_num_threads(arguments.pop("threads"))
    out, stories_json = arguments.pop("out"), arguments.pop("stories_json")
    run(Settings(**arguments), stories_json, out)


if __name__ == "__main__":
    main()
