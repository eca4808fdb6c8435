"""An OpenAI-compatible chat endpoint as a target, over the standard library alone.

A prefill is sent as vLLM and SGLang take it: a trailing assistant message with `continue_final_message`. A server
that does not know the field answers a conversation that ends with its own words, which is another attack.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

from safesignal.attacks.base import Reply, Request
from safesignal.errors import SafeSignalError, UsageError

__all__ = ["EndpointTarget"]

_AT_ONCE = 8
_LONGEST_WAIT = 60.0
_SHOWN = 300
"""Characters of a server's own words in a message."""


class EndpointTarget:
    """A chat model behind `POST {url}/chat/completions`.

    Args:
        url: Base address, such as `http://localhost:8000/v1`.
        model: Name the server knows it by.
        api_key_env: Environment variable that holds the key; empty sends none.
        timeout: Seconds to wait for one answer.
        retries: Further tries after a 429, a 5xx, or no connection.
        backoff: Seconds before the first further try; doubled each time, unless the server names a time.

    Raises:
        UsageError: If the address is no HTTP address, or the variable is not set.
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key_env: str = "",
        *,
        timeout: float = 300.0,
        retries: int = 4,
        backoff: float = 1.0,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"endpoint is `{url}`. Expected an address such as http://localhost:8000/v1.")
        if api_key_env and not os.environ.get(api_key_env):
            raise UsageError(f"the environment variable {api_key_env} is not set. Expected the endpoint's key in it.")
        self.url = url.rstrip("/")
        self.name = model
        self._key_variable = api_key_env
        self._timeout, self._retries, self._backoff = timeout, retries, backoff

    def identity(self) -> dict[str, Any]:
        """Return address and model name; what stands behind them is not known."""
        return {"kind": "endpoint", "name": self.name, "url": self.url}

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer requests, several at once."""
        with ThreadPoolExecutor(max_workers=min(_AT_ONCE, max(1, len(requests)))) as pool:
            return list(pool.map(self._ask, requests))

    def _ask(self, request: Request) -> Reply:
        begun = time.perf_counter()
        found = self._post(self._body(request))
        try:
            choice = found["choices"][0]
            message, finish = choice["message"], str(choice.get("finish_reason") or "")
            content, refusal = message.get("content"), message.get("refusal")
            tokens = int((found.get("usage") or {}).get("completion_tokens") or 0)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise SafeSignalError(
                f"{self.url} answered {json.dumps(found)[:_SHOWN]}. Expected `choices` with a message."
            ) from error
        return Reply(
            text=str(content or refusal or ""),
            n_tokens=tokens,
            finish=finish,
            seconds=time.perf_counter() - begun,
            refused=finish == "content_filter" or bool(refusal),
        )

    def _body(self, request: Request) -> dict[str, Any]:
        drawn = request.sampling
        body: dict[str, Any] = {
            "model": self.name,
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

    def _post(self, body: dict[str, Any]) -> Any:
        """Send one request, again where the server is busy or away."""
        for attempt in range(self._retries + 1):
            cause: Exception
            try:
                return self._post_once(body)
            except HTTPError as error:
                with error:
                    said = error.read(_SHOWN).decode(errors="replace").strip()
                if error.code != 429 and error.code < 500:
                    raise self._failed(f"{error.code} {said}") from error
                problem, cause, wait = f"{error.code} {said}", error, error.headers.get("Retry-After", "")
            except (OSError, HTTPException) as error:
                problem, cause, wait = str(error) or type(error).__name__, error, ""
            if attempt == self._retries:
                raise self._failed(f"{problem}, {attempt + 1} times") from cause
            time.sleep(min(_LONGEST_WAIT, float(wait) if wait.isdigit() else self._backoff * 2**attempt))
        raise AssertionError("unreachable")

    def _post_once(self, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._key_variable:
            headers["Authorization"] = f"Bearer {os.environ[self._key_variable]}"
        asked = HttpRequest(f"{self.url}/chat/completions", json.dumps(body).encode(), headers)
        with urlopen(asked, timeout=self._timeout) as response:
            raw = response.read()
        try:
            return json.loads(raw)
        except ValueError as error:
            raise self._failed(f"no JSON: {raw[:_SHOWN].decode(errors='replace')}") from error

    def _failed(self, problem: str) -> SafeSignalError:
        return SafeSignalError(
            f"{self.url} answered {problem}. Expected a chat completion.",
            hint="check the address, the model name and the key",
        )
