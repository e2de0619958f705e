"""The fake billing API: what it refuses, when a day's rows appear, and how they are paged."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from alibabacloud_credentials.client import Client as Credential
from alibabacloud_credentials.models import Config as CredentialConfig
from alibabacloud_tea_openapi.client import Client
from alibabacloud_tea_openapi.exceptions import AlibabaCloudException
from alibabacloud_tea_openapi.utils_models import Config, OpenApiRequest, Params
from darabonba.runtime import RuntimeOptions

from tests.fakes.bss import ABROAD, DENIED, OPERATION, FakeBss
from tests.fakes.dsw import Clock
from tests.fakes.dsw_faults import Fault
from tests.fakes.dsw_signature import AccessKey

HOUR = timedelta(hours=1)
DAY = date(2026, 11, 23)
OVER = datetime(2026, 11, 23, 16, tzinfo=UTC)  # in China
ASKED = {"BillingCycle": "2026-11", "BillingDate": "2026-11-23", "Granularity": "DAILY"}


@pytest.fixture
def clock() -> Clock:
    return Clock(OVER + 3 * HOUR)


@pytest.fixture
async def bss(clock: Clock) -> AsyncIterator[FakeBss]:
    async with FakeBss(clock=clock) as fake:
        yield fake


async def ask(
    bss: FakeBss, query: dict[str, str], *, key: AccessKey | None = None, action: str = OPERATION,
    version: str = "2017-12-14", method: str = "POST", body: object = None,
) -> dict[str, Any]:  # fmt: skip
    given = key or bss.key
    signer = Credential(CredentialConfig(type="access_key", access_key_id=given.id, access_key_secret=given.secret))
    client = Client(Config(credential=signer, endpoint=bss.address, protocol="http"))
    params = Params(
        action=action, version=version, protocol="HTTPS", pathname="/", method=method, auth_type="AK", style="RPC",
        req_body_type="formData", body_type="json",
    )  # fmt: skip
    direct = RuntimeOptions(http_proxy="#", https_proxy="#")
    answer: dict[str, Any] = await client.call_api_async(params, OpenApiRequest(query=query, body=body), direct)
    return dict(answer["body"])


async def items(bss: FakeBss, **more: str) -> list[tuple[str, float]]:
    body = await ask(bss, ASKED | more)
    return [(row["InstanceID"], row["PretaxAmount"]) for row in body["Data"]["Items"]]


async def test_a_days_rows_appear_some_hours_after_it(bss: FakeBss, clock: Clock) -> None:
    bss.charge("dsw-1", DAY, 9.74)
    bss.charge("dsw-2", DAY, 1.0)
    bss.charge("dsw-1", DAY - timedelta(days=1), 2.0)
    assert await items(bss) == [("dsw-1", 9.74), ("dsw-2", 1.0)]
    assert await items(bss, InstanceID="dsw-1", ProductCode="learn") == [("dsw-1", 9.74)]
    assert await items(bss, ProductCode="ecs") == []
    clock.advance(-timedelta(seconds=1))
    assert await items(bss) == []


async def test_pages_follow_each_other_by_a_token_of_the_same_call(bss: FakeBss) -> None:
    for number in range(5):
        bss.charge("dsw-1", DAY, float(number))
    sizes, token = [], ""
    while True:
        data = (await ask(bss, ASKED | {"MaxResults": "2"} | ({"NextToken": token} if token else {})))["Data"]
        sizes.append(len(data["Items"]))
        assert data["TotalCount"] == 5
        token = data["NextToken"] or token
        if not data["NextToken"]:
            break
    assert sizes == [2, 2, 1]
    for other in ({"NextToken": token}, {"NextToken": "made up", "MaxResults": "2"}):
        with pytest.raises(AlibabaCloudException, match="NextToken"):
            await ask(bss, ASKED | other)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"query": ASKED | {"Product": "learn"}}, "InvalidParameter"),
        ({"query": ASKED | {"MaxResults": "301"}}, "InvalidMaxResults"),
        ({"query": ASKED | {"BillingCycle": "2025-05", "BillingDate": "2025-05-23"}}, "InvalidBillingCycle"),
        ({"query": ASKED | {"BillingCycle": "2026-12", "BillingDate": "2026-12-01"}}, "InvalidBillingCycle"),
        ({"query": ASKED | {"BillingCycle": "2026-11-23"}}, "InvalidBillingCycle"),
        ({"query": ASKED | {"BillingDate": "2026-10-31"}}, "InvalidBillingDate"),
        ({"query": ASKED | {"BillingDate": "2026-11-31"}}, "InvalidBillingDate"),
        ({"query": ASKED | {"Granularity": "MONTHLY"}}, "InvalidGranularity"),
        ({"query": ASKED, "body": {"InstanceID": "dsw-1"}}, "InvalidParameter"),
        ({"query": ASKED, "action": "QueryInstanceBill"}, "InvalidAction.NotFound"),
        ({"query": ASKED, "version": "2022-01-01"}, "InvalidAction.NotFound"),
        ({"query": ASKED, "method": "GET"}, "InvalidAction.NotFound"),
        ({"query": ASKED, "key": AccessKey("LTAIother")}, "InvalidAccessKeyId.NotFound"),
        ({"query": ASKED, "key": AccessKey(secret="wrong")}, "SignatureDoesNotMatch"),
    ],
)
async def test_what_the_api_does_not_know_is_refused(bss: FakeBss, wrong: dict[str, Any], code: str) -> None:
    with pytest.raises(AlibabaCloudException) as caught:
        await ask(bss, **wrong)
    assert caught.value.code == code


async def test_it_refuses_as_it_is_told(bss: FakeBss) -> None:
    bss.faults.once(OPERATION, DENIED, ABROAD, Fault(200, "NotApplicable"))
    for status, code in ((403, "NotAuthorized"), (400, "NotApplicable")):
        with pytest.raises(AlibabaCloudException) as caught:
            await ask(bss, ASKED)
        assert (caught.value.status_code, caught.value.code) == (status, code)
    assert (await ask(bss, ASKED))["Success"] is False
    assert (await ask(bss, ASKED))["Success"] is True
    assert len(bss.asked) == 4
