"""From messages to ids and roles: the one place that says who wrote a token.

A template is rendered twice: with a marker in the place of every content, which shows the markup around them, and
with the contents themselves. Only if the markup with the contents put back *is* the second rendering are roles given,
by character offsets; a template that rewrites, reorders or drops what it is given ends in an error. Token ids are
never consulted: a user who types `<|im_start|>` gets the real special token, and it stays user text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import Any

from transformers import PreTrainedTokenizerBase

from safesignal.display import has_surrogate
from safesignal.errors import TemplateError, UsageError
from safesignal.types import Role, Span

__all__ = ["TEMPLATES", "Encoded", "Message", "choose_template", "encode_chat", "template_hash", "turn_ends"]

Message = Mapping[str, str]

TEMPLATES = {
    "plain": (
        "{{ bos_token or '' }}{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
        "{% elif message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\n' }}"
        "{% else %}{{ 'Assistant: ' + message['content'] + '\n' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    ),
}
"""Templates for models without one of their own; `plain` suits a base model."""

_TURN_ENDS = {TEMPLATES["plain"]: ("\nUser:",)}
"""What a model writes at the end of its turn where no token of its own says so: it goes on with the next one."""

_ROLES = {"system": Role.SYSTEM, "user": Role.USER, "assistant": Role.ASSISTANT}
_MARKER = "\ue000{}\ue001"
_MARKERS = re.compile("\ue000(\\d+)\ue001")


def choose_template(tokenizer: PreTrainedTokenizerBase, template: str | None) -> None:
    """Set a built-in template, by name, or a Jinja text, in place; None leaves the tokenizer's own."""
    if template is not None:
        tokenizer.chat_template = TEMPLATES.get(template, template)


def turn_ends(template: str) -> tuple[str, ...]:
    """Return the texts that end an answer under a built-in template; none under any other, which has an end token."""
    return _TURN_ENDS.get(template, ())


@dataclass(frozen=True, slots=True)
class Encoded:
    """One conversation as the model reads it.

    Attributes:
        ids: Token ids, the caller's prefill last.
        roles: One :class:`Role` per token.
    """

    ids: tuple[int, ...]
    roles: tuple[Role, ...]

    @property
    def prefill(self) -> int:
        """Number of prefill tokens at the end."""
        return sum(role is Role.PREFILL for role in self.roles)

    @property
    def text(self) -> int:
        """Number of tokens before the answer: the prompt with its generation header."""
        return len(self.ids) - self.prefill

    def query_ranges(self) -> list[tuple[int, int]]:
        """Return the (start, end) positions of the user's text (rule 4 leaves the rest out)."""
        return self._ranges(Role.USER)

    def earlier_answers(self) -> list[tuple[int, int]]:
        """Return the (start, end) positions of each assistant turn that the caller supplied before this answer."""
        return self._ranges(Role.ASSISTANT)

    def ranges(self, span: Span) -> list[tuple[int, int]]:
        """Resolve a span of the current or an earlier answer to (start, end) positions."""
        origin = self.text if span.turn is None else self.earlier_answers()[span.turn][0]
        answer = [(origin + span.start, origin + span.end)]
        return self.query_ranges() + answer if span.query else answer

    def to_read(self, span: Span) -> tuple[Encoded, tuple[int, ...]]:
        """Return what a reader reads for a span: the conversation, and the ids of the answer to it up to its end."""
        if span.turn is None:
            return self, self.ids[self.text : self.text + span.end]
        start, _ = self.earlier_answers()[span.turn]
        return Encoded(self.ids[:start], self.roles[:start]), self.ids[start : start + span.end]

    def _ranges(self, role: Role) -> list[tuple[int, int]]:
        inside = [False, *(own is role for own in self.roles), False]
        edges = [i for i, (before, after) in enumerate(pairwise(inside)) if before != after]
        return list(zip(edges[::2], edges[1::2], strict=True))


def template_hash(template: str) -> str:
    """Return a short fingerprint of a chat template."""
    from hashlib import sha256

    return sha256(template.encode()).hexdigest()[:16]


def encode_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], prefill: str = "") -> Encoded:
    """Render, tokenise and give every token its role.

    Args:
        tokenizer: A fast tokenizer with a chat template.
        messages: `{"role", "content"}` in order; the last is the user's.
        prefill: Text the answer is made to begin with; it counts as generated text.

    Raises:
        UsageError: If the messages are empty, malformed, or hold no user text.
        TemplateError: If the tokenizer has no template, no offsets, or a template that rewrites contents.
    """
    _check_messages(messages)
    _check_text(prefill, "the answer's beginning")
    if not tokenizer.chat_template:
        raise TemplateError(
            "the tokenizer has no chat template, so tokens cannot be given roles. Expected one that renders messages.",
            hint="for a base model use `--chat_template plain`",
        )
    if not tokenizer.is_fast:
        raise TemplateError(
            "the tokenizer gives no character offsets. Expected a fast tokenizer (`tokenizer.json`).",
            hint="load it with `use_fast=True`, or convert it with transformers",
        )
    rendered, regions = _render(tokenizer, messages)
    regions.append((len(rendered), len(rendered) + len(prefill), Role.PREFILL))
    ids, offsets = _tokenise(tokenizer, rendered, prefill)
    roles = _roles_of(offsets, regions)
    if Role.USER not in roles:
        raise UsageError(
            "the prompt has no text. Expected at least one visible character.", hint='try `--prompt "Hello"`'
        )
    return Encoded(tuple(ids), _prefill_is_a_suffix(roles))


def _tokenise(
    tokenizer: PreTrainedTokenizerBase, rendered: str, prefill: str
) -> tuple[list[int], list[tuple[int, int]]]:
    """Tokenise prompt and prefill together, or apart where the prompt would not keep its own tokens.

    A refusal may drop the prefill, and the prompt that is left must be the prompt alone.
    """
    first = tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
    if not prefill:
        return list(first["input_ids"]), list(first["offset_mapping"])
    whole = tokenizer(rendered + prefill, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = list(whole["input_ids"]), list(whole["offset_mapping"])
    border, own = len(rendered), list(first["input_ids"])
    if ids[: len(own)] == own and not any(start < border < end for start, end in offsets):
        return ids, offsets
    then = tokenizer(prefill, add_special_tokens=False, return_offsets_mapping=True)
    moved = [(start + border, end + border) for start, end in then["offset_mapping"]]
    return [*first["input_ids"], *then["input_ids"]], [*first["offset_mapping"], *moved]


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, Sequence) or not all(isinstance(message, Mapping) for message in messages):
        raise UsageError(
            f"a conversation is {messages!r:.60}. Expected a prompt, or messages with `role` and `content`."
        )
    for index, message in enumerate(messages):
        extra = sorted(set(message) - {"role", "content"})
        if extra:
            # A template may print them, and what it prints would count as markup that no check sees.
            raise UsageError(f"message {index + 1} has {', '.join(extra)}. Expected `role` and `content` alone.")
        role, content = message.get("role"), message.get("content")
        if role not in _ROLES or not isinstance(content, str):
            raise UsageError(
                f"message {index + 1} has role {role!r} and content of type {type(content).__name__}. "
                f"Expected a role among {', '.join(_ROLES)} and a text."
            )
        _check_text(content, f"message {index + 1}")
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        last = f"the last message is {messages[-1]['role']}'s" if messages else "there are no messages"
        if messages and messages[-1]["role"] == "user":
            last = "the prompt is empty"
        raise UsageError(
            f"{last}. Expected a user message with text at the end.",
            hint='give a start of the answer with `--prefill "…"`, not as an assistant message',
        )


def _check_text(text: Any, name: str) -> None:
    if not isinstance(text, str):
        raise UsageError(f"{name} is {text!r:.40}. Expected a text.")
    if has_surrogate(text):
        raise UsageError(
            f"{name} holds half of a surrogate pair, as of an emoji cut in two. Expected valid Unicode.",
            hint='`text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")` puts marks in their place',
        )


def _apply(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    from jinja2.exceptions import TemplateError as JinjaError

    try:
        plain = [dict(message) for message in messages]
        rendered = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
    except JinjaError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise TemplateError(
            f"the chat template refuses these messages ({roles}): {error}. Expected roles it knows.",
            hint="many templates take no system message and want user and assistant in turn",
        ) from error
    assert isinstance(rendered, str)
    return rendered


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int, Role]]]:
    """Return the rendered prompt and the (start, end, role) characters of each content in it."""
    rendered = _apply(tokenizer, messages)
    marked = _apply(tokenizer, [{**m, "content": _MARKER.format(i)} for i, m in enumerate(messages)])
    text, regions = _fill(marked, rendered, messages)
    if text == rendered:
        return rendered, regions
    raise TemplateError(
        "the chat template changes what it is given, so tokens cannot be given roles. "
        "Expected a template that puts each content into the text as it is, or stripped.",
        hint="pass a simpler one with `--chat_template FILE`, or `--chat_template plain`",
    )


def _fill(marked: str, rendered: str, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int, Role]]]:
    """Put each content in its marker's place, as it is or stripped, whichever the rendering has there."""
    places = [match for match in _MARKERS.finditer(marked) if int(match.group(1)) < len(messages)]
    pieces, regions, length, seen = [], [], 0, 0
    for place, after in zip_longest(places, places[1:]):
        message = messages[int(place.group(1))]
        markup, behind = marked[seen : place.start()], marked[place.end() : after.start() if after else None]
        start, whole = length + len(markup), message["content"]
        ways = (whole, whole.strip(), whole.rstrip(), whole.lstrip())
        content = next((way for way in ways if rendered.startswith(way + behind, start)), whole)
        length, seen = start + len(content), place.end()
        pieces += [markup, content]
        regions.append((start, length, _ROLES[message["role"]]))
    return "".join([*pieces, marked[seen:]]), regions


def _roles_of(offsets: Sequence[tuple[int, int]], regions: Sequence[tuple[int, int, Role]]) -> list[Role]:
    """Give each token the role of the content it overlaps; a token that straddles markup and content is content."""
    roles = []
    for start, end in offsets:
        overlapping = [role for left, right, role in regions if start < right and max(end, start + 1) > left]
        roles.append(overlapping[-1] if overlapping else Role.TEMPLATE)
    return roles


def _prefill_is_a_suffix(roles: Sequence[Role]) -> tuple[Role, ...]:
    # A token without characters (a byte of a split character) inside the prefill must not open a hole in it.
    first = next((i for i, role in enumerate(roles) if role is Role.PREFILL), len(roles))
    return (*roles[:first], *[Role.PREFILL] * (len(roles) - first))
