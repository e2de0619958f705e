"""A strict PAI-DSW API 2022-01-01 for tests, as alibabacloud_pai_dsw20220101 calls it.

    async with FakeDsw() as dsw:
        instance = dsw.add("dsw-1", status="Running")
        dsw.faults.once("StopInstance", THROTTLED)
        ...  # what calls dsw.address with dsw.key
        assert [call.operation for call in dsw.calls] == ["GetInstance", "StopInstance"]
        assert dsw.account.bill.yuan == 0 and dsw.world.deleted == []

It checks the signature of every request, and refuses what the API does not know: operations, methods, fields. Its time
is the clock's: with a `Clock`, a month passes at once. What DSW does where its documentation is silent is a guess:
https://www.alibabacloud.com/help/en/pai/developer-reference/api-pai-dsw-2022-01-01-overview
"""

import asyncio
import json
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote

from aiohttp import web

from tests.fakes.dsw_bill import Account, Spec
from tests.fakes.dsw_call import Call, Json, World
from tests.fakes.dsw_faults import OK, Fault, Faults, Refused
from tests.fakes.dsw_instance import Instance
from tests.fakes.dsw_operations import OPERATIONS, Operation
from tests.fakes.dsw_signature import AccessKey, Received, Signatures

VERSION = "2022-01-01"
CPU_SPEC = Spec(
    "ecs.g6.xlarge", yuan_per_hour=1.2, compute_hours_per_hour=0.58, accelerator="CPU", gpu_type="", gpus=0, cpus=4
)
NO_FREE_SPEC = Spec("ecs.gn6i-c4g1.xlarge", yuan_per_hour=11.84, compute_hours_per_hour=0.0, gpu_type="T4", cpus=4)


class Clock:
    """A time that stands still until it is set."""

    def __init__(self, now: datetime = datetime(2026, 11, 24, 10, tzinfo=UTC)) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, span: timedelta) -> datetime:
        self.now += span
        return self.now


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request. `operation` is what its header says; `code` is empty where it was done as asked."""

    operation: str
    instance: str
    query: dict[str, str]
    body: Json
    key: str
    at: datetime
    status: int
    code: str


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: Json


class FakeDsw:
    """Listens on 127.0.0.1. `denied`: the operations that its access keys have no right to."""

    def __init__(
        self, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC), account: Account | None = None,
        keys: Sequence[AccessKey] = (AccessKey(),), port: int = 0,
    ) -> None:  # fmt: skip
        specs = {spec.name: replace(spec) for spec in (Spec(), CPU_SPEC, NO_FREE_SPEC)}
        self.world = World(clock, account or Account(), specs, {})
        self.key = keys[0]
        self.signatures = Signatures(keys)
        self.faults = Faults()
        self.denied: set[str] = set()
        self.calls: list[Recorded] = []
        self.address = ""  # what dsw.endpoint takes
        self._port = port
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.02)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True).start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    @property
    def account(self) -> Account:
        """With the bill up to now."""
        self.world.settle()
        return self.world.account

    @property
    def environment(self) -> dict[str, str]:
        """What a process is started with to call it."""
        secrets = {"ID": self.key.id, "SECRET": self.key.secret}
        found = {f"ALIBABA_CLOUD_ACCESS_KEY_{name}": value for name, value in secrets.items()}
        found |= {"ALIBABA_CLOUD_SECURITY_TOKEN": self.key.token} if self.key.token else {}
        return found | {"DSWBOT_DSW__ENDPOINT": self.address, "DSWBOT_DSW__PROTOCOL": "http"}

    def add(self, name: str, *, spec: str = Spec().name, **given: Any) -> Instance:
        """A new instance, Running if nothing else is said."""
        one = Instance(name, self.world.account, self.world.specs[spec], self.world.clock(), **given)
        self.world.instances[name] = one
        return one

    def done(self, operation: str) -> list[Recorded]:
        """The calls of it that were not refused."""
        return [call for call in self.calls if call.operation == operation and not call.code]

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = [(name.lower(), value) for name, value in request.headers.items()]
        path, _, query = request.raw_path.partition("?")
        if path.startswith("http://"):  # as a proxy is asked
            path = "/" + path.split("/", 3)[3]
        received = Received(request.method, path, query, headers, body)
        claimed = request.headers.get("x-acs-action", "")
        fault = self.faults.take(claimed)
        await asyncio.sleep(3600 if fault.hang else fault.slow)
        if fault.reset == "before":
            return _cut(request)
        answer = self._answer(received, claimed, fault)
        if fault.reset == "after":
            return _cut(request)
        raw = json.dumps(answer.body).encode() if fault.body is None else fault.body
        return web.Response(
            status=answer.status, body=raw, headers=fault.headers, content_type="application/json", charset="utf-8"
        )

    def _answer(self, received: Received, claimed: str, fault: Fault) -> _Answer:
        request_id = str(uuid.uuid4()).upper()
        call, key = None, ""
        try:
            key = self.signatures.check(received)
            operation, call = self._call(received, claimed)
            self._check_fault(claimed, fault)
            if fault.ignored and operation.writes:
                told: Json = {"InstanceId": call.path.get("InstanceId", "")}
            else:
                told = operation.run(call)
            body = {"Success": True, "Code": "null", "Message": "", "HttpStatusCode": 200} | told | dict(fault.says)
            answer, code = _Answer(200, body | {"RequestId": request_id}), ""
        except Refused as refused:
            answer, code = self._refusal(refused, request_id), refused.code
        fields = (call.path.get("InstanceId", ""), dict(call.query), call.body) if call else ("", {}, {})
        at = self.world.clock()
        self.calls.append(Recorded(claimed, *fields, key=key, at=at, status=answer.status, code=code))
        return answer

    def _refusal(self, refused: Refused, request_id: str) -> _Answer:
        body: Json = {"RequestId": request_id, "Code": refused.code, "Message": refused.message}
        if refused.status == 200:
            return _Answer(200, body | {"Success": False, "HttpStatusCode": 400})
        body |= {"HostId": self.address, "Recommend": f"https://api.aliyun.com/troubleshoot?q={refused.code}"}
        return _Answer(refused.status, body | ({"AccessDeniedDetail": refused.detail} if refused.detail else {}))

    def _check_fault(self, operation: str, fault: Fault) -> None:
        if operation in self.denied:
            detail = {"AuthAction": f"paidsw:{operation}", "NoPermissionType": "ImplicitDeny"}
            raise Refused(403, "Forbidden.RAM", "User not authorized to operate on the resource.", detail=detail)
        if fault.status != OK.status or fault.code:
            raise Refused(fault.status, fault.code or "InternalError", fault.message)

    def _call(self, received: Received, claimed: str) -> tuple[Operation, Call]:
        """Raises Refused where the API knows no such call."""
        operation = OPERATIONS.get(claimed)
        if operation is None:
            raise Refused(404, "InvalidAction.NotFound", f"Specified api is not found: {claimed}.")
        if received.header("x-acs-version") != VERSION:
            raise Refused(400, "InvalidVersion", "Specified parameter Version is not valid.")
        names = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", operation.path)
        match = re.fullmatch(names, received.path)
        if not match or received.method != operation.method:
            raise Refused(404, "InvalidAction.NotFound", f"{claimed} is no {received.method} {received.path}.")
        query = dict(parse_qsl(received.query, keep_blank_values=True))
        body = self._body(received)
        for name in (query.keys() - operation.query) | (body.keys() - operation.body):
            raise Refused(400, "InvalidParameter", f"{claimed} knows no {name}.")
        path = {name: unquote(value) for name, value in match.groupdict().items()}
        return operation, Call(self.world, self.world.settle(), path, query, body)

    def _body(self, received: Received) -> Json:
        if not received.body:
            return {}
        if not received.header("content-type").startswith("application/json"):
            raise Refused(415, "UnsupportedMediaType", "The body must be JSON.")
        try:
            body = json.loads(received.body)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise Refused(400, "ValidationError", "The body is no JSON object.")
        return body


def _cut(request: web.Request) -> web.StreamResponse:
    if request.transport:
        request.transport.abort()
    return web.Response()
