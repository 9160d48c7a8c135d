"""Run a commit on a machine that is not this one, and find it again from anywhere.

What is imported from here costs MLflow's client; a command imports it when it is needed.
"""
