"""The sender `sample` for otpsvc, found through the entry point in pyproject.toml."""
