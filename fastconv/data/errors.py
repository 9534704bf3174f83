"""What goes wrong with data."""


class DataError(Exception):
    """Data that cannot be used; the message is one line that names the file or folder."""
