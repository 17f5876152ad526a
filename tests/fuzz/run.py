"""Fuzzing of the parsers with atheris: `make fuzz`, outside of the tests.

Each target of targets.py runs in a process of its own for `--minutes`, from valid files on, with
coverage of puna.formats and puna.tokenizer as the guide. What a run learned stays in .fuzz/corpus
for the next. atheris is installed into .fuzz/packages, so it wants the network once.
`python tests/fuzz/run.py llama2c --minutes 5` fuzzes that one.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".fuzz"
ATHERIS = "atheris==3.0.0"
LIMITS = ("-timeout=10", "-rss_limit_mb=3000", "-malloc_limit_mb=300", "-max_len=40000")
"""Of one input: seconds with the instruments on, MB of the process with torch, MB of one
allocation.
"""


def fuzz(name: str, seconds: int) -> None:
    """Fuzz one target in this process, which ends with the run."""
    import atheris

    with atheris.instrument_imports(include=["puna.formats", "puna.tokenizer"]):
        import puna.formats.source_kind
        import puna.tokenizer.tokenizer  # noqa: F401
    from targets import TARGETS

    from puna.errors import PunaError

    target, corpus = TARGETS[name], CACHE / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    target.seeds(corpus)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / target.name

        def one(data: bytes) -> None:
            path.write_bytes(data)
            with contextlib.suppress(PunaError):
                target.read(path)

        found = f"-artifact_prefix={CACHE}/{name}-"
        atheris.Setup([sys.argv[0], *LIMITS, found, f"-max_total_time={seconds}", str(corpus)], one)
        atheris.Fuzz()


def install() -> Path:
    """The folder of atheris, filled where it is not."""
    packages = CACHE / "packages"
    if not (packages / "atheris").exists():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target"]
        subprocess.run([*pip, str(packages), ATHERIS], check=True, timeout=1800)
    return packages


def main() -> None:
    """Fuzz the chosen targets one after the other; exit code 1 if one had a finding."""
    sys.path.insert(0, str(HERE))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help="all where none is named")
    parser.add_argument("--minutes", type=float, default=2.0, help="for each target")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        fuzz(chosen.targets[0], int(60 * chosen.minutes))
        return
    from targets import TARGETS

    paths = [str(install()), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    failed = []
    for name in chosen.targets or TARGETS:
        command = [sys.executable, __file__, name, "--child", "--minutes", str(chosen.minutes)]
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        print(f"{name}: {'finding' if result.returncode else 'nothing found'}; {lines[-1]}")
        if result.returncode:
            failed.append(name)
            print(result.stdout[-4000:], "\n".join(lines[-5:]), sep="\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
