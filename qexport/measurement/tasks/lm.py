"""Artifacts as models of lm-eval: tokens are made in the same way as in its ``hf`` model, and qexport answers.

Source: lm-eval 0.4.13, ``lm_eval/models/huggingface.py``: how it cuts a context, adds BOS and defines a stop word.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
    resolve_max_length,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from qexport.core import InputError, Provider, load_artifact
from qexport.inputs import Place, load_config, read_tokenizer, require_rows, rows_of, stop_ids
from qexport.measurement.answers import Here, Respondent
from qexport.runtime import BATCH_ROWS, Likelihood, Passage, Prompt, ProviderUnavailable, open_session, require_provider

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

_GENERATION = {"do_sample", "temperature", "until", "max_gen_toks", "top_k", "top_p", "min_p", "typical_p"}
"""Settings that are obeyed, or that have no effect on greedy generation."""
_QUESTION = Place("a question of the tasks")
_Scored = tuple[tuple[str, str] | None, list[int], list[int]]
"""A request of lm-eval as tokens: its texts, the context and the continuation."""


class ArtifactLM(TemplateLM):
    """A model with the tokenizer and configuration of an artifact's folder, and the answers of a respondent."""

    def __init__(
        self,
        folder: Path,
        respondent: Respondent,
        *,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
    ) -> None:
        """Make a model; the arguments after the first two are those of lm-eval's ``hf`` model.

        Args:
            folder: the artifact's folder.
            respondent: the object that scores and generates.
            max_length: the tokens of context; None takes the model's own.
            max_gen_toks: the most tokens to generate for a task that names no number.
            add_bos_token: if True, texts begin with BOS; None leaves it to the tokenizer.
            prefix_token_id: the token of an empty context; None takes BOS, or the end of text if there is no BOS.
        """
        super().__init__()
        given = {} if add_bos_token is None else {"add_bos_token": add_bos_token}
        self.tokenizer: Any = read_tokenizer(folder, **given)
        self._folder = folder
        config = load_config(folder)
        self._rows = rows_of(config)
        self.max_length = max_length or resolve_max_length(config, self.tokenizer)
        self.max_gen_toks = max_gen_toks
        self.truncated: set[str] = set()
        """Contexts that were cut on the left, in the form that the tasks wrote."""
        self._respondent = respondent
        self._add_bos_token = add_bos_token
        self._prefix_token_id = prefix_token_id
        self._stop = stop_ids(folder, self.tokenizer)

    @property
    def eot_token_id(self) -> int:
        """The tokenizer's end of text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token of an empty context."""
        if self._prefix_token_id is not None:
            return self._prefix_token_id
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        """The name in lm-eval's cache of prompts."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:  # noqa: FBT001, FBT002  # lm-eval's signature
        """A conversation in the form of the tokenizer's template.

        Raises:
            InputError: the tokenizer has no template.
        """
        if not self.tokenizer.chat_template:
            raise InputError(f"{self._folder}: the tokenizer has no chat template; leave --apply-chat-template out")
        from jinja2 import TemplateError

        try:
            return self._templated(chat_history, add_generation_prompt)
        except TemplateError:  # as the hf model: some templates know no system role
            without = [message for message in chat_history if message["role"] != "system"]
            return self._templated(without, add_generation_prompt)

    def _templated(self, messages: list[dict[str, str]], prompted: bool) -> str:  # noqa: FBT001  # as above
        return str(
            self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=prompted, continue_final_message=not prompted
            )
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_kwargs: object) -> list[int]:  # noqa: FBT001  # lm-eval's signature
        """The tokens of a text, with BOS in front if the tokenizer adds it and the text does not have it yet."""
        if add_special_tokens is None:
            prefixed = has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id))
            add_special_tokens = False if prefixed else self._add_bos_token
        given = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        tokens: list[int] = self.tokenizer.encode(string, **given)
        require_rows(self.tokenizer, tokens, self._rows, _QUESTION, string)
        return tokens

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:  # noqa: FBT001, FBT002  # lm-eval's signature
        """See ``lm_eval.api.model.LM``; progress is qexport's own."""
        del disable_tqdm
        scored: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return scored

    def _loglikelihood_tokens(self, requests: list[_Scored], **_kwargs: object) -> list[tuple[float, bool]]:
        passages = [self._passage(*request) for request in requests]
        asked = [passage for passage in passages if passage is not None]
        answers = iter(self._respondent.likelihoods(asked))
        scored: list[tuple[float, bool]] = []
        for (texts, _, _), passage in zip(requests, passages, strict=True):
            # An empty continuation is certain and greedy, as in lm-eval's own ONNX models.
            answer = Likelihood(0.0, greedy=True) if passage is None else next(answers)
            scored.append(answer)
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return scored

    def _passage(self, texts: tuple[str, str] | None, context: list[int], continuation: list[int]) -> Passage | None:
        """A request cut on the left to the model's length; None if it has nothing to score."""
        if not continuation:
            return None
        if len(continuation) > self.max_length:
            raise InputError(
                f"a choice of {len(continuation)} tokens is longer than the model's context of {self.max_length}; "
                "leave the task out, or shorten the choice in the data"
            )
        # The last token is predicted and never fed, so a request may have one token more than the model's length.
        kept = (context + continuation)[-(self.max_length + 1) :]
        if texts is not None and len(kept) < len(context) + len(continuation):
            self.truncated.add(texts[0])
        return Passage(tuple(kept[: -len(continuation)]), tuple(continuation))

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:  # noqa: FBT001, FBT002  # lm-eval's signature
        """See ``lm_eval.api.model.LM``: texts of any length, in windows that share no token."""
        del disable_tqdm
        windows: list[_Scored] = []
        counts: list[int] = []
        for (text,) in (request.args for request in requests):
            cut = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            own: list[_Scored] = [(None, *make_disjoint_window(window)) for window in cut]
            windows += own
            counts.append(len(own))
        scores = iter(self._loglikelihood_tokens(windows))
        totals = [sum(next(scores)[0] for _ in range(count)) for count in counts]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:  # noqa: FBT001, FBT002  # lm-eval's signature
        """See ``lm_eval.api.model.LM``; greedy only.

        Raises:
            InputError: the task asks for sampling, or for more tokens than the model's context has.
        """
        del disable_tqdm
        prompts = [self._prompt(*request.args) for request in requests]
        texts = []
        for request, prompt, tokens in zip(requests, prompts, self._respondent.continuations(prompts), strict=True):
            text = self.tokenizer.decode(tokens, skip_special_tokens=True)
            texts.append(postprocess_generated_text(text, stop=list(prompt.until), think_end_token=None))
            self.cache_hook.add_partial("generate_until", request.args, texts[-1])
        return texts

    def require_generation(self, settings: dict[str, Any]) -> int:
        """Make sure that a task's answers can be generated; return the number of tokens of its contexts that are kept.

        Raises:
            InputError: the task asks for sampling, an unknown setting, no new tokens, or more than the context has.
        """
        try:
            wanted = normalize_gen_kwargs(settings, self.max_gen_toks)
        except ValueError as error:
            raise InputError(f"max_gen_toks and temperature are numbers ({error}); correct them") from error
        if wanted["do_sample"]:
            raise InputError("do_sample: asks for sampling, and qexport generates greedily; leave it out")
        unknown = sorted(wanted.keys() - _GENERATION)
        if unknown:
            raise InputError(f"{unknown[0]}: qexport's generation has no such setting; leave it out")
        new_tokens = wanted["max_gen_toks"]
        if new_tokens <= 0:
            raise InputError(f"{new_tokens} new tokens are none; pass --gen-kwargs max_gen_toks=N with N above zero")
        if new_tokens >= self.max_length:
            raise InputError(
                f"{new_tokens} new tokens do not fit into the model's context of {self.max_length}; "
                "pass --gen-kwargs max_gen_toks=N with a smaller N"
            )
        return self.max_length - int(new_tokens)

    def _prompt(self, context: str, settings: dict[str, Any]) -> Prompt:
        room = self.require_generation(settings)
        tokens = self.tok_encode(context)
        if len(tokens) > room:
            self.truncated.add(context)
        until = handle_stop_sequences(
            list(normalize_gen_kwargs(settings)["until"]), eos=self.tokenizer.decode(self.eot_token_id)
        )
        words = tuple(str(word) for word in until if word)
        return Prompt(tuple(tokens[-room:]), words, self._stop, self.max_length - room)


@register_model("qexport")
class QExportLM(ArtifactLM):
    """An artifact's folder for ``lm_eval --model qexport --model_args pretrained=DIR``, run in lm-eval's process."""

    def __init__(
        self,
        pretrained: str,
        *,
        provider: Provider | None = None,
        device: str | None = None,
        threads: int | None = None,
        batch_size: int | str = "auto",
        max_batch_size: int | None = None,
        **settings: Any,
    ) -> None:
        """Open an artifact.

        Args:
            pretrained: the artifact's folder.
            provider: ``cpu`` or ``cuda``; None follows ``device`` if onnxruntime can run it.
            device: lm-eval's device; its default is ``cuda`` on every machine.
            threads: threads for the runtime; None takes every processor that this process may use.
            batch_size: the most requests that run at once; ``auto`` for qexport's own choice.
            max_batch_size: the upper bound of ``auto``.
            settings: the arguments of :class:`ArtifactLM`.

        Raises:
            QExportError: the folder has no artifact, or the artifact cannot run with these arguments.
        """
        artifact = load_artifact(Path(pretrained))
        session = open_session(artifact, provider=provider or _provider_of(device), threads=threads, observe="kernels")
        rows = (max_batch_size or BATCH_ROWS) if str(batch_size).startswith("auto") else int(batch_size)
        super().__init__(artifact.path, Here(artifact, session, rows=rows), **settings)
        self._artifact, self._session = artifact, session

    def get_model_info(self) -> dict[str, object]:
        """The facts about the model in lm-eval's results."""
        manifest = self._artifact.manifest
        return {
            "model_num_parameters": manifest.model.parameters,
            "model_sha": self._artifact.sha256,
            "recipe": manifest.recipe,
            "quantized_nodes": len(manifest.quantized),
            "provider": self._session.provider,
        }


def _provider_of(device: str | None) -> Provider:
    if not (device or "").startswith("cuda"):
        return "cpu"
    try:
        require_provider("cuda")
    except ProviderUnavailable:
        return "cpu"
    return "cuda"
