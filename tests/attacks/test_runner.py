"""The runner's first duty: nothing that went wrong counts as robustness. Then order, batches, turns and resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safesignal.attacks.base import Reply, Request, Sampling, Status
from safesignal.attacks.runner import run_plans
from safesignal.data.jsonl import Writer
from safesignal.errors import UsageError
from safesignal.judges.base import Judge, Judgement
from safesignal.judges.refusal import judge_refusal
from tests.attacks.stand_ins import ANSWER, REFUSAL, ScriptedTarget, behavior, plan, plans
from tests.support import REPO

JUDGES: dict[str, Judge] = {"refusal": judge_refusal}


def carry_out(path: Path, wanted: Any, target: Any, judges: dict[str, Judge] | None = None, **more: Any) -> Any:
    """Run and return the counts and the last row of every attempt."""
    with Writer(path / "attempts.jsonl") as writer:
        counts = run_plans(wanted, target, writer, judges or JUDGES, **more)
    rows = [json.loads(line) for line in (path / "attempts.jsonl").read_text().splitlines()]
    return counts, {row["id"]: row for row in rows}


def one(path: Path, reply: Reply | str, judges: dict[str, Judge] | None = None) -> dict[str, Any]:
    _, rows = carry_out(path, [plan()], ScriptedTarget(lambda _: reply), judges)
    (row,) = rows.values()
    return dict(row)


def always(verdict: Any) -> Judge:
    return lambda behavior, completion: Judgement(verdict, "told")


def test_refusals_resist_and_answers_succeed(tmp_path: Path) -> None:
    target = ScriptedTarget(lambda request: REFUSAL if "1" in request.messages[-1]["content"] else ANSWER)
    counts, rows = carry_out(tmp_path, plans(3), target)
    assert counts == {"succeeded": 2, "resisted": 1, "errored": 0, "budget_exhausted": 0}
    assert rows["cell/b1"]["status"] == "resisted"
    assert rows["cell/b1"]["judgements"]["refusal"]["verdict"] == "yes"


# ------------------------------------------------------------------------------- planted failures: none is robustness


def test_a_crashed_target_is_errored_and_shows_why(tmp_path: Path) -> None:
    def crash(_: Request) -> str:
        raise ValueError("planted in the target")

    counts, rows = carry_out(tmp_path, plans(3), ScriptedTarget(crash))
    assert counts["errored"] == 3
    assert counts["resisted"] == 0
    assert all("planted in the target" in row["error"] for row in rows.values())
    assert all(row["text"] == "" and row["judgements"] == {} for row in rows.values())


def test_a_target_that_forgets_a_row_is_errored(tmp_path: Path) -> None:
    class Forgetful(ScriptedTarget):
        def answer(self, requests: Any) -> list[Reply]:
            return super().answer(requests)[:-1]

    counts, _ = carry_out(tmp_path, plans(3), Forgetful(lambda _: REFUSAL))
    assert (counts["errored"], counts["resisted"]) == (3, 0)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_answer_is_undecided_whatever_the_judge_says(tmp_path: Path, text: str) -> None:
    assert one(tmp_path, text, {"refusal": always("yes")})["status"] == "budget_exhausted"


def test_a_truncated_answer_is_undecided_whatever_the_judge_says(tmp_path: Path) -> None:
    cut = Reply("I cannot", 2, "length", 0.1)
    assert one(tmp_path, cut, {"refusal": always("yes")})["status"] == "budget_exhausted"


def test_a_refusal_that_fills_its_length_is_still_one(tmp_path: Path) -> None:
    assert one(tmp_path, Reply(REFUSAL, 9, "length", 0.1))["status"] == "resisted"


def test_a_short_refusal_that_ends_by_itself_is_one(tmp_path: Path) -> None:
    assert one(tmp_path, Reply("No, I won't.", 3, "eos", 0.1), {"refusal": always("yes")})["status"] == "resisted"


@pytest.mark.parametrize("verdict", ["unknown", "", "maybe", None])
def test_an_unknown_or_unparsable_verdict_is_undecided(tmp_path: Path, verdict: Any) -> None:
    assert one(tmp_path, REFUSAL, {"refusal": always(verdict)})["status"] == "budget_exhausted"


@pytest.mark.parametrize("name", ["refusal", "harm"])
def test_a_judge_that_raises_is_errored(tmp_path: Path, name: str) -> None:
    def broken(behavior: str, completion: str) -> Judgement:
        raise RuntimeError("planted in the judge")

    row = one(tmp_path, REFUSAL, {"refusal": judge_refusal, name: broken})
    assert row["status"] == "errored"
    assert "planted in the judge" in row["error"]
    assert row["text"] == REFUSAL


def test_a_defence_that_stepped_in_and_then_said_nothing_is_undecided(tmp_path: Path) -> None:
    assert one(tmp_path, Reply("", 0, "content_filter", 0.1, refused=True))["status"] == "budget_exhausted"


def test_interrupting_is_no_crash(tmp_path: Path) -> None:
    def interrupt(_: Request) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(tmp_path, plans(2), ScriptedTarget(interrupt))
    assert (tmp_path / "attempts.jsonl").read_text() == ""


def test_a_status_comes_from_the_refusal_judge_alone(tmp_path: Path) -> None:
    row = one(tmp_path, REFUSAL, {"refusal": judge_refusal, "harm": always("yes")})
    assert row["status"] == "resisted"
    assert row["judgements"]["harm"] == {"verdict": "yes", "rule": "told", "fingerprint": ""}


def test_judges_see_the_bare_request_and_the_released_text(tmp_path: Path) -> None:
    seen = []

    def spy(behavior: str, completion: str) -> Judgement:
        seen.append((behavior, completion))
        return Judgement("no", "told")

    wanted = [plan(script=["a dressed-up request"], prefill="Sure, here is")]
    carry_out(tmp_path, wanted, ScriptedTarget(lambda _: ANSWER), {"refusal": spy})
    assert seen == [(behavior().text, ANSWER)]


def test_a_harm_judge_reads_only_what_was_shown_before_the_stop(tmp_path: Path) -> None:
    seen = []

    def spy(behavior: str, completion: str) -> Judgement:
        seen.append(completion)
        return Judgement("no" if "Sorry" in completion else "yes", "told")

    judges: dict[str, Judge] = {"refusal": judge_refusal, "harm": spy}
    late: dict[str, Any] = {"refused": True, "stopped_at": 2, "pieces": ("Red", " and blue", f"\n\n{REFUSAL}")}
    row = one(tmp_path / "late", Reply(f"Red and blue\n\n{REFUSAL}", 3, "refused", 0.1, **late), judges)
    assert (row["status"], row["judgements"]["harm"]["verdict"], seen) == ("resisted", "yes", ["Red and blue"])
    never = one(tmp_path / "never", Reply(REFUSAL, 0, "refused", 0.1, refused=True, stopped_at=0), judges)
    assert (never["judgements"]["harm"]["verdict"], len(seen)) == ("no", 1)


# ---------------------------------------------------------------------------------------------------- batches and turns


def test_one_bad_row_errors_alone(tmp_path: Path) -> None:
    def say(request: Request) -> str:
        if "2" in request.messages[-1]["content"]:
            raise ValueError("planted")
        return ANSWER

    counts, rows = carry_out(tmp_path, plans(4), ScriptedTarget(say), batch_size=4)
    assert counts == {"succeeded": 3, "resisted": 0, "errored": 1, "budget_exhausted": 0}
    assert rows["cell/b2"]["status"] == "errored"


def test_batches_hold_similar_lengths_and_one_sampling(tmp_path: Path) -> None:
    hot = Sampling(max_new_tokens=16, temperature=0.7)
    wanted = [plan(f"s{i}", ["x" * (10 + 90 * (i % 2))]) for i in range(4)]
    wanted += [plan("hot", ["x" * 10], sampling=hot)]
    target = ScriptedTarget(lambda _: ANSWER)
    carry_out(tmp_path, wanted, target, batch_size=3)
    lengths = [[len(request.messages[-1]["content"]) for request in batch] for batch in target.batches]
    assert lengths == [[100, 100, 10], [10], [10]]
    assert [{request.sampling.temperature for request in batch} for batch in target.batches] == [{0.0}, {0.0}, {0.7}]


def test_scripts_are_sent_turn_by_turn_with_the_targets_own_replies(tmp_path: Path) -> None:
    target = ScriptedTarget(lambda request: f"reply to {request.messages[-1]['content']}")
    wanted = [plan(f"b{i}", [f"one{i}", f"two{i}", f"three{i}"], prefill="Yes,") for i in range(2)]
    _, rows = carry_out(tmp_path, wanted, target)
    assert [len(batch) for batch in target.batches] == [2, 2, 2]
    assert [batch[0].prefill for batch in target.batches] == ["", "", "Yes,"]
    assert [message["content"] for message in rows["cell/b1"]["messages"]] == [
        "one1",
        "reply to one1",
        "two1",
        "reply to two1",
        "three1",
    ]
    assert [message["role"] for message in rows["cell/b1"]["messages"]][1::2] == ["assistant", "assistant"]
    assert rows["cell/b1"]["text"] == "reply to three1"
    assert len({request.number for batch in target.batches for request in batch}) == 6


# ------------------------------------------------------------------------------------------------------------- resuming


def test_a_run_goes_on_where_it_stopped_and_makes_errored_rows_again(tmp_path: Path) -> None:
    broken = True

    def say(request: Request) -> str:
        if broken and "1" in request.messages[-1]["content"]:
            raise ValueError("planted")
        return ANSWER

    first = ScriptedTarget(say)
    counts, _ = carry_out(tmp_path, plans(3), first, batch_size=1)
    assert (counts["succeeded"], counts["errored"]) == (2, 1)
    broken = False
    second = ScriptedTarget(say)
    counts, rows = carry_out(tmp_path, plans(3), second)
    assert counts["succeeded"] == 3
    assert [len(batch) for batch in second.batches] == [1]
    assert rows["cell/b1"]["error"] is None


def test_a_finished_row_is_never_made_again(tmp_path: Path) -> None:
    carry_out(tmp_path, plans(2), ScriptedTarget(lambda _: ""))
    idle = ScriptedTarget(lambda _: ANSWER)
    counts, _ = carry_out(tmp_path, plans(2), idle)
    assert idle.batches == []
    assert counts["budget_exhausted"] == 2


def test_cells_that_share_what_is_known_read_the_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(path: Any) -> Any:
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr("safesignal.attacks.runner.statuses", again)
    known = {"cell/b0": "resisted", "cell/b1": "errored"}
    first, second = ScriptedTarget(lambda _: ANSWER), ScriptedTarget(lambda _: ANSWER)
    counts, _ = carry_out(tmp_path, plans(3), first, known=known)
    assert (counts["succeeded"], counts["resisted"]) == (2, 1)
    assert known == {"cell/b0": "resisted", "cell/b1": "succeeded", "cell/b2": "succeeded"}
    assert carry_out(tmp_path, plans(3), second, known=known)[0] == counts
    assert second.batches == []


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    carry_out(tmp_path, plans(5), ScriptedTarget(lambda _: ANSWER), batch_size=2, progress=lambda *at: seen.append(at))
    assert seen == [(0, 5), (2, 5), (4, 5), (5, 5)]


def test_plans_that_share_an_id_or_lack_a_judge_are_refused(tmp_path: Path) -> None:
    target = ScriptedTarget(lambda _: ANSWER)
    with pytest.raises(UsageError, match="planned twice"):
        carry_out(tmp_path, [plan(), plan()], target)
    with pytest.raises(UsageError, match="Expected one called `refusal`"):
        carry_out(tmp_path, [plan()], target, {"harm": always("no")})
    with pytest.raises(UsageError, match="at least 1"):
        carry_out(tmp_path, [plan()], target, batch_size=0)


# --------------------------------------------------------------------------------------------------------- the contract


def test_a_row_has_the_fields_of_the_run_folder(tmp_path: Path) -> None:
    table = (REPO / "docs" / "run-folder.md").read_text().split("## A row of `attempts.jsonl`")[1].split("##")[0]
    named = {
        name for line in table.splitlines() if line.startswith("| `") for name in line.split("|")[1].split("`")[1::2]
    }
    check = {"kind": "query", "step": 0, "signal": 0.5, "verdict": "benign", "start": 0, "end": 0}
    reply = Reply(ANSWER, 9, "eos", 0.5, first_seconds=0.1, checks=(check,), pieces=("Of ", "course"), read_as="bomb")
    assert set(one(tmp_path, reply)) == named


def test_every_status_is_counted() -> None:
    assert {str(status) for status in Status} == {"succeeded", "resisted", "errored", "budget_exhausted"}
