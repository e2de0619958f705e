"""Who is calling: API keys with scopes. Nothing is served to somebody unknown."""

import hashlib
from functools import partial

from aiohttp import web

from bot.web.errors import ApiError
from bot.web.lately import Lately
from storage import keys
from storage.database import Database
from storage.keys import KeyInfo

NO_KEY = "A key is needed, as `Authorization: Bearer KEY`; `dswbot key new NAME` makes one."


class Keys:
    """Checks the `Authorization: Bearer` header against the database."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._lately: Lately[KeyInfo] = Lately()

    async def of(self, request: web.Request) -> KeyInfo | None:
        """The valid key of a request, if it has one."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return None
        plaintext = token.strip()
        return await self._lately.get(hashlib.sha256(plaintext.encode("utf-8", "replace")).digest(),
                                      partial(self._valid, plaintext))  # fmt: skip

    async def _valid(self, plaintext: str) -> KeyInfo | None:
        async with self._db.read() as session:
            return await keys.authenticate(session, plaintext)

    async def require(self, request: web.Request, scope: str | None = None) -> KeyInfo:
        """The key, which must have this scope, if one is asked for, or admin. Raises ApiError 401, 403."""
        key = await self.of(request)
        if key is None:
            sent = "Authorization" in request.headers
            raise ApiError(
                401,
                "This key is not valid: make one with `dswbot key new NAME`." if sent
                else NO_KEY,
                code="invalid_api_key" if sent else "missing_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        if scope and key.scope not in (scope, "admin"):
            raise ApiError(
                403,
                f"This key has the scope {key.scope}; this call needs {scope}: `dswbot key new NAME --scope {scope}`.",
                code="wrong_scope",
            )  # fmt: skip
        return key
