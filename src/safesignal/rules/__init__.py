"""Spans, schedule and policy: pure code that reads like the paper. No model, no tensors."""

from safesignal.rules.policy import FIXED_REFUSAL, REFUSAL_PREFIX, Policy, validate_policy
from safesignal.rules.schedule import ANNEALING, EVERY, FIRST, Schedule, Stage, parse_schedule, periodic
from safesignal.rules.trajectory import GO_ON, Action, Trajectory, query_verdict, verdict_of

__all__ = [
    "ANNEALING",
    "EVERY",
    "FIRST",
    "FIXED_REFUSAL",
    "GO_ON",
    "REFUSAL_PREFIX",
    "Action",
    "Policy",
    "Schedule",
    "Stage",
    "Trajectory",
    "parse_schedule",
    "periodic",
    "query_verdict",
    "validate_policy",
    "verdict_of",
]
