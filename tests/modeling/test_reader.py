"""A reader reads a query as a base with its weights merged would, and leaves text and windows alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from safesignal.config import SignalConfig
from safesignal.errors import AdapterError, SignalError, SignalMaskError, UsageError
from safesignal.modeling import read_anew
from safesignal.modeling.cache import common_prefix
from safesignal.modeling.chat import Encoded
from safesignal.modeling.model import SafeSignalModel
from safesignal.modeling.sight import Sight
from safesignal.nn import attention
from safesignal.rules import EVERY, Policy
from safesignal.types import CheckKind, Role
from tests.invariants.harness import NEVER_AT_ALL, PROMPTS, encoded, oracle_signal, run, save_with_base
from tests.modeling.merged import by_merging
from tests.support import Family, randomise_, tiny_model, tiny_tokenizer


def reading(
    family: Family = "llama",
    *,
    reader_rank: int = 4,
    position: str = "tracking",
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> SafeSignalModel:
    """Build a tiny model whose checks and whose reader have random weights of their own."""
    tokenizer = tokenizer or tiny_tokenizer()
    model = SafeSignalModel.from_base(
        tiny_model(family, vocab_size=len(tokenizer)),
        tokenizer=tokenizer,
        config=SignalConfig(rank=4, reader_rank=reader_rank, position=position),  # type: ignore[arg-type]
    )
    adapter = model.forward_signal.adapter
    randomise_(adapter, std=0.2)
    adapter.requires_grad_(False)
    model.trained_signal = True
    return model


def query_signals(model: SafeSignalModel, prompts: list[str]) -> list[float]:
    return [score.prompt_signal for score in model.score(prompts)]


@pytest.mark.parametrize("position", ["tracking", "first"])
def test_a_query_is_read_as_by_a_base_with_the_weights_merged(family: Family, position: str) -> None:
    model = reading(family, position=position)
    one = model.encode_one(PROMPTS[1])
    read = by_merging(model, model.forward_signal.adapter.reader, one.ids)
    assert oracle_signal(model, one.ids, one.query_ranges()) != pytest.approx(read, abs=1e-3)
    assert query_signals(model, PROMPTS[1:2])[0] == pytest.approx(read, abs=1e-4)


def test_a_query_beside_a_window_keeps_its_place() -> None:
    """Checks of one row come back in the order they were asked for, whoever reads them."""
    model = reading()
    forward, one = model.forward_signal, model.encode_one(PROMPTS[1])
    window = forward.sight([(1, 3)])
    query = forward.sight([(0, len(one.ids))], text=(one, ()))
    orders = [[window], [query], [window, query], [query, window], [window, query, window]]
    (w,), (q,), *mixed = (forward.feed(forward.new_state(1), [one.ids], [sights])[1][0] for sights in orders)
    assert w != pytest.approx(q, abs=1e-3)
    for found, expected in zip(mixed, [(w, q), (q, w), (w, q, w)], strict=True):
        assert found == pytest.approx(expected, abs=1e-5)


def test_a_batch_reads_what_each_row_alone_reads(family: Family) -> None:
    model = reading(family)
    together = query_signals(model, PROMPTS[:3])
    alone = [query_signals(model, [prompt])[0] for prompt in PROMPTS[:3]]
    assert together == pytest.approx(alone, abs=1e-4)
    assert max(together) - min(together) > 1e-3, "the rows read alike, so nothing was compared"


def gradients(model: SafeSignalModel, batches: list[list[str]]) -> dict[str, Tensor]:
    """Return what the reader's scores of these prompts, summed over batches, send back to its weights."""
    reader = model.forward_signal.adapter.reader
    assert reader is not None
    reader.requires_grad_(True).zero_grad()
    for prompts in batches:
        encoded = [model.encode_one(prompt) for prompt in prompts]
        sights = [model.forward_signal.sight([(0, len(e.ids))], text=(e, ())) for e in encoded]
        model.forward_signal.reread(sights)[:, 1].sum().backward()
    return {name: value.grad.clone() for name, value in reader.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("position", ["tracking", "first"])
def test_what_prompts_begin_with_is_read_once_and_learns_from_all_of_them(
    family: Family, position: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and gradient are those of prompts read one by one; the shared reading is a row of its own."""
    monkeypatch.setattr(read_anew, "_WORTH_SHARING", 2)
    model, prompts = reading(family, position=position), PROMPTS[:3]
    alone = gradients(model, [[prompt] for prompt in prompts])
    read: list[tuple[int, int]] = []

    def seen(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, Tensor]) -> None:
        rows, columns, _size = kwargs["inputs_embeds"].shape
        read.append((rows, columns))

    handle = model.forward_signal.stack.decoder.register_forward_pre_hook(seen, with_kwargs=True)
    together = gradients(model, [prompts])
    handle.remove()
    shared = common_prefix([model.encode_one(prompt).ids for prompt in prompts])
    longest = max(len(model.encode_one(prompt).ids) for prompt in prompts)
    assert shared > 0
    assert read == [(1, shared), (3, longest - shared + 1)]
    assert set(together) == set(alone)
    for name, gradient in together.items():
        assert torch.allclose(gradient, alone[name], rtol=1e-3, atol=1e-4 * float(alone[name].abs().max())), name


@pytest.mark.parametrize(("worth", "readings"), [(1, 2), (6, 2), (7, 1)])
def test_a_beginning_is_shared_where_that_saves_enough(
    worth: int, readings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three prompts that share three tokens save six rows."""
    monkeypatch.setattr(read_anew, "_WORTH_SHARING", worth)
    forward, count = reading().forward_signal, []
    handle = forward.stack.decoder.register_forward_hook(lambda *_: count.append(1))
    assert forward.adapter.reader is not None
    forward._anew.whole(forward.adapter.reader, [(5, 6, 7, last) for last in (1, 2, 3)])
    handle.remove()
    assert len(count) == readings


def test_plain_attention_learns_in_half_precision_what_the_fused_one_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    model, before = reading(), torch.backends.cuda.flash_sdp_enabled()
    found = []
    for most in (0, 160 * 160):
        monkeypatch.setattr(attention, "_MOST_PLAIN", most)
        with torch.autocast("cpu", dtype=torch.bfloat16), attention.plain_where_quicker(4, 4, torch.device("cpu")):
            found.append((torch.backends.cuda.flash_sdp_enabled(), gradients(model, [PROMPTS[:3]])))
    (fused, one), (plain, other) = found
    assert (fused, plain) == (before, False)
    assert torch.backends.cuda.flash_sdp_enabled() == before
    for name, gradient in one.items():
        assert torch.nn.functional.cosine_similarity(gradient.flatten(), other[name].flatten(), dim=0) > 0.99, name
    with attention.plain_where_quicker(4, 4, torch.device("cpu")):
        assert torch.backends.cuda.flash_sdp_enabled() == before, "in float32 the fused one is as quick"


def test_prompts_of_which_one_begins_the_other_and_prompts_that_share_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_anew, "_WORTH_SHARING", 1)
    forward = reading().forward_signal
    for rows in ([[5, 6], [5, 6, 7, 8]], [[5, 6], [5, 6]], [[5, 6, 7], [8, 6]], [[5], [5, 6]]):
        sights = [Sight(((0, len(ids)),), 0, prompt=Encoded(tuple(ids), (Role.USER,) * len(ids))) for ids in rows]
        together, alone = forward.reread(sights), torch.cat([forward.reread([sight]) for sight in sights])
        assert torch.allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize("checks", ["fused", "separate"])
def test_generation_reads_what_score_reads_and_writes_what_the_base_writes(family: Family, checks: str) -> None:
    model = reading(family)
    bare = run(model, encoded(model, PROMPTS[:3]), signal=False, schedule=EVERY, new=12)[0]
    answers, _ = run(model, encoded(model, PROMPTS[:3]), checks=checks, schedule=EVERY, new=12)  # type: ignore[arg-type]
    expected = query_signals(model, PROMPTS[:3])
    for answer, base, signal in zip(answers, bare, expected, strict=True):
        assert answer.checks[0].kind is CheckKind.QUERY
        assert answer.checks[0].signal == pytest.approx(signal, abs=1e-4)
        assert len(answer.checks) > 12
        if checks == "separate":
            assert answer.ids == base.ids


def test_windows_are_those_of_the_same_adapter_without_a_reader() -> None:
    """Queries differ, and what looks at the answer, alone or with the query (rule 1), does not."""
    model, plain = reading(), reading(reader_rank=0)
    weights = model.forward_signal.adapter.state_dict()
    own = {name: value for name, value in weights.items() if not name.startswith("reader.")}
    plain.forward_signal.adapter.load_state_dict(own)
    for policy in (NEVER_AT_ALL, Policy(dependence="low", threshold=0.0, window_threshold=1.0)):
        scores = [
            m.score(PROMPTS[1], "an answer with several words", policy=policy, schedule=EVERY)[0]
            for m in (model, plain)
        ]
        assert scores[0].prompt_signal != pytest.approx(scores[1].prompt_signal, abs=1e-3)
        assert scores[0].response_signals == pytest.approx(scores[1].response_signals, abs=1e-6)
        assert [check.span for check in scores[0].checks] == [check.span for check in scores[1].checks]


def test_a_reader_that_gives_no_number_is_an_error() -> None:
    model = reading()
    reader = model.forward_signal.adapter.reader
    assert reader is not None
    reader.head.proj.bias.data.fill_(float("nan"))
    with pytest.raises(SignalError, match="not a number"):
        model.score(PROMPTS[:1])
    with pytest.raises(SignalError, match="not a number"):
        run(model, encoded(model, PROMPTS[:1]), schedule=EVERY, new=2)


def test_it_is_saved_and_loaded_and_part_of_what_tells_adapters_apart(tmp_path: Path) -> None:
    model = reading()
    save_with_base(model, tmp_path)
    found = SafeSignalModel.from_pretrained(tmp_path / "adapter", base=str(tmp_path / "base"))
    assert found.config.reader_rank == 4
    assert found.fingerprint() == model.fingerprint()
    assert query_signals(found, PROMPTS[:2]) == pytest.approx(query_signals(model, PROMPTS[:2]), abs=5e-3)
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace('"reader_rank": 4', '"reader_rank": 0'))
    with pytest.raises(AdapterError, match="unknown ones"):
        SafeSignalModel.from_pretrained(tmp_path / "adapter", base=str(tmp_path / "base"))
    before = model.fingerprint()
    reader = model.forward_signal.adapter.reader
    assert reader is not None
    reader.cls_D.data += 1
    assert model.fingerprint() != before


def test_no_hook_of_it_stays_on_a_base_that_is_given_back() -> None:
    model = reading()
    layer = next(iter(model.forward_signal.stack.gateable.values()))
    assert len(layer._forward_hooks) == 1, "a reader has hooks while it reads"
    model.forward_signal.remove()
    assert not layer._forward_hooks


@pytest.mark.parametrize("settings", [{"recipe": "joint", "reader_rank": 4}, {"reader_rank": -1}])
def test_a_rank_out_of_range_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"signal\.reader_rank = "):
        SignalConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize(("first", "then"), [("sdpa", "eager"), ("eager", "sdpa"), ("sdpa", "flex_attention")])
def test_a_switched_attention_is_an_error_and_no_other_signal(rank: int, first: str, then: str) -> None:
    base = tiny_model("llama", attn_implementation=first)
    model = SafeSignalModel.from_base(base, tokenizer=tiny_tokenizer(), config=SignalConfig(rank=4, reader_rank=rank))
    model.trained_signal = True
    before = query_signals(model, ["what is x"])
    base.config._attn_implementation = then
    for call in (lambda: model.score("what is x"), lambda: model.generate(**model.encode("what is x"))):
        with pytest.raises(SignalMaskError, match=f"`{then}` and was `{first}`"):
            call()
    base.config._attn_implementation = first
    assert query_signals(model, ["what is x"]) == before
