"""What Alibaba charged for an instance, by its billing API (BSS OpenAPI), through the client that its SDKs are made of.

Read in the documentation, and tried against a fake of it, not yet against the live service: a call tells one day's
rows, by pages; days are China's; `PretaxAmount` is what is to be paid after discounts and what the quota pays for.
Which product DSW is there is not documented, so its rows are known by the instance's id alone.
"""

import asyncio
import logging
import math
import re
from dataclasses import dataclass
from datetime import date
from importlib import import_module
from typing import Any

from bot.money.dsw_refusal import CURES, KEYS, Busy, Refusal, Refused, Unanswered, clean
from bot.money.dsw_sdk import CONNECT_MS, NO_PROXY, READ_MS, direct
from bot.money.instance import CallFailed

OPERATION = "DescribeInstanceBill"
ENDPOINT = "business.aliyuncs.com"  # of accounts that pay in yuan, wherever their instances are
PATIENCE = 20.0  # seconds for a page
MOST = 300  # rows a page, as many as there may be
RIGHT = r"NotAuthorized|NoPermission|NoAuth|Forbidden|AccessDenied|Unauthorized"


@dataclass(frozen=True, slots=True)
class _Sdk:
    """What was imported, and a client that is ready for calls."""

    client: Any
    models: Any
    runtime: Any
    answered: type[Exception]
    unconnected: tuple[type[Exception], ...]
    no_credentials: type[Exception]


class Bss:
    """One account's bills. `credential`: as `bot.money.dsw.Dsw` takes it."""

    def __init__(self, *, endpoint: str = ENDPOINT, protocol: str = "https", credential: Any = None,
                 patience: float = PATIENCE) -> None:  # fmt: skip
        self._endpoint = endpoint
        self._protocol = protocol
        self._credential = credential
        self._patience = patience
        self._sdk: _Sdk | None = None

    async def charged(self, instance: str, day: date) -> float | None:
        """What it cost on that day, in yuan; None where no bill names it. Raises CallFailed."""
        asked = {
            "BillingCycle": f"{day:%Y-%m}", "BillingDate": day.isoformat(), "Granularity": "DAILY",
            "InstanceID": instance, "MaxResults": str(MOST),
        }  # fmt: skip
        amounts: list[float] = []
        token, seen = "", {""}
        while True:
            page = _page(await self._call(asked | ({"NextToken": token} if token else {})))
            amounts += [yuan(row) for row in page.rows if _is_of(row, instance, day)]
            token = page.following
            if not token:
                return math.fsum(amounts) if amounts else None
            if token in seen:
                raise CallFailed("the bill's pages come again and again: it can't be added up")
            seen.add(token)

    async def _call(self, query: dict[str, str]) -> Any:
        if self._sdk is None:
            self._sdk = await asyncio.to_thread(self._load)
        sdk = self._sdk
        params = sdk.models.Params(
            action=OPERATION, version="2017-12-14", protocol="HTTPS", pathname="/", method="POST", auth_type="AK",
            style="RPC", req_body_type="formData", body_type="json",
        )  # fmt: skip
        try:
            async with asyncio.timeout(self._patience):
                answer = await sdk.client.call_api_async(params, sdk.models.OpenApiRequest(query=query), sdk.runtime)
        except TimeoutError:
            raise Unanswered(f"{self._endpoint} did not answer {OPERATION} within {self._patience:g} s") from None
        except Exception as error:  # noqa: BLE001 - boundary: the SDK's libraries raise anything, with secrets inside
            raise self._failure(sdk, error) from None
        return answer.get("body")

    def _failure(self, sdk: _Sdk, error: Exception) -> CallFailed:
        if isinstance(error, sdk.answered):
            known: Any = error
            told = known.data or {}
            code, message = str(told.get("Code") or ""), str(told.get("Message") or known.message)
            action = str((told.get("AccessDeniedDetail") or {}).get("AuthAction") or "")
            return refused(Refusal(known.status_code or 0, code, message, action))
        cause = getattr(error, "inner_exception", error)
        if isinstance(cause, sdk.no_credentials):
            return CallFailed(f"no credentials for the bill: set {KEYS}, or write ~/.alibabacloud/credentials.ini")
        if isinstance(cause, sdk.unconnected):
            said = clean(re.sub(r" ssl:(<[^>]*>|\w+)", "", str(getattr(cause, "message", cause)))) or "it is silent"
            return Unanswered(f"{self._endpoint} can't be reached for {OPERATION} ({said}): is the network up?")
        return Unanswered(f"what {self._endpoint} answers to {OPERATION} can't be read ({type(cause).__name__})")

    def _load(self) -> _Sdk:
        models = import_module("alibabacloud_tea_openapi.utils_models")
        config = models.Config(
            credential=self._credential or import_module("alibabacloud_credentials.client").Client(),
            endpoint=self._endpoint, protocol=self._protocol, connect_timeout=CONNECT_MS, read_timeout=READ_MS,
        )  # fmt: skip
        logging.getLogger("credentials").disabled = True  # it prints traces, with handlers of its own
        proxy = NO_PROXY if direct(self._endpoint) else None
        return _Sdk(
            import_module("alibabacloud_tea_openapi.client").Client(config), models,
            import_module("darabonba.runtime").RuntimeOptions(http_proxy=proxy, https_proxy=proxy),
            import_module("alibabacloud_tea_openapi.exceptions").AlibabaCloudException,
            (import_module("darabonba.exceptions").RetryError, import_module("aiohttp").ClientError),
            import_module("alibabacloud_credentials.exceptions").CredentialException,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Page:
    rows: list[dict[str, Any]]
    following: str


def _page(body: Any) -> _Page:
    """An answer of HTTP 200 may say `Success: false`."""
    if isinstance(body, dict) and body.get("Success") is not True:
        raise refused(Refusal(0, str(body.get("Code") or "Success is not true"), str(body.get("Message") or "")))
    data = body.get("Data") if isinstance(body, dict) else None
    rows = data.get("Items") or [] if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Unanswered(f"the answer to {OPERATION} can't be read: it has no Data.Items")
    return _Page(rows, str(data.get("NextToken") or ""))


def _is_of(row: dict[str, Any], instance: str, day: date) -> bool:
    return row.get("InstanceID") == instance and row.get("BillingDate") in (day.isoformat(), "", None)


def yuan(row: dict[str, Any]) -> float:
    """What a row is to be paid with. Other money than yuan is none that we can reckon with."""
    currency, amount = row.get("Currency") or "CNY", row.get("PretaxAmount")
    if currency != "CNY":
        raise CallFailed(f"the bill is in {clean(str(currency))}: only yuan are understood, set dsw.billing = false")
    try:
        number = math.nan if isinstance(amount, bool) else float(amount)  # type: ignore[arg-type]  # None: TypeError
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise CallFailed(f"the bill tells {str(amount)[:40]!r} where an amount should be")
    return number


def refused(refusal: Refusal) -> Refused:
    """The error to raise, which names the cure and no secret."""
    passing = refusal.status >= 500 or refusal.status == 429 or "Throttling" in refusal.code
    code = clean(refusal.code) or f"HTTP {refusal.status}"
    return (Busy if passing else Refused)(f"Alibaba's billing refused {OPERATION} ({code}): {_cure(refusal)}")


def _cure(refusal: Refusal) -> str:
    if refusal.code.startswith("NotApplicable"):
        return "it is for accounts of aliyun.com, which pay in yuan: if yours is none, set dsw.billing = false"
    for pattern, cure in CURES:
        if re.match(pattern, refusal.code):
            return cure
    if refusal.status == 403 or re.match(RIGHT, refusal.code):
        action = clean(refusal.action) or f"bssapi:{OPERATION}"
        return f"allow the action {action} on the resource * to the RAM user or role whose access key is used"
    return clean(refusal.message) or "no reason is given"
