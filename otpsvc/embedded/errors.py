"""The one error of this package, so that a caller has one thing to catch and to print.

Its message is read by a person who just typed a command: what happened, then what to do. Never
put a traceback or the content of a store into it.
"""


class EmbeddedError(Exception):
    """The private stores cannot be started; the message says why and what to do about it."""
