"""Check of the commit messages since a base, run by `make check`: the part of the rules in
CONTRIBUTING.md that a program can judge.

The base is the argument (`make check BASE=v0.1.0`), else where the branch left origin/main, else
the newest commit before this rule, which is a lower bound in any case. Where there is no history to
look at (an archive, a shallow clone) nothing is checked, and the output says so. That a subject is
an imperative is judged by the ending of its first word.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RULE_SINCE = "442c8c5"
MAX_SUBJECT = 72
# Imperatives that end as other forms do; -eed and -ss are no such endings
EXCEPTIONS = frozenset(
    {"Embed", "Shed", "Bring", "Cling", "Ping", "Ring", "Sing", "String", "Swing"}
    | {"Alias", "Always", "Bias", "Canvas", "Focus"}
)


def faults(message: str) -> list[str]:
    """Whatever is wrong with a commit message."""
    subject, _, body = message.strip("\n").partition("\n")
    found = []
    if len(subject) > MAX_SUBJECT:
        found.append(f"the subject has {len(subject)} characters; shorten it to {MAX_SUBJECT}")
    if not subject[:1].isupper():
        found.append("the subject does not begin with a capital letter")
    if subject.endswith("."):
        found.append("the subject ends in a period; leave it out")
    first = (re.match(r"[A-Za-z]*", subject) or [""])[0]
    if first not in EXCEPTIONS and re.search(r"((?<!e)ed|ing|(?<!s)s)$", first):
        found.append(f"the subject opens with {first!r}; begin with an imperative, such as Add")
    if not body.strip():
        found.append("there is no body; say why, and what was measured or moved")
    return found


def git(*words: str) -> str | None:
    """The output of a git command in the repository; None where it fails."""
    try:
        done = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def find_range(base: str | None) -> list[str] | str:
    """The arguments of `git log` for the commits to check, or the reason why there are none."""
    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != ROOT.resolve():
        return "this is no git repository, or there is no git"
    since = git("rev-parse", "--verify", "--quiet", f"{RULE_SINCE}^{{commit}}")
    if base:
        if git("rev-parse", "--verify", "--quiet", f"{base}^{{commit}}") is None:
            raise SystemExit(f"BASE={base} is no commit here: name a branch, a tag or a hash")
    else:
        base = git("merge-base", "HEAD", "origin/main") or since
    if not base:
        shallow = git("rev-parse", "--is-shallow-repository") == "true"
        return f"{'a shallow clone has' if shallow else 'there is'} no base; give one as BASE="
    return [f"{base}..HEAD", *([f"^{since}"] if since else [])]


def main(base: str | None) -> int:
    """Print what is wrong, commit by commit; the exit code."""
    span = find_range(base)
    if isinstance(span, str):
        sys.stdout.write(f"Commit messages are not checked: {span}\n")
        return 0
    log = git("log", "--no-merges", "-z", "--format=%h%n%B", *span) or ""
    commits = [entry.partition("\n")[::2] for entry in log.split("\0") if entry.strip()]
    wrong = [
        f"{commit} {message.partition(chr(10))[0]}\n  {fault}\n"
        for commit, message in commits
        for fault in faults(message)
    ]
    sys.stdout.write("".join(wrong) or f"All {len(commits)} commit messages pass\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(next((word for word in sys.argv[1:] if word), None)))
