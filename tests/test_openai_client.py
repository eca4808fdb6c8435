"""The chat client against a server in this process: when it tries again, when not, and whom it gives which key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from safesignal import openai_client
from safesignal.errors import EndpointError, RejectedError, UsageError
from safesignal.openai_client import ChatClient, Completion
from tests.chat_server import ChatServer, said, serving

HELLO = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with serving() as running:
        yield running


def client(server: ChatServer, **more: Any) -> ChatClient:
    return ChatClient(server.url + "/", "some-model", **{"backoff": 0.0} | more)


def test_what_is_sent(server: ChatServer) -> None:
    server.script = [(200, said(), {})]
    client(server).complete({**HELLO, "temperature": 0})
    path, headers, body = server.seen[0]
    assert path == "/v1/chat/completions"
    assert "Authorization" not in headers
    assert body == {"model": "some-model", "temperature": 0, **HELLO}


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        (said("Red.", "length"), ("Red.", "length", False, 2)),
        (said("Sorry.", "content_filter"), ("Sorry.", "content_filter", True, 2)),
        (said(None, refusal="I won't."), ("I won't.", "stop", True, 2)),
        (said(None, "content_filter"), ("", "content_filter", True, 2)),
        ({"choices": [{"message": {"content": "Red."}}]}, ("Red.", "", False, 0)),
    ],
)
def test_what_is_understood(server: ChatServer, answer: Any, read: tuple[Any, ...]) -> None:
    server.script = [(200, answer, {})]
    found = client(server).complete(HELLO)
    assert (found.text, found.finish, found.refused, found.n_tokens) == read
    assert found.seconds > 0


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 503, 529])
def test_a_busy_server_is_asked_again(server: ChatServer, status: int) -> None:
    server.script = [(status, {"error": "busy"}, {"Retry-After": "0"}), (status, {}, {}), (200, said(), {})]
    assert client(server).complete(HELLO).text == "Red."
    assert len(server.seen) == 3


@pytest.mark.parametrize("answer", [b"<html>", b"", b'{"choices": ['])
def test_an_answer_that_breaks_off_is_asked_for_again(server: ChatServer, answer: bytes) -> None:
    server.script = [(200, answer, {}), (200, said(), {})]
    assert client(server).complete(HELLO).text == "Red."


def test_the_server_says_how_long_to_wait(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("safesignal.openai_client.time.sleep", waits.append)
    busy: list[Any] = [(503, {}, {"Retry-After": after}) for after in ("7", "900", "soon")]
    server.script = [*busy, (503, {}, {}), (200, said(), {})]
    client(server, backoff=2.0).complete(HELLO)
    assert waits == [7.0, 60.0, 8.0, 16.0]


def test_it_gives_up_in_the_end(server: ChatServer) -> None:
    server.script = [(503, {"error": "busy"}, {})]
    with pytest.raises(EndpointError, match=r"503 .*busy.*3 times"):
        client(server, retries=2).complete(HELLO)
    assert len(server.seen) == 3


def test_nobody_listening_is_an_error() -> None:
    with pytest.raises(EndpointError, match="2 times"):
        ChatClient("http://127.0.0.1:9/v1", "m", retries=1, backoff=0.0).complete(HELLO)


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_a_wrong_request_is_not_sent_again(server: ChatServer, status: int) -> None:
    server.script = [(status, {"error": "no such model"}, {})]
    with pytest.raises(UsageError, match=rf"{status} .*no such model") as caught:
        client(server).complete(HELLO)
    assert "`some-model`" in caught.value.hint
    assert isinstance(caught.value, RejectedError) is (status in (400, 422)), "of this request alone"
    assert len(server.seen) == 1


@pytest.mark.parametrize("answer", [{}, {"choices": []}, {"choices": [{"message": None}]}, [1]])
def test_an_answer_of_another_shape_is_an_error_at_once(server: ChatServer, answer: Any) -> None:
    server.script = [(200, answer, {})]
    with pytest.raises(EndpointError, match="Expected `choices` with a message"):
        client(server).complete(HELLO)
    assert len(server.seen) == 1


def test_a_row_fails_alone_and_is_tried_again_alone(server: ChatServer) -> None:
    def answer(body: dict[str, Any]) -> Any:
        return b"broken" if body["messages"] == [2] else said(str(body["messages"][0]))

    server.script = [(200, answer, {})]
    found = client(server, retries=2).complete_all([{"messages": [i]} for i in range(5)])
    assert [one.text if isinstance(one, Completion) else type(one) for one in found] == [
        "0",
        "1",
        EndpointError,
        "3",
        "4",
    ]
    assert sorted(body["messages"][0] for _, _, body in server.seen) == [0, 1, 2, 2, 2, 3, 4]
    assert client(server).complete_all([]) == []


# ------------------------------------------------------------------------------------------------------------- keys


def authorization(client: ChatClient, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Return the header that a client would send, without a network."""
    asked: list[Any] = []

    class Opener:
        def open(self, request: Any, timeout: float) -> Any:
            asked.append(request)
            raise OSError("no network here")

    monkeypatch.setattr(openai_client, "_opener", Opener())
    with pytest.raises(EndpointError):
        client.complete(HELLO)
    header = asked[0].get_header("Authorization")
    return None if header is None else str(header)


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://api.openai.com/v1", "Bearer openai-key"),
        ("http://api.openai.com/v1", None),
        ("https://api.openai.com.example.org/v1", None),
        ("https://api.openai.com@example.org/v1", None),
        ("http://127.0.0.1:8000/v1", None),
    ],
)
def test_the_openai_key_goes_to_openai_alone(url: str, sent: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "openai-key")
    assert authorization(ChatClient(url, "m", retries=0), monkeypatch) == sent


def test_a_named_variable_goes_where_it_is_named_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "openai-key")
    with pytest.raises(UsageError, match="SOME_KEY is not set"):
        ChatClient("http://127.0.0.1:9/v1", "m", "SOME_KEY")
    monkeypatch.setenv("SOME_KEY", "other-key")
    for url in ("http://127.0.0.1:9/v1", "https://api.openai.com/v1"):
        assert authorization(ChatClient(url, "m", "SOME_KEY", retries=0), monkeypatch) == "Bearer other-key"


@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_is_not_followed(server: ChatServer, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "other-key")
    with serving() as elsewhere:
        elsewhere.script = [(200, said(), {})]
        server.script = [(status, {}, {"Location": f"{elsewhere.url}/chat/completions"})]
        with pytest.raises(UsageError, match=str(status)):
            client(server, api_key_env="SOME_KEY").complete(HELLO)
        assert elsewhere.seen == []


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="file:///etc"):
        ChatClient("file:///etc", "m")
