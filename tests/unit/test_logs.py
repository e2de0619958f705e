"""A log that can't be written is no reason for anything to fail."""

import subprocess
import sys
from pathlib import Path

import pytest

SPEAK = """
import logging, structlog
from bot import logs
logs.configure()
structlog.get_logger().warning("one", number=1)
logging.getLogger("library").warning("two \\udc80")
print("after")
"""


def test_a_log_on_a_full_disk_is_lost_and_nothing_else() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", SPEAK], stdout=subprocess.PIPE, stderr=full, check=False, text=True
        )
    assert (done.returncode, done.stdout) == (0, "after\n")


@pytest.mark.parametrize("part", ["event=one number=1", "two \\udc80"])
def test_every_line_is_written_at_once(part: str) -> None:
    done = subprocess.run([sys.executable, "-c", SPEAK], capture_output=True, check=True, text=True)
    assert part in done.stderr
    assert done.stderr.count("\n") == 2
