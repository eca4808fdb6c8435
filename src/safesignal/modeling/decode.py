"""THE decode loop: one generator that writes, checks, rolls back and releases. Stream and batch are wrappers.

Shapes: B rows of the batch still alive, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from safesignal.modeling.cache import TextState
from safesignal.modeling.forward import SignalForward
from safesignal.modeling.rows import Row, drive
from safesignal.nn.sampling import Sampler, pick_token
from safesignal.rules.trajectory import GO_ON, Action
from safesignal.types import FinishReason, Span

__all__ = ["DecodeSettings", "Step", "decode"]

_SENTENCE_END = (".", "!", "?", "\n")


@dataclass(frozen=True)
class DecodeSettings:
    """What the loop needs beyond the rows.

    Attributes:
        max_new_tokens: Most tokens written after prompt and prefill; a refusal once begun is never cut short.
        max_length: Most tokens the model can read; an answer that gets there ends.
        sampler: How the next token is drawn.
        eos: Ids that end an answer.
        stop_strings: Texts that end an answer.
        fused: Whether checks share the next token's forward.
        to_ids: Tokenises a refusal.
        to_text: Decodes tokens, special ones left out.
    """

    max_new_tokens: int
    max_length: int
    sampler: Sampler
    eos: frozenset[int]
    stop_strings: tuple[str, ...]
    fused: bool
    to_ids: Callable[[str], list[int]]
    to_text: Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class Step:
    """What one turn of the loop showed of one row.

    Attributes:
        row: The row, for its checks and its end.
        ids: Newly released token ids.
        seconds: Time since the request began.
    """

    row: Row
    ids: tuple[int, ...]
    seconds: float


@torch.no_grad()
def decode(forward: SignalForward, rows: Sequence[Row], settings: DecodeSettings) -> Iterator[Step]:
    """Write all rows to their ends, releasing only what the policy allows.

    Nothing is yielded before a benign check covers it (buffer on). Every row ends on its own; a row that was refused
    goes on from its transition point while its neighbours write.

    Args:
        forward: The model.
        rows: One per answer; changed in place.
        settings: Lengths, sampling and endings.

    Yields:
        A step for every row whose text moved on or that ended.

    Raises:
        SignalError: If a signal is missing or not a probability; what was not released yet is never shown.
    """
    begun, live = time.perf_counter(), list(rows)
    state = forward.new_state(len(live))
    # 1. Read the prompts, together with every check of what is there already.
    scores: Tensor | None = _open(forward, state, live, settings)
    while live:
        # 2. Every row with nothing left to read takes its next token, which may end it.
        _write(live, scores, settings)
        # 3. A row that has ended and needs no closing check is finished, or refused if a malicious run is open.
        for row in live:
            _settle(row, settings)
        _roll_back(state, live)
        # 4. Show what benign checks cover; of a refusal nothing before it says why.
        for row in live:
            released = row.release() if row.finish is not None or _explained(row, settings) else []
            if released or row.finish is not None:
                yield Step(row, tuple(released), time.perf_counter() - begun)
        # 5. Finished rows leave the batch.
        going = [index for index, row in enumerate(live) if row.finish is None]
        if len(going) < len(live):
            live = [live[index] for index in going]
            if live:
                state.select(going)
        # 6. Read what is pending, due checks in the same pass; where the policy fires, roll back, queue a refusal.
        if live:
            scores = _read(forward, state, live, settings)


def _open(forward: SignalForward, state: TextState, rows: Sequence[Row], settings: DecodeSettings) -> Tensor:
    """Feed the prompts and run the opening checks; a second forward only where a verdict changed what to look at.

    Where answers see the signal, the prompts and their query checks come first: a caller's prefill sees those.
    """
    scores: Tensor | None = None

    def read(wanted: dict[tuple[int, int], list[Span]], *, prefill: bool) -> dict[tuple[int, int], list[float]]:
        nonlocal scores
        spans = [[span for key, own in wanted.items() if key[0] == index for span in own] for index in range(len(rows))]
        before = [row.fed for row in rows]
        found, signals = _feed(forward, state, rows, spans, settings, prefill=prefill)
        scores = _newer(scores, found, [row.fed > fed for row, fed in zip(rows, before, strict=True)])
        replies = [iter(row) for row in signals]
        return {key: [next(replies[key[0]]) for _ in own] for key, own in wanted.items()}

    queries = {(r, -1): row.query() for r, row in enumerate(rows) if row.checks_query}
    others = {(r, c): course for r, row in enumerate(rows) for c, course in enumerate(row.opening())}
    stages = [(queries, False), (others, True)] if forward.joint else [(queries | others, True)]
    actions: dict[tuple[int, int], Action] = {}
    for courses, prefill in stages:
        actions |= drive(courses, partial(read, prefill=prefill))
        if any(row.fed < (len(row.ids) if prefill else row.encoded.text) for row in rows):
            read({}, prefill=prefill)
    fired: dict[int, tuple[int, int]] = {}
    for key, action in actions.items():
        if action.refuse:
            fired.setdefault(key[0], key)
    if forward.joint:
        # A refusal is written under the check that caused it. All windows of a prefill were read at once, and the last
        # of them is the stored check; so the one that counts is read again.
        causes = {key: rows[r].causes(query=key in queries) for r, key in fired.items() if rows[r].encoded.prefill}
        if wanted := {key: spans for key, spans in causes.items() if spans}:
            read(wanted, prefill=True)
    for r, key in fired.items():
        _refuse(rows[r], actions[key].keep, settings)
    _roll_back(state, rows)
    assert scores is not None
    return scores


def _newer(old_BV: Tensor | None, new_BV: Tensor | None, fed: Sequence[bool]) -> Tensor | None:
    """Return the scores after each row's last token: new ones for rows that were fed in this forward."""
    if old_BV is None or new_BV is None:
        return old_BV if new_BV is None else new_BV
    return torch.where(torch.tensor(fed, device=new_BV.device)[:, None], new_BV, old_BV)


def _read(forward: SignalForward, state: TextState, rows: Sequence[Row], settings: DecodeSettings) -> Tensor | None:
    """Feed pending tokens with the checks that are due and do what the policy says."""
    due = [row.due() for row in rows]
    scores, signals = _feed(forward, state, rows, [[] if span is None else [span] for span in due], settings)
    for row, span, signal in zip(rows, due, signals, strict=True):
        action = GO_ON if span is None else row.observe(signal[0], span)
        if action.refuse:
            _refuse(row, action.keep, settings)
    _roll_back(state, rows)
    return scores


def _feed(
    forward: SignalForward,
    state: TextState,
    rows: Sequence[Row],
    spans: Sequence[Sequence[Span]],
    settings: DecodeSettings,
    *,
    prefill: bool = True,
) -> tuple[Tensor | None, list[list[float]]]:
    """Feed what is pending, or up to the end of the prompts alone, and read the signals of spans."""
    ends = [len(row.ids) if prefill else row.encoded.text for row in rows]
    pending = [row.ids[row.fed : end] for row, end in zip(rows, ends, strict=True)]
    sights = [
        [forward.sight(row.ranges(s), row.since(s), row.to_read(s)) for s in own]
        for row, own in zip(rows, spans, strict=True)
    ]
    # With the signal off nothing is fused: what is written is the base model's own, bit for bit.
    fused = settings.fused and any(row.watch for row in rows)
    scores, signals = forward.feed(state, pending, sights, fused=fused)
    state.advance([len(ids) for ids in pending])
    for row, end in zip(rows, ends, strict=True):
        row.fed = end
    return scores, signals


def _roll_back(state: TextState, rows: Sequence[Row]) -> None:
    kept = [row.fed for row in rows]
    if kept != state.lengths:
        state.cut(kept)


def _write(rows: Sequence[Row], scores_BV: Tensor | None, settings: DecodeSettings) -> None:
    """Give every row that has read all its text one more token, and note what ends it."""
    for index, row in enumerate(rows):
        if row.ending is not None or row.pending:
            continue
        assert scores_BV is not None
        step = len(row.ids) - row.encoded.text
        token = pick_token(scores_BV[index], row.ids, settings.sampler, row.number, step)
        row.ids.append(token)
        row.ending = _ending(row, token, settings)


def _ending(row: Row, token: int, settings: DecodeSettings) -> FinishReason | None:
    if token in settings.eos:
        return FinishReason.EOS
    if len(row.ids) >= settings.max_length:
        return FinishReason.LENGTH
    if row.refusal_at is not None:
        tail = settings.to_text(row.ids[-2:])
        ended = tail.endswith(_SENTENCE_END) and _explained(row, settings)
        done = ended or row.length >= row.policy.explain_tokens
        return FinishReason.LENGTH if done or row.written >= settings.max_new_tokens else None
    if settings.stop_strings:
        # A token brings at least one byte; four more hold the rest of a character that was split.
        longest = max(len(stop.encode()) for stop in settings.stop_strings)
        tail = settings.to_text(row.ids[max(row.start, len(row.ids) - longest - 4) :])
        if any(stop in tail for stop in settings.stop_strings):
            return FinishReason.STOP_STRING
    return FinishReason.LENGTH if row.written >= settings.max_new_tokens else None


def _settle(row: Row, settings: DecodeSettings) -> None:
    if row.ending is None or row.due() is not None:
        return
    action = row.trajectory.close() if row.watch else GO_ON
    if action.refuse:
        _refuse(row, action.keep, settings)
    elif not _explained(row, settings):
        _refuse(row, 0, settings)  # the model had no explanation, and the prefix alone is half a sentence
    else:
        row.finish = FinishReason.REFUSED if row.refused else row.ending


def _explained(row: Row, settings: DecodeSettings) -> bool:
    """Tell whether there is no refusal to explain, or a word in it yet: a line break or a full stop alone is none."""
    if row.refusal_at is None:
        return True
    return any(character.isalnum() for character in settings.to_text(row.ids[row.origin : row.end]))


def _refuse(row: Row, keep: int, settings: DecodeSettings) -> None:
    """Put a refusal at the transition point: a prefix the model explains, or the fixed one, which ends the row."""
    policy = row.policy
    place = max(row.origin + keep if row.refusal_at is None else row.refusal_at, row.shown)
    gap = "\n\n" if place > row.start else ""
    prefix = settings.to_ids(gap + policy.refusal_prefix)
    room = settings.max_new_tokens - max(0, place - row.start) - len(prefix)
    room = min(room, settings.max_length - place - len(prefix))
    if row.refusal_at is None and policy.explains and min(room, policy.explain_tokens) > 0:
        row.refuse(keep, prefix)
        return
    row.refuse(keep, settings.to_ids(gap + policy.fixed_refusal))
    row.finish = FinishReason.REFUSED
