"""The stock MLflow server over a bucket."""
