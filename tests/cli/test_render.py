"""What a trace shows, on answers made by hand."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from safesignal.cli.render import (
    SignalBar,
    Trace,
    answer_text,
    checks_table,
    signal_colour,
    sparkline,
    token_pieces,
    token_signals,
    trace_view,
)
from safesignal.modeling.output import Answer
from safesignal.rules import ANNEALING, Policy
from safesignal.types import Check, CheckKind, FinishReason, Span, Verdict
from tests.support import tiny_tokenizer

POLICY = Policy()


def check(step: int, signal: float, start: int, end: int, kind: CheckKind = CheckKind.WINDOW, **span: Any) -> Check:
    verdict = Verdict.MALICIOUS if signal >= 0.5 else Verdict.BENIGN
    return Check(step, signal, verdict, Span(start, end, **span), kind)


def answer(pieces: list[str], checks: list[Check], stopped_at: int | None = None, shown_beyond: int = 0) -> Answer:
    reason = FinishReason.EOS if stopped_at is None else FinishReason.REFUSED
    text, ids = "".join(pieces), tuple(range(len(pieces)))
    more = (text, ids, stopped_at is not None, stopped_at, tuple(checks), reason, len(ids), shown_beyond, 0.25, 1.5)
    return Answer(*more)


QUERY = check(0, 0.1, 0, 0, CheckKind.QUERY, query=True)
STOPPED = Trace(
    "How?",
    (),
    ["First", ", take", "\n\n", "Sorry", ", no", " because", " it", " harms."],
    answer(
        ["First", ", take", "\n\n", "Sorry", ", no", " because", " it", " harms."],
        [
            QUERY,
            check(1, 0.2, 0, 1),
            check(2, 0.4, 0, 2),
            check(3, 0.8, 0, 3),
            check(4, 0.9, 0, 4),
            check(6, 0.3, 0, 1, CheckKind.EXPLANATION),
            check(8, 0.2, 0, 3, CheckKind.EXPLANATION),
        ],
        stopped_at=2,
    ),
    POLICY,
    ANNEALING,
)


def shown(renderable: Any, *, width: int = 100, colour: bool = False, **more: Any) -> str:
    file = io.StringIO()
    kind = "truecolor" if colour else None
    console = Console(file=file, width=width, force_terminal=colour, color_system=kind, **more)  # type: ignore[arg-type]
    console.print(renderable)
    return file.getvalue()


def style_of(text: Text, piece: str) -> Any:
    start = text.plain.index(piece)
    return next(span.style for span in text.spans if span.start <= start < span.end)


def test_colours_go_from_green_through_yellow_to_red() -> None:
    colours = [tuple(bytes.fromhex(signal_colour(x / 20)[1:])) for x in range(21)]
    assert len(set(colours)) == 21
    assert [r for r, _, _ in colours] == sorted(r for r, _, _ in colours)
    assert colours[10][1] > 150 > colours[20][1]
    assert signal_colour(-1) == signal_colour(0)
    assert signal_colour(2) == signal_colour(1)


@pytest.mark.parametrize(("signal", "filled"), [(0.0, 0), (0.5, 5), (1.0, 10)])
def test_a_bar_is_as_long_as_its_signal(signal: float, filled: int) -> None:
    bar = shown(SignalBar(signal, 0.7, width=10)).rstrip("\n")
    assert len(bar) == 10
    assert bar.count("█") == filled
    assert ("┊" in bar) == (signal < 0.7)


def test_a_bar_needs_no_unicode() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(file=file, width=40).print(SignalBar(0.5, 0.8, width=10))
    file.seek(0)
    assert file.read().rstrip() == "#####...|."


def test_a_token_takes_the_signal_of_the_first_check_that_saw_it() -> None:
    checks = [QUERY, check(2, 0.1, 0, 2), check(4, 0.9, 1, 4), check(4, 0.3, 0, 4)]
    assert token_signals(checks, 0, 5) == [0.1, 0.1, 0.9, 0.9, None]


def test_prefill_tokens_count_first() -> None:
    checks = [check(0, 0.2, 0, 2, CheckKind.PREFILL), check(1, 0.6, 0, 3)]
    assert token_signals(checks, 2, 1) == [0.2, 0.2, 0.6]


def test_an_explanation_counts_from_its_own_first_token() -> None:
    signals = token_signals(STOPPED.answer.checks, 0, 8)
    assert signals[:2] == [0.2, 0.4]
    assert signals[5:] == [0.3, 0.2, 0.2]


def test_the_transition_is_marked_between_what_was_shown_and_the_refusal() -> None:
    text = answer_text(STOPPED)
    assert text.plain == "First, take\n\n▲ stopped at token 2\nSorry, no because it harms."
    assert style_of(text, "Sorry").bold
    assert style_of(text, " because").color.name == signal_colour(0.3)
    assert not style_of(text, "First").underline


def test_a_malicious_token_is_underlined_so_that_it_shows_without_colour() -> None:
    open_ = Trace("?", (), ["a", "b"], answer(["a", "b"], [check(2, 0.9, 0, 2)]), POLICY, ANNEALING)
    assert style_of(answer_text(open_), "a").underline


def test_a_dropped_prefill_is_struck_out() -> None:
    checks = [QUERY, check(0, 0.9, 0, 1, CheckKind.PREFILL)]
    trace = Trace("?", ["Sure"], ["Sorry."], answer(["Sorry."], checks, stopped_at=0), POLICY, ANNEALING)
    text = answer_text(trace)
    assert text.plain == "Sure\n▲ refused before anything was shown\nSorry."
    assert style_of(text, "Sure").strike


def test_every_check_has_a_line_and_the_one_that_fired_says_so() -> None:
    out = shown(checks_table(STOPPED.answer.checks, POLICY, refused=True))
    lines = [line for line in out.splitlines() if "benign" in line or "malicious" in line]
    assert len(lines) == len(STOPPED.answer.checks)
    assert [i for i, line in enumerate(lines) if "▲ refused" in line] == [4]
    assert "tokens 1–4" in lines[4]
    assert "0.900" in lines[4]
    assert "explanation" in lines[5]
    assert "▲" not in shown(checks_table(STOPPED.answer.checks, POLICY, refused=False))


def test_a_malicious_query_is_what_fired_whatever_followed() -> None:
    query = check(0, 0.9, 0, 0, CheckKind.QUERY, query=True)
    out = shown(checks_table([query, check(0, 0.9, 0, 1, CheckKind.PREFILL)], POLICY, refused=True))
    assert "▲ refused" in next(line for line in out.splitlines() if "query" in line)


def test_the_view_says_what_happened() -> None:
    out = shown(trace_view(STOPPED))
    assert "refused at token 2 (stopped_at = 2)" in out
    assert "2 tokens after the transition were rolled back and never shown" in out
    assert "8 in 1.5 s, the first after 0.25 s" in out
    assert "highest signal 0.900" in out


def test_without_a_buffer_the_view_says_what_leaked() -> None:
    policy = Policy(buffer=False)
    pieces = ["a", "b", "c", "\n\n", "Sorry."]
    trace = Trace("?", (), pieces, answer(pieces, [check(3, 0.9, 0, 3)], 1, 2), policy, ANNEALING)
    assert "2 tokens were shown beyond the transition" in shown(trace_view(trace))
    assert answer_text(trace).plain.index("▲") == 5


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_the_view_fits_the_terminal(width: int) -> None:
    assert max(map(len, shown(trace_view(STOPPED), width=width).splitlines())) <= width


def test_no_colour_where_nobody_sees_it_and_colour_where_somebody_does() -> None:
    assert "\x1b" not in shown(trace_view(STOPPED))
    assert "\x1b[38;2;" in shown(trace_view(STOPPED), colour=True)


def test_no_color_keeps_the_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = shown(trace_view(STOPPED), colour=True)
    assert "38;2;" not in out
    assert "▲ stopped at token 2" in out


def test_markup_in_a_prompt_or_an_answer_is_plain_text() -> None:
    trace = Trace("[red]hi[/red]", (), ["[/]"], answer(["[/]"], []), POLICY, ANNEALING)
    assert "[red]hi[/red]" in shown(trace_view(trace))
    assert "[/]" in shown(trace_view(trace))


def test_a_text_cannot_move_the_cursor_or_turn_others_round() -> None:
    trace = Trace("a\x1b[2Jb\u202ec\u2066d", (), [], answer([], []), POLICY, ANNEALING)
    assert not {"\x1b", "\u202e", "\u2066"} & set(shown(trace_view(trace)))
    tokenizer = tiny_tokenizer()
    ids = tokenizer("x\x1b[2J\x07", add_special_tokens=False)["input_ids"]
    assert "".join(token_pieces(tokenizer, ids)) == "x\ufffd[2J\ufffd"


def test_pieces_are_the_text_and_characters_are_whole() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer("naïve 東京!", add_special_tokens=False)["input_ids"]
    pieces = token_pieces(tokenizer, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == "naïve 東京!"
    assert "\ufffd" not in "".join(pieces)


def test_a_sparkline_has_a_block_per_check() -> None:
    assert sparkline([check(1, s, 0, 1) for s in (0.0, 0.5, 1.0)]).plain == "▁▅█"
