"""The error tree: one class per remedy, so that a caller can act on the class and a person on the hint.

::

    SafeSignalError            exit 1
    ├── UsageError             exit 2   an argument or option is out of its range
    │   ├── DataError          exit 2   a row, file or data set is not what was announced
    │   └── RejectedError      exit 2   a server turns this very request down
    ├── ModelError             exit 1   the base model cannot carry a signal (family, attention backend, length)
    │   └── TemplateError      exit 1   no roles can be given to the tokens
    ├── EndpointError          exit 1   a server was asked and gave no answer that can be used
    ├── AdapterError           exit 1   the adapter does not belong to this base model, tokenizer or template
    └── SignalError            exit 1   the signal is missing or not a probability: nothing may be generated
        └── SignalMaskError    exit 1   the gate cannot tell which rows hold the safety token
"""

__all__ = [
    "AdapterError",
    "DataError",
    "EndpointError",
    "ModelError",
    "RejectedError",
    "SafeSignalError",
    "SignalError",
    "SignalMaskError",
    "TemplateError",
    "UsageError",
]


class SafeSignalError(Exception):
    """Base of everything the package raises on purpose.

    Attributes:
        hint: The next action for the user, shown on its own line; empty if there is none.
        exit_code: Process exit status when the command line ends with this error.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(SafeSignalError):
    """An argument, option or setting is outside what was expected; nothing was run."""

    exit_code = 2


class DataError(UsageError):
    """A row, file or data set is not what was announced; the message names file, line and field."""


class RejectedError(UsageError):
    """A server turns this very request down, as too long or filtered; others it may answer."""


class ModelError(SafeSignalError):
    """The base model cannot carry a signal as it is: family, attention backend or context length."""


class TemplateError(ModelError):
    """Roles cannot be given to the tokens: no chat template, or one that rewrites what it is given."""


class EndpointError(SafeSignalError):
    """A server was asked, again and again, and gave no answer that can be used."""


class AdapterError(SafeSignalError):
    """The adapter was trained for another base model, tokenizer or chat template, or cannot be read."""


class SignalError(SafeSignalError):
    """The signal is unavailable or not a probability, so nothing may be generated."""


class SignalMaskError(SignalError):
    """The gate cannot tell which rows hold the safety token."""
