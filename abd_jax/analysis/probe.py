"""A linear probe: what a head trained on all the data could still read off the features."""

from typing import Any

import numpy as np


def linear_probe(features: np.ndarray, labels: np.ndarray) -> Any:
  """A classifier with `predict(f[m, d]) -> i[m]`: logistic regression on standardised features f[n, d], labels i[n].

  scikit-learn's, with its default L2 penalty (C = 1). None where the labels are of one class.
  """
  from sklearn.linear_model import LogisticRegression
  from sklearn.pipeline import make_pipeline
  from sklearn.preprocessing import StandardScaler

  if len(np.unique(labels)) < 2:
    return None
  return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(features, labels)
