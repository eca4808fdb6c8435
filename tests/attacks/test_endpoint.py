"""The endpoint target against a server in this process: what is sent, what is understood, and when it tries again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from safesignal.attacks.base import Request, Sampling
from safesignal.attacks.endpoint import EndpointTarget
from safesignal.errors import SafeSignalError, UsageError


class Server(ThreadingHTTPServer):
    """Plays prepared (status, body, headers) in turn, the last one for ever; keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[tuple[int, Any, dict[str, str]]] = []
        self.seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.seen.append((self.path, dict(self.headers), body))
        status, answer, headers = server.script.pop(0) if len(server.script) > 1 else server.script[0]
        if callable(answer):
            answer = answer(body)
        raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(raw)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def said(content: str | None = "Red.", finish: str = "stop", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **more}
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": {"completion_tokens": 2}}


def ask(text: str = "Name a colour.", *, prefill: str = "", number: int = 0, **drawn: Any) -> Request:
    return Request(({"role": "user", "content": text},), prefill, Sampling(**{"max_new_tokens": 9} | drawn), number)


def target(server: Server, **more: Any) -> EndpointTarget:
    return EndpointTarget(server.url, "some-model", **{"backoff": 0.0} | more)


def test_what_is_sent(server: Server) -> None:
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


def test_a_prefill_is_a_trailing_assistant_message_to_go_on_from(server: Server) -> None:
    server.script = [(200, said(), {})]
    target(server).answer([ask(prefill="Sure,", top_k=5)])
    body = server.seen[0][2]
    assert body["messages"][-1] == {"role": "assistant", "content": "Sure,"}
    assert (body["continue_final_message"], body["add_generation_prompt"], body["top_k"]) == (True, False, 5)


def test_what_is_understood(server: Server) -> None:
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


def test_replies_come_in_the_order_of_the_requests(server: Server) -> None:
    server.script = [(200, lambda body: said(body["messages"][-1]["content"]), {})]
    replies = target(server).answer([ask(f"colour {i}", number=i) for i in range(12)])
    assert [reply.text for reply in replies] == [f"colour {i}" for i in range(12)]
    assert len({body["seed"] for _, _, body in server.seen}) == 12


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: Server, status: int) -> None:
    server.script = [(status, {"error": "busy"}, {"Retry-After": "0"}), (status, {}, {}), (200, said(), {})]
    assert target(server).answer([ask()])[0].text == "Red."
    assert len(server.seen) == 3


def test_it_gives_up_in_the_end(server: Server) -> None:
    server.script = [(503, {"error": "busy"}, {})]
    with pytest.raises(SafeSignalError, match=r"503 .*busy.*3 times"):
        target(server, retries=2).answer([ask()])
    assert len(server.seen) == 3


def test_a_wrong_request_is_not_sent_again(server: Server) -> None:
    server.script = [(400, {"error": "no such model"}, {})]
    with pytest.raises(SafeSignalError, match=r"400 .*no such model"):
        target(server).answer([ask()])
    assert len(server.seen) == 1


@pytest.mark.parametrize("answer", [b"<html>", {"choices": []}, {"choices": [{"message": None}]}, [1]])
def test_an_answer_of_another_shape_is_an_error(server: Server, answer: Any) -> None:
    server.script = [(200, answer, {})]
    with pytest.raises(SafeSignalError, match="Expected"):
        target(server).answer([ask()])


def test_nobody_listening_is_an_error(server: Server) -> None:
    with pytest.raises(SafeSignalError, match="2 times"):
        EndpointTarget("http://127.0.0.1:9/v1", "m", retries=1, backoff=0.0).answer([ask()])


def test_the_key_is_read_from_the_environment_and_never_recorded(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="SOME_KEY is not set"):
        target(server, api_key_env="SOME_KEY")
    monkeypatch.setenv("SOME_KEY", "s3cret")
    server.script = [(200, said(), {})]
    keyed = target(server, api_key_env="SOME_KEY")
    keyed.answer([ask()])
    assert server.seen[0][1]["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in json.dumps(keyed.identity())


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="file:///etc"):
        EndpointTarget("file:///etc", "m")
