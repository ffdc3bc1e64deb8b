"""Run `mergekit-optimer` in this process and write the most memory it has held, after the search and at its end.

PEAK_FILE names the file: a line of bytes for each.
"""

import os
import re
from pathlib import Path
from typing import Any

from mergekit_optimer import pipeline
from mergekit_optimer.cli import main


def _note() -> None:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    with Path(os.environ["PEAK_FILE"]).open("a", encoding="utf-8") as file:
        file.write(f"{int(found[1]) * 1024}\n")


if __name__ == "__main__":
    merge_winner = pipeline.merge_winner

    def noted(job: Any) -> None:
        _note()
        merge_winner(job)

    pipeline.merge_winner = noted
    main()
    _note()
