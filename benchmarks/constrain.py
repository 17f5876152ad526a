"""Constrained output by llguidance, by xgrammar, and by Puna's matcher on llguidance, in one run:

    pip install xgrammar                    (Puna does not depend on it)
    python benchmarks/constrain.py

Vocabularies are trained here, on the standard library's source. Times are those of the processor,
so that other programs count little, and medians of `--rounds`, in which the libraries take turns. A
step is a mask and then a token accepted, along the tokens of a document that keeps to its schema.
Each keyword has a text that breaks it and one that keeps to it; what becomes of both says whether
the keyword is enforced, rejected or ignored. The hostile part gives each constraint a process with
20 s and 8 GiB: the time to the first mask, then the worst of 3 x 40 steps of tokens drawn at
random. The libraries run with their own limits, Puna with its own. Results go to
benchmarks/results/, dated.
"""

import argparse
import importlib.metadata
import json
import multiprocessing
import random
import re
import resource
import statistics
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from constrain_cases import DOCUMENTS, HOSTILE, KEYWORDS
from constrain_contestants import NAMES, Contestants, timed
from machine import RESULTS, machine, today, write_results

from puna.device import watch_others
from puna.errors import RequestError
from puna.tokenizer.tokenizer import Tokenizer

VOCABULARIES = (4096, 32_000, 96_000)
SECONDS, BYTES = 20, 8 << 30


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    others = watch_others()
    figures: dict[str, Any] = {"libraries": [library("llguidance"), library("xgrammar")]}
    print("vocabularies", file=sys.stderr, flush=True)
    all_sizes = {size: Contestants(Tokenizer.train(source(), size)) for size in VOCABULARIES}
    figures["vocabularies"] = [
        {"tokens": size, **{name: round(1e3 * one.seconds[name], 1) for name in NAMES}}
        for size, one in all_sizes.items()
    ]
    figures["documents"] = [
        document(contestants, name, options.rounds)
        for contestants in all_sizes.values()
        for name in progress("documents", DOCUMENTS)
    ]
    by_bytes = Contestants(Tokenizer.train(["ab"], 264))
    figures["keywords"] = [
        {"keyword": name, **keyword(by_bytes, *KEYWORDS[name])}
        for name in progress("keywords", KEYWORDS)
    ]
    figures["rewind"], figures["threads"] = rewind(all_sizes[32_000]), threads(all_sizes[96_000])
    figures["hostile"] = [
        {"constraint": name, **hostile(all_sizes[32_000], *HOSTILE[name])}
        for name in progress("hostile", HOSTILE)
    ]
    figures["others_cores"] = others()
    path = RESULTS / f"{today()}-constrain.json"
    text = report(figures)
    print(text)
    path.with_suffix(".txt").write_text(text + "\n")
    write_results(path, machine(torch.device("cpu")), **figures)


def progress(what: str, names: dict[str, Any]) -> Iterator[str]:
    for name in names:
        print(f"{what}: {name}", file=sys.stderr, flush=True)
        yield name


def source() -> Iterator[str]:
    """The standard library's modules, in order of their names."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" not in path.parts:
            yield path.read_text(encoding="utf-8", errors="ignore")


def library(name: str) -> dict[str, Any]:
    """Version and licence; what it brings that Puna has not anyway; what importing it costs."""
    others = [
        requirement(line)
        for line in importlib.metadata.requires("puna") or []
        if "extra ==" not in line
    ]
    brings = needed(name) - set().union(*(needed(other) for other in others if other != name))
    sizes = {
        each: sum(
            file.locate().stat().st_size
            for file in importlib.metadata.files(each) or []
            if file.locate().is_file()
        )
        for each in brings
    }
    program = (
        "import sys, time, numpy, psutil; before = psutil.Process().memory_info().rss; begin ="
        f" time.process_time()\nimport {name}; seconds = time.process_time() -"
        " begin\nprint(seconds, (psutil.Process().memory_info().rss - before) / 2**20, 'torch' in"
        " sys.modules)"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(3)
    ]
    return {
        "name": name,
        "version": importlib.metadata.version(name),
        "brings_mib": {
            each: round(size / 2**20, 1)
            for each, size in sorted(sizes.items(), key=lambda item: -item[1])
        },
        "import_seconds": round(statistics.median(float(run[0]) for run in runs), 2),
        "import_mib": round(statistics.median(float(run[1]) for run in runs)),
        "imports_torch": runs[0][2] == "True",
    }


def needed(name: str) -> set[str]:
    """The distributions that installing `name` installs here, itself too, without extras."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        each = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if each not in found:
            try:
                requires = importlib.metadata.requires(each) or []
            except importlib.metadata.PackageNotFoundError:  # for another platform
                continue
            found.add(each)
            waiting += [requirement(line) for line in requires if "extra ==" not in line]
    return found


def requirement(line: str) -> str:
    """The distribution that a line of requirements names."""
    return re.split(r"[^\w.-]", line, maxsplit=1)[0]


def document(one: Contestants, name: str, rounds: int) -> dict[str, Any]:
    """Milliseconds to compile a schema with its first mask, and of the steps along a document, for
    each; the median of the rounds.
    """
    schema, value = DOCUMENTS[name]
    ids = spelled(one, schema, json.dumps(value, separators=(",", ":"), ensure_ascii=False))
    compiles: dict[str, list[float]] = {each: [] for each in NAMES}
    steps: dict[str, list[list[float]]] = {each: [] for each in NAMES}
    for _ in range(rounds):
        for each in NAMES:
            begin = time.process_time()
            mask, accept, _ = one.start(each, "json", schema)
            mask()
            compiles[each].append(time.process_time() - begin)
            steps[each].append([])
            for id_ in ids:
                begin = time.process_time()
                followed = mask()[id_] and accept(id_)
                steps[each][-1].append(time.process_time() - begin)
                assert followed, f"{each} stops what keeps to {name}"
    row: dict[str, Any] = {"tokens": one.size, "document": name, "steps": len(ids)}
    for each in NAMES:
        by_step = sorted(statistics.median(times) for times in zip(*steps[each], strict=True))
        quantiles = (by_step[len(by_step) // 2], by_step[int(len(by_step) * 0.99)], by_step[-1])
        row[each] = {
            "compile": round(1e3 * statistics.median(compiles[each]), 2),
            "steps": [round(1e3 * times, 3) for times in quantiles],
        }
    return row


def spelled(one: Contestants, schema: Any, text: str) -> list[int]:
    """The tokens of a text, each the longest that all three allow."""
    ids: list[int] = []
    left = text.encode()
    texts = [one.start(each, "json", schema) for each in NAMES]
    while left:
        allowed = np.logical_and.reduce([mask() for mask, *_ in texts])
        ids.append(
            max(
                (
                    id_
                    for id_ in np.flatnonzero(allowed)
                    if left.startswith(one.tokenizer.token_bytes(int(id_)) or b"\xff")
                ),
                key=lambda id_: len(one.tokenizer.token_bytes(int(id_))),
            )
        )
        ids[-1] = int(ids[-1])
        assert all(accept(ids[-1]) for _, accept, _ in texts)
        left = left[len(one.tokenizer.token_bytes(ids[-1])) :]
    return ids


def keyword(one: Contestants, schema: Any, breaks: str, keeps: str) -> dict[str, str]:
    """What each makes of a schema: rejects it, lets through a text that breaks it, stops one that
    keeps to it, or does as it says.
    """
    verdicts = {}
    for name in NAMES:
        try:
            lets = [let_through(one, name, schema, text) for text in (breaks, keeps)]
            verdicts[name] = {
                (False, True): "enforced",
                (True, True): "IGNORED",
                (False, False): "stops both",
            }.get(tuple(lets), "TURNED ROUND")
        except (ValueError, RuntimeError, RequestError):
            verdicts[name] = "rejected"
    return verdicts


def let_through(one: Contestants, name: str, schema: Any, text: str) -> bool:
    mask, accept, _ = one.start(name, "json", schema)
    return all(mask()[id_] and accept(id_) for id_ in one.tokenizer.encode(text)) and bool(
        mask()[one.tokenizer.eos_id]
    )


def rewind(one: Contestants) -> dict[str, str]:
    """Whether the masks after going 20 tokens back are those from before."""
    schema, value = DOCUMENTS["people"]
    ids = spelled(one, schema, json.dumps(value, separators=(",", ":")))[:60]
    said = {}
    for name in NAMES:
        mask, accept, back = one.start(name, "json", schema)
        masks = [(mask().copy(), accept(id_))[0] for id_ in ids]
        seconds, _ = timed(lambda back=back: back(20))
        same = all(
            (np.array_equal(mask(), before), accept(id_))[0]
            for id_, before in zip(ids[40:], masks[40:], strict=True)
        )
        said[name] = f"{'the same masks' if same else 'OTHER MASKS'}, {1e6 * seconds:.0f} us"
    return said


def threads(one: Contestants) -> dict[str, float]:
    """How much of the time another thread can run while a schema is compiled, from 0 to 1: whether
    the interpreter's lock is let go.
    """
    schema = DOCUMENTS["tools"][0]
    return {name: beside(lambda: one.start(name, "json", schema)) for name in NAMES}  # noqa: B023  (called at once)


def beside(work: Callable[[], Any], seconds: float = 2.0) -> float:
    """The share of its turns that a thread gets which wants one each 5 ms, while this one works and
    never yields by itself.
    """
    turns, done = 0, threading.Event()

    def count() -> None:
        nonlocal turns
        while not done.wait(0.005):
            turns += 1

    other = threading.Thread(target=count)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    other.start()
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        work()
    share = turns * 0.005 / (time.perf_counter() - begin)
    sys.setswitchinterval(interval)
    done.set()
    other.join()
    return round(share, 2)


def hostile(one: Contestants, kind: str, given: Any) -> dict[str, Any]:
    """What a constraint costs each, in a process that may be killed for it."""
    return {name: isolated(one, name, kind, given) for name in NAMES}


def isolated(one: Contestants, name: str, kind: str, given: Any) -> dict[str, Any]:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=suffer, args=(one, name, kind, given, sender))
    child.start()
    sender.close()
    said: dict[str, Any] = {}
    while receiver.poll(SECONDS):
        try:
            said |= receiver.recv()
        except EOFError:
            break
    else:
        said["outcome"] = f"killed after {SECONDS} s"
        child.kill()
    child.join()
    if "outcome" not in said:
        said["outcome"] = f"DIED of signal {-(child.exitcode or 0)}"
    return said


def suffer(one: Contestants, name: str, kind: str, given: Any, sender: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin, worst = time.process_time(), 0.0
    said: dict[str, Any] = {}
    try:
        for seed in range(3):
            rng = random.Random(seed)
            begin = time.process_time()
            mask, accept, _ = one.start(name, kind, given)
            allowed = np.flatnonzero(mask())
            said.setdefault("first", round(time.process_time() - begin, 3))
            sender.send(said)
            for _ in range(40):
                text = [id_ for id_ in allowed.tolist() if id_ != one.tokenizer.eos_id]
                if not text:
                    break
                begin = time.process_time()
                accept(rng.choice(text))
                allowed = np.flatnonzero(mask())
                worst = max(worst, time.process_time() - begin)
        outcome = "followed"
    except MemoryError:
        outcome = "out of memory"
    except Exception as error:
        said.setdefault("first", round(time.process_time() - begin, 3))
        outcome = "rejected" if worst == 0 else "rejected later"
        said["why"] = str(error).strip().splitlines()[0][:200]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    sender.send(said | {"outcome": outcome, "worst": round(1e3 * worst, 1), "mib": grown})


def report(figures: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [
        f"processor time; meanwhile other programs took {figures['others_cores'] or 0:.2f} cores"
    ]
    for each in figures["libraries"]:
        brings = ", ".join(
            f"{name} {size:.0f} MiB" for name, size in each["brings_mib"].items() if size >= 1
        )
        torch_too = ", torch with it" if each["imports_torch"] else ", without torch"
        lines.append(
            f"{each['name']} {each['version']}: import {each['import_seconds']:.2f} s and"
            f" {each['import_mib']} MiB{torch_too}"
        )
        lines.append(
            f"    brings to Puna's dependencies {sum(each['brings_mib'].values()):.0f} MiB:"
            f" {brings}"
        )
    lines += ["", "taking in a vocabulary, ms" + "".join(f"{name:>12}" for name in NAMES)]
    lines += [
        f"{row['tokens']:26,}" + "".join(f"{row[name]:12.1f}" for name in NAMES)
        for row in figures["vocabularies"]
    ]
    lines += [
        "",
        (
            f"{'schema':8} {'vocabulary':>10}  compile and first mask, ms    step: median / 99% /"
            " worst, ms"
        ),
    ]
    for row in figures["documents"]:
        for name in NAMES:
            times = " / ".join(f"{each:.3f}" for each in row[name]["steps"])
            head = f"{row['document']:8} {row['tokens']:10,}" if name == NAMES[0] else " " * 19
            lines.append(f"{head}  {name:10} {row[name]['compile']:9.2f}              {times}")
    lines += ["", f"{'keyword':26}" + "".join(f"{name:14}" for name in NAMES).rstrip()]
    lines += [
        f"{row['keyword']:26}" + "".join(f"{row[name]:14}" for name in NAMES).rstrip()
        for row in figures["keywords"]
    ]
    lines += [
        "",
        "20 tokens back: "
        + "; ".join(f"{name} {said}" for name, said in figures["rewind"].items()),
    ]
    lines += [
        "another thread ran beside compiling: "
        + ", ".join(f"{name} {share:.0%} of the time" for name, share in figures["threads"].items())
    ]
    lines += [
        "",
        (
            f"{'hostile, 32,000 tokens':24} {'':10} first mask, s   worst step, ms   more memory  "
            " outcome"
        ),
    ]
    for row in figures["hostile"]:
        for name in NAMES:
            said = row[name]
            first, worst, more = (
                f"{said[key]:{form}}" if key in said else "-"
                for key, form in (("first", ".3f"), ("worst", ".1f"), ("mib", "d"))
            )
            head = row["constraint"] if name == NAMES[0] else ""
            lines.append(
                f"{head:24} {name:10} {first:>13} {worst:>16} {more:>9} MiB   {said['outcome']}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
