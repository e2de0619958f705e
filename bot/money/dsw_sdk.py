"""Calls to the DSW API through Alibaba's SDK, with a limit of time, and with its ways put right.

It raises nothing for an answer of HTTP 200 that says `Success: false`; it reads HTTP_PROXY but not NO_PROXY; it retries
nothing, and bounds only connecting and reading. Importing it takes a second: it is done at the first call, in a thread.
"""

import asyncio
import ipaddress
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit
from urllib.request import proxy_bypass

from bot.config import Dsw
from bot.money.dsw_refusal import KEYS, Busy, Refusal, Unanswered, clean, refused
from bot.money.instance import CallFailed

PAUSES = (0.3, 1.0)  # seconds before a read is tried again
CONNECT_MS, READ_MS = 5_000, 10_000
# The SDK takes an unset proxy from the environment. aiohttp takes this for an address, and then for an empty one.
NO_PROXY = "#"


@dataclass(frozen=True, slots=True)
class _Sdk:
    """What was imported, and a client that is ready for calls."""

    client: Any
    models: Any
    runtime: Any
    answered: type[Exception]
    unconnected: tuple[type[Exception], ...]
    no_credentials: type[Exception]


class DswCalls:
    """One account's API in one region. `patience`: seconds for a call, with all its tries.

    `credential`: a client of alibabacloud_credentials; where it is None, what Alibaba's default chain finds.
    """

    def __init__(self, settings: Dsw, *, region: str, credential: Any, patience: float) -> None:
        self._settings = settings
        self._region = region
        self._credential = credential
        self._patience = patience
        self._sdk: _Sdk | None = None
        self._loading = asyncio.Lock()

    async def read(self, operation: str, *path: str, **fields: object) -> Any:
        """The answer's body, as the SDK's model. `fields`: the request's, as the SDK names them.

        Tries again where that may help. Raises CallFailed.
        """
        async with self._limit(operation):
            for pause in PAUSES:
                try:
                    return await self._call(operation, path, fields)
                except (Busy, Unanswered):
                    await asyncio.sleep(pause)
            return await self._call(operation, path, fields)

    async def write(self, operation: str, *path: str, **fields: object) -> None:
        """Once: where no answer comes, it may be done or not. Raises CallFailed."""
        async with self._limit(operation):
            await self._call(operation, path, fields)

    @asynccontextmanager
    async def _limit(self, operation: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._patience):
                yield
        except TimeoutError:
            raise Unanswered(f"DSW did not answer {operation} within {self._patience:g} s") from None

    async def _call(self, operation: str, path: tuple[str, ...], fields: dict[str, object]) -> Any:
        sdk = await self._ready()
        method = getattr(sdk.client, re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower() + "_with_options_async")
        request = getattr(sdk.models, operation + "Request", None)
        given = (*path, request(**fields)) if request else path
        try:
            response = await method(*given, {}, sdk.runtime)
        except Exception as error:  # noqa: BLE001 - boundary: the SDK's libraries raise anything, with secrets inside
            raise self._failure(sdk, operation, error) from None
        body = response.body
        if body is None:
            raise Unanswered(f"DSW's answer to {operation} can't be read")
        if body.success is not True:
            status = getattr(body, "http_status_code", None) or 0
            raise refused(operation, Refusal(status, body.code or "Success is not true", body.message or ""))
        return body

    def _failure(self, sdk: _Sdk, operation: str, error: Exception) -> CallFailed:
        if isinstance(error, sdk.answered):
            known: Any = error
            told = known.data or {}
            detail = told.get("AccessDeniedDetail") or {}
            message = str(told.get("Message") or told.get("message") or known.message)
            action = str(detail.get("AuthAction") or "")
            return refused(operation, Refusal(known.status_code or 0, str(known.code), message, action))
        cause = getattr(error, "inner_exception", error)
        if isinstance(cause, sdk.no_credentials):
            return CallFailed(
                f"no credentials for DSW: set {KEYS}, or write ~/.alibabacloud/credentials.ini, or give this machine "
                "a RAM role"
            )
        where = self._settings.endpoint or f"the endpoint of dsw.region {self._region}"
        if isinstance(cause, sdk.unconnected):
            said = clean(re.sub(r" ssl:(<[^>]*>|\w+)", "", str(getattr(cause, "message", cause)))) or "it is silent"
            return Unanswered(f"{where} can't be reached for {operation} ({said}): is it right, and the network up?")
        return Unanswered(f"what {where} answers to {operation} is not DSW's ({type(cause).__name__}): is it right?")

    async def _ready(self) -> _Sdk:
        if not self._settings.endpoint and not self._region:
            raise CallFailed("dsw.region is not set: put there where the instance is, like cn-hangzhou")
        async with self._loading:
            if self._sdk is None:
                self._sdk = await asyncio.to_thread(self._load)
            return self._sdk

    def _load(self) -> _Sdk:
        settings = self._settings
        credential = self._credential or import_module("alibabacloud_credentials.client").Client()
        config = import_module("alibabacloud_tea_openapi.utils_models").Config(
            credential=credential, region_id=self._region, endpoint=settings.endpoint or None,
            protocol=settings.protocol, connect_timeout=CONNECT_MS, read_timeout=READ_MS,
        )  # fmt: skip
        client = import_module("alibabacloud_pai_dsw20220101.client").Client(config)
        logging.getLogger("credentials").disabled = True  # it prints traces, with handlers of its own
        proxy = NO_PROXY if direct(settings.endpoint or f"pai-dsw.{self._region}.aliyuncs.com") else None
        return _Sdk(
            client, import_module("alibabacloud_pai_dsw20220101.models"),
            import_module("darabonba.runtime").RuntimeOptions(http_proxy=proxy, https_proxy=proxy),
            import_module("alibabacloud_tea_openapi.exceptions").AlibabaCloudException,
            (import_module("darabonba.exceptions").RetryError, import_module("aiohttp").ClientError),
            import_module("alibabacloud_credentials.exceptions").CredentialException,
        )  # fmt: skip


def direct(endpoint: str) -> bool:
    """Whether no proxy is to be used: for this machine itself, and where NO_PROXY says so. `endpoint`: host:port."""
    host = urlsplit(f"//{endpoint}").hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or bool(proxy_bypass(host))
