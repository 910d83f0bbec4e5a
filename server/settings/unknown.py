"""Names that no setting has: which known one is nearest, and whether it guards access. Pure.

TorchServe passes over what it does not know, and people's files have such keys (`NUM_WORKERS=1` stands in its own examples for
KServe, AKS, EKS and GKE). So `jitney --start` warns and goes on, unless the name is close to one that decides who may reach or
manage the server: taking the default in place of a misspelt guard would leave open what was meant to be closed.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from functools import cache

from .keys import KEYS, SNAPSHOT_FACTS

#: Keys whose default is more open than what a file may ask for.
GUARDS = (
    *("inference_address", "management_address", "metrics_address", "kserve_address"),
    *("disable_token_authorization", "token_expiration_min", "enable_model_api", "http_restricted_api"),
    *("keystore", "keystore_pass", "keystore_type", "certificate_file", "private_key_file"),
    *("allowed_urls", "use_env_allowed_urls", "blacklist_env_vars"),
    *("grpc_address", "grpc_inference_address", "grpc_management_address", "grpc_restricted_protocol"),
    *("allow_grpc", "enable_grpc_ssl", "grpc_use_ssl", "grpc_use_ssl_mutual", "grpc_root_cert"),
)
#: Names that other tools and older pages have for a key which no likeness of letters finds.
OTHER_NAMES = {
    **dict.fromkeys(("num worker", "number of worker", "worker", "initial worker"), "default_workers_per_model"),
    # What is a model's, and stands in the value of this key.
    **dict.fromkeys(
        ("batch size", "max batch size", "batch delay", "max batch delay", "min worker", "max worker"), "models"
    ),
}
#: How like a key a name is (0 to 1): to be named as the nearest; to be taken for a guard; to be surely another key.
NEAR, CLOSE, SAME = 0.5, 0.7, 0.9
#: Variables that Kubernetes sets for a service called `ts` or `jitney`, or `ts-…`: not meant for the server.
_SERVICE_LINK = re.compile(r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?|PORT=(tcp|udp|sctp)://)")

_ADDRESSES = ("inference_address", "management_address", "metrics_address")
_TOKENS = ("disable_token_authorization", "token_expiration_min")
_KEYS = ("private_key_file", "keystore", "keystore_pass")
#: Words that speak of access, and the guards that a name with one of them may stand for.
_WORDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("address", "addresse", "addr", "host", "hostname", "bind", "listen", "port"), _ADDRESSES),
    **dict.fromkeys(("token", "auth"), _TOKENS),
    **dict.fromkeys(("ssl", "tls", "https", "certificate", "cert"), ("certificate_file",)),
    **dict.fromkeys(("key", "keystore", "truststore", "password", "passwd", "pass", "passphrase", "secret"), _KEYS),
}
_ALLOWING = {"allow", "allowed", "allowlist", "whitelist", "block", "blocked", "blocklist", "blacklist", "deny", "denied"}
_CONTROLLING = {"model", "management", "control", "admin"}


def nearest(name: str) -> str:
    """The known key that is most like `name`, "" where none is near."""
    other = OTHER_NAMES.get(" ".join(_words(name)))
    if other:
        return other
    likeness, key = max((_likeness(name, key), key) for key in KEYS if key not in SNAPSHOT_FACTS)
    return key if likeness >= NEAR else ""


def guard_near(name: str) -> str:
    """The key that guards access and that `name`, which no setting has, may stand for; "" where there is none."""
    words = _words(name)
    if "max" in words:
        return ""  # a limit (`max_tokens`) opens nothing
    likeness, guard = max((_likeness(name, guard), guard) for guard in GUARDS)
    other = max(_likeness(name, key) for key in KEYS if key not in GUARDS)
    if other >= SAME and other > likeness:
        return ""
    meant = (guard,) if likeness >= CLOSE else _guards_of(words)
    return max(meant, key=lambda key: _likeness(name, key), default="")


def is_service_link(name: str, value: str) -> bool:
    """Whether a variable of the environment is one of those by which Kubernetes tells where a service is."""
    return _SERVICE_LINK.match(f"{name}={value}") is not None


def _guards_of(words: tuple[str, ...]) -> tuple[str, ...]:
    """The guards that the words of a name speak of."""
    found = {"auth" if re.fullmatch(r"auth(?!ors?$).*", word) else word for word in words}
    if "url" in found and found & _ALLOWING:
        return ("allowed_urls",)
    if "api" in found and found & _CONTROLLING:
        return ("enable_model_api",)
    return next((guards for word, guards in _WORDS.items() if word in found), ())


@cache
def _likeness(name: str, key: str) -> float:
    """1 for the same words in other spelling (`ALLOWED_URL`, `allowedUrls`), 0 for nothing in common."""
    words, others = _words(name), _words(key)
    shared = 2 * len({*words} & {*others}) / (len(words) + len(others)) if words else 0.0
    letters = SequenceMatcher(None, " ".join(words), " ".join(others), autojunk=False).ratio()
    return max(letters, SAME * shared)


def _words(name: str) -> tuple[str, ...]:
    """The words of a name, small and without a plural's s."""
    parted = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()
    return tuple(word.rstrip("s") if len(word) > 3 else word for word in re.split(r"[^a-z0-9]+", parted) if word)
