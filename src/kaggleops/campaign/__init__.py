"""Many runs of one commit, on whatever is free: sweeps, and the watcher that keeps them going."""
