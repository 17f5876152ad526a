"""s3://, gs:// and hf:// through their packages, against servers on this machine that speak the
stores' protocols: moto's and gcp-storage-emulator, where they are installed (`make test-corpora`),
and a small one of the Hub's.
"""

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hub_server import HubServer
from huggingface_hub import HfFileSystem
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


@dataclass(frozen=True)
class Store:
    """A bucket or dataset by its address, and how an object of it is written."""

    address: str
    write: Callable[[str, bytes], None]


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
def s3(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    s3fs = pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    yield from bucket("s3", s3fs.S3FileSystem())


@pytest.fixture(scope="module")
def gs_port() -> Iterator[int]:
    yield from served(
        "gcp-storage-emulator", "start", "--host=127.0.0.1", "--port={port}", "--in-memory"
    )


@pytest.fixture
def gs(gs_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    # read at its import: else it asks for the kind of a bucket by gRPC, which the emulator lacks
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    gcsfs = pytest.importorskip("gcsfs")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{gs_port}")
    gcsfs.GCSFileSystem.clear_instance_cache()
    yield from bucket("gs", gcsfs.GCSFileSystem(token="anon", project="nothing"))


def bucket(scheme: str, system: Any) -> Iterator[Store]:
    """A new bucket with the objects in it, and its end."""

    def write(name: str, content: bytes) -> None:
        system.pipe_file(f"{BUCKET}/{name}", content)
        system.invalidate_cache()

    system.mkdir(BUCKET)
    for name, content in OBJECTS.items():
        write(name, content)
    yield Store(f"{scheme}://{BUCKET}", write)
    system.rm(BUCKET, recursive=True)


@pytest.fixture
def hf(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    def write(name: str, content: bytes) -> None:
        server.files[name] = content
        HfFileSystem.clear_instance_cache()

    with HubServer(f"nobody/{BUCKET}", OBJECTS) as server:
        monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": server.address})
        HfFileSystem.clear_instance_cache()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Store(f"hf://datasets/nobody/{BUCKET}", write)
        server.shutdown()
        thread.join()


@pytest.fixture(params=["s3", "gs", "hf"])
def store(request: pytest.FixtureRequest) -> Store:
    """A store with the objects in it."""
    found: Store = request.getfixturevalue(request.param)
    return found


def test_folders_globs_and_files(store: Store) -> None:
    assert texts_of(f"{store.address}/crawl") == ["first", "second", "third"]
    assert texts_of(f"{store.address}/crawl/") == ["first", "second", "third"]
    assert texts_of(f"{store.address}/crawl/*.txt") == ["first", "second"]
    assert texts_of(f"{store.address}/crawl/b.txt") == ["second"]
    assert texts_of(store.address, include=["md"]) == ["third"]


def test_an_altered_object_has_another_fingerprint(store: Store) -> None:
    source = CorpusSource(name="x", paths=(f"{store.address}/crawl",))
    before = find_files(source, ())
    assert [file.size for file in before.files] == [5, 6, 5]
    assert all(file.version for file in before.files)
    alone = CorpusSource(name="x", paths=(f"{store.address}/crawl/a.txt",))
    assert find_files(alone, ()).files == before.files[:1]
    assert find_files(source, ()).files_hash == before.files_hash
    store.write("crawl/a.txt", b"other")
    assert find_files(source, ()).files_hash != before.files_hash


def test_what_is_not_there_is_an_error(store: Store) -> None:
    with pytest.raises(DataError, match=r"holds no files to read|cannot be listed"):
        texts_of(f"{store.address}/none")
    with pytest.raises(DataError, match=r"holds no files to read|cannot be listed"):
        texts_of(store.address.replace(BUCKET, "another-bucket"))
    with (
        pytest.raises(DataError, match=r"gone\.txt cannot be read"),
        local_copy(f"{store.address}/crawl/gone.txt"),
    ):
        pass


def test_an_unreachable_store_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": f"http://127.0.0.1:{port}"})
    HfFileSystem.clear_instance_cache()
    with pytest.raises(DataError, match=r"corpus cannot be listed: .*refused; check name and"):
        texts_of("hf://datasets/nobody/corpus")
    with (
        pytest.raises(DataError, match=r"a\.txt cannot be read: .*refused; run the same again"),
        local_copy("hf://datasets/nobody/corpus/a.txt"),
    ):
        pass


def test_an_address_that_names_no_dataset_is_an_error() -> None:
    for address in ("hf://", "hf://datasets/nobody"):
        with pytest.raises(DataError, match=rf"^{address} cannot be listed: "):
            texts_of(address)


def test_a_corpus_from_a_store_has_the_bytes_of_a_folder(
    store: Store, make_recipe: MakeRecipe
) -> None:
    here = make_recipe({"web": numbered_texts(40)}, {"exact_duplicates": {}}, "here")
    for path in sorted(Path(here.sources[0].paths[0]).iterdir()):
        store.write(f"web/{path.name}", path.read_bytes())
    there = make_recipe(
        {},
        {"exact_duplicates": {}},
        "there",
        sources=[{"name": "web", "paths": [f"{store.address}/web"]}],
    )
    prepare_corpus(here, local_processes(1))
    prepare_corpus(there, local_processes(1))
    shards = [
        {name: data for name, data in contents(recipe.out).items() if "-0" in name}
        for recipe in (here, there)
    ]
    assert shards[0]
    assert shards[0] == shards[1]
