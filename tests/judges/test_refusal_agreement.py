"""Measures the refusal judge against human labels; run with ``-m slow -s`` to see the figures.

No pass mark stands here on purpose: a threshold on an evaluation file invites tuning on it. Measured once for the rules
of commit b458ceb, which were written without looking at these files' rows: `human-refusal` 120 of 169 (sensitivity
60/109, specificity 60/60), `xstest-response` 423 of 449 (166/178, 257/271). An earlier state, 143354a: 118 and 411.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from safesignal.data.records import Record
from safesignal.data.sources import DATA_DIR_VARIABLE, load_source
from safesignal.judges.refusal import judge_refusal
from safesignal.stats import Rate

DATA = Path(os.environ.get(DATA_DIR_VARIABLE) or Path(__file__).parents[3] / "shared" / "data")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not DATA.is_dir(), reason=f"no data under {DATA}")]


def agreement(name: str, records: Sequence[Record], truth: Sequence[bool]) -> Rate:
    """Print and return the agreement; an unknown agrees with nothing."""
    verdicts = [judge_refusal(record.prompt, record.response or "").verdict for record in records]
    agreed = Rate.of([verdict == ("yes" if label else "no") for verdict, label in zip(verdicts, truth, strict=True)])
    sensitivity = Rate.of([verdict == "yes" for verdict, label in zip(verdicts, truth, strict=True) if label])
    specificity = Rate.of([verdict == "no" for verdict, label in zip(verdicts, truth, strict=True) if not label])
    print(f"\n{name}: agreement {agreed}, unknown {verdicts.count('unknown')}")
    print(f"  sensitivity {sensitivity}, specificity {specificity}")
    return agreed


def test_agreement_with_human_refusal_labels() -> None:
    records = load_source("human-refusal", data_dir=DATA)
    assert agreement("human-refusal", records, [record.meta["is_refusal"] for record in records]).n == 169


def test_agreement_with_xstest_refusal_labels() -> None:
    labelled = [record for record in load_source("xstest-response", data_dir=DATA) if record.meta["response_refusal"]]
    truth = [record.meta["response_refusal"] == "refusal" for record in labelled]
    assert agreement("xstest-response", labelled, truth).n == len(labelled)
