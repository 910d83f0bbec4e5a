import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.core.errors import InvalidArchive
from jitney.server.repository.torchserve.model_yaml import Asked, Defaults, ModelYaml, parse_yaml, rank
from jitney.tests.fakes.recordings import OWN

KIT = OWN / "torchserve"
ALL = """
minWorkers: 1
maxWorkers: 2
batchSize: 4
maxBatchDelay: 77
responseTimeout: 33
startupTimeout: 44
deviceType: gpu
deviceIds: [0, 1]
parallelType: custom
parallelLevel: 2
maxRetryTimeoutInSec: 60
clientTimeoutInMills: 500
jobQueueSize: 5
useJobTicket: true
continuousBatching: true
sequenceBatching: true
sequenceMaxIdleMSec: 10
sequenceTimeoutMSec: 20
maxNumSequence: 3
maxSequenceJobQueueSize: 4
asyncCommunication: true
useVenv: true
loadOnDemand: true
idleTimeoutInSec: 30
workerGroup: small
handler: {answer: 42}
"""


def test_every_key_is_read() -> None:
    read = parse_yaml(ALL.encode())
    changed = {name for name in ModelYaml.__dataclass_fields__ if getattr(read, name) != getattr(ModelYaml(), name)}
    assert changed == set(ModelYaml.__dataclass_fields__) - {"notes"}
    assert (read.batch_size, read.max_batch_delay, read.response_timeout, read.startup_timeout) == (4, 77, 33, 44)
    assert read.device_ids == (0, 1) and read.client_timeout_ms == 500
    assert read.document["handler"] == {"answer": 42}


def test_an_empty_file_says_nothing() -> None:
    assert parse_yaml(b"") == parse_yaml(b"# nothing\n") == ModelYaml()
    assert parse_yaml(b"torchrun: {nproc-per-node: 4}\nparallelType: tp").parallel_level == 4


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("batchSize: four", "batch_size"),
        ("batchSize: true", "batch_size"),
        ("batchSize: 4.5", "batch_size"),
        ("deviceType: tpu", "device_type"),
        ("deviceIds: [0, x]", "device_ids"),
        ("deviceIds: 0", "device_ids"),
        ("useJobTicket: 1", "use_job_ticket"),
        ("jobQueueSize: 0", "job_queue_size"),
        ("minWorkers: 1.5", "min_workers"),
        ("maxWorkers: -1", "max_workers"),
        ("responseTimeout: 0", "response_timeout"),
        ("startupTimeout: -3", "startup_timeout"),
        ("parallelType: diagonal", "parallel_type"),
    ],
)
def test_a_wrong_type_is_noted_and_ignored(line: str, field: str) -> None:
    read = parse_yaml(line.encode())
    assert getattr(read, field) == getattr(ModelYaml(), field)
    (note,) = read.notes
    assert line.split(":")[0] in note and "expected" in note


@pytest.mark.parametrize("least", [0, -1])
def test_less_than_one_worker_counts_as_one_where_there_is_a_largest_number(least: int) -> None:
    def workers(text: str) -> tuple[int, int]:
        numbers = rank(Asked(initial_workers=0), parse_yaml(text.encode()), {}, Defaults(), "python")
        return numbers.min_workers, numbers.max_workers

    assert workers(f"minWorkers: {least}\nmaxWorkers: 3") == (1, 3)
    for text in (f"minWorkers: {least}", f"minWorkers: {least}\nmaxWorkers: 0", "maxWorkers: 3"):
        assert workers(text) == (0, 0)


LAUGHS = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 10)}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['true']",
        "a: !!python/name:os.system",
        "a: &a [*a]",
        LAUGHS,
        "[1, 2]",
        "text",
        "a: [",
        "? [1, 2]\n: 3",
        "\x00",
        "[" * 2000,
        "a: " + "x" * (1 << 20),
    ],
)
def test_what_is_no_plain_data_is_refused(text: str) -> None:
    with pytest.raises(InvalidArchive) as error:
        parse_yaml(text.encode())
    assert error.value.kind == "yaml"


def test_what_no_message_carries_is_text_for_the_server_and_the_worker_reads_the_file() -> None:
    text = 'a: 18446744073709551616\nb: 2026-01-31\nc: !!set {x}\nd: "\\ud83d\\ude00 \\ud83d"\n2026-01-31: [!!binary aGk=]\n'
    found = parse_yaml(text.encode()).document
    assert found == {
        "a": hex(2**64),
        "b": "2026-01-31",
        "c": ["x"],
        "d": "\N{GRINNING FACE} \N{REPLACEMENT CHARACTER}",
        "2026-01-31": [b"hi"],
    }
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found)) == found


@given(st.binary(max_size=100))
def test_noise_is_read_or_refused(raw: bytes) -> None:
    try:
        assert isinstance(parse_yaml(raw), ModelYaml)
    except InvalidArchive as error:
        assert error.kind == "yaml"


ENTRY = {"minWorkers": 2, "maxWorkers": 3, "batchSize": 6, "maxBatchDelay": 40, "responseTimeout": 17, "startupTimeout": 90}
YAML = ModelYaml(min_workers=1, max_workers=2, batch_size=4, max_batch_delay=77, response_timeout=33, startup_timeout=44)
QUERY = Asked(batch_size=5, max_batch_delay=55, response_timeout=9, startup_timeout=10, initial_workers=7)
SERVER = Defaults(workers=0, startup_workers=8, response_timeout=121, startup_timeout=122)


def numbers(
    asked: Asked, found: ModelYaml | None = None, entry: dict[str, int] | None = None, runtime: str = "python"
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    ranked = rank(asked, found, entry or {}, SERVER, runtime)
    return (
        (ranked.batch_size, ranked.max_batch_delay),
        (ranked.response_timeout, ranked.startup_timeout),
        (ranked.min_workers, ranked.max_workers),
    )


STARTUP = Asked(at_startup=True)


@pytest.mark.parametrize(
    ("asked", "found", "entry", "expected"),
    [
        (Asked(), None, None, ((1, 100), (121, 122), (0, 0))),
        (QUERY, None, None, ((5, 55), (9, 10), (7, 7))),
        (QUERY, None, ENTRY, ((5, 55), (17, 90), (7, 7))),
        (QUERY, YAML, ENTRY, ((5, 55), (33, 44), (1, 2))),
        (Asked(), YAML, ENTRY, ((4, 77), (33, 44), (1, 2))),
        (Asked(), None, ENTRY, ((6, 40), (17, 90), (0, 0))),
        (QUERY, ModelYaml(), ENTRY, ((5, 55), (120, 120), (7, 7))),
        (Asked(), ModelYaml(batch_size=0, max_batch_delay=-1), ENTRY, ((6, 40), (120, 120), (0, 0))),
        (STARTUP, None, None, ((1, 100), (121, 122), (8, 8))),
        (STARTUP, None, ENTRY, ((6, 40), (17, 90), (2, 3))),
        (STARTUP, YAML, ENTRY, ((4, 77), (33, 44), (1, 2))),
        (STARTUP, None, {"minWorkers": 9}, ((1, 100), (121, 122), (9, 9))),
        (STARTUP, None, dict.fromkeys(ENTRY, 0), ((1, 100), (121, 122), (8, 8))),
        (Asked(), ModelYaml(min_workers=2), None, ((1, 100), (120, 120), (0, 0))),
        (Asked(), ModelYaml(min_workers=3, max_workers=2), None, ((1, 100), (120, 120), (0, 0))),
        (Asked(-1, -100, -1, -1), YAML, None, ((4, 77), (33, 44), (1, 2))),
        (Asked(-5, -7, -3, 0, -1), None, None, ((-5, -7), (-3, 0), (0, 0))),
        (Asked(3, 30, 20, 21, restored=True, workers=(2, 4)), YAML, ENTRY, ((3, 30), (20, 21), (2, 4))),
    ],
)
def test_precedence(
    asked: Asked,
    found: ModelYaml | None,
    entry: dict[str, int] | None,
    expected: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
) -> None:
    assert numbers(asked, found, entry) == expected


def test_runtime_and_queue() -> None:
    assert rank(Asked(), None, {}, SERVER, "python").runtime == "python"
    assert rank(Asked(runtime="python3"), None, {}, SERVER, "python").runtime == "python3"
    assert rank(Asked(runtime="python3"), None, {"runtimeType": "LSP"}, SERVER, "python").runtime == "LSP"
    assert rank(Asked(), ModelYaml(job_queue_size=5), {}, SERVER, "python").job_queue_size == 5
    assert rank(Asked(), ModelYaml(), {}, SERVER, "python").job_queue_size == 100


@pytest.mark.parametrize(
    ("asked", "rows", "delay"),
    [(Asked(), 1, 0), (Asked(8), 8, 0), (Asked(8, 50), 8, 50), (Asked(-5, -7), 1, 0), (Asked(0, 0), 1, 0)],
)
def test_what_is_in_effect(asked: Asked, rows: int, delay: int) -> None:
    ranked = rank(asked, None, {}, SERVER, "python")
    assert (ranked.rows, ranked.delay_ms) == (rows, delay)


def test_the_recorded_yaml_files_are_read_without_complaint() -> None:
    paths = sorted((KIT / "handlers").glob("*.yaml"))
    assert len(paths) >= 4
    assert all(parse_yaml(path.read_bytes()).notes == () for path in paths)
