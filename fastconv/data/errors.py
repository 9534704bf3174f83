"""The error of data that cannot be used."""

from .._shown import shown


class DataError(Exception):
    """Data that cannot be used; the message is one line that names the file or folder."""

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))
