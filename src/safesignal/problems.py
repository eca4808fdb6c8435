"""How several things that are wrong are said at once. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["problems_in"]


def problems_in(where: str, problems: Sequence[str], *, most: int | None = None) -> str:
    """Return one message for everything that is wrong somewhere: how much, and a line for each of the first `most`.

    Example:
        >>> print(problems_in("in the attack", ["nested.layers = 0    must be at least 1"]))
        1 problem in the attack
          nested.layers = 0    must be at least 1
    """
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    more = [f"and {len(problems) - most} more"] if most is not None and len(problems) > most else []
    return "\n  ".join([f"{count} {where}", *problems[:most], *more])
