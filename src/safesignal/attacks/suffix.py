"""A suffix that is optimised against the signal itself: white box, greedy coordinate gradient (Zou et al., 2023).

Published suffixes were optimised against other models and know nothing of a signal. This one is: gradients of the
reader propose tokens, and of the candidates the one is kept whose query, as it would be typed, has the lowest signal.
That signal is what the model would act on, plain letters and second readings included, so the search adapts to them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from safesignal.attacks.white_box import require_reader, signal_gradient
from safesignal.errors import UsageError
from safesignal.modeling.chat import Encoded
from safesignal.modeling.model import SafeSignalModel
from safesignal.types import Role

__all__ = ["Suffix", "optimise_suffix"]

_START = " !"


@dataclass(frozen=True, slots=True)
class Suffix:
    """What a search came to.

    Attributes:
        text: What is typed behind the request.
        before: The query's signal without it, in [0, 1].
        after: The query's signal with it.
        steps: Steps that were taken.
    """

    text: str
    before: float
    after: float
    steps: int


def optimise_suffix(
    model: SafeSignalModel,
    request: str,
    *,
    tokens: int = 18,
    steps: int = 20,
    candidates: int = 32,
    pool: int = 96,
    goal: float = 0.0,
    batch_size: int = 16,
    seed: int = 0,
) -> Suffix:
    """Look for a suffix under which a request's signal is low.

    Args:
        model: Whose adapter has a reader of queries.
        request: One user turn.
        tokens: Of the suffix.
        steps: At most so many; each costs a gradient and `candidates` readings.
        candidates: Suffixes that are tried in each step; they differ from the best one so far in one or two tokens.
        pool: Tokens per place that the gradient proposes.
        goal: Signal at which the search ends.
        batch_size: Candidates that are read together.
        seed: Of the draws.

    Raises:
        UsageError: If a count is below 1, or the adapter has no reader.
    """
    if min(tokens, steps, candidates, pool, batch_size) < 1:
        raise UsageError("a count of the suffix search is below 1. Expected 1 or more of each.")
    require_reader(model.forward_signal)
    search = _Search(model, request, batch_size)
    (before,) = search.signals([[]])
    best, drawn, step = search.start(tokens), random.Random(seed), 0
    (signal,) = search.signals([best])
    while step < steps and signal > goal:
        step += 1
        proposals = search.proposals(best, pool)
        tried = [_changed(best, proposals, drawn) for _ in range(candidates)]
        signals = search.signals(tried)
        lowest = min(range(candidates), key=signals.__getitem__)
        if signals[lowest] < signal:
            best, signal = tried[lowest], signals[lowest]
    return Suffix(search.text(best), before, signal, step)


class _Search:
    """One request, and what is tried behind it."""

    def __init__(self, model: SafeSignalModel, request: str, batch_size: int) -> None:
        self.model, self.request, self.batch_size = model, request, batch_size
        tokenizer, embeddings = model.tokenizer, model.base.get_input_embeddings().weight
        assert isinstance(embeddings, torch.Tensor)
        self.embeddings_VD = embeddings.detach()
        typed = [str(tokenizer.decode([token])) for token in range(len(tokenizer))]
        special = set(tokenizer.all_special_ids)
        # What can be typed: printable ASCII. All else is no choice at all.
        self.barred_V = torch.ones(len(embeddings), dtype=torch.bool)
        for token, text in enumerate(typed[: len(embeddings)]):
            self.barred_V[token] = token in special or not (text.isascii() and text.isprintable() and text)
        if bool(self.barred_V.all()):
            raise UsageError("no token of the vocabulary can be typed as ASCII. Expected some to make a suffix of.")

    def start(self, tokens: int) -> list[int]:
        """Return the suffix to begin with: exclamation marks, as in the paper, or the first token that can be typed."""
        ids = list(self.model.tokenizer(_START, add_special_tokens=False)["input_ids"])
        usable = [token for token in ids if not self.barred_V[token]] or [int((~self.barred_V).nonzero()[0])]
        return (usable * tokens)[:tokens]

    def text(self, suffix: Sequence[int]) -> str:
        """Return a suffix as it is typed."""
        return str(self.model.tokenizer.decode(list(suffix))) if suffix else ""

    def signals(self, suffixes: Sequence[Sequence[int]]) -> list[float]:
        """Return the query's signal with each suffix behind the request, as a model that is asked so would have it."""
        forward, found = self.model.forward_signal, []
        for at in range(0, len(suffixes), self.batch_size):
            typed = [self.request + self.text(suffix) for suffix in suffixes[at : at + self.batch_size]]
            encoded = [self.model.encode_one(text) for text in typed]
            sights = [[forward.sight(one.query_ranges(), text=(one, ()))] for one in encoded]
            found += forward.feed(forward.new_state(len(typed)), [[] for _ in typed], sights)[1]
        return [signal for (signal,) in found]

    def proposals(self, suffix: Sequence[int], pool: int) -> list[list[int]]:
        """Return, per place of the suffix, the tokens that would lower the reader's score most by its gradient."""
        one = self.model.encode_one(self.request)
        end = one.query_ranges()[-1][1]
        ids = (*one.ids[:end], *suffix, *one.ids[end:])
        roles = (*one.roles[:end], *[Role.USER] * len(suffix), *one.roles[end:])
        _, gradient_TD = signal_gradient(self.model.forward_signal, Encoded(ids, roles))
        change_SV = (gradient_TD[end : end + len(suffix)].to(self.embeddings_VD) @ self.embeddings_VD.t()).float()
        change_SV[:, self.barred_V.to(change_SV.device)] = float("inf")
        pool = min(pool, int((~self.barred_V).sum()))
        return [[int(token) for token in row] for row in change_SV.topk(pool, dim=1, largest=False).indices]


def _changed(suffix: Sequence[int], proposals: Sequence[Sequence[int]], drawn: random.Random) -> list[int]:
    """Return a suffix that differs in one or two places."""
    changed = list(suffix)
    for _ in range(drawn.choice((1, 2))):
        place = drawn.randrange(len(changed))
        changed[place] = drawn.choice(proposals[place])
    return changed
