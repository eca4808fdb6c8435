"""Targets over tiny models: parity with the model itself, mixed sampling, honest identities, and the white box."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from safesignal.attacks.base import Request, Sampling, WhiteBox
from safesignal.attacks.targets import GuardedTarget, PlainTarget, TransformersTarget, plain_target
from safesignal.errors import SignalError, UsageError
from safesignal.modeling.model import SafeSignalModel
from safesignal.types import CheckKind
from tests.invariants.harness import NEVER, PROMPTS, guarded
from tests.support import tiny_model, tiny_tokenizer

GREEDY = Sampling(max_new_tokens=12)
HOT = Sampling(max_new_tokens=12, temperature=0.9, top_p=0.95, seed=3)


@pytest.fixture(scope="module")
def model() -> SafeSignalModel:
    return guarded("llama")


@pytest.fixture
def transformers_target(model: SafeSignalModel) -> TransformersTarget:
    return TransformersTarget(model.base, model.tokenizer, "tiny")


def ask(prompt: str, sampling: Sampling = GREEDY, *, prefill: str = "", number: int = 0) -> Request:
    return Request(({"role": "user", "content": prompt},), prefill, sampling, number)


MIXED = [
    ask(prompt, HOT if i % 2 else GREEDY, prefill="Sure" * (i % 3), number=7 * i) for i, prompt in enumerate(PROMPTS)
]


# -------------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("stops", [True, False])
def test_a_guarded_target_is_the_model_under_its_policy(model: SafeSignalModel, stops: bool) -> None:
    policy = replace(NEVER, window_threshold=0.01) if stops else NEVER
    target = GuardedTarget(model, policy)
    requests = [ask(prompt, number=5) for prompt in PROMPTS[:4]]
    encoded = [model.encode_one(prompt) for prompt in PROMPTS[:4]]
    answers = model.answer(encoded, policy=policy, options=model.options(max_new_tokens=12, temperature=0.0))
    replies = target.answer(requests)
    assert {reply.refused for reply in replies} == {stops}
    for reply, answer in zip(replies, answers, strict=True):
        assert (reply.text, reply.ids, reply.refused) == (answer.text, answer.ids, answer.refused)
        assert (reply.stopped_at, reply.finish) == (answer.stopped_at, str(answer.finish_reason))
        assert reply.released_after_transition == 0
        assert "".join(reply.pieces) == reply.text
        assert len(reply.pieces) == reply.n_tokens
        assert [check["signal"] for check in reply.checks] == [round(check.signal, 6) for check in answer.checks]
        assert set(reply.checks[0]) == {"kind", "step", "signal", "verdict", "start", "end"}
        assert reply.first_seconds is not None
        assert 0 < reply.first_seconds <= reply.seconds


def test_plain_answers_are_the_base_models_own(model: SafeSignalModel, transformers_target: TransformersTarget) -> None:
    requests = [ask(prompt, prefill="Sure" * (i % 2)) for i, prompt in enumerate(PROMPTS)]
    plain = PlainTarget(model).answer(requests)
    theirs = transformers_target.answer(requests)
    assert [reply.ids for reply in plain] == [reply.ids for reply in theirs]
    assert [reply.text for reply in plain] == [reply.text for reply in theirs]
    assert all(not reply.checks and not reply.refused and not reply.pieces for reply in plain)


@pytest.mark.parametrize("kind", ["guarded", "plain", "transformers"])
def test_mixed_sampling_and_batches_do_not_matter(
    model: SafeSignalModel, transformers_target: TransformersTarget, kind: str
) -> None:
    targets = {"guarded": GuardedTarget(model, NEVER), "plain": PlainTarget(model), "transformers": transformers_target}
    target = targets[kind]
    together = [reply.ids for reply in target.answer(MIXED)]
    assert together == [target.answer([request])[0].ids for request in MIXED]
    assert together[1] != target.answer([replace(MIXED[1], number=8)])[0].ids
    assert together[1] != target.answer([replace(MIXED[1], sampling=replace(HOT, seed=4))])[0].ids


def test_sampling_leaves_the_global_noise_alone(transformers_target: TransformersTarget) -> None:
    before = torch.random.get_rng_state()
    transformers_target.answer(MIXED[1:2])
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_end_token_ends_and_is_not_text() -> None:
    base, tokenizer = tiny_model("llama", eos=True), tiny_tokenizer()
    free = TransformersTarget(base, tokenizer).answer([ask("hello")])[0]
    base.generation_config.eos_token_id = free.ids[3]
    (reply,) = TransformersTarget(base, tokenizer).answer([ask("hello")])
    assert reply.finish == "eos"
    assert reply.ids == free.ids[: free.ids.index(free.ids[3])]
    assert free.finish == "length"


@pytest.mark.parametrize("kind", ["guarded", "transformers"])
def test_a_prompt_that_does_not_fit_is_refused_whole(
    model: SafeSignalModel, transformers_target: TransformersTarget, kind: str
) -> None:
    target = GuardedTarget(model) if kind == "guarded" else transformers_target
    prompt = "x" * (target.max_length - len(model.encode_one("x").ids) - 1)
    assert target.answer([ask(prompt, replace(GREEDY, max_new_tokens=2))])[0].n_tokens > 0
    with pytest.raises(UsageError, match="never cut"):
        target.answer([ask("hello"), ask(prompt, replace(GREEDY, max_new_tokens=3))])


def test_a_family_that_cannot_carry_a_signal_is_answered_by_transformers(tmp_path: Path) -> None:
    config = transformers.BloomConfig(
        vocab_size=259, hidden_size=16, n_layer=1, n_head=2, eos_token_id=2, bos_token_id=1
    )
    transformers.BloomForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    target = plain_target(str(tmp_path))
    assert isinstance(target, TransformersTarget)
    assert target.identity()["loop"] == "transformers"
    assert target.answer([ask("hello")])[0].n_tokens > 0
    tiny_model("llama").save_pretrained(tmp_path / "llama")
    tiny_tokenizer().save_pretrained(tmp_path / "llama")
    assert isinstance(plain_target(str(tmp_path / "llama")), PlainTarget)


# ------------------------------------------------------------------------------------------------------------- identity


def test_identity_changes_with_all_that_decides_an_answer(model: SafeSignalModel) -> None:
    other = guarded("llama")
    other.forward_signal.adapter.head.proj.weight.data.mul_(2)
    targets = [
        PlainTarget(model),
        PlainTarget(guarded("llama", seed=1)),
        GuardedTarget(model),
        GuardedTarget(model, replace(model.policy(), tau=3)),
        GuardedTarget(model, replace(model.policy(), window_threshold=0.9)),
        GuardedTarget(model, checks="separate"),
        GuardedTarget(other),
    ]
    identities = [json.dumps(target.identity(), sort_keys=True) for target in targets]
    assert len(set(identities)) == len(targets)
    assert identities[2] == json.dumps(GuardedTarget(model).identity(), sort_keys=True)


def test_identity_names_what_the_run_folder_promises(model: SafeSignalModel) -> None:
    found = GuardedTarget(model, preset="strict").identity()
    assert (found["kind"], found["preset"], found["dtype"], found["device"]) == (
        "guarded",
        "strict",
        "torch.float32",
        "cpu",
    )
    assert {"weights", "tokenizer", "template"} <= set(found["base"])
    assert {"threshold", "window_threshold", "tau", "dependence"} <= set(found["policy"])
    assert found["adapter"] == model.fingerprint()
    assert found["schedule"] == str(model.schedule())
    assert "adapter" not in PlainTarget(model).identity()


# --------------------------------------------------------------------------------------------------------------- pieces


@pytest.mark.parametrize("text", ["hello", "naïve café – 東京 🙂", "🙂", ""])
def test_pieces_are_tokens_and_never_half_a_character(model: SafeSignalModel, text: str) -> None:
    pieces = PlainTarget(model).pieces(text)
    assert len(pieces) == len(text.encode())
    for k in range(len(pieces) + 1):
        assert text.startswith("".join(pieces[:k]))
    assert "".join(pieces) == text


# ------------------------------------------------------------------------------------------------------------ white box


def test_losses_are_those_of_the_wanted_answer(model: SafeSignalModel) -> None:
    target: Any = GuardedTarget(model)
    requests, answers = [ask(PROMPTS[0]), ask(PROMPTS[1], prefill="Sure,")], ["yes", "a longer answer"]
    losses = target.losses(requests, answers)
    base: Any = model.base
    for request, answer, loss in zip(requests, answers, losses, strict=True):
        prompt = list(model.encode_one(list(request.messages), request.prefill).ids)
        own = target._to_ids(answer)
        logs = base(torch.tensor([prompt + own])).logits[0].log_softmax(dim=-1)
        by_hand = -sum(float(logs[len(prompt) + i - 1, token]) for i, token in enumerate(own)) / len(own)
        assert float(loss) == pytest.approx(by_hand, abs=1e-4)
        assert float(target.losses([request], [answer])[0]) == pytest.approx(float(loss), abs=1e-5)
    with pytest.raises(UsageError, match="some empty"):
        target.losses(requests[:1], [""])


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_embedding_gradient_agrees_with_finite_differences(family: Any) -> None:
    model = guarded(family)
    target = PlainTarget(model)
    base: Any = model.base
    base.double()
    ids, start = torch.tensor(model.encode_one("hello").ids), 60
    loss, gradient = target.embedding_gradient(ids, start)
    embeds = base.get_input_embeddings()(ids[None]).detach()
    assert gradient.shape == embeds[0].shape
    assert all(parameter.grad is None for parameter in base.parameters())

    def at(moved: torch.Tensor) -> float:
        with torch.no_grad():
            logs = base(inputs_embeds=moved).logits[0].log_softmax(dim=-1)
        return -float(logs[start - 1 : -1].gather(1, ids[start:, None]).mean())

    assert float(loss) == pytest.approx(at(embeds), abs=1e-9)
    # Along the gradient the slope is its length, which stands out from norms that compute in float32.
    step = 1e-5
    for places in [slice(None), slice(3, 4), slice(start - 1, start)]:
        along = torch.zeros_like(embeds)
        along[0, places] = gradient[places]
        length = float(along.norm())
        along *= step / length
        slope = (at(embeds + along) - at(embeds - along)) / (2 * step)
        assert slope == pytest.approx(length, rel=0.02)


@pytest.mark.parametrize("start", [0, 9])
def test_a_gradient_of_nothing_is_refused(model: SafeSignalModel, start: int) -> None:
    with pytest.raises(UsageError, match="loss_from"):
        PlainTarget(model).embedding_gradient(torch.arange(3, 12), start)


def test_signals_are_the_checks_that_answering_makes(model: SafeSignalModel) -> None:
    history = ({"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello there"})
    requests = [ask(PROMPTS[2]), ask(PROMPTS[3], prefill="Sure, here is"), ask(PROMPTS[0])]
    requests.append(replace(requests[1], messages=(*history, *requests[1].messages)))
    for policy in (NEVER, model.policy()):
        target = GuardedTarget(model, policy)
        given = {CheckKind.QUERY, CheckKind.HISTORY, CheckKind.PREFILL}
        expected = [[c["signal"] for c in reply.checks if c["kind"] in given] for reply in target.answer(requests)]
        found = target.signals(requests)
        assert [len(row) for row in found] == [len(row) for row in expected]
        for row, other in zip(found, expected, strict=True):
            assert row == pytest.approx(other, abs=1e-5)
    assert len(GuardedTarget(model, NEVER).signals(requests)[1]) > 1


def test_signals_move_with_the_head_and_need_one() -> None:
    model = guarded("llama")
    target = GuardedTarget(model, NEVER)
    before = target.signals([ask("hello")])
    model.forward_signal.adapter.head.proj.bias.data[1] += 1.0
    assert before != target.signals([ask("hello")])
    model.trained_signal = False
    with pytest.raises(SignalError):
        target.signals([ask("hello")])
    assert PlainTarget(model).signals([ask("hello")]) == [[]]


def test_model_targets_are_white_boxes(model: SafeSignalModel) -> None:
    assert isinstance(GuardedTarget(model), WhiteBox)
    assert isinstance(PlainTarget(model), WhiteBox)
