"""Suites: which attacks, sets and figures make up a run, each written in one YAML file. Floor 6."""

__all__: list[str] = []
