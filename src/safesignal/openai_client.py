"""A server that speaks OpenAI's chat dialect, over the standard library alone: one rule for tries, one for keys.

What may be over in a moment is tried again: a busy or broken server, no connection, an answer that breaks off. The key
in OPENAI_API_KEY goes to api.openai.com and nowhere else, unless a caller names that variable for another address; a
redirect is never followed, because it would carry the key along.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from safesignal.errors import EndpointError, RejectedError, SafeSignalError, UsageError

__all__ = ["ChatClient", "Completion"]

_OPENAI, _OPENAI_KEY = ("https", "api.openai.com"), "OPENAI_API_KEY"
_BUSY = frozenset({408, 409, 425, 429})
"""Statuses below 500 after which the same request may be answered."""
_NOBODY = frozenset({401, 403, 404, 405})
"""Statuses below 500 that any request would get: a wrong key, address or model."""
_AT_ONCE = 8
_LONGEST_WAIT = 60.0
_SHOWN = 300
"""Characters of a server's own words in a message."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a server answered.

    Attributes:
        text: The message, or the refusal that stands in its place; empty if neither does.
        finish: Why it ended, in the server's word.
        refused: Whether the server says that it refused or filtered.
        n_tokens: Tokens written, 0 if it does not say.
        seconds: From the request to the answer, waits and further tries included.
    """

    text: str
    finish: str
    refused: bool
    n_tokens: int
    seconds: float


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Take a redirect for the error that it is here."""


_opener = build_opener(_NoRedirect)


@dataclass(frozen=True)
class ChatClient:
    """A chat model behind `POST {url}/chat/completions`.

    Attributes:
        url: Base address, such as `http://localhost:8000/v1`.
        model: Name the server knows it by.
        api_key_env: Environment variable that holds the key; empty sends none, but to OpenAI the one in OPENAI_API_KEY.
        timeout: Of one try, seconds.
        retries: Further tries.
        backoff: Seconds before the first further try; doubled each time, unless the server names a time.
    """

    url: str
    model: str
    api_key_env: str = ""
    timeout: float = 300.0
    retries: int = 4
    backoff: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no HTTP address, and a variable that is not set."""
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise UsageError(f"endpoint is `{self.url}`. Expected an address such as http://localhost:8000/v1.")
        if self.api_key_env and not os.environ.get(self.api_key_env):
            raise UsageError(
                f"the environment variable {self.api_key_env} is not set. Expected the endpoint's key in it."
            )

    def complete_all(self, bodies: Sequence[Mapping[str, Any]]) -> list[Completion | SafeSignalError]:
        """Send requests, several at once; each succeeds or fails for itself, in order."""
        if not bodies:
            return []
        with ThreadPoolExecutor(max_workers=min(_AT_ONCE, len(bodies))) as pool:
            return list(pool.map(self._complete_or_error, bodies))

    def _complete_or_error(self, body: Mapping[str, Any]) -> Completion | SafeSignalError:
        try:
            return self.complete(body)
        except SafeSignalError as error:
            return error

    def complete(self, body: Mapping[str, Any]) -> Completion:
        """Send one request, again where the server is busy or away.

        Args:
            body: `messages` and whatever else the server takes; the model's name is added.

        Raises:
            UsageError: If the server turns every request down: a wrong address, key or model.
            RejectedError: If it turns this one down: too long, filtered, or a field it does not know.
            EndpointError: If no answer came after all tries, or one that is no chat completion.
        """
        begun = time.perf_counter()
        found = self._post(json.dumps({"model": self.model, **body}).encode())
        try:
            choice = found["choices"][0]
            message, finish = choice["message"], str(choice.get("finish_reason") or "")
            content, refusal = message.get("content"), message.get("refusal")
            tokens = int((found.get("usage") or {}).get("completion_tokens") or 0)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise EndpointError(
                f"{self.url} answered {json.dumps(found)[:_SHOWN]}. Expected `choices` with a message."
            ) from error
        refused = finish == "content_filter" or bool(refusal)
        return Completion(str(content or refusal or ""), finish, refused, tokens, time.perf_counter() - begun)

    def _post(self, data: bytes) -> Any:
        for attempt in range(self.retries + 1):
            cause: Exception
            wait = ""
            try:
                return self._post_once(data)
            except HTTPError as error:
                with error:  # it holds the connection
                    problem = f"{error.code} {error.read(_SHOWN).decode(errors='replace').strip()}"
                if error.code not in _BUSY and error.code < 500:
                    kind = UsageError if error.code in _NOBODY else RejectedError
                    raise kind(
                        f"{self.url} answered {problem}. Expected a chat completion.", hint=self._hint()
                    ) from error
                cause, wait = error, error.headers.get("Retry-After", "")
            except (OSError, HTTPException, ValueError) as error:
                problem, cause = str(error) or type(error).__name__, error
            if attempt < self.retries:
                time.sleep(min(_LONGEST_WAIT, float(wait) if wait.isdigit() else self.backoff * 2**attempt))
        raise EndpointError(
            f"{self.url} answered {problem}, {self.retries + 1} times. Expected a chat completion.",
            hint="see whether the server runs, and start again",
        ) from cause

    def _post_once(self, data: bytes) -> Any:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self._key_variable()):
            headers["Authorization"] = f"Bearer {key}"
        asked = Request(f"{self.url.rstrip('/')}/chat/completions", data, headers)
        with _opener.open(asked, timeout=self.timeout) as response:
            raw = response.read()
        try:
            return json.loads(raw)
        except ValueError as error:
            raise ValueError(f"no JSON: {raw[:_SHOWN].decode(errors='replace')}") from error

    def _key_variable(self) -> str:
        parts = urlsplit(self.url)
        return self.api_key_env or (_OPENAI_KEY if (parts.scheme, parts.hostname) == _OPENAI else "")

    def _hint(self) -> str:
        key = f"the key in {self._key_variable()}" if self._key_variable() else "name a key with `--api_key_env`"
        return f"check the address, the model `{self.model}`, and {key}"
