"""The version, for what has to name it."""

__version__ = "0.1.0"
