"""Colab in three ways: a program in place of its CLI, its service behind the real one, Vertex AI.

Nothing is imported here: the program starts often, and is to start quickly.
"""
