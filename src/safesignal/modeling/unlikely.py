"""Runs of a prompt that nobody writes, such as the suffix that an optimiser leaves behind a request.

A token's surprise is what it costs the model that reads it, in nats. Text that somebody wrote has dear tokens, one here
and one there; an optimised or random string has nothing else. So the surprise beyond what a dear token costs is summed
up along the text, as in Page's test for a change (CUSUM, 1954), and a run is where the sum has grown by far more than
it does in writing. Such a run is left out in a second reading (docs/adr/0012-what-nobody-writes-is-left-out.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from safesignal.modeling.chat import Encoded

__all__ = ["unlikely_runs", "without"]

_DEAR = 7.5
"""Nats of a token that is as likely in a run as in writing: twice the mean of English under a small model."""
_RECOVERY = 20.0
"""Nats by which the sum must fall for a run to be over: five words of writing, or three tokens that are free."""


def unlikely_runs(surprise: Sequence[float], least: float) -> list[tuple[int, int]]:
    """Return the (start, end) of the runs whose surprise beyond that of dear tokens sums up to `least` nats.

    A run begins and ends with a dear token; runs do not touch.

    Args:
        surprise: Nats per token, in [0, inf).
        least: Nats, above 0.

    Example:
        >>> unlikely_runs([3, 2, 11, 12, 1, 14, 2, 2, 2, 2, 9], 10)
        [(2, 6)]
    """
    runs: list[tuple[int, int]] = []
    start, end, total, highest = 0, 0, 0.0, 0.0
    for place, nats in enumerate([*surprise, float("-inf")]):
        total += nats - _DEAR
        if total > highest:
            highest, end = total, place + 1
        if total <= 0 or total < highest - _RECOVERY:
            if highest >= least:
                runs.append((start, end))
            start, total, highest = place + 1, 0.0, 0.0
    return runs


def without(prompt: Encoded, surprises: Mapping[int, Sequence[float]], least: float) -> Encoded | None:
    """Return a prompt without its unlikely runs; None where it has none, or where users would have said nothing else.

    What a model does not understand at all, as another language, hides nothing.

    Args:
        prompt: As it was read.
        surprises: By the position where a user's turn begins, nats per token from there on.
        least: As of :func:`unlikely_runs`.
    """
    gone: set[int] = set()
    for start, surprise in surprises.items():
        runs = unlikely_runs(surprise, least)
        gone.update(start + place for run in runs for place in range(*run))
    if not gone or len(gone) == sum(map(len, surprises.values())):
        return None
    kept = [place for place in range(len(prompt.ids)) if place not in gone]
    return Encoded(tuple(prompt.ids[p] for p in kept), tuple(prompt.roles[p] for p in kept))
