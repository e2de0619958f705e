"""What can go wrong with what is kept. A class's docstring is its message, in one line that says what to do."""


class StorageError(Exception):
    """The database can't be used."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__ or "")


class DatabaseUnavailable(StorageError):
    """The database does not answer; what was accepted is safe, try again shortly."""


class DatabaseStarting(DatabaseUnavailable):
    """The database is starting; try again shortly."""


class DatabaseRefused(StorageError):
    """The database does not take this, however often it is asked."""


class DatabaseDamaged(StorageError):
    """The database is damaged: restore a backup."""


class DatabaseMissing(StorageError):
    """There is no database yet: `dswbot serve` or `dswbot db upgrade` makes it."""


class DatabaseUrlInvalid(StorageError):
    """database.url is not understood: it looks like sqlite+aiosqlite:///path or postgresql+asyncpg://user@host/name."""


class DatabaseNewer(StorageError):
    """The database was made by a newer dswbot: install that version, or point data_dir or database.url elsewhere."""


class DatabaseOlder(StorageError):
    """The database has an older schema: `dswbot db upgrade` brings it up to date."""


class DatabaseInconsistent(StorageError):
    """The database has rows that refer to none: restore a backup; nothing was changed."""


class ClaimLost(StorageError):
    """Another process has taken this message over."""


class Forgotten(StorageError):
    """The message has been deleted."""


class DuplicateName(StorageError):
    """The name is taken."""


class InvalidName(StorageError):
    """A client's name has 1 to 64 letters, digits, dots, dashes and underscores."""


class UnknownName(StorageError):
    """There is nothing of that name."""
