"""Senders: the contract that carries a message out of the house, and one file per sender that keeps it."""
