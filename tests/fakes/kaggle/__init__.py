"""The parts of `fakes.kaggle_server`."""
