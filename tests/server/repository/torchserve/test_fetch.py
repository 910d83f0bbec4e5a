from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from jitney.core.errors import DownloadFailed, UrlRefused
from jitney.server.repository.torchserve import fetch as fetching
from jitney.server.repository.torchserve.fetch import Rules, check_url, fetch, is_public
from jitney.tests.fakes import web as fake
from jitney.tests.fakes.web import Web

ANY = ("file://.*|http(s)?://.*",)
OPEN = Rules(ANY, allow_private=True)


@pytest.fixture
def web() -> Iterator[Web]:
    with fake.serving({}) as served:
        yield served


def failed(url: str, folder: Path, error: type[Any], rules: Rules = OPEN) -> Any:
    """Fetches, expects the error, and that the folder is as it was."""
    before = sorted(folder.iterdir())
    with pytest.raises(error) as raised:
        fetch(url, folder / "target", rules)
    assert sorted(folder.iterdir()) == before
    assert raised.value.url
    return raised.value


def test_an_archive_is_fetched(tmp_path: Path, web: Web) -> None:
    data = os.urandom(1_000_000)
    web.routes["/mar_files/a.mar?key=1"] = fake.body(data)
    web.routes["/unknown-length"] = fake.body(data, length=-1)
    seen = []
    fetch(web.base + "/mar_files/a.mar?key=1", tmp_path / "a.mar", OPEN, lambda done, total: seen.append((done, total)))
    assert (tmp_path / "a.mar").read_bytes() == data
    assert seen[-1] == (len(data), len(data))
    fetch(web.base + "/unknown-length", tmp_path / "b.mar", OPEN)
    assert (tmp_path / "b.mar").read_bytes() == data


def test_loopback_is_refused_unless_allowed(tmp_path: Path, web: Web) -> None:
    web.routes["/a.mar"] = fake.body(b"1")
    for host in ("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"):
        error = failed(f"http://{host}:{web.port}/a.mar", tmp_path, UrlRefused, Rules(ANY))
        assert error.kind == "private"
    assert web.asked == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::a00:1", False),
        ("2002:7f00:1::", False),
        ("not an address", False),
    ],
)
def test_what_is_public(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_a_name_is_resolved_once_and_the_judged_address_is_used(
    tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is public when judged and loopback a moment later (DNS rebinding)."""
    answers = iter(["127.0.0.1", "127.0.0.9"])
    asked = []

    def resolve(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    web.routes["/a.mar"] = fake.body(b"1")
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")
    fetch(f"http://models.example:{web.port}/a.mar", tmp_path / "a.mar", Rules(ANY))
    assert asked == ["models.example"]
    assert (tmp_path / "a.mar").read_bytes() == b"1"


def test_one_private_address_among_public_ones_is_enough_to_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert failed("http://models.example/a.mar", tmp_path, UrlRefused, Rules(ANY)).kind == "private"


def test_redirects_obey_the_same_rules(tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")
    rules = Rules((f"{web.base}/.*", r"http://127\.0\.0\.2.*"))
    web.routes |= {
        "/good": fake.redirect("/a.mar"),
        "/a.mar": fake.body(b"1"),
        "/private": fake.redirect(f"http://127.0.0.2:{web.port}/a.mar"),
        "/foreign": fake.redirect("http://example.com/a.mar", 307),
        "/file": fake.redirect("file:///etc/passwd", 301),
        "/dots": fake.redirect("/%2e%2e/a.mar", 308),
        "/nowhere": fake.redirect("", 303),
        "/round": fake.redirect("/round"),
    }
    fetch(web.base + "/good", tmp_path / "a.mar", rules)
    assert (tmp_path / "a.mar").read_bytes() == b"1"
    for path, kind in {
        "/private": "private",
        "/foreign": "not_allowed",
        "/file": "not_allowed",
        "/dots": "relative",
        "/nowhere": "not_allowed",
    }.items():
        assert failed(web.base + path, tmp_path, UrlRefused, rules).kind == kind, path
    assert web.asked.count("/a.mar") == 1
    assert "redirects more than" in str(failed(web.base + "/round", tmp_path, DownloadFailed, rules))


def test_an_encrypted_url_does_not_redirect_to_a_plain_one() -> None:
    with pytest.raises(UrlRefused, match="not encrypted"):
        fetching._redirected("https://h/a", check_url("https://h/a", OPEN), "http://h/a")


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("http://h/../a.mar", "relative"),
        ("http://h/%2e%2e/a.mar", "relative"),
        ("ftp://h/a.mar", "missing"),
        ("gopher://h/a.mar", "missing"),
        ("http://h/a b.mar", "not_allowed"),
        ("http://h/a\r\nX: 1", "not_allowed"),
        ("http://h\\@evil/a", "not_allowed"),
        ("http://user:pass@h/a.mar", "not_allowed"),
        ("http:///a.mar", "not_allowed"),
        ("http://h:port/a.mar", "not_allowed"),
        ("http://[::1/a.mar", "not_allowed"),
        ("file://host/a.mar", "not_allowed"),
    ],
)
def test_urls_that_are_never_fetched(tmp_path: Path, url: str, kind: str) -> None:
    assert failed(url, tmp_path, UrlRefused).kind == kind


def test_allowed_urls_match_whole_urls_without_case() -> None:
    rules = Rules((r"https://s3\.example/.*", "file:///models/a.mar"))
    check_url("HTTPS://S3.example/x.mar", rules)
    check_url("file:///models/a.mar", rules)
    for url in ("https://s3.example.evil/x.mar", "http://s3.example/x", "xhttps://s3.example/x", "file:///models/a.mar2"):
        with pytest.raises(UrlRefused):
            check_url(url, rules)


def test_too_many_bytes_are_refused_declared_or_not(tmp_path: Path, web: Web) -> None:
    web.routes |= {
        "/declared": fake.body(b"1" * 101),
        "/undeclared": fake.body(b"1" * 101, length=-1),
        "/fits": fake.body(b"1" * 100),
    }
    rules = Rules(ANY, allow_private=True, max_bytes=100)
    for path in ("/declared", "/undeclared"):
        assert "max_download_bytes" in str(failed(web.base + path, tmp_path, DownloadFailed, rules))
    fetch(web.base + "/fits", tmp_path / "fits", rules)


def test_what_is_missing_short_or_no_http_fails(tmp_path: Path, web: Web) -> None:
    web.routes |= {
        "/short": fake.body(b"1" * 10, length=20),
        "/noise": lambda handler: handler.wfile.write(b"noise\r\n\r\n"),
    }
    assert "404" in str(failed(web.base + "/nosuch", tmp_path, DownloadFailed))
    failed(web.base + "/short", tmp_path, DownloadFailed)
    failed(web.base + "/noise", tmp_path, DownloadFailed)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        failed(f"http://127.0.0.1:{unused.getsockname()[1]}/a", tmp_path, DownloadFailed)
    failed("http://no-such-host.invalid/a", tmp_path, DownloadFailed)


def test_a_trickle_ends_at_the_deadline(tmp_path: Path, web: Web) -> None:
    def trickle(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not web.stop.wait(0.02):
            handler.wfile.write(b"X-More: 1\r\n" if handler.path == "/headers" else b"\r\n1")

    web.routes |= {"/headers": trickle, "/body": trickle, "/silence": lambda handler: web.stop.wait(20)}
    rules = Rules(ANY, allow_private=True, seconds=0.3)
    for path in ("/headers", "/body", "/silence"):
        began = time.monotonic()
        failed(web.base + path, tmp_path, DownloadFailed, rules)
        assert time.monotonic() - began < 5


def test_files_are_copied_and_only_plain_ones(tmp_path: Path) -> None:
    (tmp_path / "a b.mar").write_bytes(b"1")
    fetch(f"file://{tmp_path}/a%20b.mar", tmp_path / "target", OPEN)
    assert (tmp_path / "target").read_bytes() == b"1"
    (tmp_path / "target").unlink()
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "nosuch", tmp_path / "pipe", tmp_path, "/dev/zero", f"{tmp_path}/x%00y"):
        failed(f"file://{path}", tmp_path, DownloadFailed)
    failed(f"file://{tmp_path}/a%20b.mar", tmp_path, DownloadFailed, Rules(ANY, max_bytes=0))
    failed(f"file://{tmp_path}/a%20b.mar", tmp_path, UrlRefused, Rules(("https://.*",)))


def certificate(folder: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "cert.pem").write_bytes(made.public_bytes(Encoding.PEM) + plain)
    return folder / "cert.pem"


def test_encrypted_hosts_must_prove_who_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with fake.serving({"/a.mar": fake.body(b"1")}, context) as web:
        assert "CERTIFICATE_VERIFY_FAILED" in str(failed(web.base + "/a.mar", tmp_path, DownloadFailed))
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        fetch(web.base + "/a.mar", tmp_path / "a.mar", OPEN)
        assert (tmp_path / "a.mar").read_bytes() == b"1"
        assert "Hostname mismatch" in str(
            failed(web.base.replace("127.0.0.1", "localhost") + "/a.mar", tmp_path, DownloadFailed)
        )
