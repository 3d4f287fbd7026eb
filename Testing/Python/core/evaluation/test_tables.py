from __future__ import annotations

from dataclasses import dataclass

import pytest

from scribblesegment.errors import FileFormatError
from scribblesegment.evaluation.tables import csv_text, table_lines, write_text


def test_columns_are_as_wide_as_their_widest_cell_and_bars_are_escaped():
    assert table_lines(["method", "a"], [["x|y", "1.00"], ["z", "2"]]) == [
        "| method | a    |",
        "|--------|------|",
        "| x\\|y   | 1.00 |",
        "| z      | 2    |",
    ]


def test_a_row_of_another_length_is_no_table():
    with pytest.raises(ValueError, match="shorter"):
        table_lines(["a", "b"], [["1"]])


@dataclass
class Row:
    name: str
    value: float


def test_csv_has_the_names_of_the_fields_and_a_line_for_each_result():
    assert csv_text(Row, [Row("a, b", 0.5), Row("c", 1)]) == 'name,value\n"a, b",0.5\nc,1\n'
    assert csv_text(Row, []) == "name,value\n"


def test_text_is_written_in_utf8_with_plain_line_ends(tmp_path):
    write_text(tmp_path / "out.md", "σ\n")
    assert (tmp_path / "out.md").read_bytes() == b"\xcf\x83\n"
    with pytest.raises(FileFormatError, match="does not exist"):
        write_text(tmp_path / "nowhere" / "out.md", "")
