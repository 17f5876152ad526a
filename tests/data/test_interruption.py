"""A preparation that is killed, interrupted or out of disk is continued and ends with the same
bytes.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from made_texts import make_texts
from said import said

from puna.data.prepare import prepare
from puna.errors import DataError
from puna.tokenizer.tokenizer import Tokenizer

SHARD_TOKENS = 20_000

SCRIPT = """
import resource
import sys
from puna.data.prepare import prepare
from puna.errors import DataError
from puna.tokenizer.tokenizer import Tokenizer
if __name__ == "__main__":
    source, tokenizer, out, workers, largest_file = sys.argv[1:]
    if int(largest_file):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest_file), int(largest_file)))
    try:
        prepare([source], Tokenizer.load(tokenizer), out, workers=int(workers), shard_tokens=20_000)
    except DataError as error:
        sys.exit(str(error))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long") / "corpus"
    folder.mkdir()
    for number in range(80):
        (folder / f"{number:03d}.txt").write_text(
            "\n".join(make_texts(30, seed=number)), encoding="utf-8"
        )
    return folder


@pytest.fixture(scope="module")
def expected(
    source: Path, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """The files of a run that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole") / "out"
    prepare([str(source)], tokenizer, out, workers=1, shard_tokens=SHARD_TOKENS)
    return contents(out)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def start(
    source: Path, tokenizer: Tokenizer, out: Path, workers: int = 1, largest_file: int = 0
) -> subprocess.Popen[str]:
    """Prepare in another process; with `largest_file`, one that can write no larger files."""
    folder = out.parent / "tokenizer"
    tokenizer.save(folder)
    script = out.parent / "run.py"
    script.write_text(SCRIPT)
    command = [sys.executable, script, source, folder, out, str(workers), str(largest_file)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_shards(process: subprocess.Popen[str], out: Path, more: int) -> None:
    """Return when `more` further files of tokens are there, or when the process has ended."""
    before = len(list(out.glob("*.tokens")))
    deadline = time.monotonic() + 60
    while process.poll() is None and len(list(out.glob("*.tokens"))) < before + more:
        assert time.monotonic() < deadline, "no shard was written within a minute"
        time.sleep(0.002)


@pytest.mark.parametrize(("workers", "kills"), [(1, 5), (2, 2)])
def test_killed_at_random_moments(
    workers: int,
    kills: int,
    source: Path,
    expected: dict[str, bytes],
    tokenizer: Tokenizer,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    rng = random.Random(workers)
    landed = 0
    for _ in range(kills):
        process = start(source, tokenizer, out, workers)
        wait_for_shards(process, out, more=rng.randint(1, 3))
        time.sleep(rng.uniform(0, 0.03))
        children = (
            psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        )
        process.kill()
        process.communicate()
        landed += process.returncode == -signal.SIGKILL
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive, "workers outlive their killed parent"
    assert landed
    manifest = prepare([str(source)], tokenizer, out, workers=workers, shard_tokens=SHARD_TOKENS)
    assert contents(out) == expected
    assert manifest.splits["train"].documents + manifest.splits["validation"].documents == 80


def test_ctrl_c_and_then_continued(
    source: Path, expected: dict[str, bytes], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(source, tokenizer, out, workers=2)
    wait_for_shards(process, out, more=2)
    os.killpg(process.pid, signal.SIGSTOP)
    while (out / "manifest.json").exists():  # on a busy machine it had ended before it was stopped
        process.kill()
        process.communicate()
        shutil.rmtree(out)
        process = start(source, tokenizer, out, workers=2)
        wait_for_shards(process, out, more=2)
        os.killpg(process.pid, signal.SIGSTOP)
    message = interrupted(process)
    # perhaps while it handled an error
    assert message.count("\nKeyboardInterrupt\n") == 1, "only the parent tells of the interruption"
    prepare([str(source)], tokenizer, out, workers=1, shard_tokens=SHARD_TOKENS)
    assert contents(out) == expected


def interrupted(process: "subprocess.Popen[str]") -> str:
    """Interrupt a process and its workers, as a terminal does; what they say of it."""
    os.killpg(process.pid, signal.SIGINT)
    os.killpg(process.pid, signal.SIGCONT)
    return process.communicate(timeout=60)[1]


def handles_interrupts(process: psutil.Process) -> bool:
    """Whether the interpreter of a process has begun, and would answer SIGINT with a traceback."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (caught,) = re.findall(r"^SigCgt:\t(\w+)$", status, re.MULTILINE)
    return bool(int(caught, 16) >> (signal.SIGINT - 1) & 1)


@pytest.mark.skipif(sys.platform != "linux", reason="the state of another process is in /proc")
def test_ctrl_c_while_workers_start_is_told_by_the_parent_alone(
    source: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """A worker takes half a second until it ignores the signal, and longer on a busy machine; once
    it was ended by it, with a traceback of its own.
    """
    process = start(source, tokenizer, tmp_path / "out", workers=2)
    parent = psutil.Process(process.pid)
    deadline = time.monotonic() + 60
    while not any(
        "spawn_main" in " ".join(child.cmdline()) and handles_interrupts(child)
        for child in parent.children()
    ):
        assert time.monotonic() < deadline, "no worker was started within a minute"
        time.sleep(0.001)
    assert interrupted(process).count("\nKeyboardInterrupt\n") == 1


def test_finished_shards_are_not_written_again(
    source: Path, expected: dict[str, bytes], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(source, tokenizer, out)
    wait_for_shards(process, out, more=4)
    process.kill()
    process.communicate()
    first = out / "train-00000.tokens"
    written = first.stat().st_mtime_ns
    (out / "train-00002.tokens").write_bytes(b"damaged")  # this one and the later ones are
    prepare([str(source)], tokenizer, out, workers=1, shard_tokens=SHARD_TOKENS)
    assert first.stat().st_mtime_ns == written
    assert contents(out) == expected


def test_a_changed_source_is_refused_on_continuing(
    source: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(source, tokenizer, out)
    wait_for_shards(process, out, more=2)
    process.kill()
    process.communicate()
    path = source / "079.txt"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    os.utime(path, ns=(times[0], times[1] + 1))
    try:
        with pytest.raises(DataError, match=said("read ... another folder ... delete")):
            prepare([str(source)], tokenizer, out, workers=1, shard_tokens=SHARD_TOKENS)
    finally:
        os.utime(path, ns=times)


def test_two_at_once_are_refused(source: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(source, tokenizer, out)
    wait_for_shards(process, out, more=1)
    process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(DataError, match=said(f"another process ... {out}")):
            prepare([str(source)], tokenizer, out, workers=1, shard_tokens=SHARD_TOKENS)
    finally:
        process.kill()
        process.communicate()


def test_a_file_size_limit_is_told_and_continued(
    source: Path, expected: dict[str, bytes], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    process = start(source, tokenizer, out, largest_file=35_000)  # a shard has 40,000 bytes
    _, message = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(said(f"{out} ... File too large ... free some space ... again"), message)
    assert not list(out.glob(".*.partial"))
    prepare([str(source)], tokenizer, out, workers=1, shard_tokens=SHARD_TOKENS)
    assert contents(out) == expected


def test_a_full_disk_is_told_and_continued(
    source: Path, expected: dict[str, bytes], tokenizer: Tokenizer, small_disk: Path
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2_250_000))
    out = small_disk / "out"
    with pytest.raises(
        DataError, match=said(f"{out} ... No space left on device ... free some space")
    ):
        prepare([str(source)], tokenizer, out, workers=1, shard_tokens=SHARD_TOKENS)
    assert list(out.glob("*.tokens")), "some shards were finished before the disk was full"
    ballast.unlink()
    prepare([str(source)], tokenizer, out, workers=1, shard_tokens=SHARD_TOKENS)
    assert contents(out) == expected
