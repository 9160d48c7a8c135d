"""Commits: finding one, taking it elsewhere whole, and what its history says.

`command` is the only place that runs git.
"""
