"""The TLS context of https:// addresses: PEM files, a PKCS #12 keystore, or a certificate made for the occasion (TorchServe).

keystore, keystore_pass, keystore_type      a keystore comes first where both are given, as in TorchServe
certificate_file, private_key_file          PEM; the certificate's chain may follow it in the file
none of them                                a self-signed certificate for localhost, new at each start
"""

from __future__ import annotations

import datetime
import ipaddress
import logging
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ....core.errors import InvalidConfig

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from ...settings.settings import Settings

log = logging.getLogger(__name__)

#: How long a certificate that is made at the start is valid.
SELF_SIGNED_DAYS = 365
#: How to get a key and a certificate that are taken.
MAKE = (
    "to make both anew: openssl req -x509 -newkey rsa:2048 -sha256 -nodes -days 365 -subj /CN=HOST -keyout server.key -out "
    "server.pem (private_key_file=server.key, certificate_file=server.pem)"
)


def made_certificate(settings: Settings) -> bytes:
    """A certificate for this start, with its key, as PEM; b"" where the settings name one."""
    if settings.keystore or settings.certificate_file or settings.private_key_file:
        return b""
    log.warning("no keystore and no certificate_file is set: a self-signed certificate is used, which clients must accept")
    return _self_signed()


def server_context(settings: Settings, made: bytes = b"") -> ssl.SSLContext:
    """For all https listeners of a server; `made` by `made_certificate`, where others use the same.

    InvalidConfig names the key and what is wrong with what it names.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if settings.keystore:
        _load(context, _from_keystore(settings), f"keystore '{settings.keystore}'")
    elif settings.certificate_file or settings.private_key_file:
        _load_files(context, settings)
    else:
        _load(context, made or made_certificate(settings), "the self-signed certificate")
    return context


def _load_files(context: ssl.SSLContext, settings: Settings) -> None:
    files = {"certificate_file": settings.certificate_file, "private_key_file": settings.private_key_file}
    for key, path in files.items():
        if not path:
            raise InvalidConfig(f"{key} is not set: certificate_file and private_key_file belong together")
        if not Path(path).is_file():
            raise InvalidConfig(f"{key}: there is no file '{path}'")
    where = f"certificate_file '{settings.certificate_file}' and private_key_file '{settings.private_key_file}'"
    try:
        # Without a password function OpenSSL would ask on the terminal for an encrypted key, and the start would hang.
        context.load_cert_chain(settings.certificate_file, settings.private_key_file, password=lambda: b"")
    except (ssl.SSLError, OSError, ValueError) as error:
        wrong = _refused(error, Path(settings.certificate_file).read_bytes()) or _unreadable(settings) or str(error)
        raise InvalidConfig(f"{where} cannot be used, expected PEM and an unencrypted key: {wrong}") from None


def _refused(error: Exception, pem: bytes) -> str:
    """What OpenSSL has against a certificate and its key, and how to go on; "" where it is something else. Java takes some that
    it refuses."""
    reason = str(getattr(error, "reason", ""))
    if reason.endswith("_KEY_TOO_SMALL"):
        return f"{_key_of(pem)} is too short for OpenSSL, which takes RSA from 2048 bits and curves from 224; {MAKE}"
    if reason.endswith("_MD_TOO_WEAK"):
        return f"its certificate is signed over a digest that OpenSSL finds too weak (MD5, SHA-1), expected SHA-256; {MAKE}"
    if reason == "KEY_VALUES_MISMATCH":
        return "the private key is not that of the certificate, which has to be the first in its file; name a pair"
    return ""


def _key_of(pem: bytes) -> str:
    """The key of the first certificate, in words; its length needs the package cryptography."""
    try:
        from cryptography import x509

        size = getattr(x509.load_pem_x509_certificate(pem).public_key(), "key_size", 0)
    except (ImportError, ValueError):
        size = 0
    return f"its key of {size} bits" if size else "its key"


def _unreadable(settings: Settings) -> str:
    """Which of the two files is not what it has to be, and how to make it that; "" where both look right."""
    key, certificate = settings.private_key_file, settings.certificate_file
    content = Path(key).read_bytes()
    if b"-----BEGIN CERTIFICATE" not in Path(certificate).read_bytes():
        convert = f"openssl x509 -inform der -in {certificate} -out server.pem"
        return f"certificate_file holds no certificate in PEM; from DER: {convert}"
    if b"PRIVATE KEY-----" not in content:
        return f"private_key_file holds no key in PEM; from DER: openssl pkey -inform der -in {key} -out server.key"
    if b"ENCRYPTED" in content:
        return f"private_key_file is encrypted; to decrypt: openssl pkey -in {key} -out server.key"
    return ""


def _load(context: ssl.SSLContext, pem: bytes, what: str) -> None:
    """`pem`: private key and certificates; OpenSSL takes them from a file only, which is this user's and gone at once."""
    with tempfile.NamedTemporaryFile(prefix="jitney-tls-") as file:
        file.write(pem)
        file.flush()
        try:
            context.load_cert_chain(file.name)
        except ssl.SSLError as error:
            raise InvalidConfig(f"{what} cannot be used: {_refused(error, pem) or error}") from None


def _from_keystore(settings: Settings) -> bytes:
    kind = settings.keystore_type.upper()
    if kind not in ("PKCS12", "P12", "PFX"):
        raise InvalidConfig(
            f"keystore_type={settings.keystore_type} cannot be read, expected PKCS12; to convert: keytool -importkeystore "
            f"-srckeystore {settings.keystore} -destkeystore keystore.p12 -deststoretype PKCS12"
        )
    _require_cryptography()
    from cryptography.hazmat.primitives.serialization import Encoding, pkcs12

    try:
        content = Path(settings.keystore).read_bytes()
        key, certificate, chain = pkcs12.load_key_and_certificates(content, settings.keystore_pass.encode())
    except OSError as error:
        raise InvalidConfig(f"keystore '{settings.keystore}' cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InvalidConfig(f"keystore '{settings.keystore}' cannot be opened with keystore_pass: {error}") from None
    if key is None or certificate is None:
        raise InvalidConfig(f"keystore '{settings.keystore}' holds no private key with its certificate")
    return b"".join((_key_pem(key), *(item.public_bytes(Encoding.PEM) for item in (certificate, *chain))))


def _require_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise InvalidConfig(
            "a keystore, and a certificate made at the start, need the package cryptography: pip install 'jitney[tls]'; "
            "certificate_file and private_key_file do not"
        ) from None


def _key_pem(key: PrivateKeyTypes) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _self_signed() -> bytes:
    """A key and a certificate for localhost and its addresses."""
    _require_cryptography()
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    addresses = [x509.IPAddress(ipaddress.ip_address(text)) for text in ("127.0.0.1", "::1")]
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=SELF_SIGNED_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), *addresses]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _key_pem(key) + certificate.public_bytes(Encoding.PEM)
