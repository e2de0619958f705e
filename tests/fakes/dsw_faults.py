"""What goes wrong in the fake DSW: refusals by its rules, and faults that a test orders."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


class Refused(Exception):
    """The operation is not done; answered with an HTTP status, a code and a message."""

    def __init__(self, status: int, code: str, message: str, *, detail: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Fault:
    """How one call goes wrong. Without any of these it goes as it should.

    `status`, `code`, `message`: it is refused so; with status 200 it is answered with `Success: false`.
    `slow`: seconds before it is looked at. `hang`: it is never answered. `reset`: the connection breaks before the
    operation, or after it. `ignored`: it is answered as if it were done. `says`: overrides fields of a right answer.
    `body`: the answer's body, as it is.
    """

    status: int = 200
    code: str = ""
    message: str = "a fault"
    headers: Mapping[str, str] = field(default_factory=dict)
    slow: float = 0
    hang: bool = False
    reset: Literal["", "before", "after"] = ""
    ignored: bool = False
    says: Mapping[str, object] = field(default_factory=dict)
    body: bytes | None = None


OK = Fault()
HANG = Fault(hang=True)
THROTTLED = Fault(429, "Throttling.User", "Request was denied due to user flow control.")


class Faults:
    """By operation, as DSW names them: those of the next calls, then what holds until it is healed."""

    def __init__(self) -> None:
        self._next: dict[str, deque[Fault]] = {}
        self._standing: dict[str, Fault] = {}

    def once(self, operation: str, *faults: Fault) -> None:
        """The next calls of it, one after the other."""
        self._next.setdefault(operation, deque()).extend(faults)

    def until_healed(self, operation: str, fault: Fault) -> None:
        self._standing[operation] = fault

    def heal(self, operation: str = "") -> None:
        """Ends what stands for it, or for all of them."""
        if operation:
            self._standing.pop(operation, None)
            self._next.pop(operation, None)
        else:
            self._standing.clear()
            self._next.clear()

    def take(self, operation: str) -> Fault:
        waiting = self._next.get(operation)
        return waiting.popleft() if waiting else self._standing.get(operation, OK)
