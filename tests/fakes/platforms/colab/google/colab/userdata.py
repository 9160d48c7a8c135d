"""Colab's secrets: they answer in its web page alone."""


class TimeoutException(Exception):  # noqa: N818 - its real name
    pass


def get(key: str) -> str:
    raise TimeoutException(f"Requesting secret {key} timed out.")
