"""`SafeSignalModel`: a Hugging Face causal LM with an explicit safety signal inside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from safesignal.config import BaseIdentity, SignalConfig
from safesignal.errors import SignalError, UsageError
from safesignal.modeling.adapter_io import (
    accept,
    base_named,
    find_adapter,
    identify,
    load_adapter,
    load_weights,
    save_adapter,
    weights_hash,
)
from safesignal.modeling.chat import Encoded, choose_template, encode_chat, turn_ends
from safesignal.modeling.decode import DecodeSettings, decode
from safesignal.modeling.forward import SignalForward
from safesignal.modeling.inputs import Conversation, as_batch, from_tensors, lay_out, to_tensors
from safesignal.modeling.options import GenerationOptions, resolve_options
from safesignal.modeling.output import Answer, GenerateOutput, Score, StreamChunk
from safesignal.modeling.rows import Row, answer_of
from safesignal.modeling.score import score_encoded
from safesignal.modeling.surface import Surface
from safesignal.modeling.text import TextStream, is_byte_token, without_control
from safesignal.modeling.tuned import LM_FOLDER, Tuned, load_tuned, save_tuned
from safesignal.modeling.zoo import load_base
from safesignal.rules import Policy, Schedule, parse_schedule, validate_policy

__all__ = ["Conversation", "SafeSignalModel"]


class SafeSignalModel(nn.Module):
    """A base model, its tokenizer and an adapter that reads the signal.

    Attributes:
        base: The transformers model: untouched under a gated adapter, tuned in place under a joint one.
        tokenizer: Its tokenizer; the chat template gives tokens their roles.
        config: The signal's architecture and thresholds.
        trained_signal: Whether the adapter was trained; an untrained one refuses to guard.
        base_drift: How the base differs from the one the adapter was trained for; empty if it does not.
        trained_for: The base as it was before any tuning; None: the one at hand.
        tuned: What tuning changed in the base; None for a gated adapter.
    """

    def __init__(
        self, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: SignalConfig, name: str = ""
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.forward_signal = SignalForward(base, config, Surface(without_control(tokenizer), self._to_text))
        self.name = name or str(base.config._name_or_path)
        self.trained_signal = False
        self.base_drift = ""
        self.trained_for: BaseIdentity | None = None
        self.tuned: Tuned | None = None
        self.training_record: dict[str, Any] = {}

    # ---------------------------------------------------------------------------------------------- making and saving

    @classmethod
    def from_base(
        cls,
        model: str | PreTrainedModel = "smollm2",
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        config: SignalConfig | None = None,
        dtype: torch.dtype | str = "auto",
        device_map: str | dict[str, Any] | None = None,
        chat_template: str | None = None,
        seed: int = 0,
    ) -> Self:
        """Put an untrained signal into a base model.

        Args:
            model: Alias, path or hub id; or a loaded model, then with its `tokenizer`.
            tokenizer: Tokenizer of a loaded model.
            config: The signal's settings.
            dtype: Weights' dtype; "auto" takes the checkpoint's.
            device_map: Passed on to transformers.
            chat_template: Name of a built-in template, or a Jinja text, to use instead of the tokenizer's own.
            seed: Of the adapter's first weights.

        Raises:
            ModelError: If the family cannot carry a signal.
        """
        if isinstance(model, str):
            base, tokenizer = load_base(model, dtype=dtype, device_map=device_map)
        elif tokenizer is None:
            raise UsageError("`from_base` got a loaded model and no tokenizer. Expected both.")
        else:
            base = model
        choose_template(tokenizer, chat_template)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            own = cls(base, tokenizer, config or SignalConfig(), model if isinstance(model, str) else "")
        if own.forward_signal.joint:
            own.trained_for = own.identity()
        return own

    @classmethod
    def from_pretrained(
        cls,
        adapter: str | Path | None = None,
        *,
        base: str | PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        allow_base_drift: bool = False,
        dtype: torch.dtype | str = "auto",
        device_map: str | dict[str, Any] | None = None,
        chat_template: str | None = None,
    ) -> Self:
        """Load an adapter and the base model it belongs to.

        Args:
            adapter: Adapter folder; None takes the one shipped for `base`.
            base: The base model; None loads the one the adapter names. A joint adapter tunes a loaded one in place.
            tokenizer: Tokenizer of a loaded base.
            allow_base_drift: Accept a base whose weights differ (fine-tuned, re-quantised); recorded in every output.
            dtype: Base weights' dtype.
            device_map: Passed on to transformers.
            chat_template: As in :meth:`from_base`.

        Raises:
            AdapterError: If there is no such adapter, or it belongs to another base, tokenizer or template.
        """
        folder = find_adapter(adapter, base if base is None or isinstance(base, str) else "")
        config, trained, weights, record = load_adapter(folder)
        model = cls.from_base(
            base if base is not None else base_named(trained.name, folder),
            tokenizer=tokenizer,
            config=config,
            dtype=dtype,
            device_map=device_map,
            chat_template=chat_template,
        )
        model.base_drift = accept(trained, model.identity(), str(folder), allow_base_drift)
        model.trained_for = trained
        load_weights(model.forward_signal.adapter, weights, str(folder))
        if model.forward_signal.joint:
            model.tuned = load_tuned(folder / LM_FOLDER, model.base)
        model.forward_signal.adapter.to(model.base.dtype).requires_grad_(False)
        model.trained_signal = True
        model.training_record = record
        return model

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        signal: dict[str, Tensor] | None = None,
        lm: dict[str, Any] | None = None,
    ) -> None:
        """Write the adapter (never the base) to a folder; half precision. A joint one brings its tuned model in `lm/`.

        The identity saved is that of the base it was trained on, whatever base it has been accepted for since.

        Args:
            folder: Where to.
            signal: Whole tensors of an adapter that is sharded.
            lm: Whole tensors of a base that is sharded.

        Raises:
            SignalError: If the signal was never trained.
        """
        self._require_signal()
        path, weights = Path(folder), signal or self.forward_signal.adapter.state_dict()
        save_adapter(path, self.config, self.trained_for or self.identity(), weights, self.training_record)
        if self.forward_signal.joint:
            save_tuned(path / LM_FOLDER, self.tuned or Tuned(), self.base, self.tokenizer, self.name, lm)

    def fingerprint(self) -> str:
        """Return a short hash of the adapter's weights as they are saved, a joint one's LoRA among them."""
        tuned = self.tuned.tensors() if self.tuned is not None else {}
        return weights_hash(self.forward_signal.adapter.state_dict() | tuned)

    def identity(self) -> BaseIdentity:
        """Return the fingerprints of the base model and tokenizer."""
        return identify(self.base, self.tokenizer, self.name)

    def print_trainable_parameters(self) -> None:
        """Print how many parameters are trained, as peft does."""
        trained = sum(p.numel() for p in self.forward_signal.adapter.parameters())
        total = trained + sum(p.numel() for p in self.base.parameters())
        print(  # noqa: T201 - what peft's method of this name does
            f"trainable params: {trained:,} || all params: {total:,} || trainable%: {100 * trained / total:.4f}"
        )

    @property
    def base(self) -> PreTrainedModel:
        """The transformers model."""
        base: PreTrainedModel = self.forward_signal.base
        return base

    @property
    def config(self) -> SignalConfig:
        """The signal's settings."""
        return self.forward_signal.config

    @config.setter
    def config(self, config: SignalConfig) -> None:
        self.forward_signal.config = config

    # ------------------------------------------------------------------------------------------------ policy and input

    def policy(self, preset: str = "balanced", **overrides: Any) -> Policy:
        """Return the policy of a preset of this adapter, with single fields replaced (`None` replaces nothing)."""
        point, config = self.config.preset(preset), self.config
        policy = Policy(
            threshold=point.prompt,
            window_threshold=point.window,
            tau=config.tau,
            **config.rules(),
        )
        return replace(policy, **{name: value for name, value in overrides.items() if value is not None})

    def schedule(self) -> Schedule:
        """Return the schedule the adapter was calibrated for."""
        return parse_schedule(self.config.schedule)

    def encode_one(self, conversation: Conversation, prefill: str = "") -> Encoded:
        """Render one conversation and give every token its role."""
        messages = [{"role": "user", "content": conversation}] if isinstance(conversation, str) else conversation
        return encode_chat(self.tokenizer, messages, prefill)

    def encode(
        self, conversations: Conversation | Sequence[Conversation], prefill: str | Sequence[str] | None = ""
    ) -> BatchEncoding:
        """Prepare conversations for :meth:`generate`.

        Args:
            conversations: A prompt, a list of messages, or a list of either.
            prefill: Text the answer begins with; one for all, or one per conversation.

        Returns:
            `input_ids`, `attention_mask` and `roles`, each (B, T), left-padded.
        """
        batch = as_batch(conversations)
        prefills = [prefill or ""] * len(batch) if prefill is None or isinstance(prefill, str) else list(prefill)
        if len(prefills) != len(batch):
            raise UsageError(
                f"{len(prefills)} prefills for {len(batch)} conversations. Expected one each, or one for all."
            )
        encoded = [self.encode_one(one, text) for one, text in zip(batch, prefills, strict=True)]
        return to_tensors(encoded, self.tokenizer.pad_token_id or 0)

    # ------------------------------------------------------------------------------------------------------ generating

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        roles: Tensor | None = None,
        *,
        policy: Policy | str | None = None,
        schedule: Schedule | str | None = None,
        signal: bool = True,
        checks: Literal["fused", "separate"] = "fused",
        return_dict_in_generate: bool = False,
        **options: Any,
    ) -> Tensor | GenerateOutput:
        """Generate under the signal; arguments are named as in transformers.

        Args:
            input_ids: (B, T) prompt ids, from :meth:`encode`.
            attention_mask: (B, T), 0 where `input_ids` is padding.
            roles: (B, T) roles, from :meth:`encode`; raw ids have none and raise.
            policy: What verdicts do, or a preset's name; None takes the balanced preset.
            schedule: When the answer is checked, as an object or in words (`every`); None takes the adapter's.
            signal: Read the signal at all; False is the bare base model.
            checks: `fused` shares the next token's forward, `separate` leaves the base model's own bits untouched.
            return_dict_in_generate: Return everything, not only the sequences.
            options: `max_new_tokens`, `do_sample`, `temperature`, `top_k`, `top_p`, `min_p`, `repetition_penalty`,
                `eos_token_id`, `pad_token_id`, `stop_strings`, `seed`.

        Returns:
            (B, T + new) ids as transformers lays them out, or a :class:`GenerateOutput`.

        Raises:
            UsageError: If an option is unsupported or out of range, or roles are missing.
            SignalError: If the signal is not available; nothing is generated then.
        """
        encoded = from_tensors(input_ids, attention_mask, roles)
        resolved = self.options(**options)
        answers = self.answer(encoded, policy=policy, schedule=schedule, signal=signal, checks=checks, options=resolved)
        sequences = lay_out(encoded, answers, resolved.pad, input_ids.shape[1]).to(self.base.device)
        if not return_dict_in_generate:
            return sequences
        return GenerateOutput(
            sequences=sequences,
            signal=[[check.signal for check in answer.checks] for answer in answers],
            stopped_at=[answer.stopped_at for answer in answers],
            answers=answers,
            base_drift=self.base_drift,
        )

    def answer(
        self,
        encoded: Sequence[Encoded],
        *,
        policy: Policy | str | None = None,
        schedule: Schedule | str | None = None,
        signal: bool = True,
        checks: Literal["fused", "separate"] = "fused",
        options: GenerationOptions | None = None,
        numbers: Sequence[int] | None = None,
    ) -> list[Answer]:
        """Generate for encoded conversations, in one batch.

        `numbers` are the rows' numbers in a larger request, which key their sampling noise.
        """
        options = options or self.options()
        rows = self.rows(encoded, policy, schedule, signal, numbers)
        times: dict[int, list[float]] = {id(row): [] for row in rows}
        for step in decode(self.forward_signal, rows, self.settings(options, checks)):
            times[id(step.row)].append(step.seconds)
        return [self._answer_of(row, options, times[id(row)]) for row in rows]

    def stream(
        self,
        conversation: Conversation,
        *,
        prefill: str = "",
        policy: Policy | str | None = None,
        schedule: Schedule | str | None = None,
        signal: bool = True,
        checks: Literal["fused", "separate"] = "fused",
        **options: Any,
    ) -> Iterator[StreamChunk]:
        """Generate one answer piece by piece; a piece is final the moment it is yielded.

        Arguments are those of :meth:`generate`. The pieces joined are the text that `generate` returns.
        """
        resolved = self.options(**options)
        (row,) = self.rows([self.encode_one(conversation, prefill)], policy, schedule, signal, None)
        pieces = TextStream(self._to_text, resolved.stop_strings, self._is_byte)
        times: list[float] = []
        seen = 0
        for step in decode(self.forward_signal, [row], self.settings(resolved, checks)):
            times.append(step.seconds)
            final = row.finish is not None
            text = pieces.push(step.ids, after=row.prefill, final=final, cut=not row.refused)
            answer = self._answer_of(row, resolved, times) if final else None
            yield StreamChunk(text, step.ids, tuple(row.checks[seen:]), answer)
            seen = len(row.checks)

    def score(
        self,
        conversations: Conversation | Sequence[Conversation],
        responses: str | Sequence[str | None] | None = None,
        *,
        policy: Policy | str | None = None,
        schedule: Schedule | str | None = None,
    ) -> list[Score]:
        """Return the signal of prompts, or of prompts and responses; see :func:`score_encoded`.

        Raises:
            UsageError: If there are not as many responses as conversations, or the policy is out of range.
        """
        batch = as_batch(conversations)
        texts = [responses] if isinstance(responses, str) else list(responses or [None] * len(batch))
        if len(texts) != len(batch):
            raise UsageError(f"{len(texts)} responses for {len(batch)} conversations. Expected one each.")
        self._require_signal()
        policy, schedule = self._rules(policy, schedule)
        validate_policy(replace(policy, buffer=False), schedule)
        encoded = [self.encode_one(one, text or "") for one, text in zip(batch, texts, strict=True)]
        found = score_encoded(self.forward_signal, encoded, policy, schedule)
        return [replace(one, base_drift=self.base_drift) for one in found]

    def options(self, **given: Any) -> GenerationOptions:
        """Merge generation options with the base model's own; see :func:`resolve_options`.

        Under a built-in template an answer also ends where the model would go on with the user's next turn, unless
        `stop_strings` say otherwise.
        """
        if given.get("stop_strings") is None and self.base.generation_config.stop_strings is None:
            given["stop_strings"] = turn_ends(str(self.tokenizer.chat_template or ""))
        special = dict(zip(self.tokenizer.all_special_tokens, self.tokenizer.all_special_ids, strict=True))
        return resolve_options(self.base.generation_config, given, self.tokenizer.pad_token_id, special)

    def settings(self, options: GenerationOptions, checks: str, *, eos: frozenset[int] | None = None) -> DecodeSettings:
        """Return what the decode loop needs beside its rows; `eos` overrides the end tokens."""
        if checks not in ("fused", "separate"):
            raise UsageError(f"checks is `{checks}`. Expected `fused` or `separate`.")
        return DecodeSettings(
            max_new_tokens=options.max_new_tokens,
            max_length=self.forward_signal.stack.max_length,
            sampler=options.sampler,
            eos=options.eos if eos is None else eos,
            stop_strings=options.stop_strings,
            fused=checks == "fused",
            to_ids=self._to_ids,
            to_text=self._to_text,
        )

    def rows(
        self,
        encoded: Sequence[Encoded],
        policy: Policy | str | None,
        schedule: Schedule | str | None,
        signal: bool,
        numbers: Sequence[int] | None,
    ) -> list[Row]:
        """Start one row per conversation, once policy and schedule are known to go together."""
        policy, schedule = self._rules(policy, schedule)
        if signal:
            self._require_signal()
            validate_policy(policy, schedule)
        if not encoded:
            raise UsageError("there is no conversation. Expected at least one.")
        self.forward_signal.require_room(max(len(one.ids) for one in encoded))
        keys = numbers if numbers is not None else range(len(encoded))
        return [Row(key, one, policy, schedule, watch=signal) for key, one in zip(keys, encoded, strict=True)]

    def _rules(self, policy: Policy | str | None, schedule: Schedule | str | None) -> tuple[Policy, Schedule]:
        policy = policy if isinstance(policy, Policy) else self.policy(policy or "balanced")
        return policy, schedule if isinstance(schedule, Schedule) else parse_schedule(schedule or self.config.schedule)

    def _answer_of(self, row: Row, options: GenerationOptions, times: Sequence[float]) -> Answer:
        said = self.forward_signal.read_as(row.encoded) if row.checks_query else None
        answer = answer_of(row, options.stop_strings, self._to_text, times)
        return replace(answer, base_drift=self.base_drift, read_as=said)

    def _to_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _to_text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _is_byte(self, token: int) -> bool:
        return is_byte_token(str(self.tokenizer.convert_ids_to_tokens(token)))

    def _require_signal(self) -> None:
        if not self.trained_signal:
            raise SignalError(
                "the signal of this model was never trained, so nothing can be guarded. Expected a trained adapter.",
                hint="load one with `from_pretrained`, train one with `safesignal align`, or pass `signal=False`",
            )
