"""Why a call to DSW failed, in one line that names the cure and no secret. Pure."""

import re
from dataclasses import dataclass

from bot.money.instance import CallFailed

MOST = 200  # characters of what the server says
KEYS = "ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET"
# Servers quote what they were sent: key ids, tokens, signatures, and proxies come with passwords.
SECRET = re.compile(r"(?<=://)[^/@\s]+(?=@)|LTAI\w+|STS\.\w+|(?=[A-Za-z+/=_-]*\d)[\w+/=-]{24,}")
THROTTLED = re.compile(r"Throttling|TooManyRequests|FlowControl", re.IGNORECASE)
PASSING = re.compile(r"InternalError|ServiceUnavailable|SystemError|SignatureNonceUsed")
CURES: tuple[tuple[str, str], ...] = (
    (r"InvalidAccessKeyId|InvalidCredentials", f"the access key is unknown or disabled: put a valid one into {KEYS}"),
    (r"SignatureDoesNotMatch|IncompleteSignature", f"the access key's secret is wrong: copy it again into {KEYS}"),
    (r".*SecurityToken", "the temporary credentials are wrong or have run out: get new ones, and restart"),
    (r"InvalidTimeStamp", "this machine's clock is wrong: set it, best by NTP"),
    (r"SignatureNonceUsed", "the connection broke and it was sent twice: whether it was done is not known"),
    (r"InvalidRegion|InvalidAction|InvalidVersion", "this endpoint is no DSW: put right dsw.region or dsw.endpoint"),
)


class Refused(CallFailed):
    """DSW has answered, and did not do it."""


class Busy(Refused):
    """It may do so a moment later."""


class Unanswered(CallFailed):
    """No answer that can be read has come: whether it was done is not known."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What DSW answered. `action`: the right that is missing, where it says so."""

    status: int
    code: str
    message: str
    action: str = ""


def refused(operation: str, refusal: Refusal) -> Refused:
    """The error to raise. `operation`: as DSW names it, "StopInstance"."""
    kind = Busy if refusal.status >= 500 or PASSING.match(refusal.code) or _throttled(refusal) else Refused
    code = clean(refusal.code) or f"HTTP {refusal.status}"
    return kind(f"DSW refused {operation} ({code}): {_cure(operation, refusal)}")


def _throttled(refusal: Refusal) -> bool:
    return refusal.status == 429 or bool(THROTTLED.search(refusal.code))


def _cure(operation: str, refusal: Refusal) -> str:
    for pattern, cure in CURES:
        if re.match(pattern, refusal.code):
            return cure
    if refusal.status == 403 or re.match(r"Forbidden|NoPermission|AccessDenied|Unauthorized", refusal.code):
        action = refusal.action or f"paidsw:{operation}"
        return f"allow the action {clean(action)} on the resource * to the RAM user or role whose access key is used"
    if _throttled(refusal):
        return "too many calls are made to the account's API: it is called less often for a while"
    said = clean(refusal.message) or "no reason is given"
    if refusal.status == 404:
        return f"{said} (is it the right dsw.instance_id, in the right dsw.region?)"
    return said


def clean(text: str) -> str:
    """What a server or a library says, in one line, cut to size, with what may be a secret left out."""
    line = SECRET.sub("***", " ".join(text.split()))
    return line if len(line) <= MOST else line[: MOST - 1] + "…"
