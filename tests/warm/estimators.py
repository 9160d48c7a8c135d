"""All of scikit-learn, which `mlflow.sklearn.autolog` imports in each process: two seconds."""

import mlflow.sklearn
import skops.io
from sklearn import datasets
from sklearn.utils import all_estimators

__all__ = ["datasets", "mlflow", "skops"]

all_estimators()
