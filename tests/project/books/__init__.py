"""Books and their authors: one app with every kind of view."""
