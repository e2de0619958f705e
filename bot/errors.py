"""What an operator or a user may be told. A class's docstring is its message, in one line that says what to do."""


class DswbotError(Exception):
    """Something went wrong."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__ or "")


class ConfigError(DswbotError):
    """The configuration can't be used."""


class AlreadyRunning(DswbotError):
    """Another dswbot already uses this data directory: stop it, or set DSWBOT_DATA_DIR to another one."""


class PortTaken(DswbotError):
    """The address is in use: stop what listens there, or set DSWBOT_SERVER__PORT to another port."""


class ProxyInvalid(ConfigError):
    """telegram.proxy is not an address: it looks like socks5://127.0.0.1:1080 or http://host:port."""


class TelegramRefused(DswbotError):
    """Telegram does not accept the token: copy it again from @BotFather into telegram.token."""
