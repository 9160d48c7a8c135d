"""KaggleOps: MLflow whose tracking server is a bucket."""

__version__ = "0.1.0"
