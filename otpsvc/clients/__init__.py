"""Clients: the tenants of the service, their API keys and the policy that each one's OTPs obey."""
