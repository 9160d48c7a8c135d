"""Blends: members' out-of-fold tables in, weights and an honest score out, as a run.

`members` reads tables and refuses those that do not belong together, `metrics` scores them,
`weights` finds the weights, `report` puts these together, and `record` makes the run.
"""
