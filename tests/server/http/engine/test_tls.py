"""https addresses: certificates from PEM files, keystores or made at the start; large bodies, slow and wrong clients."""

import datetime
import http.client
import ipaddress
import json
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)

from jitney.core.errors import InvalidConfig
from jitney.server.settings.addresses import Address, parse_address
from jitney.tests.fakes.raw_http import Connection

HTTPS = parse_address("https://127.0.0.1:0")
SETTINGS = {"inference_address": HTTPS, "max_request_size": 50_000_000, "max_response_size": 50_000_000}


class Identity:
    """A certificate for 127.0.0.1, signed by itself, as PEM files and keystores in a folder."""

    def __init__(self, folder: Path, bits: int = 2048) -> None:
        self.folder = folder
        self.key = rsa.generate_private_key(65537, bits)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "jitney test")])
        now = datetime.datetime.now(datetime.UTC)
        hour = datetime.timedelta(hours=1)
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(self.key.public_key())
        builder = builder.serial_number(7).not_valid_before(now - hour).not_valid_after(now + hour)
        self.certificate = builder.add_extension(names, critical=False).sign(self.key, hashes.SHA256())
        self.certificate_file = self._file("server.pem", self.certificate.public_bytes(Encoding.PEM))
        self.private_key_file = self.key_file("server.key", NoEncryption())

    def _file(self, name: str, content: bytes) -> str:
        (self.folder / name).write_bytes(content)
        return str(self.folder / name)

    def key_file(self, name: str, encryption: Any) -> str:
        return self._file(name, self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))

    def keystore(self, password: bytes = b"changeit") -> str:
        encryption = BestAvailableEncryption(password)
        content = pkcs12.serialize_key_and_certificates(b"ts", self.key, self.certificate, None, encryption)
        return self._file(f"{password.decode()}.p12", content)

    @property
    def pem(self) -> dict[str, str]:
        return {"certificate_file": self.certificate_file, "private_key_file": self.private_key_file}

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.certificate_file)


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity(tmp_path_factory.mktemp("identity"))


def client(address: Address, context: ssl.SSLContext) -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection("127.0.0.1", address.port, timeout=20, context=context)


def predict(connection: http.client.HTTPSConnection, body: bytes) -> bytes:
    connection.request("POST", "/predictions/echo", body)
    reply = connection.getresponse()
    assert reply.status == 200
    return reply.read()


def test_pem_files_and_a_connection_that_stays(open_site: Any, identity: Identity) -> None:
    site = open_site(**SETTINGS, **identity.pem)
    connection = client(site.address("inference"), identity.trusting())
    assert [predict(connection, b"%d" % n) for n in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
    assert connection.sock.version() in ("TLSv1.2", "TLSv1.3")
    connection.close()
    assert site.ask("management", "GET", "/models").status == 200  # plain, as its address says


@pytest.mark.parametrize("password", ["changeit", "s3cret"])
def test_a_keystore(open_site: Any, identity: Identity, password: str) -> None:
    given = {} if password == "changeit" else {"keystore_pass": password}
    site = open_site(**SETTINGS, keystore=identity.keystore(password.encode()), **given)
    connection = client(site.address("inference"), identity.trusting())
    assert predict(connection, b"abc") == b"abc"
    connection.close()


def test_without_files_a_certificate_is_made(open_site: Any) -> None:
    site = open_site(**SETTINGS)
    address = site.address("inference")
    made = ssl.get_server_certificate(("127.0.0.1", address.port))
    connection = client(address, ssl.create_default_context(cadata=made))
    assert predict(connection, b"abc") == b"abc"
    connection.close()


def test_megabytes_in_both_directions_from_several_clients(open_site: Any, identity: Identity) -> None:
    site = open_site(**SETTINGS, **identity.pem)
    answers: dict[int, bool] = {}

    def exchange(number: int) -> None:
        connection = client(site.address("inference"), identity.trusting())
        body = bytes([number]) * 5_000_000
        answers[number] = all(predict(connection, body) == body for _ in range(3))
        connection.close()

    threads = [threading.Thread(target=exchange, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == dict.fromkeys(range(4), True)


def test_a_client_that_reads_slowly_gets_everything(open_site: Any, identity: Identity) -> None:
    site = open_site(**SETTINGS, **identity.pem)
    with socket.create_connection(("127.0.0.1", site.address("inference").port)) as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        with identity.trusting().wrap_socket(plain, server_hostname="127.0.0.1") as sock:
            body = b"x" * 1_000_000
            head = b"POST /predictions/echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1000000\r\n\r\n"
            sock.sendall(head + body)
            received = b""
            while data := sock.recv(2000):
                received += data
    assert received.endswith(body)
    assert len(received.split(b"\r\n\r\n", 1)[1]) == 1_000_000


def test_bytes_that_come_one_at_a_time(open_site: Any, identity: Identity) -> None:
    """A client whose records reach the server byte by byte, the handshake included."""
    site = open_site(**SETTINGS, **identity.pem)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = identity.trusting().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with socket.create_connection(("127.0.0.1", site.address("inference").port)) as sock:
        sock.settimeout(10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def finish(step: Any) -> Any:
            while True:
                try:
                    result = step()
                except ssl.SSLWantReadError:
                    result = None
                for byte in outgoing.read():
                    sock.sendall(bytes([byte]))
                if result is not None:
                    return result
                incoming.write(sock.recv(65536))

        finish(lambda: tls.do_handshake() or True)
        finish(lambda: tls.write(b"POST /predictions/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"))
        assert finish(lambda: tls.read(65536)).endswith(b"\r\n\r\nabc")


def test_plain_http_is_told(open_site: Any, identity: Identity) -> None:
    site = open_site(**SETTINGS, **identity.pem)
    address = site.address("inference")
    with Connection(Address("http", "127.0.0.1", address.port)) as connection:
        connection.send(b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = connection.read()
        assert answer.status == 403
        assert json.loads(answer.body) == {"status": "This TorchServe instance only accepts HTTPS requests"}
        assert connection.closed()
    connection_after = client(address, identity.trusting())
    assert predict(connection_after, b"abc") == b"abc"
    connection_after.close()


def test_old_protocols_and_garbage_end_their_own_connection_only(open_site: Any, identity: Identity) -> None:
    site = open_site(**SETTINGS, **identity.pem)
    address = site.address("inference")
    with Connection(Address("http", "127.0.0.1", address.port)) as connection:
        connection.send(b"\x16\x03\x01\x00\x05hello" + bytes(500))
        connection.buffer = b""
        while connection._fill():
            pass  # an alert, then the end
    other = identity.trusting()
    other.load_verify_locations(cadata=identity.certificate.public_bytes(Encoding.PEM).decode())
    with socket.create_connection(("127.0.0.1", address.port)):
        connection_after = client(address, other)  # while a client that says nothing is connected
        assert predict(connection_after, b"abc") == b"abc"
        connection_after.close()


def test_what_cannot_be_used_is_named(open_site: Any, identity: Identity, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no PEM")
    encrypted = identity.key_file("encrypted.key", BestAvailableEncryption(b"secret"))
    pem = identity.certificate_file
    for values, text in [
        ({"certificate_file": pem}, "private_key_file is not set"),
        ({"private_key_file": pem}, "certificate_file is not set"),
        ({"certificate_file": str(tmp_path / "no.pem"), "private_key_file": pem}, "certificate_file: there is no file"),
        (
            {"certificate_file": str(garbage), "private_key_file": pem},
            "expected PEM .*: certificate_file holds no certificate",
        ),
        ({"certificate_file": pem, "private_key_file": str(garbage)}, "private_key_file holds no key in PEM"),
        (
            {"certificate_file": pem, "private_key_file": encrypted},
            "private_key_file is encrypted; to decrypt: openssl pkey",
        ),
        ({"keystore": str(tmp_path / "no.p12")}, "cannot be read: No such file"),
        ({"keystore": str(garbage)}, "cannot be opened with keystore_pass"),
        ({"keystore": identity.keystore(b"other")}, "cannot be opened with keystore_pass"),
        ({"keystore": identity.keystore(), "keystore_type": "JKS"}, "keystore_type=JKS cannot be read, expected PKCS12"),
    ]:
        with pytest.raises(InvalidConfig, match=text):
            open_site(**SETTINGS, **values)


def test_what_openssl_refuses_is_said_with_the_way_out(open_site: Any, identity: Identity, tmp_path: Path) -> None:
    short = Identity(tmp_path, 1024)  # Java, and so TorchServe, takes it
    pattern = r"its key of 1024 bits is too short for OpenSSL, .* 2048 bits .*; to make both anew: openssl req -x509 -newkey"
    for values in (short.pem, {"keystore": short.keystore()}):
        with pytest.raises(InvalidConfig, match=pattern):
            open_site(**SETTINGS, **values)
    with pytest.raises(InvalidConfig, match="the private key is not that of the certificate"):
        open_site(**SETTINGS, certificate_file=identity.certificate_file, private_key_file=short.private_key_file)
