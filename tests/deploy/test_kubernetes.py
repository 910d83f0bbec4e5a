"""The Kubernetes manifests: they are valid, hang together, and say what the server does that they start."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from jitney.server.cli.serve import serve_flags
from jitney.server.main import LAST_SECONDS
from jitney.server.settings.problems import access_problems
from jitney.server.settings.settings import Settings
from jitney.tests.fakes.metrics import STARTER, shown
from jitney.tests.fakes.running import command_running
from jitney.tools.bench.ports import free_port

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("cpu", "gpu", "init-container")
#: Kinds that are not Kubernetes' own.
FOREIGN = ("kustomize.config.k8s.io", "keda.sh")


def read(path: Path) -> list[Any]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def rendered(overlay: str) -> dict[str, Any]:
    """Kind -> object of an overlay, as `kubectl apply -k` sends them."""
    kustomize = ["kustomize", "build"] if shutil.which("kustomize") else ["kubectl", "kustomize"]
    if shutil.which(kustomize[0]) is None:
        pytest.skip("neither kustomize nor kubectl is installed")
    command = [*kustomize, str(KUBERNETES / "overlays" / overlay)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return {document["kind"]: document for document in yaml.safe_load_all(done.stdout)}


def base() -> dict[str, Any]:
    found = [document for path in (KUBERNETES / "base").glob("*.yaml") for document in read(path)]
    return {document["kind"]: document for document in found if document["kind"] != "Kustomization"}


def pod(objects: Mapping[str, Any]) -> Any:
    return objects["Deployment"]["spec"]["template"]["spec"]


def container(objects: Mapping[str, Any]) -> Any:
    (found,) = pod(objects)["containers"]
    return found


def settings_of(objects: Mapping[str, Any], folder: Path) -> Settings:
    """What the container's arguments and environment make of the server, with the image's defaults."""
    arguments = container(objects)["args"]
    assert arguments[:2] == ["jitney", "serve"]
    env = {entry["name"]: entry["value"] for entry in container(objects)["env"] if "value" in entry}
    env["JITNEY_DEFAULTS"] = env["JITNEY_DEFAULTS"].replace("/opt/jitney", str(ROOT / "docker"))
    return Settings.load(serve_flags(arguments[2:]), env, folder)


def validate(document: Mapping[str, Any]) -> None:
    library = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    library.validate(document, library.latest_version(), strict=True)


@pytest.mark.parametrize("path", sorted(KUBERNETES.rglob("*.yaml")), ids=lambda path: str(path.relative_to(KUBERNETES)))
def test_files_are_valid(path: Path) -> None:
    for document in read(path):
        if str(document.get("apiVersion", "")).startswith(FOREIGN) or path.name == "prometheus-adapter.yaml":
            continue
        validate(document)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_are_valid(overlay: str) -> None:
    objects = rendered(overlay)
    assert objects.keys() >= base().keys()
    for document in objects.values():
        validate(document)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_models_come_from_somewhere(overlay: str) -> None:
    objects = rendered(overlay)
    volumes = {volume["name"]: volume for volume in pod(objects)["volumes"]}
    mounted = {mount["name"]: mount["mountPath"] for mount in container(objects)["volumeMounts"]}
    assert mounted.keys() == volumes.keys() and mounted["models"] == "/models"
    if overlay == "init-container":
        (first,) = pod(objects)["initContainers"]
        assert first["volumeMounts"] == [{"name": "models", "mountPath": "/models"}] and first["command"][-1] == "/models/"
        assert volumes["models"]["emptyDir"] == {}
    else:
        claim = objects["PersistentVolumeClaim"]["metadata"]["name"]
        assert volumes["models"] == {"name": "models", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}


def test_a_gpu_is_asked_for_and_none_is_needed_to_replace_a_replica() -> None:
    objects = rendered("gpu")
    assert container(objects)["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container(objects)["image"].endswith("gpu")
    assert objects["Deployment"]["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert "nvidia.com/gpu" not in container(rendered("cpu"))["resources"]["limits"]


def test_every_selector_finds_the_pods() -> None:
    objects = base()
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        objects["Deployment"]["spec"]["selector"]["matchLabels"],
        objects["Service"]["spec"]["selector"],
        objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector and selector.items() <= labels.items() for selector in selectors)
    target = objects["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", objects["Deployment"]["metadata"]["name"])


def test_ports_are_those_that_the_server_opens(tmp_path: Path) -> None:
    objects = base()
    settings = settings_of(objects, tmp_path)
    (grpc,) = settings.grpc_addresses
    opened = {"http": settings.inference_address.port, "grpc": grpc.port, "metrics": settings.metrics_address.port}
    assert not any(address.is_local for address in (settings.inference_address, settings.metrics_address, grpc))
    assert settings.management_address.is_local
    assert {port["name"]: port["containerPort"] for port in container(objects)["ports"]} == opened
    assert {port["targetPort"]: port["port"] for port in objects["Service"]["spec"]["ports"]} == opened
    named = {port["port"] for rule in objects["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]}
    assert named == opened.keys()
    annotations = objects["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(opened["metrics"])


def test_who_may_ask_is_decided(tmp_path: Path) -> None:
    settings = settings_of(base(), tmp_path)
    assert access_problems(settings) == [] and not settings.token_auth
    secret = next(entry for entry in container(base())["env"] if entry["name"] == "JITNEY_TOKEN")
    assert secret["valueFrom"]["secretKeyRef"]["optional"] is True


def test_the_grace_period_covers_the_drain(tmp_path: Path) -> None:
    objects = base()
    (_, seconds) = container(objects)["lifecycle"]["preStop"]["exec"]["command"]
    needed = int(seconds) + settings_of(objects, tmp_path).exit_timeout_secs + LAST_SECONDS
    assert pod(objects)["terminationGracePeriodSeconds"] == needed


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_container_has_more_rights_than_it_needs(overlay: str) -> None:
    spec = pod(rendered(overlay))
    assert spec["securityContext"]["runAsNonRoot"] is True and spec["automountServiceAccountToken"] is False
    for each in [*spec["containers"], *spec.get("initContainers", [])]:
        context = each["securityContext"]
        assert context["readOnlyRootFilesystem"] is True and context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert each["resources"]["requests"]["memory"] and each["resources"]["limits"]["memory"]


def test_the_server_starts_with_these_arguments_and_answers_the_probes(tmp_path: Path) -> None:
    """On loopback and free ports, in place of all addresses and the manifest's ports; the models are the starter's."""
    spec = container(base())
    arguments = [argument.replace("0.0.0.0", "127.0.0.1").replace("=/models", f"={STARTER}") for argument in spec["args"]]
    ports = {name: free_port() for name in ("http", "grpc", "management", "metrics")}
    flags = [f"--{name}-port={port}" for name, port in ports.items()]
    with command_running([sys.executable, "-m", "jitney.server.cli", *arguments[1:], *flags], tmp_path) as lines:
        assert any(f"gRPC GRPCInferenceService bind to: 127.0.0.1:{ports['grpc']}" in line for line in lines)
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = spec[probe]["httpGet"]
            url = f"http://127.0.0.1:{ports[asked['port']]}{asked['path']}"
            with urllib.request.urlopen(url, timeout=spec[probe].get("timeoutSeconds", 1)) as answer:
                assert answer.status == 200


def test_what_is_scaled_on_is_measured(served_metrics: str) -> None:
    rules = read(KUBERNETES / "autoscaling" / "prometheus-adapter.yaml")[0]["rules"]["custom"]
    offered = {rule["name"]["as"] for rule in rules}
    asked = {metric["pods"]["metric"]["name"] for metric in base()["HorizontalPodAutoscaler"]["spec"]["metrics"]}
    assert asked == offered
    (keda,) = read(KUBERNETES / "autoscaling" / "keda.yaml")
    queries = [trigger["metadata"]["query"] for trigger in keda["spec"]["triggers"]]
    queries += [rule["seriesQuery"] for rule in rules] + [rule["metricsQuery"] for rule in rules]
    series = set(re.findall(r"\bjitney_\w+", " ".join(queries)))
    assert len(series) == 3 and series <= shown(served_metrics)
