"""A strict BSS OpenAPI 2017-12-14 for tests: DescribeInstanceBill, as Alibaba's generic client calls it.

    async with FakeBss(clock=clock) as bss:
        bss.charge("dsw-1", date(2026, 11, 23), 9.74)
        ...  # what calls bss.address with bss.key
        assert [query["BillingDate"] for query in bss.asked] == ["2026-11-23"]

It checks the signature of every request, and refuses what the API does not know. A day's rows appear `late` after its
end in China.
https://www.alibabacloud.com/help/en/user-center/developer-reference/api-bssopenapi-2017-12-14-describeinstancebill
"""

import asyncio
import json
import re
import secrets
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl

from aiohttp import web

from tests.fakes.dsw_bill import CHINA
from tests.fakes.dsw_call import Json
from tests.fakes.dsw_faults import OK, Fault, Faults, Refused
from tests.fakes.dsw_signature import AccessKey, Received, Signatures

OPERATION = "DescribeInstanceBill"
VERSION = "2017-12-14"
FIELDS = frozenset({
    "BillOwnerId", "BillingCycle", "BillingDate", "Granularity", "InstanceID", "IsBillingItem", "IsHideZeroCharge",
    "MaxResults", "NextToken", "OwnerId", "PipCode", "ProductCode", "ProductType", "SubscriptionType",
})  # fmt: skip
MONTHS = 18  # that it remembers
DENIED = Fault(403, "NotAuthorized", "This API is not authorized for caller.")
ABROAD = Fault(400, "NotApplicable", "You are not authorized to call the API operation.")


@dataclass(frozen=True, slots=True)
class Row:
    """What one product asks for one instance and one day."""

    instance: str
    day: date
    yuan: float
    product: str
    currency: str


class FakeBss:
    """Listens on 127.0.0.1. `late`: after a day's end, when its rows are there."""

    def __init__(
        self, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC), late: timedelta = timedelta(hours=3),
        keys: Sequence[AccessKey] = (AccessKey(),),
    ) -> None:  # fmt: skip
        self.clock = clock
        self.late = late
        self.key = keys[0]
        self.faults = Faults()
        self.rows: list[Row] = []
        self.asked: list[dict[str, str]] = []  # also what was refused then
        self.address = ""
        self._signatures = Signatures(keys)
        self._tokens: dict[str, tuple[dict[str, str], int]] = {}
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.02)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    def charge(self, instance: str, day: date, yuan: float, *, product: str = "learn", currency: str = "CNY") -> None:
        self.rows.append(Row(instance, day, yuan, product, currency))

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = [(name.lower(), value) for name, value in request.headers.items()]
        path, _, query = request.raw_path.partition("?")
        fault = self.faults.take(OPERATION)
        await asyncio.sleep(3600 if fault.hang else fault.slow)
        common: Json = {"RequestId": str(uuid.uuid4()).upper()}
        try:
            told = common | self._answer(Received(request.method, path, query, headers, body), fault)
            status = 200
        except Refused as refused:
            status, told = refused.status, common | {"Code": refused.code, "Message": refused.message}
            told |= {"Success": False} if status == 200 else {"HostId": self.address}
        raw = json.dumps(told).encode() if fault.body is None else fault.body
        return web.Response(status=status, body=raw, content_type="application/json", charset="utf-8")

    def _answer(self, received: Received, fault: Fault) -> Json:
        self._signatures.check(received)
        action, version = received.header("x-acs-action"), received.header("x-acs-version")
        if (received.method, received.path, action, version) != ("POST", "/", OPERATION, VERSION):
            raise Refused(404, "InvalidAction.NotFound", "Specified api is not found.")
        if received.body:
            raise Refused(400, "InvalidParameter", "Its fields belong into the query.")
        query = dict(parse_qsl(received.query, keep_blank_values=True))
        self.asked.append(query)
        if (fault.status, fault.code) != (OK.status, OK.code):
            raise Refused(fault.status, fault.code, fault.message)
        if fault.body is not None:
            return {}
        told = {"Success": True, "Code": "Success", "Message": "Successful!", "Data": self._data(query)}
        return told | dict(fault.says)

    def _data(self, query: dict[str, str]) -> Json:
        for name in query.keys() - FIELDS:
            raise Refused(400, "InvalidParameter", f"{OPERATION} knows no {name}.")
        most = _whole(query.get("MaxResults", "20"))
        cycle, day = query.get("BillingCycle", ""), query.get("BillingDate", "")
        self._check_cycle(cycle)
        if query.get("Granularity") != "DAILY":
            raise Refused(400, "InvalidGranularity", "Only days are kept here, no months.")
        if not (_is_day(day) and day.startswith(cycle)):
            raise Refused(400, "InvalidBillingDate", "BillingDate is a day of the cycle, written YYYY-MM-DD.")
        first = self._first(query)
        found = [row for row in self.rows if self._is_wanted(row, query)]
        following = self._token(query, first + most) if first + most < len(found) else None
        return {
            "BillingCycle": cycle, "AccountID": "1", "AccountName": "me", "TotalCount": len(found), "MaxResults": most,
            "NextToken": following, "Items": [_item(row) for row in found[first : first + most]],
        }  # fmt: skip

    def _check_cycle(self, cycle: str) -> None:
        now = self.clock().astimezone(CHINA)
        if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", cycle):
            raise Refused(400, "InvalidBillingCycle", "BillingCycle is written YYYY-MM.")
        ago = now.year * 12 + now.month - int(cycle[:4]) * 12 - int(cycle[5:])
        if not 0 <= ago < MONTHS:
            raise Refused(400, "InvalidBillingCycle", f"BillingCycle is one of the last {MONTHS}.")

    def _is_wanted(self, row: Row, query: dict[str, str]) -> bool:
        end = datetime(row.day.year, row.day.month, row.day.day, tzinfo=CHINA) + timedelta(days=1)
        wanted = {
            "InstanceID": row.instance, "ProductCode": row.product, "BillingDate": row.day.isoformat(),
            "BillingCycle": f"{row.day:%Y-%m}",
        }  # fmt: skip
        return self.clock() >= end + self.late and all(query.get(name, one) == one for name, one in wanted.items())

    def _token(self, query: dict[str, str], first: int) -> str:
        token = f"CAESEgoQ{secrets.token_urlsafe(24)}/+="
        self._tokens[token] = {name: value for name, value in query.items() if name != "NextToken"}, first
        return token

    def _first(self, query: dict[str, str]) -> int:
        """It is good for the call whose answer gave it."""
        token = query.get("NextToken", "")
        same = {name: value for name, value in query.items() if name != "NextToken"}
        if token and self._tokens.get(token, ({}, 0))[0] != same:
            raise Refused(400, "InvalidNextToken", "NextToken is not what the last call gave.")
        return self._tokens[token][1] if token else 0


def _whole(text: str) -> int:
    if not re.fullmatch(r"\d{1,3}", text) or not 1 <= int(text) <= 300:
        raise Refused(400, "InvalidMaxResults", "MaxResults is between 1 and 300.")
    return int(text)


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _item(row: Row) -> Json:
    return {
        "InstanceID": row.instance, "ProductCode": row.product, "ProductName": "PAI", "ProductDetail": "PAI-DSW",
        "SubscriptionType": "PayAsYouGo", "Item": "PayAsYouGoBill", "BillingType": "", "OwnerID": "1",
        "BillingDate": row.day.isoformat(), "Currency": row.currency,
        "PretaxGrossAmount": round(row.yuan * 2, 6), "InvoiceDiscount": round(row.yuan, 6), "PretaxAmount": row.yuan,
    }  # fmt: skip
