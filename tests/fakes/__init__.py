"""Loopback stand-ins for the services that cannot run here: strict, and able to misbehave."""
