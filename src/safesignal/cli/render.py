"""How signals look in a terminal: pure functions from answers to rich renderables.

Colour runs from green (0) to red (1). Without it nothing is lost: malicious tokens are underlined, verdicts are words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.panel import Panel
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from safesignal.display import visible
from safesignal.rules import Policy, Schedule
from safesignal.types import Check, CheckKind, Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from safesignal.modeling.output import Answer

__all__ = [
    "SignalBar",
    "Trace",
    "answer_text",
    "checks_table",
    "signal_colour",
    "sparkline",
    "summary",
    "token_pieces",
    "token_signals",
    "trace_view",
]

_GREEN, _YELLOW, _RED = (58, 166, 96), (222, 178, 44), (224, 62, 62)
_REFUSAL = Style(color="#5f9fd6", bold=True)
_BLOCKS = " ▏▎▍▌▋▊▉"
_SPARKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Trace:
    """Everything a close-up of one answer shows.

    Attributes:
        prompt: The user's text.
        prefill: Pieces of text of the caller's start of the answer, one per token.
        pieces: Pieces of text of the released answer, one per token.
        answer: The answer.
        policy: Gives the thresholds and τ.
        schedule: When checks were due.
    """

    prompt: str
    prefill: Sequence[str]
    pieces: Sequence[str]
    answer: Answer
    policy: Policy
    schedule: Schedule


def signal_colour(signal: float) -> str:
    """Return the colour of a signal as `#rrggbb`.

    Example:
        >>> signal_colour(0.0), signal_colour(1.0)
        ('#3aa660', '#e03e3e')
    """
    share = min(max(signal, 0.0), 1.0) * 2
    left, right, part = (_GREEN, _YELLOW, share) if share < 1 else (_YELLOW, _RED, share - 1)
    mixed = (round(a + (b - a) * part) for a, b in zip(left, right, strict=True))
    return "#" + "".join(f"{value:02x}" for value in mixed)


@dataclass(frozen=True, slots=True)
class SignalBar:
    """A bar as long as the signal is high, with a tick at the threshold."""

    signal: float
    threshold: float
    width: int = 24

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the bar's segments."""
        colour, dim = Style(color=signal_colour(self.signal)), Style(dim=True)
        width = min(self.width, options.max_width)
        tick = min(width - 1, int(self.threshold * width))
        eighths = round(self.signal * width * 8)
        for cell in range(width):
            filled = min(8, max(0, eighths - cell * 8))
            if options.ascii_only:
                character = "#" if filled >= 4 else "|" if cell == tick else "."
            elif cell == tick and filled < 8:
                character = "┊"
            else:
                character = "█" if filled == 8 else _BLOCKS[filled] if filled else "·"
            yield Segment(character, colour if filled and character not in "┊|" else dim)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Return the widths it can take."""
        return Measurement(min(8, self.width), self.width)


def token_pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Return the text that each token adds; a split character goes to the token that completes it."""
    pieces, sent = [], 0
    for end in range(1, len(ids) + 1):
        text = str(tokenizer.decode(list(ids[:end]), skip_special_tokens=True, clean_up_tokenization_spaces=False))
        certain = len(text) if end == len(ids) else len(text.rstrip("\ufffd"))
        pieces.append(visible(text[sent : max(sent, certain)]))
        sent = max(sent, certain)
    return pieces


def token_signals(checks: Sequence[Check], prefill: int, released: int) -> list[float | None]:
    """Give each answer token, prefill first, the signal of the first check that saw it; None where none did.

    Args:
        checks: Checks of the answer, in order.
        prefill: Tokens of the caller's prefill.
        released: Tokens released after it.
    """
    signals: list[float | None] = [None] * (prefill + released)
    for check in checks:
        if check.kind in (CheckKind.QUERY, CheckKind.HISTORY):
            continue
        # An explanation counts from its own first token: the check's step less what it covers.
        shift = prefill + check.step - check.span.end if check.kind is CheckKind.EXPLANATION else 0
        for index in range(check.span.start + shift, min(check.span.end + shift, len(signals))):
            if index >= 0 and signals[index] is None:
                signals[index] = check.signal
    return signals


def answer_text(trace: Trace) -> Text:
    """Return the answer with every token in the colour of its signal, and the transition point marked."""
    answer, count, text = trace.answer, len(trace.prefill), Text()
    signals, refusal_at = token_signals(answer.checks, count, len(trace.pieces)), _refusal_at(answer)
    dropped = refusal_at == 0 and count > 0
    for index, piece in enumerate(trace.prefill):
        text.append(piece, _token_style(signals[index], trace.policy, struck=dropped))
    text.append("\n" if dropped else "")
    for index, piece in enumerate(trace.pieces):
        if index == refusal_at:
            text.append_text(_transition_mark(answer))
        inserted = refusal_at is not None and index >= refusal_at
        style = _token_style(signals[count + index], trace.policy)
        if inserted and not _explained(answer, index):
            # The mark stands on a line of its own, so the blank line that leads the refusal in is not needed.
            text.append(piece.replace("\n", ""), _REFUSAL)
        else:
            text.append(piece, style)
    return text


def _token_style(signal: float | None, policy: Policy, *, struck: bool = False) -> Style:
    if signal is None:
        return Style(dim=True, strike=struck)
    malicious = signal >= policy.window_threshold
    return Style(color=signal_colour(signal), underline=malicious, strike=struck)


def _refusal_at(answer: Answer) -> int | None:
    return None if answer.stopped_at is None else answer.stopped_at + answer.released_after_transition


def _explained(answer: Answer, index: int) -> bool:
    """Tell whether the model itself wrote this token of a refusal."""
    first = next((check for check in answer.checks if check.kind is CheckKind.EXPLANATION), None)
    return first is not None and index >= first.step - first.span.end


def _transition_mark(answer: Answer) -> Text:
    at = answer.stopped_at
    label = f"\n\n▲ stopped at token {at}" if at else "▲ refused before anything was shown"
    return Text(f"{label}\n", Style(bold=True, color=signal_colour(1.0)))


def checks_table(checks: Sequence[Check], policy: Policy, *, refused: bool, prefill: int = 0) -> Table:
    """Return one line per check: step, what it saw, its signal as number and bar, its verdict."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("saw", no_wrap=True)
    table.add_column("signal", justify="right", no_wrap=True)
    table.add_column("")  # the bar, the one column that gives way on a narrow terminal
    table.add_column("verdict", no_wrap=True)
    fired = _fired(checks) if refused else None
    for check in checks:
        malicious = check.verdict is Verdict.MALICIOUS
        threshold = policy.threshold if check.kind is CheckKind.QUERY else policy.window_threshold
        colour = Style(color=signal_colour(check.signal), bold=malicious)
        verdict = Text(f"{'●' if malicious else '○'} {check.verdict}", colour)
        if check is fired:
            verdict.append("  ▲ refused", Style(bold=True))
        table.add_row(
            str(check.step),
            str(check.kind),
            Text(_saw(check, prefill), "dim"),
            Text(f"{check.signal:.3f}", colour),
            SignalBar(check.signal, threshold),
            verdict,
        )
    if any(check.kind is CheckKind.PREFILL for check in checks):
        table.caption = Text("p = token of the prefill", "dim")
        table.caption_justify = "left"
    return table


def _fired(checks: Sequence[Check]) -> Check | None:
    """Return the check that made the policy refuse: a malicious query, else the last malicious one of the answer."""
    bad = [check for check in checks if check.verdict is Verdict.MALICIOUS and check.kind is not CheckKind.EXPLANATION]
    return next((check for check in bad if check.kind is CheckKind.QUERY), bad[-1] if bad else None)


def _saw(check: Check, prefill: int) -> str:
    span = check.span
    parts = ["prompt"] if span.query else []
    if span.end > span.start:
        shift = prefill if check.kind in (CheckKind.WINDOW, CheckKind.PREFILL) else 0
        first, last = (f"p{i + 1}" if i < shift else str(i - shift + 1) for i in (span.start, span.end - 1))
        place = f"turn {span.turn + 1}, " if span.turn is not None else ""
        parts.append(f"{place}token{'s' if first != last else ''} {first}" + (f"–{last}" if first != last else ""))
    return " + ".join(parts)


def sparkline(checks: Sequence[Check]) -> Text:
    """Return one coloured block per check, as high as its signal."""
    text = Text()
    for check in checks:
        block = _SPARKS[min(len(_SPARKS) - 1, int(check.signal * len(_SPARKS)))]
        text.append(block, Style(color=signal_colour(check.signal)))
    return text


def summary(trace: Trace) -> Table:
    """Return what happened, in words: the verdict, what was held back, lengths and times."""
    answer, policy = trace.answer, trace.policy
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    table.add_row("outcome", _outcome(answer))
    table.add_row("held back", _held(answer, policy))
    highest = max((check.signal for check in answer.checks), default=0.0)
    table.add_row(
        "checks",
        f"{len(answer.checks)}, highest signal {highest:.3f}; thresholds {policy.threshold:.3g} prompt, "
        f"{policy.window_threshold:.3g} window; τ = {policy.tau}; {trace.schedule}",
    )
    table.add_row(
        "tokens", f"{answer.n_tokens} in {answer.seconds:.1f} s, the first after {answer.seconds_to_first:.2f} s"
    )
    return table


def _outcome(answer: Answer) -> Text:
    if not answer.refused:
        ended = answer.finish_reason.replace("_", " ")
        return Text(f"answered; nothing was stopped (ended by {ended})", Style(color=signal_colour(0.0)))
    where = f"at token {answer.stopped_at}" if answer.stopped_at else "before the first token"
    return Text(f"refused {where} (stopped_at = {answer.stopped_at})", Style(color=signal_colour(1.0), bold=True))


def _held(answer: Answer, policy: Policy) -> str:
    if not policy.buffer or policy.dependence == "low":
        shown = answer.released_after_transition
        return f"nothing, the release buffer is off; {shown} tokens were shown beyond the transition"
    windows = [check.step for check in answer.checks if check.kind is CheckKind.WINDOW]
    gone = max(windows, default=0) - (answer.stopped_at or 0)
    if answer.refused and not windows:
        return "everything: the refusal came before a token was written"
    if answer.refused and gone > 0:
        return f"{gone} tokens after the transition were rolled back and never shown"
    return "every token, until a benign check had seen it"


def trace_view(trace: Trace) -> RenderableType:
    """Return the close-up of one answer: prompt, coloured tokens, every check, what happened."""
    prompt = Panel(Text(visible(trace.prompt)), title="prompt", title_align="left", border_style="dim", box=box.ROUNDED)
    colour = signal_colour(1.0 if trace.answer.refused else 0.0)
    legend = Text.assemble("signal 0 ", *(("━", signal_colour(i / 11)) for i in range(12)), " 1")
    answer = Panel(answer_text(trace), title="answer", title_align="left", border_style=colour)
    answer.subtitle, answer.subtitle_align = legend, "right"
    refused, prefill = trace.answer.refused, len(trace.prefill)
    checks = checks_table(trace.answer.checks, trace.policy, refused=refused, prefill=prefill)
    return Group(prompt, answer, checks, summary(trace))
