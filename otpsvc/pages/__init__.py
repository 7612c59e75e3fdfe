"""Pages for people: the API's documentation, and the developer's inbox under `dev`."""
