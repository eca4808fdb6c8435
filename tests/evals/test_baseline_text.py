from __future__ import annotations

import sys

import pytest

from safesignal.data.records import Message, PromptLabel, Record
from safesignal.errors import UsageError
from safesignal.evals.baseline_text import TextBaseline


def records() -> list[Record]:
    kinds: list[tuple[PromptLabel, str]] = [("benign", "please bake some bread"), ("malicious", "please grell a vonk")]
    return [Record(f"{k}{i}", (Message("user", f"{t} {i}"),), prompt_label=k) for k, t in kinds for i in range(20)]


@pytest.mark.parametrize("characters", [False, True])
def test_it_learns_words_and_scores_malicious(characters: bool) -> None:
    benign, malicious = TextBaseline(characters=characters).fit(records()).score(["bake bread", "grell the vonk"])
    assert benign < 0.5 < malicious


def test_the_threshold_keeps_the_false_positive_rate() -> None:
    baseline = TextBaseline().fit(records())
    prompts = [f"bake {word}" for word in ("bread", "vonk", "a grell", "cake", "pie")]
    baseline.calibrate(prompts, fpr=0.2)
    assert baseline.flag(prompts).sum() == 1


def test_unlabelled_rows_and_repeats_do_not_count() -> None:
    extra = [Record(f"u{i}", (Message("user", "grell vonk"),)) for i in range(50)]
    again = TextBaseline().fit([*records(), *records(), *extra]).score(["grell bread"])
    assert again == pytest.approx(TextBaseline().fit(records()).score(["grell bread"]))


def test_wrong_use_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="not fitted"):
        TextBaseline().score(["x"])
    with pytest.raises(UsageError, match="one class"):
        TextBaseline().fit(records()[:20])
    with pytest.raises(UsageError, match="min_count"):
        TextBaseline(min_count=0)
    assert TextBaseline().fit(records()).score([]).shape == (0,)
    monkeypatch.setitem(sys.modules, "sklearn.pipeline", None)
    with pytest.raises(UsageError) as caught:
        TextBaseline().fit(records())
    assert "safesignal[eval]" in caught.value.hint
