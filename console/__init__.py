"""The embedded receiving end."""
