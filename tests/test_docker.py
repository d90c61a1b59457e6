"""The image can be built, and the service that it starts preserves evidence."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from containers import TOP, Container, Unavailable, build_image
from postgres import Database
from processes import free_port

DOCKER = TOP / "docker"
PASSWORD = "a synthetic password"


@pytest.fixture
def image() -> str:
    try:
        return build_image()
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(params=["sqlite", "postgresql"])
def container(request: pytest.FixtureRequest, image: str, tmp_path: Path) -> Iterator[tuple[Container, httpx.Client]]:
    port = free_port()
    environment = {"EVIDENCE_HOST": "127.0.0.1", "EVIDENCE_PORT": str(port)}
    if request.param == "postgresql":
        database: Database = request.getfixturevalue("postgres")
        environment["EVIDENCE_DATABASE_URL"] = database.url
        environment["POSTGRES_PASSWORD_FILE"] = "/run/secrets/postgresql_password"
    secrets = tmp_path / "secrets"
    secrets.mkdir(mode=0o755)
    (secrets / "postgresql_password").write_text(PASSWORD + "\n")
    made = Container(image, log=tmp_path / "log", secrets_folder=secrets, **environment)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
            yield made, client
    finally:
        made.remove()


def _start(container: Container, client: httpx.Client) -> None:
    container.start()
    give_up = time.monotonic() + 60
    while True:
        try:
            if client.get("/readyz").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        assert container.is_running(), container.log()
        assert time.monotonic() < give_up, container.log()
        time.sleep(0.1)


@pytest.mark.long
def test_service_of_the_image_preserves_and_keeps_an_item(container: tuple[Container, httpx.Client]) -> None:
    service, client = container
    _start(service, client)
    running = service.service()
    assert isinstance(running, psutil.Process)
    if "POSTGRES_PASSWORD_FILE" in running.environ():
        assert running.environ()["PGPASSWORD"] == PASSWORD
    assert client.get("/healthz").status_code == httpx.codes.OK
    assert service.run("/opt/evidence/bin/start", "--check") == ""
    assert client.get("/v1/service").json()["version"]

    client.headers["Authorization"] = f"Bearer {service.run('cat', '/var/lib/evidence/token').strip()}"
    submission = json.loads(service.run("evidence", "templates", "example", "file@1", "--json"))
    preserved = client.post("/v1/evidence", json=submission)
    assert preserved.status_code == httpx.codes.CREATED, preserved.text
    evidence_id = preserved.json()["evidence_id"]

    assert service.stop() == 0, service.log()
    _start(service, client)
    again = client.post("/v1/evidence", json=submission)
    assert again.status_code == httpx.codes.OK, again.text
    assert again.json()["evidence_id"] == evidence_id
    assert service.stop() == 0, service.log()


def test_compose_file_names_only_what_exists() -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    services = compose["services"]
    assert set(services) == {"evidence", "postgresql"}
    build = services["evidence"]["build"]
    assert (DOCKER / build["context"] / build["dockerfile"]).is_file()
    for service in services.values():
        assert service["healthcheck"]["test"]
        assert set(service["secrets"]) <= set(compose["secrets"])
        assert {volume.partition(":")[0] for volume in service["volumes"]} <= set(compose["volumes"])
        assert set(service.get("depends_on", {})) <= set(services)
    for secret in compose["secrets"].values():
        assert (DOCKER / secret["file"]).parent == DOCKER / "secrets"


def test_compose_file_holds_no_secret() -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    for service in compose["services"].values():
        for name, value in service["environment"].items():
            assert not re.search(r"(?i)password|token|secret|key", name) or value.startswith("/run/secrets/"), name
            assert not re.search(r"://[^/@]*:[^/@]*@", value), name


def test_dockerfile_copies_only_what_the_builder_is_given() -> None:
    given = {line[1:] for line in (TOP / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    for path in " ".join(copied).split():
        assert (TOP / path).exists(), path
        assert any(path == entry or path.startswith(f"{entry}/") for entry in given), path
