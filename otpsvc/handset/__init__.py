"""A phone in software: a client of the mobile protocol, simulated for `dev` and tests, or sending through Termux.

It talks to a server over HTTP as the Android app does and knows nothing else of this service, so that what works with
it works with a phone.
"""
