"""The project's settings with Sentry tracing everything; nobody listens where it reports to."""

import sentry_sdk
from shop.settings import *  # noqa: F403

sentry_sdk.init(dsn="http://key@localhost:9/1", traces_sample_rate=1.0, shutdown_timeout=0)
