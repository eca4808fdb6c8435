"""How well the labels can be told apart without understanding: by form alone, and by words alone.

A signal trained on rows that either tells apart may learn that instead of harm. Needs scikit-learn (extra ``eval``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safesignal.data.build.form import features
from safesignal.data.build.match import group_of
from safesignal.data.records import Record
from safesignal.stats import roc_auc

__all__ = ["separability"]

_FOLDS = 5


def separability(records: Sequence[Record], seed: int = 0) -> dict[str, Any]:
    """Return the cross-validated AUC of a form-only and of a bag-of-words classifier; 0.5 is chance.

    Rows of one prompt or one pair never stand on both sides of a fold. Rows of one prompt count once per wording.

    Returns:
        `rows`, `malicious`, and `form` and `words`: each an AUC in [0, 1]; where it could not be measured they are
        None and `why` says so.
    """
    labelled = list({(r.query, r.prompt_label): r for r in records if r.prompt_label is not None}.values())
    truth = np.array([record.prompt_label == "malicious" for record in labelled], dtype=bool)
    found: dict[str, Any] = {"rows": len(labelled), "malicious": int(truth.sum()), "form": None, "words": None}
    groups = [group_of(record) for record in labelled]
    fewest = min(len({g for g, t in zip(groups, truth, strict=True) if t == label}) for label in (True, False))
    if fewest < _FOLDS:
        return found | {"why": f"{fewest} prompts of one label; {_FOLDS} folds need at least as many"}
    try:
        import sklearn  # noqa: F401
    except ImportError:
        return found | {"why": 'scikit-learn is not installed: pip install "safesignal[eval]"'}
    prompts = [record.query for record in labelled]
    forms = np.array([features(prompt) for prompt in prompts])
    return found | {
        "form": _auc(_form_classifier, forms, truth, groups, seed),
        "words": _auc(_word_classifier, np.array(prompts, dtype=object), truth, groups, seed),
    }


def _auc(
    build: Callable[[int], Any], inputs: NDArray[Any], truth: NDArray[np.bool_], groups: Sequence[str], seed: int
) -> float:
    """Score every row by a classifier that was fitted without its group."""
    from sklearn.model_selection import StratifiedGroupKFold

    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
    areas: list[float] = []
    for fit, held in folds.split(inputs, truth, groups):
        if len(set(truth[fit])) == len(set(truth[held])) == 2:
            classifier = build(seed).fit(inputs[fit], truth[fit])
            areas.append(roc_auc(truth[held], classifier.predict_proba(inputs[held])[:, 1]))
    # Scores of different folds are not on one scale, so the areas are averaged, not the rows pooled.
    return float(np.mean(areas))


def _form_classifier(seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=8, random_state=seed)


def _word_classifier(seed: int) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", sublinear_tf=True)
    return make_pipeline(words, LogisticRegression(C=10.0, max_iter=1000, random_state=seed))
