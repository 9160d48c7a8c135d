"""Commits as jobs on RunPod, one pod for each run; a pod deletes itself when its job is over."""

from kaggleops.backends.runpod.backend import RunPodBackend

__all__ = ["RunPodBackend"]
