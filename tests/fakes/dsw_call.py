"""A call to the fake DSW, once it is known to be one: what it asks for, and of whom."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from tests.fakes.dsw_bill import Account, Spec
from tests.fakes.dsw_faults import Refused
from tests.fakes.dsw_instance import Instance

T = TypeVar("T")

Json = dict[str, Any]
ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z")
PAGE = 10  # what a list gives where no size is asked for


def seconds(at: datetime) -> str:
    """How DSW writes times, as its documentation shows."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def millis(at: datetime) -> str:
    at = at.astimezone(UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z"


@dataclass
class World:
    """What the API speaks of. `stamp`: how it writes times."""

    clock: Callable[[], datetime]
    account: Account
    specs: dict[str, Spec]
    instances: dict[str, Instance]
    stamp: Callable[[datetime], str] = seconds
    deleted: list[str] = field(default_factory=list)  # nobody must ever delete

    def settle(self) -> datetime:
        """Lets happen what is due by now."""
        now = self.clock()
        for instance in self.instances.values():
            instance.settle(now)
        return now


@dataclass(frozen=True, slots=True)
class Call:
    """One call, checked: `path` holds the names in the path, the fields are strings in `query`, JSON in `body`."""

    world: World
    now: datetime
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Json

    @property
    def instance(self) -> Instance:
        found = self.world.instances.get(self.path["InstanceId"])
        if found is None:
            raise Refused(404, "InstanceNotFound", f"The instance {self.path['InstanceId']} does not exist.")
        return found

    def whole(self, name: str, given: object, least: int, most: int = 2**53) -> int:
        """A whole number in a field."""
        text = str(given) if isinstance(given, (str, int)) and not isinstance(given, bool) else ""
        if not re.fullmatch(r"\d+", text) or not least <= int(text) <= most:
            raise Refused(400, "ValidationError", f"{name} is {given!r}.")
        return int(text)

    def time(self, name: str) -> datetime | None:
        if name not in self.query:
            return None
        if not ISO.fullmatch(self.query[name]):
            raise Refused(400, "ValidationError", f"{name} is {self.query[name]!r}.")
        return datetime.fromisoformat(self.query[name])

    def page(self, found: list[T]) -> list[T]:
        """The part of a list that is asked for."""
        size = self.whole("PageSize", self.query.get("PageSize", str(PAGE)), 1, 100)
        number = self.whole("PageNumber", self.query.get("PageNumber", "1"), 1)
        return found[(number - 1) * size : number * size]
