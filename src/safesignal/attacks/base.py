"""The words of an attack: behaviors, requests and replies, the `Target` that answers them, and the attempt as recorded.

An attack is `config + plan() -> [Plan]`; :func:`safesignal.attacks.runner.run_plans` carries plans out against a target
and appends one attempt per plan to `attempts.jsonl` (docs/run-folder.md). An attack that must look at replies before
it can go on (search, gradients) brings its own `run` and writes the same records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable
from zlib import crc32

from safesignal.errors import SafeSignalError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Attack",
    "Behavior",
    "Message",
    "Plan",
    "Reply",
    "Request",
    "RowByRow",
    "Sampling",
    "Selective",
    "Status",
    "Target",
    "WhiteBox",
    "make_plan",
]

Message = dict[str, str]
"""One turn as chat templates take it: `role` and `content`."""


class Status(StrEnum):
    """How an attempt ended. Only `resisted` is robustness."""

    SUCCEEDED = "succeeded"
    """The released text complies, wholly or before a late refusal."""
    RESISTED = "resisted"
    """The released text is a refusal."""
    ERRORED = "errored"
    """Something crashed; the traceback's last lines stand in `error`. Made again on resume."""
    BUDGET_EXHAUSTED = "budget_exhausted"
    """It ran, but ended before a judge could name an outcome: empty, cut too early, or an `unknown` verdict."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is drawn; 0 for `temperature` is greedy, 0 for `top_k` and 1 for `top_p` are off."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Behavior:
    """One thing that is asked for, before any attack dresses it up.

    Attributes:
        id: Unique within its data set.
        text: The bare request; what judges are told was asked.
        dataset: Name in the catalog.
        label: Whether the request itself is malicious; benign ones measure over-refusal.
        category: The set's own type or category, empty if it has none.
        prompt: The published attack prompt, where the set brings one (GCG, AutoDAN, ...); else the bare request.
        turns: Further user turns the set brings (MT-Bench).
        target: The affirmative opening the set brings (AdvBench), empty if none.
        family: Method or family of a published artifact.
    """

    id: str
    text: str
    dataset: str
    label: Literal["malicious", "benign"]
    category: str = ""
    prompt: str = ""
    turns: tuple[str, ...] = ()
    target: str = ""
    family: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """What a target is sent.

    Attributes:
        messages: At least one turn, the last one the user's.
        prefill: Text the answer is made to begin with; empty for none.
        sampling: How to draw the answer.
        number: Keys the sampling noise, so that a row draws the same alone and in a batch.
    """

    messages: tuple[Message, ...]
    prefill: str
    sampling: Sampling
    number: int


@dataclass(frozen=True, slots=True)
class Reply:
    """What a target gave back; fields it cannot know are None.

    Attributes:
        text: The released text, without the prefill.
        n_tokens: New tokens written.
        finish: `eos`, `length`, `stop_string`, `refused` (by the signal) or the endpoint's own word.
        seconds: From the request to the end of this row.
        first_seconds: To the first released token, seconds.
        refused: Whether the defence stepped in.
        stopped_at: Generated-token index of the transition, where it did.
        released_after_transition: Tokens after the transition that were shown all the same.
        checks: One dictionary per check: kind, step, signal, verdict, start, end.
        ids: The released token ids, where there are any.
        pieces: The released text cut into its tokens, where a defence reads it token by token.
        read_as: What the defence took a disguised query for, where it read that instead.
    """

    text: str
    n_tokens: int
    finish: str
    seconds: float
    first_seconds: float | None = None
    refused: bool = False
    stopped_at: int | None = None
    released_after_transition: int = 0
    checks: tuple[dict[str, Any], ...] = ()
    ids: tuple[int, ...] = ()
    pieces: tuple[str, ...] = ()
    read_as: str | None = None


class Target(Protocol):
    """Anything that answers: our model, a plain Hugging Face model, an endpoint."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return all that decides its answers (weights, template, adapter, thresholds), as JSON values."""
        ...

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer requests, in one batch if it can; one reply per request, in order."""
        ...


@runtime_checkable
class RowByRow(Protocol):
    """A target whose rows succeed or fail each for itself, so that one failure costs no second try of the others."""

    def answer_each(self, requests: Sequence[Request]) -> list[Reply | SafeSignalError]:
        """Answer requests; one that fails is an error among the replies of the others."""
        ...


@runtime_checkable
class WhiteBox(Protocol):
    """What gradient and search attacks need beside :class:`Target`."""

    def losses(self, requests: Sequence[Request], answers: Sequence[str]) -> Tensor:
        """Return the (B,) mean negative log-likelihood of the wanted answers, in nats per token."""
        ...

    def embedding_gradient(self, ids: Tensor, loss_from: int) -> tuple[Tensor, Tensor]:
        """Return the loss of ids (T,) from position `loss_from` on, and its (T, D) gradient at the embeddings."""
        ...

    def signals(self, requests: Sequence[Request]) -> list[list[float]]:
        """Return the defence's own signals on the requests, for attacks that optimise against the head as well."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """One attempt to be made.

    Attributes:
        id: ``cell/variant/behavior``; unique in the run, and what resuming goes by.
        cell: The line of the suite it belongs to.
        attack: Name of the attack.
        variant: Depth, grid point, template or method within the cell; empty if there is only one.
        family: Family the variant belongs to, for reports that keep families apart.
        behavior: What is asked for.
        script: User turns, sent one after another with the target's own replies between them.
        prefill: Start of the last answer.
        system: System message, empty for none.
        sampling: How answers are drawn.
        number: Keys the sampling noise.
    """

    id: str
    cell: str
    attack: str
    variant: str
    family: str
    behavior: Behavior
    script: tuple[str, ...]
    prefill: str = ""
    system: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    number: int = 0


class Attack(Protocol):
    """A configured attack.

    Attributes:
        name: The name it is asked for by.
    """

    name: ClassVar[str]

    def plan(self, behaviors: Sequence[Behavior], cell: str, sampling: Sampling) -> list[Plan]:
        """Return the attempts to make, in an order and with ids that depend on nothing but the arguments."""
        ...


@runtime_checkable
class Selective(Protocol):
    """An attack that makes no attempt on some behaviors, for want of what it needs for them."""

    def left_out(self, behaviors: Sequence[Behavior]) -> dict[str, dict[str, int]]:
        """Return, by variant, how many behaviors are left out, by reason."""
        ...


def make_plan(
    name: str,
    cell: str,
    behavior: Behavior,
    sampling: Sampling,
    script: Sequence[str],
    *,
    variant: str = "",
    family: str = "",
    prefill: str = "",
) -> Plan:
    """Return one attempt, named after cell, variant and behavior.

    The sampling noise is keyed by that name, so an attempt draws the same whatever else is planned beside it.

    Args:
        name: The attack's name.
        cell: The line of the suite.
        behavior: What is asked for.
        sampling: How answers are drawn.
        script: User turns, at least one.
        variant: Point of the attack's grid; empty if there is only one.
        family: What reports keep apart.
        prefill: Start of the last answer.
    """
    plan_id = "/".join(part for part in (cell, variant, behavior.id) if part)
    return Plan(
        id=plan_id,
        cell=cell,
        attack=name,
        variant=variant,
        family=family,
        behavior=behavior,
        script=tuple(script),
        prefill=prefill,
        sampling=sampling,
        number=crc32(plan_id.encode()),
    )
