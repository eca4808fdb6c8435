"""`safesignal chat`: several turns in a terminal, streamed as they are released."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from safesignal.cli.arguments import flag, option, together
from safesignal.cli.console import note, note_read_as, out, print_error, say
from safesignal.cli.options import ModelOptions, PolicyOptions, SamplingOptions, SignalOptions
from safesignal.errors import TemplateError, UsageError

if TYPE_CHECKING:
    from safesignal.modeling.model import SafeSignalModel
    from safesignal.modeling.output import Answer
    from safesignal.rules import Policy

__all__ = ["chat"]

_COMMANDS = "/reset forgets the conversation, /trace shows or hides the checks, /quit leaves; Ctrl-C stops an answer"


def chat(
    model: ModelOptions,
    signal: SignalOptions,
    policy: PolicyOptions,
    sampling: SamplingOptions,
    system: Annotated[str, option("system", "System message.", "Conversation")] = "",
    trace: Annotated[bool, flag("trace", "Show the checks after every answer.", "Conversation")] = False,
) -> None:
    """Talk with the model; answers appear as they are released."""
    together(model.check, sampling.check, partial(signal.check, model, policy))
    loaded = model.load()
    if loaded.base_drift:
        note(f"base drift accepted: {loaded.base_drift}")
    how = {
        "policy": loaded.policy(signal.preset, **signal.overrides(), **policy.overrides()),
        "schedule": signal.reading(loaded.config),
    }
    note(_COMMANDS)
    _Conversation(loaded, how, sampling.given(), system, trace=trace).run()


class _Conversation:
    """The turns so far, and what the user switched on."""

    def __init__(
        self, model: SafeSignalModel, how: dict[str, Any], options: dict[str, Any], system: str, *, trace: bool
    ) -> None:
        self._model = model
        self._how = how
        self._options = options
        self._opening = [{"role": "system", "content": system}] if system else []
        self._messages = list(self._opening)
        self._trace = trace

    def run(self) -> None:
        """Take turns until the user leaves."""
        while True:
            try:
                said = out.input(Text("\nyou > ", style="bold")).strip()
            except KeyboardInterrupt:
                note("\n/quit or Ctrl-D leaves")
                continue
            except EOFError:
                out.print()
                return
            if said == "/quit":
                return
            if said.startswith("/"):
                self._obey(said)
            elif said:
                self._take_turn(said)

    def _obey(self, command: str) -> None:
        if command == "/reset":
            self._messages = list(self._opening)
            note("the conversation begins anew")
        elif command == "/trace":
            self._trace = not self._trace
            note(f"checks are {'shown' if self._trace else 'hidden'}")
        else:
            note(_COMMANDS)

    def _take_turn(self, said: str) -> None:
        asked = [*self._messages, {"role": "user", "content": said}]
        try:
            text, answer = self._answer(asked)
        except (UsageError, TemplateError) as error:
            print_error(str(error), "`/reset` begins anew with an empty conversation")
            return
        if answer is not None and self._trace:
            self._show(answer)
        if answer is not None and answer.refused:
            note("refused; this exchange is left out of what follows")
        elif text.strip():
            self._messages = [*asked, {"role": "assistant", "content": text}]

    def _answer(self, messages: list[dict[str, str]]) -> tuple[str, Answer | None]:
        """Stream one answer; None in the place of the answer if the user stopped it."""
        text = ""
        try:
            for chunk in self._model.stream(messages, **self._how, **self._options):
                say(chunk.text)
                text += chunk.text
                if chunk.answer is not None:
                    typer.echo()
                    return text, chunk.answer
        except KeyboardInterrupt:
            note(" (stopped)")
        return text, None

    def _show(self, answer: Answer) -> None:
        from safesignal.cli.render import checks_table

        note_read_as(answer.read_as)
        policy: Policy = self._how["policy"]
        out.print(checks_table(answer.checks, policy, refused=answer.refused))
