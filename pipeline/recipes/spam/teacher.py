"""The spam teacher: TF-IDF of character n-grams and logistic regression, in one scikit-learn pipeline.

Vocabulary size and regularisation are chosen on validation part `choose`, by log loss: on 200 mails one mail is half a point
of accuracy, and what a student learns from is the probability. TF-IDF with a linear model is a small, strong teacher for this
task; docs/recipes-spam.md says what that means for size and speed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfTransformer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.pipeline import Pipeline

VOCABULARY_SIZES = (5_000, 20_000, 80_000)
REGULARISATIONS = (30.0, 100.0, 300.0)
NGRAMS = (2, 4)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The teacher and how it did on `choose`."""

    model: Pipeline
    vocabulary: int
    regularisation: float
    accuracy: float
    auc: float
    log_loss_nats: float


def fit_teacher(
    *, texts: Sequence[str], labels: Sequence[str], choose_texts: Sequence[str], choose_labels: Sequence[str], say: Callable[[str], None]
) -> Fitted:
    """Fit on the labelled mails, choose on `choose`. Deterministic; about 15 s for 1,000 mails."""
    counter = TfidfVectorizer(analyzer="char_wb", ngram_range=NGRAMS, min_df=2, use_idf=False, norm=None, dtype=np.float32)
    counts = counter.fit_transform(texts)
    choose_counts = counter.transform(choose_texts)
    names = counter.get_feature_names_out()
    by_frequency = np.lexsort((np.arange(len(names)), -np.asarray(counts.sum(axis=0)).ravel()))
    best: Fitted | None = None
    for vocabulary in sorted({min(size, len(names)) for size in VOCABULARY_SIZES}):
        columns = np.sort(by_frequency[:vocabulary])
        weigh = TfidfTransformer(sublinear_tf=True).fit(counts[:, columns])
        seen, chosen_on = weigh.transform(counts[:, columns]), weigh.transform(choose_counts[:, columns])
        for regularisation in REGULARISATIONS:
            classifier = LogisticRegression(C=regularisation, solver="liblinear", random_state=0).fit(seen, list(labels))
            found = _judge(classifier, chosen_on, choose_labels)
            say(f"teacher with {vocabulary} n-grams, C {regularisation:g}: {found[0]:.3f} accuracy, {found[2]:.4f} nats on `choose`")
            if best is None or found[2] < best.log_loss_nats:
                model = _pipeline(names[columns], weigh, classifier)
                best = Fitted(
                    model=model,
                    vocabulary=vocabulary,
                    regularisation=regularisation,
                    accuracy=found[0],
                    auc=found[1],
                    log_loss_nats=found[2],
                )
    assert best is not None
    return best


def _pipeline(names: Any, weigh: TfidfTransformer, classifier: LogisticRegression) -> Pipeline:
    """The chosen columns as one pipeline from raw text, without reading a text again."""
    vectorizer = TfidfVectorizer(
        analyzer="char_wb",
        ngram_range=NGRAMS,
        sublinear_tf=True,
        dtype=np.float32,
        vocabulary={str(name): place for place, name in enumerate(names)},
    )
    vectorizer.idf_ = weigh.idf_
    return Pipeline([("tfidf", vectorizer), ("classifier", classifier)])


def _judge(classifier: LogisticRegression, features: Any, labels: Sequence[str]) -> tuple[float, float, float]:
    """Accuracy, AUC of the last class, log loss in nats."""
    probs_BK = classifier.predict_proba(features)
    known = list(classifier.classes_)
    right = np.array(known)[probs_BK.argmax(axis=1)] == np.array(labels)
    auc = roc_auc_score(np.array(labels) == known[-1], probs_BK[:, -1])
    return float(right.mean()), float(auc), float(log_loss(labels, probs_BK, labels=known))


def minimal_bytes(model: Pipeline) -> int:
    """What the teacher's knowledge takes at least: each n-gram's bytes, and two float32 numbers (idf, weight) for it.

    The file that scikit-learn's objects are saved in is larger; a ratio to a student should name which it means.
    """
    vocabulary = model.named_steps["tfidf"].vocabulary_
    return sum(len(name.encode()) + 8 for name in vocabulary)
