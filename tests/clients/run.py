"""Real clients against a running `puna serve`: `make real-clients`, outside of the tests.

Each file of programs/ is a small program of one client, and begins with a line `needs:` that names
its packages. Every client gets an environment of its own in .clients/ (pip's or npm's, so it wants
the network once), its program runs against a server of a tiny model with random weights, and
passes if it exits with 0. What it said is kept beside its environment, in output.log.
`python tests/clients/run.py openai_python ai_sdk` runs those two.
"""

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".clients"
SERVE = (sys.executable, "-c", "from puna.cli.main import main; main()", "serve")
SECONDS = 300
"""For one program."""


def make_model(folder: Path) -> None:
    """A model of 600 tokens with room for a chat with tools. It writes noise, so the programs ask
    for what a constraint or a limit decides.
    """
    from puna.model.config import ModelConfig
    from puna.model.init import init_weights
    from puna.model.transformer import build_transformer
    from puna.model.weights import write_model
    from puna.tokenizer.tokenizer import Tokenizer

    text = 'the llama reads {"name": "weather", "parameters": {"type": "object"}} please'
    rng = random.Random(0)
    texts = (" ".join(rng.choices(text.split(), k=40)) for _ in range(400))
    tokenizer = Tokenizer.train(texts, 600)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        width=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        context_length=4096,
    )
    model = build_transformer(config).eval()
    init_weights(model, 0)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder)
    write_model(folder, model, bos_id=tokenizer.bos_id, eos_ids=tuple(sorted(tokenizer.end_ids)))


def needs(program: Path) -> list[str]:
    """The packages that its first line names."""
    first = program.read_text(encoding="utf-8").splitlines()[0]
    return first.partition("needs: ")[2].rstrip('."').split()


def prepared(program: Path) -> list[str]:
    """The command that runs a program in its environment, which is made where it is missing or for
    other packages.
    """
    packages, folder = needs(program), CACHE / program.stem
    stamp = folder / ".installed"
    if program.suffix == ".py":
        python = folder / "bin" / "python"
        make = [[sys.executable, "-m", "venv", str(folder)]]
        make += [[str(python), "-m", "pip", "install", "-q", *packages]]
        command = [str(python), str(program)]
    else:
        make = [["npm", "install", "--silent", "--prefix", str(folder), *packages]]
        command = ["node", str(folder / program.name)]
    if not stamp.exists() or stamp.read_text() != " ".join(packages):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for step in make:
            subprocess.run(step, check=True, capture_output=True, text=True, timeout=1800)
        stamp.write_text(" ".join(packages))
    if program.suffix != ".py":
        shutil.copy(program, folder)  # where node finds the packages
    return command


def outcome(program: Path, url: str) -> str:
    """`passed`, or the line that says what went wrong."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE),
        "OPENAI_BASE_URL": f"{url}/v1",
        "OPENAI_API_KEY": "none",
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
    }
    try:
        command = prepared(program)
        begun = time.monotonic()
        done = subprocess.run(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
    except subprocess.CalledProcessError as error:
        return f"no environment: {_reason(error.stderr or error.stdout)}"
    except (subprocess.TimeoutExpired, OSError) as error:
        return f"not run: {error}"
    (CACHE / program.stem / "output.log").write_text(done.stdout, encoding="utf-8")
    if done.returncode == 0:
        return f"passed ({time.monotonic() - begun:.0f} s)"
    return f"failed: {_reason(done.stdout)}"


def _reason(text: str) -> str:
    """The last line that names an error, or else the last."""
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line or "error" in line]
    return (errors or lines or ["without a word"])[-1][:150]


def main() -> int:
    """Run the programs that are named, or all; the exit code is 1 if one did not pass."""
    programs = {path.stem: path for path in sorted((HERE / "programs").glob("*.*"))}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=", ".join(programs))
    wanted = parser.parse_args().clients or list(programs)
    if unknown := sorted({*wanted} - {*programs}):
        parser.error(f"no such client: {', '.join(unknown)}. There are {', '.join(programs)}")
    model = CACHE / "model" / "tiny"
    if not (model / "config.json").exists():
        make_model(model)
    command = [*SERVE, str(model), "--port", "0", "--device", "cpu"]
    results = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            found = re.search(r" at (http://\S+)", server.stdout.readline())
            if found is None:
                return 1
            for name in wanted:
                results.append(outcome(programs[name], found[1]))
                print(f"{name:24}  {results[-1]}", flush=True)
        finally:
            server.terminate()
    return int(not all(result.startswith("passed") for result in results))


if __name__ == "__main__":
    sys.exit(main())
