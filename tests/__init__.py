"""The tests, which mirror the folders they test; `python3 -m tests` runs them with all their set-up."""
