"""deploy/fleet: vLLM servers behind nginx, with Prometheus. The files name the same servers
and ports, mount files that exist, and pass the linters of their programs where there are any.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "fleet"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVERS = {f"{name}:8000" for name in COMPOSE["services"] if name.startswith("vllm-")}
NGINX = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")


def test_nginx_and_prometheus_know_the_servers_of_the_fleet() -> None:
    assert len(SERVERS) == 2
    assert set(re.findall(r"^\s*server (\S+:\d+) ", NGINX, re.MULTILINE)) == SERVERS
    prometheus = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = prometheus["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    assert {target for static in job["static_configs"] for target in static["targets"]} == SERVERS
    assert set(COMPOSE["services"]["nginx"]["depends_on"]) == {
        server.partition(":")[0] for server in SERVERS
    }


def test_each_server_has_a_gpu_of_its_own_and_the_same_of_everything_else() -> None:
    servers = [COMPOSE["services"][name.partition(":")[0]] for name in sorted(SERVERS)]
    shared = [{key: value for key, value in s.items() if key != "deploy"} for s in servers]
    assert shared[0] == shared[1] == {"build": shared[0]["build"], **COMPOSE["x-vllm"]}
    devices = [s["deploy"]["resources"]["reservations"]["devices"][0] for s in servers]
    assert [device["device_ids"] for device in devices] == [["0"], ["1"]]


def test_ports_and_mounted_files_agree() -> None:
    """Only loopback is published, and what a container mounts from here is here."""
    listening = re.search(r"listen (\d+);", NGINX)
    assert listening is not None
    port = listening[1]
    nginx = COMPOSE["services"]["nginx"]
    assert nginx["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"http://127.0.0.1:{port}/health" in nginx["healthcheck"]["test"]
    for service in COMPOSE["services"].values():
        assert all(each.startswith("127.0.0.1:") for each in service.get("ports", []))
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert not source.startswith("./") or (DEPLOY / source).is_file(), source
    health = " ".join(COMPOSE["x-vllm"]["healthcheck"]["test"])
    assert "127.0.0.1:8000/health" in health


def test_streams_are_not_buffered_and_metrics_not_shown() -> None:
    served = dict(re.findall(r"location (?:= )?(\S+) \{([^}]*)\}", NGINX))
    assert set(served) == {"/v1/", "/health", "/"}
    assert "proxy_buffering off;" in served["/v1/"]
    assert "return 404;" in served["/"]


def test_the_image_copies_what_the_package_is_built_of() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    sources = [
        name for line in re.findall(r"^COPY (.*)$", text, re.M) for name in line.split()[:-1]
    ]
    assert {"pyproject.toml", "setup.py", "src", "native"} <= set(sources)
    assert all((ROOT / name).exists() for name in sources)
    assert re.search(r"^FROM vllm/vllm-openai:v\d+\.\d+\.\d+$", text, re.M)
    build = COMPOSE["x-vllm"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()


def lint(*command: str | Path) -> None:
    program = shutil.which(str(command[0]))
    if program is None:
        pytest.skip(f"{command[0]} is not installed")
    found = subprocess.run(
        [program, *map(str, command[1:])], capture_output=True, text=True, timeout=60, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_prometheus_takes_its_file() -> None:
    lint("promtool", "check", "config", DEPLOY / "prometheus.yml")


def test_nginx_takes_its_file(tmp_path: Path) -> None:
    """With addresses instead of names, which only the fleet's network knows."""
    plain = re.sub(r"vllm-(\d):8000", r"127.0.0.1:900\1", NGINX)
    (tmp_path / "nginx.conf").write_text(plain, encoding="utf-8")
    lint("nginx", "-t", "-q", "-g", f"pid {tmp_path}/pid;", "-c", tmp_path / "nginx.conf")


def test_compose_takes_its_file() -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    lint("check-jsonschema", *schema, DEPLOY / "compose.yaml")


def test_the_files_are_plain_yaml() -> None:
    rules = (
        "{extends: default, rules: {line-length: {max: 130}, document-start: disable, comments:"
        " {min-spaces-from-content: 1}}}"
    )
    lint("yamllint", "--strict", "-d", rules, DEPLOY / "compose.yaml", DEPLOY / "prometheus.yml")
