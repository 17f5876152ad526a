"""s3:// and gs:// through their packages, against servers on this machine that speak the stores'
protocols: moto's and gcp-storage-emulator, where they are installed (`make test-corpora`).
"""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_corpora import MakeRecipe, contents, numbered_texts, texts_of

from puna.corpus.corpus_recipe import CorpusSource
from puna.corpus.input_files import find_files
from puna.corpus.local_processes import local_processes
from puna.corpus.object_stores import local_copy
from puna.corpus.pipeline import prepare_corpus
from puna.errors import DataError

BUCKET = "corpus-bucket"
OBJECTS = {
    "crawl/b.txt": b"second",
    "crawl/a.txt": b"first",
    "crawl/deep/c.md": b"third",
    "crawl/.hidden/d.txt": b"hidden",
}


def served(command: str, *arguments: str) -> Iterator[int]:
    """Run a server on a free port, and end it afterwards."""
    program = shutil.which(command)
    if program is None:
        pytest.skip(f"{command} is not installed; make test-corpora installs it")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with subprocess.Popen(
        [program, *(argument.format(port=port) for argument in arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            for _ in range(300):
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    assert process.poll() is None, f"{command} ended"
                    time.sleep(0.1)
            yield port
        finally:
            process.kill()


@pytest.fixture(scope="module")
def s3_port() -> Iterator[int]:
    yield from served("moto_server", "-H", "127.0.0.1", "-p", "{port}")


@pytest.fixture
def s3(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    s3fs = pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    return s3fs.S3FileSystem()


@pytest.fixture(scope="module")
def gs_port() -> Iterator[int]:
    yield from served(
        "gcp-storage-emulator", "start", "--host=127.0.0.1", "--port={port}", "--in-memory"
    )


@pytest.fixture
def gs(gs_port: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    # read at its import: else it asks for the kind of a bucket by gRPC, which the emulator lacks
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    gcsfs = pytest.importorskip("gcsfs")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{gs_port}")
    gcsfs.GCSFileSystem.clear_instance_cache()
    return gcsfs.GCSFileSystem(token="anon", project="nothing")


@pytest.fixture(params=["s3", "gs"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """A bucket of the store, with the objects in it."""
    system = request.getfixturevalue(request.param)
    system.mkdir(BUCKET)
    for name, content in OBJECTS.items():
        system.pipe_file(f"{BUCKET}/{name}", content)
    yield f"{request.param}://{BUCKET}"
    system.rm(BUCKET, recursive=True)


def test_folders_globs_and_files(address: str) -> None:
    assert texts_of(f"{address}/crawl") == ["first", "second", "third"]
    assert texts_of(f"{address}/crawl/") == ["first", "second", "third"]
    assert texts_of(f"{address}/crawl/*.txt") == ["first", "second"]
    assert texts_of(f"{address}/crawl/b.txt") == ["second"]
    assert texts_of(address, include=["md"]) == ["third"]


def test_an_altered_object_has_another_fingerprint(
    address: str, request: pytest.FixtureRequest
) -> None:
    source = CorpusSource(name="x", paths=(f"{address}/crawl",))
    before = find_files(source, ())
    assert [file.size for file in before.files] == [5, 6, 5]
    assert all(file.version for file in before.files)
    assert find_files(source, ()).files_hash == before.files_hash
    system = request.getfixturevalue(address.partition(":")[0])
    system.pipe_file(f"{BUCKET}/crawl/a.txt", b"other")
    system.invalidate_cache()
    assert find_files(source, ()).files_hash != before.files_hash


def test_what_is_not_there_is_an_error(address: str) -> None:
    with pytest.raises(DataError, match=r"holds no files to read|cannot be listed"):
        texts_of(f"{address}/none")
    with pytest.raises(DataError, match=r"holds no files to read|cannot be listed"):
        texts_of(address.replace(BUCKET, "another-bucket"))
    with (
        pytest.raises(DataError, match=r"gone\.txt cannot be read"),
        local_copy(f"{address}/crawl/gone.txt"),
    ):
        pass


def test_a_corpus_from_a_store_has_the_bytes_of_a_folder(
    address: str, make_recipe: MakeRecipe, request: pytest.FixtureRequest
) -> None:
    system = request.getfixturevalue(address.partition(":")[0])
    here = make_recipe({"web": numbered_texts(40)}, {"exact_duplicates": {}}, "here")
    for path in sorted(Path(here.sources[0].paths[0]).iterdir()):
        system.pipe_file(f"{BUCKET}/web/{path.name}", path.read_bytes())
    there = make_recipe(
        {},
        {"exact_duplicates": {}},
        "there",
        sources=[{"name": "web", "paths": [f"{address}/web"]}],
    )
    prepare_corpus(here, local_processes(1))
    prepare_corpus(there, local_processes(1))
    shards = [
        {name: data for name, data in contents(recipe.out).items() if "-0" in name}
        for recipe in (here, there)
    ]
    assert shards[0]
    assert shards[0] == shards[1]
