"""Alibaba's request signature ACS3-HMAC-SHA256, checked by what its documentation says and not by the SDK's own code.

https://www.alibabacloud.com/help/en/sdk/product-overview/v3-request-structure-and-signature
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote

from tests.fakes.dsw_faults import Refused

ALGORITHM = "ACS3-HMAC-SHA256"
AUTHORIZATION = re.compile(
    rf"{ALGORITHM} Credential=(?P<key>[^,]+),SignedHeaders=(?P<signed>[a-z0-9;-]+),"
    r"Signature=(?P<signature>[0-9a-f]{64})"
)
SKEW = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class AccessKey:
    """`token`: for temporary credentials, the security token that has to come along."""

    id: str = "LTAI5tFakeAccessKeyId0000"
    secret: str = "fakeAccessKeySecret00000000000"
    token: str = ""


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it arrived. `path`, `query`: as they were sent, still encoded; header names in lower case."""

    method: str
    path: str
    query: str
    headers: Sequence[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        """Refuses a request that has it twice."""
        values = [value for one, value in self.headers if one == name]
        if len(values) > 1:
            raise Refused(400, "InvalidParameter", f"The header {name} is given {len(values)} times.")
        return values[0] if values else ""


class Signatures:
    """Knows the access keys, and every nonce that was used."""

    def __init__(self, keys: Sequence[AccessKey], clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.keys = {key.id: key for key in keys}
        self.clock = clock
        self._nonces: set[str] = set()

    def check(self, request: Received) -> str:
        """The id of the access key that has signed it. Raises Refused."""
        for name in ("x-acs-date", "x-acs-signature-nonce", "x-acs-content-sha256", "x-acs-action", "x-acs-version"):
            if not request.header(name):
                raise Refused(400, f"Missing{name.title().replace('-', '')}", f"The header {name} is missing.")
        match = AUTHORIZATION.fullmatch(request.header("authorization"))
        if not match:
            raise Refused(400, "IncompleteSignature", "The request signature does not conform to Aliyun standards.")
        key = self.keys.get(match["key"])
        if key is None:
            raise Refused(404, "InvalidAccessKeyId.NotFound", "Specified access key is not found.")
        self._check_token(request, key)
        self._check_time(request.header("x-acs-date"))
        if request.header("x-acs-content-sha256") != hashlib.sha256(request.body).hexdigest():
            raise Refused(400, "InvalidContentSHA256", "The body does not have the hash that was signed.")
        self._check_signature(request, key, match["signed"].split(";"), match["signature"])
        nonce = request.header("x-acs-signature-nonce")
        if nonce in self._nonces:
            raise Refused(400, "SignatureNonceUsed", "Specified signature nonce was used already.")
        self._nonces.add(nonce)
        return key.id

    def _check_token(self, request: Received, key: AccessKey) -> None:
        token = request.header("x-acs-security-token")
        if key.token and not token:
            raise Refused(400, "MissingSecurityToken", "SecurityToken is mandatory for this action.")
        if token != key.token:
            raise Refused(400, "InvalidSecurityToken.MismatchWithAccessKey", "Specified SecurityToken mismatch.")
        if token and request.header("x-acs-accesskey-id") != key.id:
            raise Refused(400, "InvalidParameter", "x-acs-accesskey-id is not the key that has signed.")

    def _check_time(self, text: str) -> None:
        try:
            at = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        except ValueError:
            raise Refused(400, "InvalidTimeStamp.Format", "Specified time stamp is malformed.") from None
        if abs(self.clock() - at) > SKEW:
            raise Refused(400, "InvalidTimeStamp.Expired", "Specified time stamp or date value is expired.")

    def _check_signature(self, request: Received, key: AccessKey, signed: Sequence[str], given: str) -> None:
        present = {name for name, _ in request.headers}
        # Not content-type: aiohttp adds one to the SDK's requests without a body, after they were signed.
        needed = {"host"} | {name for name in present if name.startswith("x-acs-")}
        if list(signed) != sorted(set(signed)) or not set(signed) <= present or not needed <= set(signed):
            raise Refused(400, "IncompleteSignature", "SignedHeaders must be sorted, and name host and all x-acs-.")
        canonical = "\n".join(
            (request.method, request.path, _query(request.query), _headers(request, signed), ";".join(signed),
             request.header("x-acs-content-sha256"))
        )  # fmt: skip
        to_sign = f"{ALGORITHM}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        if not hmac.compare_digest(hmac.new(key.secret.encode(), to_sign.encode(), hashlib.sha256).hexdigest(), given):
            shown = canonical.replace("\n", "\\n")
            raise Refused(
                400, "SignatureDoesNotMatch",
                f"Specified signature does not match our calculation. server signString is [{to_sign}], "
                f"server canonicalRequest is [{shown}], your signature is [{given}].",
            )  # fmt: skip


def _query(raw: str) -> str:
    pairs = sorted(parse_qsl(raw, keep_blank_values=True, strict_parsing=bool(raw)))
    return "&".join(f"{quote(name, safe='~')}={quote(value, safe='~')}" for name, value in pairs)


def _headers(request: Received, signed: Sequence[str]) -> str:
    found: Mapping[str, list[str]] = {name: [] for name in signed}
    for name, value in request.headers:
        if name in found:
            found[name].append(value.strip())
    return "".join(f"{name}:{','.join(sorted(found[name]))}\n" for name in signed)
