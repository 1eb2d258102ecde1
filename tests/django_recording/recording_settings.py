"""Django's own settings for its tests, with a runner that writes down how each test went."""

from test_sqlite import *  # noqa: F403

TEST_RUNNER = "recording_runner.RecordingRunner"
