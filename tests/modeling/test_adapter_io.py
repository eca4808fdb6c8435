"""An adapter on disk: half precision, no base weights, and only for the base it belongs to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from safesignal.config import PRESETS, OperatingPoint, SignalConfig
from safesignal.errors import AdapterError, SignalError, UsageError
from safesignal.modeling.adapter_io import CONFIG_FILE, WEIGHTS_FILE, find_adapter, load_adapter, shipped_adapter
from safesignal.modeling.model import SafeSignalModel
from safesignal.modeling.zoo import ALIASES
from tests.invariants.harness import PROMPTS, encoded, guarded, run
from tests.support import Family, tiny_model, tiny_tokenizer


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    guarded("llama").save_pretrained(tmp_path)
    return tmp_path


def load(folder: Path, base: Any = None, tokenizer: Any = None, **more: Any) -> SafeSignalModel:
    return SafeSignalModel.from_pretrained(
        folder, base=base or tiny_model("llama"), tokenizer=tokenizer or tiny_tokenizer(), **more
    )


def test_round_trip(family: Family, tmp_path: Path) -> None:
    first = guarded(family)
    points = {"balanced": OperatingPoint(prompt=0.3, window=0.7, target_fpr=0.01, measured_fpr=0.012, n=100)}
    first.config = SignalConfig(rank=4, presets=points, tau=3, schedule="every", targets=())
    first.training_record = {"rows": 5}
    first.save_pretrained(tmp_path)
    second = load(tmp_path, tiny_model(family))
    assert second.config == first.config
    assert second.training_record == {"rows": 5}
    assert (second.trained_signal, second.base_drift) == (True, "")
    assert second.policy("balanced").window_threshold == 0.7
    for (name, a), b in zip(
        first.forward_signal.adapter.state_dict().items(),
        second.forward_signal.adapter.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(a.half().float(), b), name
    conversations = encoded(first, PROMPTS[:2])
    before = [check.signal for answer in run(first, conversations, new=8)[0] for check in answer.checks]
    after = [check.signal for answer in run(second, conversations, new=8)[0] for check in answer.checks]
    assert after == pytest.approx(before, abs=0.02)


def test_half_precision_and_no_base_weights(saved: Path) -> None:
    weights = load_file(saved / WEIGHTS_FILE)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert all(name == "cls_D" or name.startswith(("head.", "lora.")) for name in weights)
    shapes = {tuple(parameter.shape) for parameter in tiny_model("llama").parameters()}
    assert not any(tuple(tensor.shape) in shapes for name, tensor in weights.items() if name.startswith("lora."))
    assert sorted(path.name for path in saved.iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]
    assert json.loads((saved / CONFIG_FILE).read_text())["format_version"] == 1


def other_vocabulary() -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["new"])
    return tokenizer


DIFFERENT: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
    "family": (lambda: tiny_model("qwen2"), tiny_tokenizer, "model type qwen2 instead of llama"),
    "width": (lambda: tiny_model("llama", hidden_size=64), tiny_tokenizer, "hidden size 64 instead of 48"),
    "depth": (lambda: tiny_model("llama", num_hidden_layers=2), tiny_tokenizer, "num layers 2 instead of 3"),
    "vocabulary": (lambda: tiny_model("llama", vocab_size=300), tiny_tokenizer, "vocab size 300 instead of 259"),
    "tokenizer": (lambda: tiny_model("llama"), other_vocabulary, "tokenizer "),
    "template": (lambda: tiny_model("llama"), lambda: tiny_tokenizer("gemma"), "template "),
}


@pytest.mark.parametrize("allow", [True, False])
@pytest.mark.parametrize("what", DIFFERENT)
def test_another_base_is_named(saved: Path, what: str, allow: bool) -> None:
    base, tokenizer, said = DIFFERENT[what]
    with pytest.raises(AdapterError, match=f"this base has .*{said}") as caught:
        load(saved, base(), tokenizer(), allow_base_drift=allow)
    assert "safesignal align" in caught.value.hint


def test_merges_alone_make_another_tokenizer() -> None:
    from safesignal.modeling.adapter_io import identify

    base = tiny_model("llama")
    one, two = tiny_tokenizer(merges=[("q", "u")]), tiny_tokenizer(merges=[("q", "u")])
    assert identify(base, one, "") == identify(base, two, "")
    assert identify(base, one, "").tokenizer != identify(base, tiny_tokenizer(merges=[("h", "e")]), "").tokenizer


def test_drift_needs_leave_and_is_recorded(saved: Path) -> None:
    drifted = tiny_model("llama")
    with torch.no_grad():
        drifted.model.layers[1].mlp.up_proj.weight += 0.01
    with pytest.raises(AdapterError, match="weights differ") as caught:
        load(saved, drifted)
    assert "allow_base_drift" in caught.value.hint
    model = load(saved, drifted, allow_base_drift=True)
    assert "weights differ" in model.base_drift
    out: Any = model.generate(**model.encode(PROMPTS[0]), max_new_tokens=2, return_dict_in_generate=True)
    assert out.base_drift == out.answers[0].base_drift == model.base_drift
    assert model.score("hello")[0].base_drift == model.base_drift


SET_OTHERWISE: dict[str, Any] = {
    "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
    "rms_norm_eps": 1e-2,
}


@pytest.mark.parametrize("name", SET_OTHERWISE)
def test_the_same_weights_set_otherwise_have_drifted(saved: Path, name: str) -> None:
    other = tiny_model("llama", **{name: SET_OTHERWISE[name]})
    with pytest.raises(AdapterError, match=f"a base whose {name} differ"):
        load(saved, other)
    assert load(saved, other, allow_base_drift=True).base_drift.startswith(name)


def test_settings_are_compared_where_an_adapter_states_them_and_by_their_value(saved: Path) -> None:
    path = saved / CONFIG_FILE
    content = json.loads(path.read_text())
    assert {"rope_parameters", "rms_norm_eps", "num_attention_heads"} <= content["base"]["settings"].keys()
    eps = content["base"]["settings"]["rms_norm_eps"]
    assert load(saved, tiny_model("llama", rms_norm_eps=eps * (1 + 1e-7))).base_drift == ""
    del content["base"]["settings"]
    path.write_text(json.dumps(content))
    assert load(saved, tiny_model("llama", rms_norm_eps=1e-2)).base_drift == ""


def test_a_base_rounded_to_half_precision_is_the_same_base(saved: Path) -> None:
    assert load(saved, tiny_model("llama").to(torch.bfloat16)).base_drift == ""
    assert load(saved, tiny_model("llama").to(torch.float16)).base_drift == ""


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["cls_D", "head.proj.weight"])
def test_weights_that_are_not_finite(saved: Path, name: str, value: float) -> None:
    weights = load_file(saved / WEIGHTS_FILE)
    weights[name].view(-1)[3] = value
    save_file(weights, saved / WEIGHTS_FILE)
    with pytest.raises(SignalError, match="non-finite"):
        load(saved)


def cut_weights(folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-100])


def no_weights(folder: Path) -> None:
    (folder / WEIGHTS_FILE).write_bytes(b"")


def cut_config(folder: Path) -> None:
    path = folder / CONFIG_FILE
    path.write_text(path.read_text()[:-40])


def list_settings(folder: Path) -> None:
    (folder / CONFIG_FILE).write_text("[]")


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / CONFIG_FILE).read_text())
        change(content)
        (folder / CONFIG_FILE).write_text(json.dumps(content))

    return apply


def drop_weight(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS_FILE)
    del weights["cls_D"]
    save_file(weights, folder / WEIGHTS_FILE)


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated weights": (cut_weights, "cannot be read"),
    "empty weights": (no_weights, "cannot be read"),
    "truncated settings": (cut_config, "cannot be read"),
    "missing weights": (lambda folder: (folder / WEIGHTS_FILE).unlink(), f"`{WEIGHTS_FILE}` is missing"),
    "missing settings": (lambda folder: (folder / CONFIG_FILE).unlink(), f"`{CONFIG_FILE}` is missing"),
    "newer format": (edit(lambda content: content.update(format_version=99)), "format version 99"),
    "unknown field": (edit(lambda content: content["signal"].update(colour="red")), "colour"),
    "no base": (edit(lambda content: content.pop("base")), "which base it belongs to"),
    "no signal": (edit(lambda content: content.pop("signal")), "signal"),
    "another rank": (edit(lambda content: content["signal"].update(rank=5)), "lora"),
    "a list": (list_settings, "format version None"),
    "a weight less": (drop_weight, "lacks 1 weights"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_files_that_are_not_whole(saved: Path, what: str) -> None:
    spoil, said = BROKEN[what]
    spoil(saved)
    with pytest.raises(AdapterError, match=said):
        load(saved)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="is no adapter"):
        load(tmp_path / "nowhere")


def test_no_adapter_is_shipped_for_this_model() -> None:
    with pytest.raises(AdapterError, match="no adapter is shipped"):
        SafeSignalModel.from_pretrained(base=tiny_model("llama"), tokenizer=tiny_tokenizer())


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        guarded("llama").save_pretrained(tmp_path / "file" / "adapter")


def test_a_loaded_model_needs_its_tokenizer() -> None:
    with pytest.raises(UsageError, match="no tokenizer"):
        SafeSignalModel.from_base(tiny_model("llama"))


def test_trainable_parameters_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    model = guarded("llama")
    model.print_trainable_parameters()
    trained = sum(parameter.numel() for parameter in model.forward_signal.adapter.parameters())
    assert f"trainable params: {trained:,} ||" in capsys.readouterr().out


def test_ids_without_roles_raise() -> None:
    model = guarded("llama")
    inputs = model.encode(PROMPTS[0])
    with pytest.raises(UsageError, match="without roles") as caught:
        model.generate(inputs["input_ids"])
    assert "encode" in caught.value.hint
    with pytest.raises(UsageError, match="same shape"):
        model.generate(inputs["input_ids"], roles=inputs["roles"][:, 1:])


def test_encode_pads_on_the_left() -> None:
    model = guarded("llama")
    inputs = model.encode(PROMPTS[:2], prefill=["", "Sure"])
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == inputs["roles"].shape
    own = inputs["attention_mask"].bool()
    assert torch.equal(own, inputs["roles"] != 0)
    for row, one in enumerate([model.encode_one(PROMPTS[0]), model.encode_one(PROMPTS[1], "Sure")]):
        assert inputs["input_ids"][row][own[row]].tolist() == list(one.ids)
        assert inputs["roles"][row][own[row]].tolist() == [int(role) for role in one.roles]
        assert bool(own[row][-1])
    with pytest.raises(UsageError, match="3 prefills for 2 conversations"):
        model.encode(PROMPTS[:2], prefill=["a", "b", "c"])
    assert model.encode([{"role": "user", "content": "x"}])["input_ids"].shape[0] == 1


def test_an_adapter_may_be_named_by_the_model_it_ships_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_adapter("smollm2", None) == shipped_adapter("smollm2") == find_adapter(None, None)
    assert find_adapter("elsewhere", None) == Path("elsewhere")
    (tmp_path / "smollm2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_adapter("smollm2", None) == Path("smollm2"), "a folder of that name comes first"


@pytest.mark.parametrize("alias", ALIASES)
def test_what_ships_is_whole_and_says_what_it_is_for(alias: str) -> None:
    folder = shipped_adapter(alias)
    assert folder is not None
    config, trained, weights, record = load_adapter(folder)
    assert trained.name == alias
    assert trained.settings
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())
    assert weights["cls_D"].shape == (trained.hidden_size,)
    assert set(config.presets) == set(PRESETS)
    assert all(point.n >= 100 for point in config.presets.values())
    assert set(record["rows_by_licence"]) <= {"permissive", "sharealike"}
    card = (folder / "README.md").read_text()
    for point in config.presets.values():
        assert f"{point.prompt:.4f} | {point.window:.4f}" in card
    assert f"{record['train_rows']:,}" in card
    assert (folder / "LICENSE.md").exists()
