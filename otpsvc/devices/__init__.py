"""The team's own phones: pairing, presence, the pool that chooses among them, and each phone's inbox."""
