"""Targets: what attacks are aimed at. Our model, a bare model through the same loop or transformers' own, an endpoint.

One call may ask with different sampling; requests that share it are answered in one batch.
"""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safesignal.attacks.base import Reply, Request, Sampling
from safesignal.attacks.endpoint import EndpointTarget
from safesignal.attacks.white_box import answer_losses, embedding_gradient
from safesignal.config import SignalConfig
from safesignal.errors import ModelError, UsageError
from safesignal.modeling.adapter_io import identify
from safesignal.modeling.chat import Encoded, encode_chat
from safesignal.modeling.likelihood import watched_likelihoods
from safesignal.modeling.model import SafeSignalModel
from safesignal.modeling.output import Answer
from safesignal.modeling.zoo import load_base
from safesignal.rules import Policy, Schedule
from safesignal.types import Check, CheckKind

__all__ = ["EndpointTarget", "GuardedTarget", "PlainTarget", "TransformersTarget", "plain_target"]

_GIVEN = (CheckKind.QUERY, CheckKind.HISTORY, CheckKind.PREFILL)
"""Checks of what the caller sent."""


class _LocalTarget(ABC):
    """A model in this process: batches by sampling, refuses what does not fit, gives likelihoods and gradients."""

    def __init__(self, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, max_length: int) -> None:
        self.base = base
        self.tokenizer = tokenizer
        self.name = name
        self.max_length = max_length

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return all that decides its answers."""

    @abstractmethod
    def _write(self, requests: Sequence[Request], encoded: Sequence[Encoded], sampling: Sampling) -> list[Reply]: ...

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer requests; a prompt is never cut.

        Raises:
            UsageError: If a prompt and its answer do not fit the context; nothing is generated then.
        """
        encoded = [self._encode(request) for request in requests]
        groups: dict[Sampling, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(request.sampling, []).append(index)
        replies: dict[int, Reply] = {}
        for sampling, group in groups.items():
            written = self._write([requests[i] for i in group], [encoded[i] for i in group], sampling)
            replies |= zip(group, written, strict=True)
        return [replies[index] for index in range(len(requests))]

    def pieces(self, text: str) -> tuple[str, ...]:
        """Return the tokens of a text as text; the piece that completes a split character holds all of it."""
        return _pieces(self.tokenizer, self._to_ids(text))

    def pieces_of(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Return tokens as text, as :meth:`pieces` does: joined, they are what the ids decode to."""
        return _pieces(self.tokenizer, ids)

    def losses(self, requests: Sequence[Request], answers: Sequence[str]) -> Tensor:
        """Return the (B,) mean negative log-likelihood of the wanted answers, in nats per token."""
        prompts = [self._encode(request).ids for request in requests]
        return answer_losses(self.base, prompts, [self._to_ids(answer) for answer in answers])

    def embedding_gradient(self, ids: Tensor, loss_from: int) -> tuple[Tensor, Tensor]:
        """Return the loss of ids (T,) from position `loss_from` on, and its (T, D) gradient at the embeddings."""
        return embedding_gradient(self.base, ids, loss_from)

    def signals(self, requests: Sequence[Request]) -> list[list[float]]:
        """Return no signal for any request: nothing defends this target."""
        return [[] for _ in requests]

    def _encode(self, request: Request) -> Encoded:
        encoded = encode_chat(self.tokenizer, request.messages, request.prefill)
        new = request.sampling.max_new_tokens
        if len(encoded.ids) + new > self.max_length:
            raise UsageError(
                f"the prompt has {len(encoded.ids)} tokens, {new} new ones asked for. "
                f"Expected at most {self.max_length} in all; a prompt is never cut.",
                hint="lower `max_new_tokens`, or leave the attack out for this model",
            )
        return encoded

    def _to_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _base_identity(self) -> dict[str, Any]:
        base = asdict(identify(self.base, self.tokenizer, self.name))
        return {"name": self.name, "base": base, "dtype": str(self.base.dtype), "device": self.base.device.type}


class _LoopTarget(_LocalTarget):
    """A model answered through :meth:`SafeSignalModel.answer`."""

    def __init__(self, model: SafeSignalModel) -> None:
        super().__init__(model.base, model.tokenizer, model.name, model.forward_signal.stack.max_length)
        self.model = model

    @abstractmethod
    def _how(self) -> dict[str, Any]: ...

    def _write(self, requests: Sequence[Request], encoded: Sequence[Encoded], sampling: Sampling) -> list[Reply]:
        options = self.model.options(**asdict(sampling))
        numbers = [request.number for request in requests]
        answers = self.model.answer(encoded, options=options, numbers=numbers, **self._how())
        return [self._reply(answer) for answer in answers]

    def _reply(self, answer: Answer) -> Reply:
        return Reply(
            text=answer.text,
            n_tokens=answer.n_tokens,
            finish=str(answer.finish_reason),
            seconds=answer.seconds,
            first_seconds=answer.seconds_to_first,
            refused=answer.refused,
            stopped_at=answer.stopped_at,
            released_after_transition=answer.released_after_transition,
            checks=tuple(_check_row(check) for check in answer.checks),
            ids=answer.ids,
            read_as=answer.read_as,
        )


class GuardedTarget(_LoopTarget):
    """Our model under its policy.

    Args:
        model: With a trained adapter.
        policy: What verdicts do; None takes the adapter's balanced preset.
        schedule: When answers are checked; None takes the adapter's.
        checks: `fused` or `separate`, as in :meth:`SafeSignalModel.answer`.
        preset: Name of the preset the policy was made from, for the record.
    """

    def __init__(
        self,
        model: SafeSignalModel,
        policy: Policy | None = None,
        schedule: Schedule | None = None,
        checks: Literal["fused", "separate"] = "fused",
        *,
        preset: str = "balanced",
    ) -> None:
        super().__init__(model)
        self.policy = policy or model.policy(preset)
        self.schedule = schedule or model.schedule()
        self.checks = checks
        self.preset = preset

    def identity(self) -> dict[str, Any]:
        """Return base, adapter, thresholds, schedule and policy."""
        return {"kind": "guarded", **self._identity, "policy": asdict(self.policy), "schedule": str(self.schedule)}

    def losses(self, requests: Sequence[Request], answers: Sequence[str]) -> Tensor:
        """Return the (B,) mean negative log-likelihood of the wanted answers; those of a joint model see the signal."""
        if not self._seen:
            return super().losses(requests, answers)
        encoded = [self._encode(request) for request in requests]
        found = watched_likelihoods(
            self.model.forward_signal,
            [one.ids for one in encoded],
            [self._to_ids(answer) for answer in answers],
            [one.query_ranges() for one in encoded],
        )
        return torch.stack([-one.logprobs_A.mean() for one in found])

    def embedding_gradient(self, ids: Tensor, loss_from: int) -> tuple[Tensor, Tensor]:
        """Return what a bare model does; not to be had of a joint one, whose answers see the signal.

        Raises:
            UsageError: If the model is joint: the gradient without [CLS] would be that of a weaker attack.
        """
        if self._seen:
            raise UsageError("a joint model's answers see [CLS], bare ids hold none. Expected a gated or bare target.")
        return super().embedding_gradient(ids, loss_from)

    @property
    def _seen(self) -> bool:
        return self.model.forward_signal.joint and self.policy.implicit

    def signals(self, requests: Sequence[Request]) -> list[list[float]]:
        """Return, per request, the signals that decide before a token is written: query, earlier answers, prefill.

        They are read by the decode loop itself, under the policy; where it fires, nothing after that is read.
        """
        # A fixed refusal instead of an explanation changes none of these checks and writes less.
        how = {**self._how(), "policy": replace(self.policy, after="stop")}
        options = self.model.options(max_new_tokens=1, temperature=0.0)
        answers = self.model.answer([self._encode(request) for request in requests], options=options, **how)
        return [[check.signal for check in answer.checks if check.kind in _GIVEN] for answer in answers]

    @cached_property
    def _identity(self) -> dict[str, Any]:
        config = self.model.config
        return {
            **self._base_identity(),
            "adapter": self.model.fingerprint(),
            **({"suspicion": config.suspicion} if config.answer_reader_rank else {}),
            **({"surprise": config.surprise} if config.reader_rank else {}),
            "base_drift": self.model.base_drift,
            "position": config.position,
            "preset": self.preset,
            "checks": self.checks,
        }

    def _how(self) -> dict[str, Any]:
        return {"policy": self.policy, "schedule": self.schedule, "checks": self.checks}

    def _reply(self, answer: Answer) -> Reply:
        return replace(super()._reply(answer), pieces=_pieces(self.tokenizer, answer.ids))


class PlainTarget(_LoopTarget):
    """A bare model through the same loop, with the signal off: what a guarded one is compared with."""

    def identity(self) -> dict[str, Any]:
        """Return the base alone."""
        return {"kind": "plain", **self._identity}

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return {**self._base_identity(), "loop": "safesignal"}

    def _how(self) -> dict[str, Any]:
        return {"signal": False}


class TransformersTarget(_LocalTarget):
    """A bare model of a family that cannot carry a signal, through transformers' own `generate`.

    Greedy requests share a batch; sampled ones are written row by row, so that noise is keyed by seed and number.
    """

    def __init__(self, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str = "") -> None:
        limit = getattr(base.config.get_text_config(), "max_position_embeddings", None)
        super().__init__(base.eval(), tokenizer, name or str(base.config._name_or_path), int(limit or 2**31))

    def identity(self) -> dict[str, Any]:
        """Return the base alone."""
        return {"kind": "plain", **self._identity}

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return {**self._base_identity(), "loop": "transformers"}

    def _write(self, requests: Sequence[Request], encoded: Sequence[Encoded], sampling: Sampling) -> list[Reply]:
        if sampling.temperature == 0:
            return self._generate([one.ids for one in encoded], sampling)
        replies = []
        for request, one in zip(requests, encoded, strict=True):
            with torch.random.fork_rng():
                torch.manual_seed((sampling.seed * 1_000_003 + request.number) % 2**63)
                replies += self._generate([one.ids], sampling)
        return replies

    @torch.no_grad()
    def _generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Reply]:
        base: Any = self.base
        config, begun = self._config(sampling), time.perf_counter()
        width, pad = max(map(len, prompts)), config.pad_token_id
        ids = torch.tensor([[pad] * (width - len(one)) + list(one) for one in prompts], device=base.device)
        mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts], device=base.device)
        written = base.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, width:].tolist()
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        return [self._reply(row, ends, time.perf_counter() - begun) for row in written]

    def _config(self, sampling: Sampling) -> Any:
        """Return the model's own generation settings with ours on top."""
        config = copy.deepcopy(self.base.generation_config)
        config.update(max_new_tokens=sampling.max_new_tokens, max_length=None, do_sample=sampling.temperature != 0)
        if config.do_sample:
            config.update(temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k)
        pad = self.tokenizer.pad_token_id
        config.pad_token_id = next((one for one in (config.pad_token_id, pad) if one is not None), 0)
        return config

    def _reply(self, ids: Sequence[int], ends: Sequence[int | None], seconds: float) -> Reply:
        end = next((index for index, token in enumerate(ids) if token in ends), None)
        own = tuple(ids[:end])
        text = self.tokenizer.decode(list(own), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Reply(str(text), len(own), "length" if end is None else "eos", seconds, ids=own)


def plain_target(
    name: str, *, dtype: Any = "auto", device_map: Any = None, chat_template: str | None = None
) -> PlainTarget | TransformersTarget:
    """Load a bare model: through our loop if its family can, else through transformers' own.

    Args:
        name: Alias, folder or hub id.
        dtype: Weights' dtype; "auto" takes the checkpoint's.
        device_map: Passed on to transformers.
        chat_template: Name of a built-in template, or a Jinja text.

    Raises:
        ModelError: If no model is found there.
    """
    base, tokenizer = load_base(name, dtype=dtype, device_map=device_map, chat_template=chat_template)
    try:
        return PlainTarget(SafeSignalModel(base, tokenizer, SignalConfig(), name))
    except ModelError:
        return TransformersTarget(base, tokenizer, name)


def _pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, ...]:
    """Cut a text into what each token adds; a split character goes to the token that completes it."""
    pieces, sent = [], 0
    for end in range(1, len(ids) + 1):
        text = str(tokenizer.decode(list(ids[:end]), skip_special_tokens=True, clean_up_tokenization_spaces=False))
        certain = max(sent, len(text) if end == len(ids) else len(text.rstrip("\ufffd")))
        pieces.append(text[sent:certain])
        sent = certain
    return tuple(pieces)


def _check_row(check: Check) -> dict[str, Any]:
    return {
        "kind": str(check.kind),
        "step": check.step,
        "signal": round(check.signal, 6),
        "verdict": str(check.verdict),
        "start": check.span.start,
        "end": check.span.end,
    }
