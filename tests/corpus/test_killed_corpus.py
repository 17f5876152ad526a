"""A preparation that is killed at any moment is continued to the same bytes."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from small_corpora import MakeRecipe, contents, numbered_texts

from puna.corpus.local_processes import local_processes
from puna.corpus.pipeline import prepare_corpus

PROGRAM = """
import sys
from pathlib import Path
from puna.corpus import input_files
from puna.corpus.corpus_recipe import load_preparation_recipe
from puna.corpus.local_processes import local_processes
from puna.corpus.pipeline import prepare_corpus
if __name__ == "__main__":
    input_files.TASK_BYTES = 2000
    prepare_corpus(load_preparation_recipe(Path(sys.argv[1])), local_processes(1))
"""


@pytest.mark.usefixtures("small_tasks")
@pytest.mark.parametrize("sign", ["work/web/*.json", "work/links-*.npy", "web/*.tokens"])
def test_kill_9_and_go_on(make_recipe: MakeRecipe, tmp_path: Path, sign: str) -> None:
    """Killed (SIGKILL, with no time to clean up) when the third file of a part is there."""
    made = numbered_texts(150)
    sources, stages = {"web": [*made, *made[:9]]}, {"exact_duplicates": {}, "personal_data": {}}
    options = {"validation_fraction": 0.2, "piece_bytes": 1500}
    whole = make_recipe(sources, stages, "whole", **options)
    prepare_corpus(whole, local_processes(1))

    killed = make_recipe(sources, stages, "killed", **options)
    described = tmp_path / "corpus.yaml"
    described.write_text(yaml.safe_dump(killed.model_dump(mode="json", exclude_defaults=True)))
    script = tmp_path / "run.py"
    script.write_text(PROGRAM)
    process = subprocess.Popen([sys.executable, script, described])
    wanted = 1 if "links" in sign else 3
    while len(list(killed.out.glob(sign))) < wanted and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not (killed.out / "corpus.json").exists()
    prepare_corpus(killed, local_processes(1))
    assert contents(killed.out) == contents(whole.out)
