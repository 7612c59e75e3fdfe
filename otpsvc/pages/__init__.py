"""Pages for people: the API's documentation, and under `dev` the inbox, the simulated phone's screen and the demo."""
