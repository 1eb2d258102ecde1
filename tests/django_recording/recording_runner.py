"""Django's test runner, which also writes each test's outcome as JSON to the file that RECORD_TO names."""

import json
import os
from pathlib import Path
from unittest import TestResult, TestSuite

from django.test.runner import DiscoverRunner
from django.test.utils import iter_test_cases


class RecordingRunner(DiscoverRunner):
    """Runs what Django's runner runs."""

    def run_suite(self, suite: TestSuite, **kwargs: object) -> TestResult:
        """Run the tests, then write `{test id: outcome}`."""
        outcomes = {test.id(): "passed" for test in iter_test_cases(suite)}
        result = super().run_suite(suite, **kwargs)
        for outcome in ("failures", "errors", "skipped", "expectedFailures"):
            outcomes.update({test.id(): outcome for test, _ in getattr(result, outcome)})
        outcomes.update({test.id(): "unexpected success" for test in result.unexpectedSuccesses})
        Path(os.environ["RECORD_TO"]).write_text(json.dumps(outcomes))
        return result
