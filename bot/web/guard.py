"""Where callbacks may go: public addresses, and the hosts that `webhooks.allow_hosts` names.

A callback's URL is text, and where its host leads to may change between two looks at it: so the text is checked
before each try, and every address at the moment when it is dialled.
"""

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

import aiohttp
from yarl import URL

from bot.errors import DswbotError

HOST = re.compile(r"(?=.{1,253}\Z)([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?", re.IGNORECASE)
LONGEST_URL = 2000

# Whoever can read what these say has the machine's credentials.
METADATA = [
    ip_network(name)
    for name in (
        "169.254.0.0/16", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254",
        "64:ff9b:1::/48",  # translates as its network pleases, perhaps to one of them
    )
]  # fmt: skip
# What Python calls global in some of its versions, and is not: protocols of the IETF, relays of 6to4, examples.
NOT_PUBLIC = [ip_network(name) for name in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "3fff::/20")]
PUBLIC_V6 = ip_network("2000::/3")
NAT64 = IPv6Network("64:ff9b::/96")
IN_V6 = IPv6Network("::/96")


class CallbackUrlRefused(DswbotError):
    """A callback URL looks like https://example.com/replies."""


class Blocked(OSError):
    """An address is not dialled."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be tried; `trusted` where the operator names its host."""

    url: URL
    trusted: bool


def target(text: str, allow_hosts: Sequence[str]) -> Target:
    """Reads a callback URL. Raises CallbackUrlRefused with the cure."""
    if len(text) > LONGEST_URL or not text.isprintable() or " " in text:
        raise CallbackUrlRefused
    try:
        url = URL(text)
    except ValueError:
        raise CallbackUrlRefused from None
    host = url.raw_host or ""
    address = _address(host)
    if url.scheme not in ("http", "https") or not (address or HOST.fullmatch(host)):
        raise CallbackUrlRefused
    if url.raw_user is not None or url.raw_password is not None:
        raise CallbackUrlRefused("A callback URL has no user and password: callbacks are signed.")
    allowed = Target(url, trusted=_named(url, allow_hosts))
    if url.scheme == "http" and not allowed.trusted:
        raise CallbackUrlRefused(f"Callbacks go to https; for http, name {host} in webhooks.allow_hosts.")
    if address and not permitted(host, trusted=allowed.trusted):
        raise refusal(allowed)
    return allowed


def refusal(refused: Target) -> CallbackUrlRefused:
    """Why a target whose address is not permitted is refused."""
    if refused.trusted:
        return CallbackUrlRefused(f"{refused.url.host} leads to a metadata service: callbacks never go there.")
    return CallbackUrlRefused(
        f"{refused.url.host} leads to an internal address: if callbacks may go there, name it in webhooks.allow_hosts."
    )


def permitted(text: str, *, trusted: bool) -> bool:
    """Whether an IP address may be dialled."""
    address = _meant(ip_address(text))
    if any(address in network for network in METADATA):
        return False
    if trusted:
        return True
    public = isinstance(address, IPv4Address) or address in PUBLIC_V6
    hidden = address.is_multicast or any(address in network for network in NOT_PUBLIC)
    return public and address.is_global and not hidden


def connector(*, trusted: bool) -> aiohttp.TCPConnector:
    """Connections to what is permitted: aiohttp asks for a socket for each address that it is about to dial."""

    def dial(info: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, address = info
        if not permitted(str(address[0]), trusted=trusted):
            raise Blocked("not permitted")  # always the same words: aiohttp keeps the type of errors that agree
        return socket.socket(family, kind, protocol)

    return aiohttp.TCPConnector(socket_factory=dial, limit=0)  # no limit: those who hang must not delay the others


def _named(url: URL, allow_hosts: Sequence[str]) -> bool:
    names = {url.host, url.raw_host, url.host_subcomponent}
    names |= {f"{name}:{url.port}" for name in names}
    return any(name.lower() in names for name in allow_hosts)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _meant(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 address stands for, where it stands for one."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64 or address in IN_V6:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
