"""otpsvc: phone verification that a team runs itself. Send a code, verify a code."""

__version__ = "0.1.0"
