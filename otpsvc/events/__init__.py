"""Events: what happened, moved from the store of living codes to PostgreSQL exactly once, and told again from there."""
