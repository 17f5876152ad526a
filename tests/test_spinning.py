"""How long waiting threads of torch poll follows the machine's load, and is left to those who have
set it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from puna.spinning import SETTINGS

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="nothing says how long threads wait here"
)

BEGIN = """
import json, resource, subprocess, sys, threading, time
from puna import spinning

def threads(name):
    return sum(thread.name == name for thread in threading.enumerate())

def work(products=20):
    import torch
    torch.set_num_threads(2)
    weight = torch.ones(256, 256)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    for _ in range(products):
        weight @ weight
    return (resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before) / products

def least(rounds=50):
    return min(work() for _ in range(rounds))

def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        work()
    return found
"""

BESIDE_BUSY_PROGRAMS = """
spinning.limit_spinning()
spinning.limit_spinning()
command = [sys.executable, "-c", "while True: pass"]
busy = [subprocess.Popen(command) for _ in range(2 * spinning.processors())]
try:
    print(json.dumps([threads("spin limit"), until(lambda: threads("spin limit team"))]))
finally:
    for each in busy:
        each.kill()
        each.wait()
"""

WHEN_THE_LOAD_CHANGES = """
load = 0.0
waited = {"a": 0.0, "b": 0.0}
def seconds_waited():
    waited["b"] += spinning.PERIOD * load
    return dict(waited)
spinning.PERIOD, spinning._seconds_waited = 0.01, seconds_waited
work()
spinning.limit_spinning()
time.sleep(0.3)
found = [[threads("spin limit team"), least()]]
load = 50.0
until(lambda: threads("spin limit team"))
time.sleep(0.3)
found.append([threads("spin limit team"), least()])
load = 0.0
until(lambda: not threads("spin limit team"))
time.sleep(0.3)
found.append([threads("spin limit team"), least()])
print(json.dumps(found))
"""


def observed(program: str, **settings: str) -> Any:
    """What a program prints that has these settings alone."""
    ours = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program],
        env=ours | settings | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_busy_programs_are_noticed() -> None:
    assert observed(BESIDE_BUSY_PROGRAMS) == [1, 1]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="threads that wait for each other")
def test_threads_give_up_their_cores_while_others_want_them() -> None:
    """Voluntary switches of a product: of threads that sleep at its barriers, and of those that
    poll. The least of many rounds, since beside another program even those that poll end up asleep.
    """
    (_, before), (team, crowded), (no_team, after) = observed(WHEN_THE_LOAD_CHANGES)
    assert (team, no_team) == (1, 0)
    assert crowded > 0.2
    assert crowded > 5 * max(before, after)


@pytest.mark.parametrize("name", SETTINGS)
def test_what_the_user_has_set_is_left_alone(name: str) -> None:
    program = 'spinning.limit_spinning(); print(threads("spin limit"))'
    assert observed(program, **{name: "7"}) == 0


def test_no_torch_is_imported_for_it() -> None:
    program = 'spinning.limit_spinning(); print(int("torch" in sys.modules))'
    assert observed(program) == 0


def test_every_command_begins_with_it() -> None:
    program = """
import puna.cli.main as command_line
command_line.app = lambda: print(json.dumps([threads("spin limit"), "torch" in sys.modules]))
command_line.main()
"""
    assert observed(program) == [1, False]
