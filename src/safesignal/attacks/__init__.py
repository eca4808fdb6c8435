"""Attacks: what is tried against a target, and the record each attempt leaves. Floor 5; meets evals on disk only."""

__all__: list[str] = []
