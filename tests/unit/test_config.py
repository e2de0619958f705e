"""The configuration: the environment wins, and whatever is wrong is refused by name."""

from pathlib import Path

import pytest

from bot.config import load
from bot.errors import ConfigError


def test_defaults_are_safe():
    settings = load({})
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8080)
    assert settings.dsw.dry_run
    assert not settings.dsw.allow_stop
    assert not settings.dsw.billing
    assert settings.telegram.allowed == settings.telegram.admins == ()


def test_the_environment_wins_over_the_file(tmp_path: Path):
    file = tmp_path / "dswbot.toml"
    file.write_text('data_dir = "/a"\n[server]\nport = 1\nhost = "::1"\n[idle]\nafter = "2h"\n')
    settings = load({
        "DSWBOT_CONFIG": str(file), "DSWBOT_SERVER__PORT": "2", "DSWBOT_DATA_DIR": "/b",
        "DSWBOT_TELEGRAM__ADMINS": "1, 22", "DSWBOT_SERVER__MAX_BODY": "2MiB", "DSWBOT_DSW__DRY_RUN": "false",
    })  # fmt: skip
    assert (settings.server.host, settings.server.port, settings.server.max_body) == (
        "::1",
        2,
        2 * 1024 * 1024,
    )
    assert (settings.data_dir, settings.idle.after, settings.telegram.admins) == ("/b", 7200, (1, 22))
    assert not settings.dsw.dry_run


def test_conversations_are_kept_for_ever_unless_told_otherwise():
    assert load({}).database.keep is None
    assert load({"DSWBOT_DATABASE__KEEP": "4d"}).database.keep == 4 * 86400
    assert load({"DSWBOT_DATABASE__KEEP": "90d"}).database.keep == 90 * 86400


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"DSWBOT_SERVER__PROT": "1"}, "DSWBOT_SERVER__PROT"),
        ({"DSWBOT_NONSENSE": "1"}, "DSWBOT_NONSENSE"),
        ({"DSWBOT_SERVER__PORT": "x"}, "server.port"),
        ({"DSWBOT_SERVER__PORT": "70000"}, "server.port"),
        ({"DSWBOT_IDLE__AFTER": "15"}, "idle.after"),
        ({"DSWBOT_IDLE__AFTER": "0s"}, "idle.after"),
        ({"DSWBOT_IDLE__TIMEZONE": "Mars/Olympus"}, "idle.timezone"),
        ({"DSWBOT_MODEL__SLOTS": "0"}, "model.slots"),
        ({"DSWBOT_MODEL__LORA": "x.gguf"}, "model.lora"),
        ({"DSWBOT_DATABASE__KEEP": "95h"}, "database.keep"),
        ({"DSWBOT_DATABASE__KEEP": "for ever"}, "database.keep"),
        ({"DSWBOT_TELEGRAM__ADMINS": "ann"}, "telegram.admins"),
        ({"DSWBOT_BUDGET__DISK_YUAN_PER_HOUR": "-0.1"}, "budget.disk_yuan_per_hour"),
        ({"DSWBOT_BUDGET__DISK_YUAN_PER_HOUR": "nan"}, "budget.disk_yuan_per_hour"),
        ({"DSWBOT_DSW__BILLING": "perhaps"}, "dsw.billing"),
        ({"DSWBOT_CONFIG": "/nowhere/dswbot.toml"}, "/nowhere/dswbot.toml"),
    ],
)
def test_what_is_wrong_is_named(environ: dict[str, str], told: str):
    with pytest.raises(ConfigError, match=told.replace(".", r"\.")):
        load(environ)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[servr]\nport = 1\n", "servr"),
        ("[server]\nprt = 1\n", "prt"),
        ('[server]\nport = "1"\n', "server.port"),
        ("=", "TOML"),
    ],
)
def test_what_is_wrong_in_the_file_is_named_with_the_file(tmp_path: Path, text: str, told: str):
    file = tmp_path / "dswbot.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=told) as raised:
        load({"DSWBOT_CONFIG": str(file)})
    assert str(file) in str(raised.value)


def test_secrets_do_not_show_themselves():
    settings = load({"DSWBOT_TELEGRAM__TOKEN": "1:hush", "DSWBOT_DATABASE__URL": "postgresql+asyncpg://u:hush@h/d"})
    assert "hush" not in repr(settings)
    assert settings.telegram.token == "1:hush"
