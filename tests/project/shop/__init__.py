"""The project: settings, URLs, and the two ways to serve it."""
