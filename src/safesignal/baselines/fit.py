"""Training the probe: rows of the gated recipe, one hidden state, two logistic regressions, calibrated thresholds."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from safesignal.align.calibrate import lowest_threshold, share_left
from safesignal.align.config import AlignConfig
from safesignal.align.examples import Example, encode_examples, load_mixture
from safesignal.align.thresholds import calibration_answers
from safesignal.baselines.probe import Probe, header_of, hidden_states
from safesignal.data.mixture import SPLIT_SEED, split_by_prompt
from safesignal.data.records import Record
from safesignal.errors import DataError, UsageError
from safesignal.modeling.chat import Encoded
from safesignal.modeling.model import SafeSignalModel
from safesignal.stats import roc_auc

__all__ = ["ProbeConfig", "fit_probe", "thresholds_of"]


@dataclass(frozen=True, slots=True)
class ProbeConfig:
    """How a probe is trained; one docstring per field, which is also its `--help` line."""

    every: int = 10
    """Generated tokens between reads."""
    inject: bool = False
    """Read at an assistant header put behind the answer, as published, instead of at its last token."""
    layers: tuple[int, ...] = ()
    """Hidden states to choose from; empty takes the ends of four quarters of the stack."""
    places_per_row: int = 3
    """Places drawn along each answer."""
    strength: float = 0.1
    """Inverse of the L2 penalty, above 0."""

    def __post_init__(self) -> None:
        bounds = [("every", self.every >= 1, "at least 1"), ("strength", self.strength > 0, "above 0")]
        bounds += [("places_per_row", self.places_per_row >= 1, "at least 1")]
        wrong = [f"probe.{name} = {getattr(self, name)}    must be {what}" for name, holds, what in bounds if not holds]
        if wrong:
            raise UsageError("the probe's settings are out of range\n  " + "\n  ".join(wrong))


@dataclass(frozen=True)
class _Table:
    """States with their labels: (N, H, D) and (N,) of requests, or of answers so far."""

    states_NHD: Tensor
    labels: list[bool]


def fit_probe(
    model: SafeSignalModel,
    records: Sequence[Record],
    config: AlignConfig,
    probe: ProbeConfig,
    *,
    data_dir: str | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Probe:
    """Train a probe on the rows that the gated recipe is trained on, and choose its layer on the validation split.

    Thresholds are calibrated as ours are: half of a preset's share of refused or stopped benign answers goes to
    requests, what that leaves of the whole to the highest signal along an answer, which no preset cuts at less than a
    stricter one does.

    Args:
        model: Its base is read, its signal is not used.
        records: Rows of the files given.
        config: Mixture, licences, lengths, split, seed and shares.
        probe: The probe's own settings.
        data_dir: Folder of local copies of the registered sources.
        progress: Told of each table: name, rows done, all rows.

    Raises:
        DataError: If a class is missing among requests or answers, or there is nothing to calibrate on.
        UsageError: If scikit-learn is missing, or a layer is not there.
    """
    layers = probe.layers or _quarters(model)
    deepest = len(model.forward_signal.stack.layers)
    if not all(0 <= layer <= deepest for layer in layers):
        raise UsageError(f"probe.layers = {layers}. Expected numbers from 0 to {deepest}.")
    split = split_by_prompt(load_mixture(config, data_dir, records), config.val_fraction, SPLIT_SEED)
    train, val = (encode_examples(model, rows, config)[0] for rows in split)
    of_train = _read(model, train, config, probe, layers, partial(progress, "training rows"))
    of_val = _read(model, val, config, probe, layers, partial(progress, "validation rows"))
    pairs = zip(of_train, of_val, strict=True)
    found = [_fit(fit, check, layers, probe.strength, config.seed) for fit, check in pairs]
    # One layer serves both: that with the best mean AUC on the validation split.
    best = max(range(len(layers)), key=lambda index: sum(aucs[index] for _, aucs in found))
    weights = [fitted[best] for fitted, _ in found]
    weight_2D, bias_2 = torch.stack([w for w, _ in weights]), torch.tensor([b for _, b in weights])
    draft = Probe(weight_2D, bias_2, layers[best], probe.every, probe.inject, {}, model.identity())
    answers = calibration_answers(model, records, val, config)
    thresholds = _calibrate(model, draft, answers, config, progress)
    record = {
        "settings": {**asdict(probe), "layers": list(layers)},
        "train_rows": len(train),
        "val_rows": len(val),
        "val_auc": {
            kind: {str(layer): round(auc, 4) for layer, auc in zip(layers, aucs, strict=True)}
            for kind, (_, aucs) in zip(("requests", "answers"), found, strict=True)
        },
        "calibration_answers": len(answers),
        "target_fpr": dict(config.target_fpr),
    }
    return Probe(weight_2D, bias_2, layers[best], probe.every, probe.inject, thresholds, model.identity(), record)


def _quarters(model: SafeSignalModel) -> tuple[int, ...]:
    depth = len(model.forward_signal.stack.layers)
    return tuple(sorted({max(1, round(depth * share)) for share in (0.25, 0.5, 0.75, 1.0)}))


def _read(
    model: SafeSignalModel,
    examples: Sequence[Example],
    config: AlignConfig,
    probe: ProbeConfig,
    layers: Sequence[int],
    progress: Callable[[int, int], None],
) -> tuple[_Table, _Table]:
    """Return the states at the ends of labelled requests, and at places along labelled answers."""
    states: tuple[list[Tensor], list[Tensor]] = ([], [])
    labels: tuple[list[bool], list[bool]] = ([], [])
    for number, example in enumerate(examples, 1):
        encoded, length = example.encoded, example.encoded.prefill
        rng = random.Random(f"{config.seed}/{example.record.id}")
        drawn: set[int] = set()
        if example.response_is_malicious is not None:
            drawn = {rng.randint(min(3, length), length) for _ in range(probe.places_per_row)}
        places = [encoded.text, *(encoded.text + step for step in sorted(drawn))]
        header = header_of(encoded) if probe.inject else ()
        found_PHD = hidden_states(model.base, encoded.ids, places, layers, header, encoded.text)
        if example.prompt_is_malicious is not None:
            states[0].append(found_PHD[:1])
            labels[0].append(example.prompt_is_malicious)
        if example.response_is_malicious is not None:
            states[1].append(found_PHD[1:])
            labels[1].extend([example.response_is_malicious] * len(drawn))
        progress(number, len(examples))
    for kind, own in zip(("requests", "answers"), labels, strict=True):
        if len(set(own)) < 2:
            raise DataError(f"{len(own)} labelled {kind} of one class only. Expected benign and malicious ones.")
    return _Table(torch.cat(states[0]), labels[0]), _Table(torch.cat(states[1]), labels[1])


def _fit(
    train: _Table, val: _Table, layers: Sequence[int], strength: float, seed: int
) -> tuple[list[tuple[Tensor, float]], list[float]]:
    """Return, by layer, the weights (D,) and offset for raw states, and the AUC on the validation split."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise UsageError(
            "the probe needs scikit-learn, which is not installed.", hint='pip install "safesignal[eval]"'
        ) from error
    fitted, aucs = [], []
    for index, _ in enumerate(layers):
        states_ND = train.states_NHD[:, index].numpy()
        mean_D, scale_D = states_ND.mean(axis=0), states_ND.std(axis=0) + 1e-6
        solver = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000, random_state=seed)
        solver.fit((states_ND - mean_D) / scale_D, train.labels)
        weight_D = np.asarray(solver.coef_[0]) / scale_D
        bias = float(solver.intercept_[0] - mean_D @ weight_D)
        fitted.append((torch.tensor(weight_D, dtype=torch.float32), bias))
        scores = val.states_NHD[:, index].numpy() @ weight_D + bias
        aucs.append(roc_auc(val.labels, scores.tolist()))
    return fitted, aucs


def _calibrate(
    model: SafeSignalModel,
    probe: Probe,
    answers: Sequence[Encoded],
    config: AlignConfig,
    progress: Callable[[str, int, int], None],
) -> dict[str, tuple[float, float]]:
    """Return the thresholds of every preset, from the base model's own benign answers."""
    if not answers:
        raise DataError("no benign validation answer to calibrate the probe on. Expected at least one, better 150.")
    requests, highest = [], []
    for number, encoded in enumerate(answers, 1):
        steps = range(probe.every, encoded.prefill + 1, probe.every)
        places = [encoded.text, *(encoded.text + step for step in steps)]
        header: Any = header_of(encoded) if probe.inject else ()
        states_PD = hidden_states(model.base, encoded.ids, places, (probe.layer,), header, encoded.text)[:, 0]
        requests += probe.signals(states_PD[:1], query=True)
        highest.append(max(probe.signals(states_PD[1:], query=False), default=0.0))
        progress("calibration answers", number, len(answers))
    return thresholds_of(requests, highest, config.target_fpr)


def thresholds_of(
    requests: Sequence[float], highest: Sequence[float], target_fpr: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    """Return the thresholds of every preset, for requests and along answers, in [0, 1].

    Args:
        requests: Signals of requests, in [0, 1].
        highest: The highest signal along the answer to each.
        target_fpr: Share of them that each preset may refuse or cut, in (0, 1).
    """
    found: dict[str, tuple[float, float]] = {}
    along = 0.0
    for name, share in sorted(target_fpr.items(), key=itemgetter(1), reverse=True):
        own = lowest_threshold(requests, share / 2)
        along = max(along, lowest_threshold(highest, share_left(requests, own, share)))
        found[name] = own, along
    return found
