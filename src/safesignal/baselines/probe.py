"""A linear probe on a hidden state of the untouched model, read at the request and every k tokens of the answer.

After the idea of Any-Depth Alignment (2025): the model knows at any depth that it is writing harm, and a logistic
regression on one hidden state tells. With `inject` the state is read as published, at the end of an assistant header
that is put behind the text so far and taken away again; without, at the last token itself.

Shapes: B rows, P places per row, H layers, D features.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from safesignal.attacks.base import Reply, Request
from safesignal.attacks.targets import PlainTarget
from safesignal.baselines.watched import Alarm, WatchedTarget, check_row
from safesignal.config import BaseIdentity
from safesignal.errors import AdapterError, UsageError
from safesignal.files import write_json
from safesignal.modeling.adapter_io import compare, identify, weights_hash
from safesignal.modeling.chat import Encoded, encode_chat
from safesignal.modeling.families import describe
from safesignal.types import Role

__all__ = ["Probe", "ProbeTarget", "header_of", "hidden_states"]

_CONFIG, _WEIGHTS, _VERSION = "probe.json", "probe.safetensors", 1


@dataclass(frozen=True)
class Probe:
    """Two logistic regressions on one layer: of requests (row 0) and of answers so far (row 1).

    Attributes:
        weight_2D: Weights.
        bias_2: Offsets.
        layer: Hidden state they read; 0 is the embedding, the last one the decoder's output.
        every: Generated tokens between reads.
        inject: Whether an assistant header is put behind the answer for each read.
        thresholds: By preset, those of requests and of answers, in [0, 1].
        base: The model it was trained on.
        record: How it was made.
    """

    weight_2D: Tensor
    bias_2: Tensor
    layer: int
    every: int
    inject: bool
    thresholds: Mapping[str, tuple[float, float]]
    base: BaseIdentity
    record: Mapping[str, Any] = field(default_factory=dict)

    def signals(self, states_PD: Tensor, *, query: bool) -> list[float]:
        """Return P(malicious) at each of P places."""
        row = 0 if query else 1
        scores_P = states_PD.float() @ self.weight_2D[row] + self.bias_2[row]
        return [float(one) for one in torch.sigmoid(scores_P)]

    def fingerprint(self) -> str:
        """Return a short hash of the weights."""
        return weights_hash({"weight": self.weight_2D, "bias": self.bias_2})

    def save(self, folder: str | Path) -> None:
        """Write a probe folder: its weights, then its settings with their hash, each in one move.

        Raises:
            UsageError: If it cannot be written.
        """
        path = Path(folder)
        try:
            path.mkdir(parents=True, exist_ok=True)
            draft = path / f"{_WEIGHTS}.part"
            save_file({"weight": self.weight_2D.contiguous(), "bias": self.bias_2.contiguous()}, draft)
            draft.chmod(0o644)
            # Weights alone are no probe; beside the settings of others they would be a wrong one.
            (path / _CONFIG).unlink(missing_ok=True)
            draft.replace(path / _WEIGHTS)
        except OSError as error:
            raise UsageError(f"`{path}` cannot be written: {error.strerror}.", hint="choose another folder") from error
        content = {name: getattr(self, name) for name in ("layer", "every", "inject", "thresholds", "record")}
        head = {"format_version": _VERSION, "weights": self.fingerprint()}
        write_json(path / _CONFIG, {**head, **content, "base": asdict(self.base)})

    @classmethod
    def load(cls, folder: str | Path) -> Probe:
        """Read a probe folder.

        Raises:
            AdapterError: If it is none, cannot be read, or its two files are not of one probe.
        """
        path = Path(folder)
        try:
            content = json.loads((path / _CONFIG).read_text(encoding="utf-8"))
            tensors = load_file(path / _WEIGHTS)
            if content.get("format_version") != _VERSION:
                raise AdapterError(
                    f"the probe `{folder}` has format version {content.get('format_version')}. Expected {_VERSION}."
                )
            found = cls(
                tensors["weight"],
                tensors["bias"],
                int(content["layer"]),
                int(content["every"]),
                bool(content["inject"]),
                {name: (float(own[0]), float(own[1])) for name, own in content["thresholds"].items()},
                BaseIdentity(**content["base"]),
                content["record"],
            )
        except (OSError, ValueError, KeyError, TypeError, IndexError, SafetensorError) as error:
            raise AdapterError(
                f"`{folder}` is no probe that can be read: {error}. Expected {_CONFIG} and {_WEIGHTS}.",
                hint="`safesignal probe --data rows.jsonl --output DIR` trains one",
            ) from error
        # A probe saved before the hash was kept is taken as it is.
        if content.get("weights", found.fingerprint()) != found.fingerprint():
            raise AdapterError(
                f"{_CONFIG} and {_WEIGHTS} in `{folder}` are of two probes. Expected both of one.",
                hint="`safesignal probe --data rows.jsonl --output DIR` trains one",
            )
        return found


class ProbeTarget(WatchedTarget):
    """A bare model and its probe.

    Args:
        plain: Who writes.
        probe: Trained on that model.
        preset: Thresholds to take.

    Raises:
        AdapterError: If the probe was trained on another model.
        UsageError: If it has no such preset.
    """

    def __init__(self, plain: PlainTarget, probe: Probe, preset: str = "balanced") -> None:
        super().__init__(plain, f"{plain.name} with a probe")
        found = identify(plain.base, plain.tokenizer, plain.name)
        differences, drift = compare(probe.base, found)
        if differences or drift:
            raise AdapterError(
                f"the probe was trained on another model: {', '.join([*differences, drift]).strip(', ')}. "
                "Expected the same.",
                hint="train one for this model with `safesignal probe`",
            )
        if preset not in probe.thresholds:
            raise UsageError(f"preset is `{preset}`. Expected one of {', '.join(probe.thresholds)}.")
        self.probe, self.preset = probe, preset
        self.of_requests, self.of_answers = probe.thresholds[preset]

    def watcher(self) -> Mapping[str, Any]:
        """Return the probe's weights, place and thresholds."""
        own = {name: getattr(self.probe, name) for name in ("layer", "every", "inject")}
        thresholds = [self.of_requests, self.of_answers]
        return {"kind": "probe", "probe": self.probe.fingerprint(), **own, "thresholds": thresholds}

    def given(self, requests: Sequence[Request]) -> list[Alarm]:
        """Read the state at the end of the request, and along the prefill every k tokens and at its end."""
        return [self._given(self._encode(request)) for request in requests]

    def written(self, requests: Sequence[Request], replies: Sequence[Reply]) -> list[Alarm]:
        """Read the states along each answer, every k tokens."""
        return [self._written(self._encode(r), reply.ids) for r, reply in zip(requests, replies, strict=True)]

    def _given(self, encoded: Encoded) -> Alarm:
        steps = sorted({*range(self.probe.every, encoded.prefill, self.probe.every), encoded.prefill} - {0})
        states_PD = self._states(encoded, encoded.ids, [encoded.text, *(encoded.text + step for step in steps)])
        query = self.probe.signals(states_PD[:1], query=True)
        rows = [check_row("query", 0, query[0], self.of_requests, 0)]
        for step, signal in zip(steps, self.probe.signals(states_PD[1:], query=False), strict=True):
            rows.append(check_row("prefill", 0, signal, self.of_answers, step))
        return Alarm(tuple(rows), 0 if any(row["verdict"] == "malicious" for row in rows) else None)

    def _written(self, encoded: Encoded, ids: Sequence[int]) -> Alarm:
        steps = list(range(self.probe.every, len(ids) + 1, self.probe.every))
        if not steps:
            return Alarm()
        states_PD = self._states(encoded, [*encoded.ids, *ids], [len(encoded.ids) + step for step in steps])
        rows: list[dict[str, Any]] = []
        for step, signal in zip(steps, self.probe.signals(states_PD, query=False), strict=True):
            rows.append(check_row("window", step, signal, self.of_answers, step + encoded.prefill))
            if rows[-1]["verdict"] == "malicious":
                return Alarm(tuple(rows), step, step - self.probe.every)
        return Alarm(tuple(rows))

    def _states(self, encoded: Encoded, ids: Sequence[int], places: Sequence[int]) -> Tensor:
        header = header_of(encoded) if self.probe.inject else ()
        states_PHD = hidden_states(self.plain.base, ids, places, (self.probe.layer,), header, encoded.text)
        return states_PHD[:, 0]

    def _encode(self, request: Request) -> Encoded:
        return encode_chat(self.plain.tokenizer, request.messages, request.prefill)


def header_of(encoded: Encoded) -> tuple[int, ...]:
    """Return the ids of the markup between the last user turn and the answer: end of turn, assistant header."""
    start = encoded.text
    while start and encoded.roles[start - 1] is Role.TEMPLATE:
        start -= 1
    return tuple(encoded.ids[start : encoded.text])


@torch.no_grad()
def hidden_states(
    base: PreTrainedModel,
    ids: Sequence[int],
    places: Sequence[int],
    layers: Sequence[int],
    header: Sequence[int] = (),
    text: int = 0,
) -> Tensor:
    """Return the (P, H, D) hidden states after reading the first n ids, for each n of `places`, fp32 on the CPU.

    Args:
        base: The model.
        ids: One row.
        places: Increasing, each at least 1.
        layers: Which hidden states.
        header: Ids put behind the prefix and taken away again; empty reads the prefix's own last token.
        text: Places up to here end in the header already, and get none.
    """
    decoder, device = base.get_decoder(), base.device
    row_1T = torch.tensor([list(ids[: places[-1]])], device=device)
    if not header or all(place <= text for place in places):
        found = decoder(input_ids=row_1T, output_hidden_states=True, use_cache=False).hidden_states
        return _taken(found, [place - 1 for place in places], layers)
    cache = DynamicCache()
    kept: dict[str, Any] = {describe(base).cache_argument: cache, "use_cache": True, "output_hidden_states": True}
    found = decoder(input_ids=row_1T, **kept).hidden_states
    own = [place for place in places if place <= text]
    states = [_taken(found, [place - 1 for place in own], layers)] if own else []
    later = []
    # From the end backwards, so that the cache is only ever cut.
    for place in sorted((place for place in places if place > text), reverse=True):
        if surplus := int(cache.get_seq_length()) - place:
            cache.crop(-surplus)
        positions = torch.arange(place, place + len(header), device=device)[None]
        row_1T = torch.tensor([list(header)], device=device)
        found = decoder(input_ids=row_1T, position_ids=positions, **kept).hidden_states
        later.append(_taken(found, [len(header) - 1], layers))
    return torch.cat([*states, *reversed(later)])


def _taken(found: Sequence[Tensor], at: Sequence[int], layers: Sequence[int]) -> Tensor:
    states_PHD = torch.stack([found[layer][0, list(at)] for layer in layers], dim=1).float().cpu()
    if not math.isfinite(float(states_PHD.sum())):
        raise UsageError(f"hidden states of layers {list(layers)} are not finite. Expected numbers.")
    return states_PHD
