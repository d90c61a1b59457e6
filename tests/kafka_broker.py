"""A real Apache Kafka for tests: its jars fetched once by Maven, started, killed and started again by the tests.

KRaft mode, each node broker and controller in one. Beside the plain listener each broker has one that
wants a password, one with TLS, one that wants a client's certificate, and one with TLS and SCRAM, so
that refusals are real ones too.
"""

import base64
import ipaddress
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cache import cache_folder, locked
from processes import die_with_parent, free_port, is_left_over, own_name

VERSION = "4.3.1"
READER = ("reader", "reader-secret")
STRANGER = ("stranger", "stranger-secret")
"""Two users with a password and a certificate; the second may read nothing."""
_LISTENERS = ("PLAINTEXT", "SASL", "TLS", "MTLS", "SCRAM", "CONTROLLER")
_TOOLS = ("java", "mvn")
_PACKAGES = ("default-jre-headless", "maven")
_FOLDER = "evidence-kafka-"
_READY_S = 90
_HEAP = "256m"

_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion><groupId>test</groupId><artifactId>kafka-broker</artifactId><version>1</version><packaging>pom</packaging>
  <properties><project.build.sourceEncoding>UTF-8</project.build.sourceEncoding></properties>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>@VERSION@</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
  <build><plugins><plugin>
    <groupId>org.apache.maven.plugins</groupId><artifactId>maven-dependency-plugin</artifactId><version>3.8.1</version>
    <configuration><includeScope>runtime</includeScope><outputDirectory>${project.basedir}/lib</outputDirectory></configuration>
  </plugin></plugins></build>
</project>
"""

_PROPERTIES = """process.roles=broker,controller
node.id=@NODE@
controller.quorum.voters=@VOTERS@
listeners=@LISTENERS@,CONTROLLER://127.0.0.1:@CONTROLLER@
advertised.listeners=@LISTENERS@
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SSL,MTLS:SSL,SCRAM:SASL_SSL
sasl.enabled.mechanisms=PLAIN
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required @USERS@;
listener.name.scram.sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512
listener.name.scram.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.scram.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.type=PEM
ssl.keystore.location=@FOLDER@/server.pem
listener.name.mtls.ssl.client.auth=required
listener.name.mtls.ssl.truststore.type=PEM
listener.name.mtls.ssl.truststore.location=@FOLDER@/clients.pem
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:reader;User:CN=reader
allow.everyone.if.no.acl.found=false
log.dirs=@DATA@
offsets.topic.replication.factor=@COPIES@
transaction.state.log.replication.factor=@COPIES@
share.coordinator.state.topic.replication.factor=@COPIES@
share.coordinator.state.topic.min.isr=@MOST@
transaction.state.log.min.isr=@MOST@
default.replication.factor=@COPIES@
min.insync.replicas=@MOST@
offsets.topic.num.partitions=3
transaction.state.log.num.partitions=3
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216
log.retention.ms=-1
log.retention.check.interval.ms=300
log.initial.task.delay.ms=300
log.segment.delete.delay.ms=100
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
"""


class Unavailable(Exception):
    """No broker can be started on this machine; the message says why."""


def _run(*command: str | Path, cwd: Path | None = None) -> None:
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=cwd)
    if done.returncode != 0:
        raise Unavailable(f"{command[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")


def _install_tools() -> None:
    if all(shutil.which(tool) for tool in _TOOLS):
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Unavailable("Kafka is fetched by mvn and run by java: not installed, and only root with apt-get could")
    _run("apt-get", "update", "-qq")
    _run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq", "--no-install-recommends", *_PACKAGES)


def _jvm() -> str:
    """The version of java, in which a class archive is of use."""
    told = subprocess.run(["java", "-version"], check=True, capture_output=True, text=True).stderr
    return "".join(character if character.isalnum() else "-" for character in told.splitlines()[0])


class Distribution:
    """The jars of a broker, a formatted folder for each of three nodes, and a class archive that halves the time of a start."""

    def __init__(self) -> None:
        _install_tools()
        folder = cache_folder() / f"kafka-{VERSION}"
        with locked("kafka"):
            if not folder.exists():
                half = folder.with_name(folder.name + ".half")
                shutil.rmtree(half, ignore_errors=True)
                half.mkdir()
                (half / "pom.xml").write_text(_POM.replace("@VERSION@", VERSION))
                _run("mvn", "-q", "-B", "dependency:copy-dependencies", cwd=half)
                half.rename(folder)
            self.class_path = ":".join(str(jar) for jar in sorted((folder / "lib").glob("*.jar")))
            self.archive = folder / f"{_jvm()}.jsa"
            self._formatted = folder / "formatted-scram"
            if not self._formatted.exists():
                self._format()
            if not self.archive.exists():
                self._archive_classes()

    def _format(self) -> None:
        half = self._formatted.with_name("formatted-scram.half")
        shutil.rmtree(half, ignore_errors=True)
        cluster = base64.urlsafe_b64encode(b"\x01" + secrets.token_bytes(15)).decode().rstrip("=")
        for node in (1, 2, 3):
            data = half / str(node)
            data.mkdir(parents=True)
            properties = half / f"{node}.properties"
            # Ports are of no account here: what is written says only which node it is.
            properties.write_text(_properties(node, data, half, [(node, 9006)], list(range(9001, 9007))))
            _run(
                "java", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", self.class_path,
                "kafka.tools.StorageTool", "format", "-t", cluster, "-c", properties, *_scram(),
            )  # fmt: skip
        half.rename(self._formatted)

    def _archive_classes(self) -> None:
        broker = Cluster(self, dump=self.archive)
        broker.stop()
        broker.remove()

    def formatted(self, node: int, folder: Path) -> None:
        """`folder` becomes the data folder of a new node."""
        shutil.copytree(self._formatted / str(node), folder)


def _properties(node: int, data: Path, folder: Path, voters: list[tuple[int, int]], ports: list[int]) -> str:
    copies = len(voters)
    users = " ".join(f'user_{name}="{password}"' for name, password in (READER, STRANGER))
    open_to_clients = list(zip(_LISTENERS, ports, strict=True))[:-1]
    values = {
        "NODE": node, "VOTERS": ",".join(f"{place}@127.0.0.1:{port}" for place, port in voters), "CONTROLLER": ports[-1],
        "LISTENERS": ",".join(f"{name}://127.0.0.1:{port}" for name, port in open_to_clients), "USERS": users,
        "FOLDER": folder, "DATA": data, "COPIES": copies, "MOST": copies // 2 + 1,
    }  # fmt: skip
    text = _PROPERTIES
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    return text


def _scram() -> list[str]:
    """What a new node is told of its users: the passwords themselves are not kept."""
    return [
        argument
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
        for name, password in (READER, STRANGER)
        for argument in ("--add-scram", f"{mechanism}=[name={name},password={password}]")
    ]


class Cluster:
    """One broker or three on ports of their own; `kill` is a power cut of one."""

    def __init__(self, distribution: Distribution, *, nodes: int = 1, dump: Path | None = None) -> None:
        self._distribution = distribution
        self._dump = dump
        for left in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
            if is_left_over(left.name, _FOLDER):
                shutil.rmtree(left, ignore_errors=True)
        self._folder = Path(tempfile.mkdtemp(prefix=own_name(_FOLDER)))
        self._ports = {node: [free_port() for _ in _LISTENERS] for node in range(1, nodes + 1)}
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self.authority = self._folder / "authority.pem"
        try:
            _make_certificates(self._folder)
            voters = [(node, ports[-1]) for node, ports in self._ports.items()]
            for node, ports in self._ports.items():
                distribution.formatted(node, self._folder / str(node))
                text = _properties(node, self._folder / str(node), self._folder, voters, ports)
                (self._folder / f"{node}.properties").write_text(text)
            self.start()
        except BaseException:
            self.remove()
            raise

    # --- addresses --------------------------------------------------------------------------------------------------

    def _servers(self, listener: int) -> str:
        return ",".join(f"127.0.0.1:{ports[listener]}" for ports in self._ports.values())

    @property
    def servers(self) -> str:
        """Where everybody may do everything."""
        return self._servers(0)

    @property
    def with_password(self) -> str:
        return self._servers(1)

    @property
    def with_tls(self) -> str:
        return self._servers(2)

    @property
    def with_certificate(self) -> str:
        """TLS where the client shows a certificate too."""
        return self._servers(3)

    @property
    def with_scram(self) -> str:
        """TLS and a password that is proven without being sent."""
        return self._servers(4)

    def certificate(self, name: str) -> tuple[Path, Path]:
        """A client's certificate and its key: those of a user, or `nobody`'s, for whom no authority vouches."""
        return self._folder / f"{name}.crt", self._folder / f"{name}.key"

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Every node serves requests; those that run already go on."""
        self.wait_started(self.launch())

    def launch(self) -> dict[int, int]:
        """Every node is starting. Only from a thread that lives as long as it shall: the kernel ends it with its thread."""
        return {node: self._launch(node) for node in self._ports}

    def wait_started(self, marks: dict[int, int]) -> None:
        """What `launch` began is done."""
        give_up = time.monotonic() + _READY_S
        for node, mark in marks.items():
            while b"Kafka Server started" not in self._log(node)[mark:]:
                if self._running[node].poll() is not None or time.monotonic() > give_up:
                    raise Unavailable(f"broker {node} did not start: {self._log(node)[-2000:].decode(errors='replace')}")
                time.sleep(0.05)

    def _log(self, node: int) -> bytes:
        path = self._folder / f"{node}.log"
        return path.read_bytes() if path.exists() else b""

    def _launch(self, node: int) -> int:
        """Where the log of this start begins; 0 for a node that runs."""
        held = self._running.get(node)
        if held is not None and held.poll() is None:
            return 0
        mark = len(self._log(node))
        use = "ArchiveClassesAtExit" if self._dump else "SharedArchiveFile"
        command = [
            "java", f"-Xmx{_HEAP}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto",
            f"-XX:{use}={self._dump or self._distribution.archive}", "-Djava.awt.headless=true",
            "-cp", self._distribution.class_path, "kafka.Kafka", str(self._folder / f"{node}.properties"),
        ]  # fmt: skip
        with (self._folder / f"{node}.log").open("ab") as log:
            self._running[node] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one prctl between fork and exec takes no lock
            )
        return mark

    def kill(self, node: int = 1) -> None:
        """The node is gone at once; what it had written is kept."""
        held = self._running.pop(node, None)
        if held is not None and held.poll() is None:
            os.killpg(held.pid, signal.SIGKILL)
            held.wait()

    def stop(self) -> None:
        """Every node has ended as it should."""
        for held in self._running.values():
            held.terminate()
        for held in self._running.values():
            held.wait(_READY_S)
        self._running.clear()

    def remove(self) -> None:
        """The cluster is gone with its data."""
        for node in list(self._running):
            self.kill(node)
        shutil.rmtree(self._folder, ignore_errors=True)


def _make_certificates(folder: Path) -> None:
    """The broker's, which is its own authority; that of the clients' authority; and one for each client."""
    server, certificate = _certificate("127.0.0.1")
    (folder / "server.pem").write_bytes(_private(server) + _public(certificate))
    (folder / "authority.pem").write_bytes(_public(certificate))
    authority, certificate = _certificate("clients")
    (folder / "clients.pem").write_bytes(_public(certificate))
    for name, issuer in ((READER[0], authority), (STRANGER[0], authority), ("nobody", None)):
        key, found = _certificate(name, issuer=issuer, issuer_name="clients")
        (folder / f"{name}.crt").write_bytes(_public(found))
        (folder / f"{name}.key").write_bytes(_private(key))


def _certificate(
    name: str, *, issuer: ec.EllipticCurvePrivateKey | None = None, issuer_name: str = ""
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """A new key and its certificate; without an issuer it is an authority of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    own, now = _name(name), datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(own)
        .issuer_name(_name(issuer_name) if issuer else own)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]), critical=False)
        .sign(issuer or key, hashes.SHA256())
    )
    return key, certificate


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _public(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
