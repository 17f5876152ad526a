"""Two hosts, as network namespaces of one kernel, that train one model through torchrun: one is cut
off, both end in time, and go on from the last checkpoint once they see each other again.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rank_pool import process_of, train_alone, untimed

from puna.training.checkpoint import checkpoints
from puna.training.run_inputs import RunInputs

pytestmark = pytest.mark.slow

STEPS = ("train.steps=120", "train.validate_every=60", "train.log_every=1")
KEYS = (*STEPS, "train.checkpoint_every=3", "optimizer.name=muon", "train.shards=all")
NAMES, ADDRESSES = ("puna-one", "puna-two"), ("10.213.77.1", "10.213.77.2")
TIMEOUT = 8
# TCP gives a connection up after so many tries: 6 take about 25 s, and the usual 15 take 15 minutes
RETRIES = 6
TCP_SECONDS = 60


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=10)


@pytest.fixture
def hosts() -> Iterator[None]:
    """Two namespaces with a cable between them; each end is called `cable`."""
    try:
        for name in NAMES:
            ip("netns", "add", name)
        ip("link", "add", "cable", "netns", NAMES[0], "type", "veth",
           "peer", "name", "cable", "netns", NAMES[1])  # fmt: skip
        for name, address in zip(NAMES, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                ip("-n", name, "link", "set", device, "up")
            ip("netns", "exec", name, "sysctl", "-qw", f"net.ipv4.tcp_retries2={RETRIES}")
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        remove_hosts()
        pytest.skip(f"network namespaces need root and iproute2 on Linux: {error}")
    yield
    remove_hosts()


def remove_hosts() -> None:
    for name in NAMES:
        within = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
        for process in within.stdout.split():
            os.kill(int(process), signal.SIGKILL)
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=10)


def started(
    recipe: Path, run: Path, *options: str, nodes: str = "2", restarts: int = 0
) -> list[subprocess.Popen[str]]:
    """torchrun on each host, with one process of `puna train`."""
    processes = []
    for name, address in zip(NAMES, ADDRESSES, strict=True):
        command = ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c"]
        command += [f'hostname {name} && exec "$@"', "sh", sys.executable]
        command += ["-m", "torch.distributed.run"]
        command += ["--nnodes", nodes, "--max-restarts", str(restarts), "--local-addr", address]
        command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:29577"]
        # else each looks for itself among the addresses of its host's name, which has none here
        command += [
            "--rdzv-conf",
            f"is_host={int(name == NAMES[0])},join_timeout=90,last_call_timeout=5",
        ]
        command += ["--rdzv-id", run.name, "-m", "puna", "train", str(recipe), f"run={run}"]
        command += [*KEYS, "--timeout", str(TIMEOUT), *options]
        processes.append(
            subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"GLOO_SOCKET_IFNAME": "cable", "OMP_NUM_THREADS": "1"},
            )
        )
    return processes


def test_a_host_that_is_cut_off_ends_the_run_and_comes_back(
    hosts: None, tiny_recipe_file: Path, tiny_inputs: RunInputs, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    one, two = started(tiny_recipe_file, run)
    wait_for_checkpoint(run)
    lost = process_of(two, 1)
    ip("-n", NAMES[1], "link", "set", "cable", "down")
    cut = time.monotonic()
    _, said = one.communicate(timeout=150)
    assert time.monotonic() - cut < TIMEOUT + 10 + 30 + 30
    assert one.returncode == 1
    assert "error: rank 0: RuntimeError" in said
    assert f"rank 1 (host {NAMES[1]}, process {lost}) did not answer within 5 s" in said
    while is_running(lost):
        time.sleep(0.1)
        assert time.monotonic() - cut < TIMEOUT + 10 + 30 + 30
    # torchrun's own connection to the first host has no end until TCP gives up
    _, said = two.communicate(timeout=TCP_SECONDS)
    assert two.returncode == 1
    assert "error: rank 1: RuntimeError" in said
    assert "the store of the ranks" in said
    assert max(checkpoints(run)) < 120

    ip("-n", NAMES[1], "link", "set", "cable", "up")
    for again in started(tiny_recipe_file, run, "--resume"):
        _, said = again.communicate(timeout=200)
        assert again.returncode == 0, said
    assert_as_alone(run, tiny_recipe_file)


def test_a_host_that_leaves_is_gone_on_without(
    hosts: None, tiny_recipe_file: Path, tiny_inputs: RunInputs, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    one, two = started(tiny_recipe_file, run, nodes="1:2", restarts=2)
    wait_for_checkpoint(run)
    for process in process_of(two, 1), two.pid:
        os.kill(process, signal.SIGKILL)
    two.communicate(timeout=10)
    _, said = one.communicate(timeout=200)
    assert one.returncode == 0, said
    assert "error: rank 0: RuntimeError" in said
    assert_as_alone(run, tiny_recipe_file)


def wait_for_checkpoint(run: Path) -> None:
    """Return when there is one after a step."""
    end = time.monotonic() + 120
    while max(checkpoints(run), default=0) == 0:
        assert time.monotonic() < end, "no checkpoint within two minutes"
        time.sleep(0.02)


def assert_as_alone(run: Path, recipe: Path) -> None:
    """The log has the records of a run that one process trains, and its numbers to rounding."""
    alone = train_alone(recipe, run.with_name("alone"), *KEYS[:-1])
    for ours, theirs in zip(untimed(run), alone, strict=True):
        assert ours.pop("kind") == theirs.pop("kind")
        assert ours == pytest.approx(theirs, rel=1e-3)


def is_running(process: int) -> bool:
    """Whether it is there and no zombie that torchrun has not asked for."""
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
