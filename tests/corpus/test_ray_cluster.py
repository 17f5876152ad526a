"""Ray Data writes the same bytes as the processes of one machine."""

import pytest
from small_corpora import MakeRecipe, contents, numbered_texts

from puna.corpus.local_processes import local_processes
from puna.corpus.pipeline import prepare_corpus
from puna.corpus.ray_cluster import ray_cluster
from puna.data.sources import find_sources
from puna.errors import DataError

pytestmark = pytest.mark.filterwarnings("default")  # Ray's own


@pytest.mark.usefixtures("small_tasks")
def test_local_equals_ray(make_recipe: MakeRecipe) -> None:
    ray = pytest.importorskip("ray")
    made = numbered_texts(60)
    stages = {"normalize": {}, "exact_duplicates": {}, "personal_data": {}}
    options = {"validation_fraction": 0.2, "piece_bytes": 1500}
    sources = {"web": [*made, *made[:9]], "more": numbered_texts(30, seed=1)}
    local = make_recipe(sources, stages, "local", **options)
    prepare_corpus(local, local_processes(1))
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        distributed = make_recipe(sources, stages, "ray", **options)
        prepare_corpus(distributed, ray_cluster(None))
        assert contents(distributed.out) == contents(local.out)
        with pytest.raises(DataError, match="no source was given"):
            list(ray_cluster(None)(find_sources, [()]))
    finally:
        ray.shutdown()


def test_an_absent_ray_names_its_extra() -> None:
    try:
        import ray  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(DataError, match=r"pip install 'puna\[ray\]'"):
            ray_cluster(None)
