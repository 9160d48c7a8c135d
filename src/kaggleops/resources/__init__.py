"""The data manifest: the files that a project reads and does not hold itself."""
