"""`jitney bench` from the command to the report, with a model of two milliseconds in a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from jitney.server.cli import main as cli
from jitney.tools.bench.command import main
from jitney.tools.bench.options import given_line
from jitney.tools.bench.served import serving
from jitney.tools.dev import device_model

QUICK = ["--seconds", "0.4", "--rounds", "1", "--loads", "20"]

CHAIN = f"""platform: "ensemble" max_batch_size: 2
input [ {{ name: "IN" data_type: TYPE_FP32 dims: [ 64 ] }} ]
output [ {{ name: "OUT" data_type: TYPE_FP32 dims: [ 1 ] }} ]
ensemble_scheduling {{ step [ {{
  model_name: "{device_model.NAME}" model_version: -1
  input_map {{ key: "INPUT" value: "IN" }} output_map {{ key: "OUTPUT" value: "OUT" }}
}} ] }}
"""


def cells(text: str, start: str) -> list[str]:
    row = next(line for line in text.splitlines() if line.startswith(start))
    return [cell.strip(" *") for cell in row.strip("|").split("|")]


def test_a_server_is_started_and_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    device_model.build(tmp_path, 0.002, 0.0005, rows=4, delay_us=1000)
    assert cli.main(["bench", device_model.NAME, "--model-repository", str(tmp_path), *QUICK]) == 0
    output, progress = capsys.readouterr()
    assert "device: batches of at most 4, 1 worker(s)." in output
    assert "the bare model, in a process of its own: t(b) = " in output
    load, rate, mean, theory = cells(output, "| 20%")[:4]
    assert load == "20%"
    assert 1 < float(rate.replace(",", "")) < 210  # a fifth of four rows in at least 4 ms
    assert float(mean) > 2.5
    assert float(theory) > 2.5
    assert "declared policy" in output
    assert "Verdict: " in output and " 20%  measured  █" in output
    assert "round 1 of 1" in progress
    reasons = next(line for line in reversed(output.splitlines()) if line.startswith("| 20%"))
    assert "delay" in reasons or "full" in reasons


def test_a_running_server_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = tmp_path / "models"
    device_model.build(repository, 0.002, 0.0005, rows=2)
    (repository / "chain" / "1").mkdir(parents=True)
    (repository / "chain" / "config.pbtxt").write_text(CHAIN)
    with serving(repository, folder=tmp_path) as server:
        common = ["--url", server.inference, "--metrics-url", server.metrics]
        assert main([device_model.NAME, *common, *QUICK]) == 0
        output = capsys.readouterr().out
        assert "the server's workers, with lone requests of b rows: t(b) = " in output
        assert "idle" in output
        assert "declared policy" not in output
        assert main([device_model.NAME, *common, *QUICK, "--fit", "2,0.5"]) == 0
        assert "as given with --fit: t(b) = 2.00 ms + 0.500 ms × b" in capsys.readouterr().out
        assert main(["unknown", *common, *QUICK]) == 1
        assert f"model 'unknown' is not ready: the server has chain, {device_model.NAME}" in capsys.readouterr().err
        assert main(["chain", *common, *QUICK]) == 1
        assert f"no batches of its own: measure its steps, {device_model.NAME}" in capsys.readouterr().err
        chart = tmp_path / "chart.svg"
        assert main([device_model.NAME, *common, *QUICK, "--fit", "0,0.001", "--plot", str(chart)]) == 0
        small = capsys.readouterr().out
        assert "Full batches would make 1,000,000 requests/s, and 8 clients that never pause were answered" in small
        assert float(cells(small, "| 20%")[1].replace(",", "")) < 4_000  # a share of what the server reaches
        assert "Verdict: the model is not the limit." in small
        assert chart.read_text().startswith("<svg") and f"The chart is in {chart}." in small
        assert main([device_model.NAME, "--url", server.inference, "--metrics-url", "http://127.0.0.1:1", *QUICK]) == 1
        assert "cannot GET http://127.0.0.1:1/metrics" in capsys.readouterr().err


def test_a_given_line_is_read() -> None:
    assert given_line("3,0.2", 8) == pytest.approx({1: 0.0032, 8: 0.0046})
    for text in ("3", "3,0", "-1,1", "a,b", "1,2,3"):
        with pytest.raises(ValueError, match="--fit takes T0,A"):
            given_line(text, 8)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "give --model-repository DIR, --url URL"),
        (["--url", "http://x", "--property", "a=b"], "leave out --url"),
        (["--model-repository", ".", "--metrics-url", "http://x"], "it needs --url"),
        (["--model-repository", ".", "--loads", "0,100"], "--loads takes percentages between 0 and 100"),
        (["--model-repository", ".", "--rounds", "0"], "--rounds must be at least 1"),
        (["--model-repository", ".", "--fit", "x"], "--fit takes T0,A"),
        (["--model-repository", ".", "--shape", "x"], "a shape is NAME:D,D"),
        (["--model-repository", ".", "--plot", "/no/where.svg"], "--plot: there is no folder '/no'"),
    ],
)
def test_bad_arguments_are_named(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["m", *arguments])
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["m", "--model-repository", "/nowhere"]) == 1
    assert "'/nowhere' is not a folder" in capsys.readouterr().err
