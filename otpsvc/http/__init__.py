"""The HTTP face: decodes requests, calls the services, writes answers. No rule is decided here."""
