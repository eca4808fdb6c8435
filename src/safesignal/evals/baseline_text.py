"""The simple rival: word statistics and a logistic regression on the same prompts.

A signal that does not beat this has learned words, not harm. Needs scikit-learn (extra ``eval``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from safesignal.data.records import Record
from safesignal.errors import UsageError
from safesignal.stats import threshold_at_fpr

__all__ = ["TextBaseline"]


class TextBaseline:
    """TF-IDF over words (1-2 grams), optionally characters (3-5 grams), and a balanced logistic regression.

    Example::

        baseline = TextBaseline().fit(train_records)
        baseline.calibrate([record.query for record in val_records if not record.prompt_is_malicious], fpr=0.01)
        flagged = baseline.flag(["How do I bake bread?"])
    """

    threshold: float = 0.5
    """Flag a prompt at or above this probability, in [0, 1]; set by `calibrate`."""

    def __init__(self, *, characters: bool = False, min_count: int = 1, strength: float = 10.0, seed: int = 0) -> None:
        """Set up the pipeline without fitting it.

        Args:
            characters: Add character 3-5 grams within words.
            min_count: Drop features seen in fewer prompts than this.
            strength: Inverse of the L2 penalty, above 0.
            seed: Passed to the solver.

        Raises:
            UsageError: If a number is out of range.
        """
        if min_count < 1 or strength <= 0.0:
            raise UsageError(f"`min_count` is {min_count} and `strength` {strength}. Expected at least 1 and above 0.")
        self._characters = characters
        self._min_count = min_count
        self._strength = strength
        self._seed = seed
        self._pipeline: Any = None

    def fit(self, records: Iterable[Record]) -> Self:
        """Fit on the records whose prompt is labelled, each distinct prompt once per label.

        Raises:
            UsageError: If a class is missing or scikit-learn is.
        """
        pairs = {(record.query, record.prompt_is_malicious): None for record in records}
        labelled = [(prompt, label) for prompt, label in pairs if label is not None]
        if len({label for _, label in labelled}) < 2:
            raise UsageError(f"{len(labelled)} labelled prompts of one class only. Expected benign and malicious ones.")
        self._pipeline = self._build()
        self._pipeline.fit([prompt for prompt, _ in labelled], [label for _, label in labelled])
        return self

    def score(self, prompts: Sequence[str]) -> NDArray[np.float64]:
        """Return P(malicious) for each prompt: (N,) in [0, 1].

        Raises:
            UsageError: If `fit` was not called.
        """
        if self._pipeline is None:
            raise UsageError("`score` was called on a baseline that is not fitted. Expected `fit(records)` first.")
        if not prompts:
            return np.zeros(0)
        column = list(self._pipeline.classes_).index(True)
        return np.asarray(self._pipeline.predict_proba(list(prompts))[:, column], dtype=np.float64)

    def calibrate(self, benign_prompts: Sequence[str], *, fpr: float) -> float:
        """Set and return the threshold that flags at most a share `fpr` of the benign validation prompts.

        Raises:
            UsageError: If there are no prompts or `fpr` is outside [0, 1].
        """
        self.threshold = threshold_at_fpr(self.score(benign_prompts), fpr)
        return self.threshold

    def flag(self, prompts: Sequence[str]) -> NDArray[np.bool_]:
        """Return whether each prompt scores at or above the threshold: (N,) bool."""
        return self.score(prompts) >= self.threshold

    def _build(self) -> Any:
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline, make_union
        except ImportError as error:
            raise UsageError(
                "the text baseline needs scikit-learn, which is not installed.", hint='pip install "safesignal[eval]"'
            ) from error
        options: dict[str, Any] = {"sublinear_tf": True, "min_df": self._min_count}
        features = [TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", **options)]
        if self._characters:
            features.append(TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), **options))
        classifier = LogisticRegression(
            C=self._strength, class_weight="balanced", max_iter=1000, random_state=self._seed
        )
        return make_pipeline(make_union(*features), classifier)
