"""Evaluations: statistics, baselines and suites. Floor 5; meets the attacks on disk, never in memory."""

__all__: list[str] = []
