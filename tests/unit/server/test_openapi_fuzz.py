"""Requests made from the API's own description: every answer must be one that it describes."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from comics.server.app import build_app
from comics.server.limits import ServerLimits

schemathesis = pytest.importorskip("schemathesis")
checks = pytest.importorskip("schemathesis.specs.openapi.checks")
pytestmark = pytest.mark.slow
CASES = 40  # of each operation


def test_no_generated_request_gets_an_answer_that_is_not_described(predictor):
    app = build_app(predictor, ServerLimits(queue=0))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    kinds = set()
    for operation in schema.get_all_operations():
        _fuzz(operation.ok(), kinds)
    assert 200 in kinds  # of health
    assert kinds & {400, 415, 422}  # of uploads that are no pictures


def _fuzz(operation, kinds):
    @settings(
        max_examples=CASES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def run(case):
        response = case.call()
        kinds.add(response.status_code)
        assert response.status_code != 500
        # A form that its description allows may still hold a file that is no picture
        case.validate_response(response, excluded_checks=[checks.positive_data_acceptance])

    run()
