"""The commits of a study's rule and code, recorded with every run: so that a report can say which
commit holds the rule, and that it is older than the first run.
"""

import subprocess
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from puna.study.definition import FILE, Study


def provenance(study: Study, folder: Path) -> dict[str, Any]:
    """The rule's hash; and where the folder is in a git repository, `commit`, which the work tree
    is at, and `rule_commit` with its date, the last that changed the study's definition or its
    base recipe, both null where those files have changes that are not committed.
    """
    files = [FILE, study.base]
    found: dict[str, Any] = {
        "rule": study.hash,
        "commit": None,
        "rule_commit": None,
        "rule_date": None,
    }
    head = _git(folder, "rev-parse", "HEAD")
    if not head:
        return found
    found["commit"] = head
    last = _git(folder, "log", "-1", "--format=%H %cI", "--", *files)
    if last and not _git(folder, "status", "--porcelain", "--", *files):
        found["rule_commit"], found["rule_date"] = last.split()
    return found


def rule_is_older(record: Mapping[str, Any]) -> bool:
    """True where the run's rule was committed before the run was started."""
    if not record.get("rule_date"):
        return False
    rule, started = (datetime.fromisoformat(record[key]) for key in ("rule_date", "started"))
    return rule < started


def _git(folder: Path, *arguments: str) -> str:
    """The output of git; empty without git, and outside a repository."""
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
