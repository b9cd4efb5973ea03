"""Peak memory of a command and everything that it starts."""

import threading
from pathlib import Path
from subprocess import Popen

INTERVAL = 0.2  # seconds


class Peak:
    """Watches a process and its descendants while it runs (Linux).

    The sum of their proportional set sizes (PSS: a page that n processes share counts 1/n in each)
    is taken five times a second; a rise that is shorter than that may be missed. Files that a
    process has mapped count as far as they are resident.
    """

    def __init__(self, process: Popen[bytes]) -> None:
        self.process, self.mib = process, 0.0
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()

    def wait(self) -> int:
        """Wait for the end of the process; returns its exit status."""
        status = self.process.wait()
        self.thread.join()
        return status

    def _watch(self) -> None:
        while self.process.returncode is None:
            kib = sum(proportional_kib(number) for number in family(self.process.pid))
            self.mib = max(self.mib, kib / 1024)
            threading.Event().wait(INTERVAL)


def family(parent: int) -> list[int]:
    """The numbers of a process and of all its descendants."""
    members = [parent]
    for member in members:  # grows on the way
        try:
            for task in Path(f"/proc/{member}/task").iterdir():
                members.extend(map(int, (task / "children").read_text().split()))
        except OSError:  # it has just ended
            continue
    return members


def proportional_kib(number: int) -> int:
    """PSS of one process; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
