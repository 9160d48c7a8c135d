"""Colab in two ways: a program in place of its CLI, and its service behind the real one.

Nothing is imported here: the program starts often, and is to start quickly.
"""
