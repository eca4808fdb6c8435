"""SafeSignal: an explicit safety signal inside any Hugging Face causal LM, read again while the model writes.

Names are loaded when first used, so that importing the package costs nothing.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safesignal.config import SignalConfig
    from safesignal.errors import SafeSignalError
    from safesignal.modeling.model import SafeSignalModel
    from safesignal.modeling.output import Answer, GenerateOutput, Score, StreamChunk
    from safesignal.rules import Policy, Schedule, parse_schedule
    from safesignal.types import Check, Role, Span, Verdict

_HOMES = {
    "Answer": "modeling.output",
    "Check": "types",
    "GenerateOutput": "modeling.output",
    "Policy": "rules",
    "Role": "types",
    "SafeSignalError": "errors",
    "SafeSignalModel": "modeling.model",
    "Schedule": "rules",
    "Score": "modeling.output",
    "SignalConfig": "config",
    "Span": "types",
    "StreamChunk": "modeling.output",
    "Verdict": "types",
    "parse_schedule": "rules",
}

__version__ = version("safesignal")
__all__ = [
    "Answer",
    "Check",
    "GenerateOutput",
    "Policy",
    "Role",
    "SafeSignalError",
    "SafeSignalModel",
    "Schedule",
    "Score",
    "SignalConfig",
    "Span",
    "StreamChunk",
    "Verdict",
    "__version__",
    "parse_schedule",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module `safesignal` has no attribute `{name}`")
    return getattr(import_module(f"safesignal.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
