"""An OpenAI-compatible chat endpoint as a target.

A prefill is sent as vLLM and SGLang take it: a trailing assistant message with `continue_final_message`. A server
that does not know the field answers a conversation that ends with its own words, which is another attack.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safesignal.attacks.base import Reply, Request
from safesignal.errors import SafeSignalError
from safesignal.openai_client import ChatClient

__all__ = ["EndpointTarget"]


class EndpointTarget:
    """The model behind a client."""

    def __init__(self, client: ChatClient) -> None:
        self.client = client
        self.name = client.model

    def identity(self) -> dict[str, Any]:
        """Return address and model name; what stands behind them is not known."""
        return {"kind": "endpoint", "name": self.name, "url": self.client.url.rstrip("/")}

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer requests, several at once.

        Raises:
            UsageError: If the server turns one down for good.
            EndpointError: If it gives no usable answer to one.
        """
        replies = []
        for reply in self.answer_each(requests):
            if isinstance(reply, SafeSignalError):
                raise reply
            replies.append(reply)
        return replies

    def answer_each(self, requests: Sequence[Request]) -> list[Reply | SafeSignalError]:
        """Answer requests, several at once; one that fails is an error among the replies of the others."""
        found = self.client.complete_all([_body(request) for request in requests])
        return [
            one
            if isinstance(one, SafeSignalError)
            else Reply(one.text, one.n_tokens, one.finish, one.seconds, refused=one.refused)
            for one in found
        ]


def _body(request: Request) -> dict[str, Any]:
    drawn = request.sampling
    body: dict[str, Any] = {
        "messages": list(request.messages),
        "max_tokens": drawn.max_new_tokens,
        "temperature": drawn.temperature,
        "top_p": drawn.top_p,
        "seed": (drawn.seed * 1_000_003 + request.number) % 2**31,
    }
    if drawn.top_k:
        body["top_k"] = drawn.top_k
    if request.prefill:
        body["messages"] = [*request.messages, {"role": "assistant", "content": request.prefill}]
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body
