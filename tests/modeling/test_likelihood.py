"""Likelihoods are those of transformers' own scores, padded or not; a joint model's are those that decoding has."""

from __future__ import annotations

import pytest
import torch

from safesignal.attacks.base import Request, Sampling
from safesignal.attacks.targets import GuardedTarget
from safesignal.errors import UsageError
from safesignal.evals.scorer import GuardedScorer
from safesignal.evals.utility import fed_logprobs
from safesignal.modeling.likelihood import answer_likelihoods, watched_likelihoods
from safesignal.rules import FIRST, Policy
from tests.modeling.joint import joint_model
from tests.support import Family, tiny_model

PROMPTS = [[5, 6, 7, 8, 9], [11], [3, 4]]
ANSWERS = [[10, 2], [12, 13, 14, 15], [7]]
SEEN = Policy(threshold=1.0, window_threshold=1.0, dependence="low")


def test_they_are_those_of_each_row_alone(family: Family) -> None:
    base = tiny_model(family)
    found = answer_likelihoods(base, PROMPTS, ANSWERS)
    for prompt, answer, own in zip(PROMPTS, ANSWERS, found, strict=True):
        with torch.no_grad():
            logits_TV = base(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        expected = logits_TV.log_softmax(dim=-1)[range(len(answer)), answer]
        assert torch.allclose(own.logprobs_A, expected, atol=1e-5)
        assert own.greedy == (logits_TV.argmax(dim=-1).tolist() == answer)


def test_a_greedy_continuation_is_known_as_one() -> None:
    base = tiny_model("llama")
    with torch.no_grad():
        best = int(base(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1].argmax())
    first, second = answer_likelihoods(base, [PROMPTS[0]] * 2, [[best], [best + 1]])
    assert (first.greedy, second.greedy) == (True, False)


@pytest.mark.parametrize("guarded", [False, True])
def test_the_output_layer_reads_the_rows_of_a_batch_without_gaps(*, guarded: bool) -> None:
    """A slice of padded prompts has gaps, and torch's CPU products then take seconds instead of milliseconds."""
    model, dense = joint_model(), []
    model.base.get_output_embeddings().register_forward_pre_hook(lambda _, args: dense.append(args[0].is_contiguous()))
    if guarded:
        model.generate(**model.encode(["a longer prompt", "short", "s"]), max_new_tokens=2, signal=False)
    else:
        answer_likelihoods(model.base, PROMPTS, ANSWERS)
    assert dense
    assert all(dense)


@pytest.mark.parametrize(("prompts", "answers"), [([], []), ([[1]], []), ([[]], [[1]]), ([[1]], [[]])])
def test_nothing_to_read_is_an_error(prompts: list[list[int]], answers: list[list[int]]) -> None:
    with pytest.raises(UsageError, match="Expected tokens in each"):
        answer_likelihoods(tiny_model("llama"), prompts, answers)


@pytest.mark.parametrize("position", ["first", "tracking"])
def test_joint_answers_are_read_as_they_are_written_under_the_query_check(position: str) -> None:
    model = joint_model(position=position)
    encoded = [model.encode_one("abcd", "efg"), model.encode_one("q", "rstuv")]
    prompts, answers = [one.ids[: one.text] for one in encoded], [one.ids[one.text :] for one in encoded]
    queries = [one.query_ranges() for one in encoded]
    found = watched_likelihoods(model.forward_signal, prompts, answers, queries)
    bare = answer_likelihoods(model.base, prompts, answers)
    for one, answer, own, without in zip(encoded, answers, found, bare, strict=True):
        steps_AV, _ = fed_logprobs(model, one, "separate", SEEN, FIRST)
        expected = steps_AV[range(len(answer)), answer].float()
        assert torch.allclose(own.logprobs_A, expected, atol=1e-4)
        assert not torch.allclose(without.logprobs_A[1:], expected[1:], atol=1e-3), "the check makes no difference here"


def test_tasks_and_attacks_read_a_joint_model_with_its_check_in_sight() -> None:
    model = joint_model()
    request = Request(({"role": "user", "content": "abcd"},), "", Sampling(), 0)
    seeing, blind = GuardedTarget(model, SEEN), GuardedTarget(model, Policy(dependence="low", implicit=False))
    encoded = model.encode_one("abcd", "efg")
    queries = [encoded.query_ranges()]
    (told,) = watched_likelihoods(
        model.forward_signal, [encoded.ids[: encoded.text]], [encoded.ids[encoded.text :]], queries
    )
    assert seeing.losses([request], ["efg"])[0] == pytest.approx(-float(told.logprobs_A.mean()), abs=1e-5)
    assert abs(float(blind.losses([request], ["efg"])[0] - seeing.losses([request], ["efg"])[0])) > 1e-3
    with pytest.raises(UsageError, match="see \\[CLS\\]"):
        seeing.embedding_gradient(torch.tensor(encoded.ids), encoded.text)
    blind.embedding_gradient(torch.tensor(encoded.ids), encoded.text)
    scorers = [GuardedScorer(model, policy=SEEN, signal=signal) for signal in (True, False)]
    scores = [scorer.loglikelihood([("abc", "def")])[0][0] for scorer in scorers]
    assert abs(scores[0] - scores[1]) > 1e-3
