from __future__ import annotations

from pathlib import Path

import pytest

from scribblesegment import cli
from scribblesegment.commands.batch import BatchRequest

NEEDED = ("batch", "in", "--context", "Liver", "-o", "out")


def request(*arguments: str) -> BatchRequest:
    return BatchRequest(**cli._fields(cli._parser().parse_args([*NEEDED, *arguments])))


def test_what_is_not_given_has_the_defaults_of_the_request():
    assert request() == BatchRequest(Path("in"), Path("out"), ["Liver"])


def test_arguments_arrive_as_they_were_given():
    line = (
        "--context spleen.context.zip -r --axis J --weights w.pt --threshold 0.3 --device cpu --workers 3 --threads 2"
    )
    assert request(*line.split(), "--redo") == BatchRequest(
        Path("in"),
        Path("out"),
        ["Liver", "spleen.context.zip"],
        recursive=True,
        axis=1,
        model="w.pt",
        threshold=0.3,
        device="cpu",
        threads=2,
        workers=3,
        redo=True,
    )
    assert request("--scheduler", "tcp://a:1").scheduler == "tcp://a:1"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["batch", "in", "-o", "out"], "--context"),
        (["batch", "in", "--context", "Liver"], "-o/--output"),
        ([*NEEDED, "--axis", "x"], "'x' is no axis"),
        ([*NEEDED, "--workers", "many"], "invalid int"),
    ],
)
def test_wrong_use_is_refused_in_one_line(arguments, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert told in line


def test_the_help_documents_exit_codes_and_its_examples_are_understood(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["batch", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert all(f"\n  {code} " in text for code in (0, 2, 1, 130))
    examples = [line.split()[1:] for line in text.splitlines() if line.startswith("  scribblesegment ")]
    assert len(examples) >= 3
    for example in examples:
        assert cli._parser().parse_args(example).command == "batch"
