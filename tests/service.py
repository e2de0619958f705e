"""The real service as a process, for tests that talk to it from outside."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parent.parent
DSWBOT = Path(sys.executable).parent / "dswbot"


def clean_environment(**settings: str) -> dict[str, str]:
    """The environment without the settings of whoever runs the tests, and with these."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("DSWBOT_") and "proxy" not in k.lower()}
    return {**kept, **settings}


class Service:
    """`dswbot serve` on a free port. `start` returns when it is ready; it may be killed and started again."""

    def __init__(self, data: Path, **settings: str) -> None:
        defaults = {"DSWBOT_SERVER__PORT": "0", "DSWBOT_MODEL__SLOTS": "8", "DSWBOT_MODEL__CONTEXT": "1024"}
        self.env = clean_environment(DSWBOT_DATA_DIR=str(data), **{**defaults, **settings})
        self.cwd = data.parent
        self.url = ""
        self.output: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    def start(self, timeout: float = 60) -> "Service":
        self.output.clear()
        self._process = subprocess.Popen(
            [DSWBOT, "serve"], env=self.env, cwd=self.cwd, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, args=[self._process], daemon=True)
        self._reader.start()
        self.url = self.wait_for_line(r"is ready on (\S+)", timeout)[1]
        return self

    def _read(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout:
            self.output.append(line)

    def wait_for_line(self, pattern: str, timeout: float = 30) -> re.Match[str]:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for line in list(self.output):
                if found := re.search(pattern, line):
                    return found
            if self._process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"no line {pattern!r} in:\n{''.join(self.output)}")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def worker_pid(self) -> int:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(children[0])

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command of the same installation."""
        return subprocess.run(
            [DSWBOT, *arguments],
            env=self.env,
            cwd=self.cwd,
            text=True,
            capture_output=True,
            check=check,
            timeout=60,
        )

    def new_key(self, name: str, scope: str = "chat") -> str:
        return self.run("key", "new", name, "--scope", scope).stdout.splitlines()[-1]

    def new_client(self, name: str) -> dict[str, str]:
        return json.loads(self.run("client", "new", name).stdout)

    def stop(self, number: int = signal.SIGTERM, timeout: float = 15) -> int:
        self._process.send_signal(number)
        code = self._process.wait(timeout)
        self._reader.join(5)
        self._process.stdout.close()
        return code

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process and not self._process.stdout.closed:
            self.stop()
