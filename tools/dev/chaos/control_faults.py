"""What an operator does meanwhile: reloads, scales, registers, unregisters. Nobody may notice."""

from __future__ import annotations

from .faults import Scene, fault


def done(scene: Scene, method: str, path: str, *expected: int, body: object = None, port: str = "management") -> None:
    status, text = scene.site.ask(method, path, body, port)
    if status not in expected:
        raise AssertionError(f"{method} {path} answered {status} {text}")


@fault("reloads of a model that is asked")
def reload(scene: Scene) -> None:
    for _ in range(3):
        done(scene, "POST", "/v2/repository/models/linear/load", 200, body={}, port="inference")
    scene.onset()


@fault("scaling up and down")
def scale(scene: Scene) -> None:
    for count in (3, 1, 2, 1):
        done(scene, "PUT", f"/models/digest?min_worker={count}&max_worker={count}&synchronous=true", 200)
    scene.onset()


@fault("versions come and go")
def versions(scene: Scene) -> None:
    done(scene, "POST", "/models?url=digest_2.mar&initial_workers=1&synchronous=true", 200)
    done(scene, "PUT", "/models/digest/2.0/set-default", 200)
    done(scene, "PUT", "/models/digest/1.0/set-default", 200)
    done(scene, "DELETE", "/models/digest/2.0", 200)
    scene.onset()


@fault("models come and go", short=False)
def models(scene: Scene) -> None:
    for _ in range(3):
        done(scene, "POST", "/v2/repository/models/other/load", 200, body={}, port="inference")
        done(scene, "POST", "/v2/repository/models/other/unload", 200, body={}, port="inference")
    scene.onset()
