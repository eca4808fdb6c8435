"""The endpoint target against a server in this process: what is sent, what is understood, and who fails alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from safesignal.attacks.base import Reply, Request, Sampling
from safesignal.attacks.endpoint import EndpointTarget
from safesignal.attacks.runner import run_plans
from safesignal.data.jsonl import Writer
from safesignal.errors import EndpointError, UsageError
from safesignal.judges.refusal import RefusalJudge
from safesignal.openai_client import ChatClient
from tests.attacks.stand_ins import ANSWER, plans
from tests.chat_server import ChatServer, said, serving


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with serving() as running:
        yield running


def ask(text: str = "Name a colour.", *, prefill: str = "", number: int = 0, **drawn: Any) -> Request:
    return Request(({"role": "user", "content": text},), prefill, Sampling(**{"max_new_tokens": 9} | drawn), number)


def target(server: ChatServer, **more: Any) -> EndpointTarget:
    return EndpointTarget(ChatClient(server.url, "some-model", **{"backoff": 0.0} | more))


def test_what_is_sent(server: ChatServer) -> None:
    server.script = [(200, said(), {})]
    target(server).answer([ask(temperature=0.5, top_p=0.9, seed=2)])
    path, headers, body = server.seen[0]
    assert path == "/v1/chat/completions"
    assert "Authorization" not in headers
    assert body.pop("seed") == 2_000_006
    assert body == {
        "model": "some-model",
        "messages": [{"role": "user", "content": "Name a colour."}],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
    }


def test_a_prefill_is_a_trailing_assistant_message_to_go_on_from(server: ChatServer) -> None:
    server.script = [(200, said(), {})]
    target(server).answer([ask(prefill="Sure,", top_k=5)])
    body = server.seen[0][2]
    assert body["messages"][-1] == {"role": "assistant", "content": "Sure,"}
    assert (body["continue_final_message"], body["add_generation_prompt"], body["top_k"]) == (True, False, 5)


def test_what_is_understood(server: ChatServer) -> None:
    server.script = [
        (200, said("Red.", "length"), {}),
        (200, said("Sorry.", "content_filter"), {}),
        (200, said(None, "stop", refusal="I won't."), {}),
        (200, said(None, "content_filter"), {}),
    ]
    (cut,), (stopped,), (refused,), (silent,) = (target(server).answer([ask()]) for _ in range(4))
    assert (cut.text, cut.finish, cut.n_tokens, cut.refused) == ("Red.", "length", 2, False)
    assert (stopped.text, stopped.refused) == ("Sorry.", True)
    assert (refused.text, refused.refused) == ("I won't.", True)
    assert (silent.text, silent.refused) == ("", True)
    assert cut.first_seconds is None


def test_replies_come_in_the_order_of_the_requests(server: ChatServer) -> None:
    server.script = [(200, lambda body: said(body["messages"][-1]["content"]), {})]
    replies = target(server).answer([ask(f"colour {i}", number=i) for i in range(12)])
    assert [reply.text for reply in replies] == [f"colour {i}" for i in range(12)]
    assert len({body["seed"] for _, _, body in server.seen}) == 12


def test_one_failure_is_raised_or_stands_alone(server: ChatServer) -> None:
    def answer(body: dict[str, Any]) -> Any:
        return {"choices": []} if body["messages"][0]["content"] == "colour 1" else said()

    server.script = [(200, answer, {})]
    asked = [ask(f"colour {i}") for i in range(3)]
    with pytest.raises(EndpointError, match="Expected `choices`"):
        target(server).answer(asked)
    assert [type(reply) for reply in target(server).answer_each(asked)] == [Reply, EndpointError, Reply]


def test_a_bad_row_costs_no_second_try_of_the_others(server: ChatServer, tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> Any:
        return {"choices": []} if body["messages"][-1]["content"] == "Name colour 1." else said(ANSWER)

    server.script = [(200, answer, {})]
    with Writer(tmp_path / "attempts.jsonl") as writer:
        counts = run_plans(plans(4), target(server), writer, {"refusal": RefusalJudge()}, batch_size=4)
    assert counts == {"succeeded": 3, "resisted": 0, "errored": 1, "budget_exhausted": 0}
    assert len(server.seen) == 4
    rows = {row["id"]: row for row in map(json.loads, (tmp_path / "attempts.jsonl").read_text().splitlines())}
    assert "Expected `choices` with a message" in rows["cell/b1"]["error"]


def test_a_script_ends_where_its_row_fails(server: ChatServer, tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> Any:
        return {"choices": []} if body["messages"][-1]["content"] == "first 1" else said(ANSWER)

    server.script = [(200, answer, {})]
    scripts = [replace(one, script=(f"first {i}", f"second {i}")) for i, one in enumerate(plans(3))]
    with Writer(tmp_path / "attempts.jsonl") as writer:
        counts = run_plans(scripts, target(server), writer, {"refusal": RefusalJudge()}, batch_size=3)
    assert (counts["succeeded"], counts["errored"]) == (2, 1)
    assert sorted(body["messages"][-1]["content"] for _, _, body in server.seen) == [
        "first 0",
        "first 1",
        "first 2",
        "second 0",
        "second 2",
    ]


def test_the_key_is_never_recorded(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="SOME_KEY is not set"):
        target(server, api_key_env="SOME_KEY")
    monkeypatch.setenv("SOME_KEY", "s3cret")
    server.script = [(200, said(), {})]
    keyed = target(server, api_key_env="SOME_KEY")
    keyed.answer([ask()])
    assert server.seen[0][1]["Authorization"] == "Bearer s3cret"
    assert keyed.identity() == {"kind": "endpoint", "name": "some-model", "url": server.url}
