"""Schemathesis makes requests from the live document, good and bad, and judges the answers."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from core.keys import KeyRing
from core.service import LocalService
from transports.rest.door import RestDoor
from transports.rest.openapi import document

OPERATIONS = [one for methods in document("1")["paths"].values() for one in methods.values()]
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
]
EXAMPLES = hypothesis.settings(
    max_examples=25,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)


@pytest.fixture
async def session(keys: KeyRing) -> AsyncIterator[requests.Session]:
    """Of somebody who may do everything."""
    _, key = await keys.create("boss")
    with requests.Session() as session:
        session.headers["X-API-Key"] = key
        yield session


@pytest.mark.parametrize(
    ("name", "mode"),
    [(one["operationId"], GenerationMode.POSITIVE) for one in OPERATIONS]
    + [(one["operationId"], GenerationMode.NEGATIVE) for one in OPERATIONS if len(one["parameters"]) > 1],
    ids=str,
)
async def test_conforms(
    guarded: RestDoor,
    service: LocalService,
    session: requests.Session,
    name: str,
    mode: GenerationMode,
) -> None:
    """What the document calls bad is refused, nothing is answered with 5xx, every answer is documented."""
    service.drain()  # so that streams end and nobody waits; publishing goes on

    def run() -> None:
        schema = schemathesis.openapi.from_url(f"{guarded.address}/openapi.json", headers=session.headers)
        operation = schema.find_operation_by_id(name)

        @EXAMPLES
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def conforms(case: schemathesis.Case[Any]) -> None:
            answer = case.call(session=session, timeout=20)
            case.validate_response(answer, checks=CHECKS)

        conforms()

    await asyncio.to_thread(run)
