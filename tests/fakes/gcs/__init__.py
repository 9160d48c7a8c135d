"""The parts of `fakes.gcs_server`."""
