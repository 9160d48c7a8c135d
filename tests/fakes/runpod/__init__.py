"""The parts of the RunPod of `tests.fakes.runpod_server`."""
