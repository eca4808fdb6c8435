"""What generating and scoring return."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from safesignal.types import Check, FinishReason

__all__ = ["Answer", "GenerateOutput", "Score", "StreamChunk"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One finished answer.

    Attributes:
        text: What was released, without the prefill.
        ids: Released token ids (no end-of-sequence token).
        refused: Whether the policy fired.
        stopped_at: S_t, the generated-token index of the transition; None if the policy did not fire.
        checks: Every check, in order.
        finish_reason: Why the answer ended.
        n_tokens: Tokens released.
        released_after_transition: Tokens shown beyond S_t before the policy fired; 0 with the buffer on.
        seconds_to_first: Time until the first token was shown.
        seconds: Time until the answer ended.
        end_id: The end-of-sequence token that ended it; None where something else did.
        prefill_dropped: Whether the caller's prefill was taken out of the context before the refusal.
        base_drift: How the base differs from the adapter's; empty if it does not.
        read_as: What the reader took a disguised query for; None where it read what was typed, or nothing.
    """

    text: str
    ids: tuple[int, ...]
    refused: bool
    stopped_at: int | None
    checks: tuple[Check, ...]
    finish_reason: FinishReason
    n_tokens: int
    released_after_transition: int
    seconds_to_first: float
    seconds: float
    end_id: int | None = None
    prefill_dropped: bool = False
    base_drift: str = ""
    read_as: str | None = None


@dataclass(frozen=True, slots=True)
class StreamChunk:
    """One piece of a streamed answer.

    Attributes:
        text: Newly released text, whole characters only.
        ids: Newly released token ids.
        checks: Checks made since the last chunk.
        answer: The finished answer, on the last chunk only.
    """

    text: str
    ids: tuple[int, ...]
    checks: tuple[Check, ...]
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """The signal of a prompt and, if there is one, of a response.

    Attributes:
        prompt_signal: P(malicious) of the query.
        response_signals: P(malicious) per window, in order; empty without a response.
        response_signal: Policy-relevant maximum of the windows; None without a response.
        checks: The same as checks, with spans and verdicts.
        base_drift: How the base differs from the adapter's; empty if it does not.
        read_as: What the reader took a disguised query for; None where it read what was typed, or nothing.
    """

    prompt_signal: float
    response_signals: tuple[float, ...] = ()
    response_signal: float | None = None
    checks: tuple[Check, ...] = ()
    base_drift: str = ""
    read_as: str | None = None


@dataclass(frozen=True)
class GenerateOutput:
    """What `generate(..., return_dict_in_generate=True)` returns; row b of every field belongs to input b.

    Attributes:
        sequences: (B, T) ids, left-padded prompt then released answer, right-padded.
        signal: Per row, the signal of each check, in order.
        stopped_at: Per row, S_t in generated tokens, or None.
        answers: Per row, everything else: text, checks with step, span and verdict, timings.
        base_drift: How the base differs from the adapter's; empty if it does not.
    """

    sequences: Tensor
    signal: list[list[float]]
    stopped_at: list[int | None]
    answers: list[Answer] = field(repr=False)
    base_drift: str = ""
