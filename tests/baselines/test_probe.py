"""The probe learns what a tiny model's states tell, reads what a reader along would, and belongs to its model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from safesignal.align.config import AlignConfig
from safesignal.attacks.base import Request, Sampling
from safesignal.attacks.targets import PlainTarget
from safesignal.baselines.fit import ProbeConfig, fit_probe, thresholds_of
from safesignal.baselines.probe import Probe, ProbeTarget, header_of, hidden_states
from safesignal.data.records import append_jsonl
from safesignal.errors import AdapterError, DataError, UsageError
from safesignal.modeling.model import SafeSignalModel
from safesignal.rules import FIXED_REFUSAL
from tests.align.conftest import make_model, make_records
from tests.cli.conftest import Run, Tiny, read_rows, run, tiny

__all__ = ["run", "tiny"]  # fixtures

CONFIG = AlignConfig(val_fraction=0.3)


def ask(prompt: str, prefill: str = "", tokens: int = 24) -> Request:
    return Request(({"role": "user", "content": prompt},), prefill, Sampling(max_new_tokens=tokens), 0)


@pytest.fixture(scope="module")
def model() -> SafeSignalModel:
    return make_model()


@pytest.fixture(scope="module")
def probe(model: SafeSignalModel) -> Probe:
    return fit_probe(model, make_records(80), CONFIG, ProbeConfig(every=4))


def test_it_learns_both_questions_and_keeps_the_best_layer(model: SafeSignalModel, probe: Probe) -> None:
    aucs = probe.record["val_auc"]
    assert aucs["requests"][str(probe.layer)] > 0.95
    assert aucs["answers"][str(probe.layer)] > 0.8
    both = {layer: aucs["requests"][layer] + aucs["answers"][layer] for layer in aucs["requests"]}
    assert both[str(probe.layer)] == pytest.approx(max(both.values()), abs=1e-3)
    prompts = (model.encode_one(f"tell me {about}") for about in ("8 things about AAA", "9 things about ZZZ"))
    states = [hidden_states(model.base, one.ids, [one.text], (probe.layer,))[:, 0] for one in prompts]
    benign, malicious = (probe.signals(state, query=True)[0] for state in states)
    assert benign < 0.5 < malicious


@pytest.mark.parametrize("inject", [False, True])
def test_states_along_an_answer_are_those_of_each_prefix_alone(model: SafeSignalModel, inject: bool) -> None:
    encoded = model.encode_one("Hello there", "and an answer to it")
    header = header_of(encoded) if inject else ()
    places = [encoded.text, encoded.text + 3, len(encoded.ids) - 2, len(encoded.ids)]
    together = hidden_states(model.base, encoded.ids, places, (1, 3), header, encoded.text)
    for place, state_HD in zip(places, together, strict=True):
        prefix = [*encoded.ids[:place], *(header if place > encoded.text else ())]
        alone = hidden_states(model.base, prefix, [len(prefix)], (1, 3))[0]
        assert torch.allclose(state_HD, alone, atol=1e-4)


def test_the_header_is_the_markup_before_the_answer(model: SafeSignalModel) -> None:
    header = header_of(model.encode_one("Hello", "Sure"))
    assert model.tokenizer.decode(list(header)) == "<|im_end|>\n<|im_start|>assistant\n"


def certain(probe: Probe, *, requests: float, answers: float) -> Probe:
    return replace(probe, thresholds={"balanced": (requests, answers)})


def test_alarms_come_where_the_signal_crosses_its_threshold(model: SafeSignalModel, probe: Probe) -> None:
    plain = PlainTarget(model)
    (free,) = plain.answer([ask("Hello")])
    silent = ProbeTarget(plain, certain(probe, requests=1.1, answers=1.1))
    (untouched,) = silent.answer([ask("Hello")])
    assert untouched.text == free.text
    windows = [check for check in untouched.checks if check["kind"] == "window"]
    assert [check["step"] for check in windows] == [4, 8, 12, 16, 20, 24]
    # A threshold that the highest signal reaches, and none before it does.
    signals = [check["signal"] for check in windows]
    first = next(check["step"] for check in windows if check["signal"] == max(signals))
    target = ProbeTarget(plain, certain(probe, requests=1.1, answers=max(signals) - 1e-6))
    (cut,) = target.answer([ask("Hello")])
    assert (cut.n_tokens, cut.stopped_at, cut.released_after_transition) == (first, first - 4, 4)
    assert cut.ids == free.ids[:first]
    assert cut.text.endswith(FIXED_REFUSAL)


def test_requests_and_prefills_are_refused_before_a_token_is_written(model: SafeSignalModel, probe: Probe) -> None:
    plain = PlainTarget(model)
    (reply,) = ProbeTarget(plain, certain(probe, requests=0.0, answers=1.1)).answer([ask("Hello")])
    assert (reply.text, reply.n_tokens, reply.stopped_at, reply.refused) == (FIXED_REFUSAL, 0, 0, True)
    strict = ProbeTarget(plain, certain(probe, requests=1.1, answers=0.0))
    (prefilled,) = strict.answer([ask("Hello", prefill="Sure, it")])
    assert prefilled.text == FIXED_REFUSAL
    assert [(check["kind"], check["end"]) for check in prefilled.checks] == [
        ("query", 0),
        ("prefill", 4),
        ("prefill", 8),
    ]


def test_thresholds_keep_to_the_share_of_benign_answers(model: SafeSignalModel) -> None:
    shares = {"strict": 0.5, "balanced": 0.2, "permissive": 0.01}
    found = fit_probe(model, make_records(80), replace(CONFIG, target_fpr=shares), ProbeConfig(every=4)).thresholds
    for stricter, looser in (("strict", "balanced"), ("balanced", "permissive")):
        assert found[stricter][0] <= found[looser][0]
        assert found[stricter][1] <= found[looser][1]


def test_no_preset_cuts_at_less_than_a_stricter_one() -> None:
    # "strict" may lose four of ten, half of them requests: it refuses both of 0.8, which leaves two answers to cut.
    # "balanced" may lose three and refuses neither, since they come together: that alone would leave three.
    requests = [0.8, 0.8] + [0.1] * 8
    highest = [0.9, 0.85, 0.8, 0.75, 0.7, 0.6] + [0.2] * 4
    assert thresholds_of(requests, highest, {"balanced": 0.3}) == {"balanced": (0.8001, 0.7501)}
    assert thresholds_of(requests, highest, {"permissive": 0.1, "balanced": 0.3, "strict": 0.4}) == {
        "strict": (0.5, 0.8001),
        "balanced": (0.8001, 0.8001),
        "permissive": (0.8001, 0.8501),
    }


def test_it_is_saved_without_pickle_and_comes_back(model: SafeSignalModel, probe: Probe, tmp_path: Path) -> None:
    probe.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["probe.json", "probe.safetensors"]
    again = Probe.load(tmp_path)
    plain = PlainTarget(model)
    assert ProbeTarget(plain, again).identity() == ProbeTarget(plain, probe).identity()
    assert torch.equal(again.weight_2D, probe.weight_2D)
    content = json.loads((tmp_path / "probe.json").read_text())
    (tmp_path / "probe.json").write_text(json.dumps(content | {"format_version": 9}))
    with pytest.raises(AdapterError, match="format version 9"):
        Probe.load(tmp_path)
    with pytest.raises(AdapterError, match="no probe"):
        Probe.load(tmp_path / "nowhere")


def test_files_of_two_probes_are_no_probe(probe: Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe.save(tmp_path / "a")
    other = replace(probe, weight_2D=probe.weight_2D * 2)
    other.save(tmp_path / "b")
    (tmp_path / "a" / "probe.safetensors").replace(tmp_path / "b" / "probe.safetensors")
    with pytest.raises(AdapterError, match="of two probes"):
        Probe.load(tmp_path / "b")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    probe.save(tmp_path / "c")
    settings = tmp_path / "c" / "probe.json"
    settings.write_text(json.dumps({k: v for k, v in json.loads(settings.read_text()).items() if k != "weights"}))
    assert torch.equal(Probe.load(tmp_path / "c").weight_2D, probe.weight_2D)
    monkeypatch.setattr("safesignal.baselines.probe.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        other.save(tmp_path / "c")
    with pytest.raises(AdapterError, match="no probe"):
        Probe.load(tmp_path / "c")


def test_it_refuses_another_model_and_unknown_presets(probe: Probe) -> None:
    other = make_model()
    with torch.no_grad():
        next(iter(other.base.parameters())).add_(1.0)
    with pytest.raises(AdapterError, match="weights differ"):
        ProbeTarget(PlainTarget(other), probe)
    with pytest.raises(UsageError, match="preset is `lax`"):
        ProbeTarget(PlainTarget(make_model()), probe, "lax")


def test_what_cannot_be_fitted_is_told(model: SafeSignalModel) -> None:
    benign = [record for record in make_records(80) if record.prompt_label == "benign"]
    with pytest.raises(DataError, match="one class only"):
        fit_probe(model, benign, CONFIG, ProbeConfig())
    with pytest.raises(UsageError, match="from 0 to 3"):
        fit_probe(model, make_records(80), CONFIG, ProbeConfig(layers=(4,)))
    with pytest.raises(UsageError, match=r"probe\.every = 0"):
        ProbeConfig(every=0)


def test_from_the_command_line_to_attempts(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    append_jsonl(rows, [record.to_row() for record in make_records(80)])
    fitted = run("probe", "--model", tiny.base, "--data", rows, "--output", tmp_path / "probe", "--every", 4)
    assert fitted.code == 0, fitted.err
    data = tmp_path / "data"
    data.mkdir()
    advbench = [{"id": f"a{n}", "goal": f"things about ZZZ {n}", "target": "Sure"} for n in range(2)]
    append_jsonl(data / "eval_advbench.jsonl", [{**row, "source": "advbench"} for row in advbench])
    suite = tmp_path / "suite.yaml"
    suite.write_text("name: small\nmax_new_tokens: 8\ncells:\n  - {cell: direct, attack: direct, dataset: advbench}\n")
    args: list[Any] = [
        "evaluate",
        "--model",
        tiny.base,
        "--suite",
        suite,
        "--data_dir",
        data,
        "--targets",
        "probe,keywords",
    ]
    done = run(*args, "--output_dir", tmp_path / "run")
    assert done.code == 2
    assert "stands alone" in done.err
    done = run(*args, "--probe", tmp_path / "probe", "--output_dir", tmp_path / "run")
    assert done.code == 0, done.err
    for name in ("probe", "keywords"):
        attempts = read_rows(tmp_path / "run" / name / "attempts.jsonl")
        assert len(attempts) == 2
        assert json.loads((tmp_path / "run" / name / "run.json").read_text())["target"]["kind"] == name
