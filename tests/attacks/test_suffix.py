"""A suffix optimised against the signal lowers what the model itself would say of the query."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from safesignal.attacks.suffix import optimise_suffix
from safesignal.attacks.white_box import signal_gradient
from safesignal.errors import UsageError
from safesignal.modeling.sight import Sight
from tests.invariants.harness import PROMPTS
from tests.modeling.test_reader import query_signals, reading

REQUEST = PROMPTS[1]


def test_it_lowers_the_signal_of_what_would_be_typed() -> None:
    model = reading()
    found = optimise_suffix(model, REQUEST, tokens=6, steps=8, candidates=12, pool=24)
    assert found.steps == 8
    assert found.before == pytest.approx(query_signals(model, [REQUEST])[0], abs=1e-5)
    assert found.after == pytest.approx(query_signals(model, [REQUEST + found.text])[0], abs=1e-5)
    assert found.after < found.before - 0.05
    assert found.text.isascii()


def test_it_is_repeatable_and_ends_at_its_goal() -> None:
    model = reading()
    one, same = (optimise_suffix(model, REQUEST, tokens=4, steps=3, candidates=6, seed=3) for _ in range(2))
    assert one == same
    assert optimise_suffix(model, REQUEST, tokens=4, steps=3, candidates=6, seed=4) != one
    assert optimise_suffix(model, REQUEST, tokens=4, goal=1.0).steps == 0


def test_second_readings_count_in_what_it_optimises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every scrap is left out again, nothing behind the request can lower its signal."""
    model = reading()
    model.config = replace(model.config, surprise=1.0)
    bare = model.encode_one(REQUEST)
    monkeypatch.setattr("safesignal.modeling.read_anew.without", lambda *_: bare)
    found = optimise_suffix(model, REQUEST, tokens=4, steps=2, candidates=6)
    assert found.after >= found.before - 1e-5


def test_the_gradient_agrees_with_finite_differences() -> None:
    model = reading()
    forward, one = model.forward_signal, model.encode_one(REQUEST)
    odds, gradient_TD = signal_gradient(forward, one)
    scores = forward.reread([Sight(((0, len(one.ids)),), 0, prompt=one)])[0]
    assert odds.item() == pytest.approx((scores[1] - scores[0]).item(), abs=1e-5)
    assert gradient_TD.shape == (len(one.ids), forward.stack.hidden_size)
    place, step = len(one.ids) - 4, 1e-2 * torch.nn.functional.normalize(torch.randn(forward.stack.hidden_size), dim=0)

    def moved(sign: int) -> float:
        def shift(_: object, __: object, embeds: torch.Tensor) -> torch.Tensor:
            embeds = embeds.clone()
            embeds[0, place] += sign * step
            return embeds

        handle = forward.base.get_input_embeddings().register_forward_hook(shift)
        try:
            scores = forward.reread([Sight(((0, len(one.ids)),), 0, prompt=one)])[0]
        finally:
            handle.remove()
        return float(scores[1] - scores[0])

    assert (moved(1) - moved(-1)) / 2 == pytest.approx(float(gradient_TD[place] @ step), rel=0.05, abs=1e-5)


def test_without_a_reader_or_with_nothing_to_try_it_is_refused() -> None:
    for goal in (0.0, 1.0):
        with pytest.raises(UsageError, match="no reader of queries"):
            optimise_suffix(reading(reader_rank=0), REQUEST, tokens=2, goal=goal)
    with pytest.raises(UsageError, match="below 1"):
        optimise_suffix(reading(), REQUEST, tokens=0)
