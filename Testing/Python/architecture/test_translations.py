"""Every text that the application shows goes through Slicer's translation functions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

MODULE = Path(__file__).resolve().parents[3] / "ScribbleSegment"
FILES = sorted([*MODULE.glob("*.py"), *MODULE.glob("*Lib/*.py")])
TRANSLATE = {"_": 0, "tr": 0, "translate": 1}  # by name: which argument is the text
WORD = re.compile(r"[^\W\d_]{2}")
PROSE = re.compile(r"[^\W\d_]{2,}[,.:;]?\s+[^\W\d_]{2,}")
# Calls and attributes that put a text before the user, whatever it looks like.
SHOWN_BY = re.compile(
    r"^(set(Text|ToolTip|Title|WindowTitle|StatusTip|WhatsThis|PlaceholderText|HeaderLabels|LabelText|Suffix|Prefix)"
    r"|(add|insert)(Item|Items|Tab|Row|Action)|Q(Label|PushButton|CheckBox|RadioButton|GroupBox|Action|MessageBox)"
    r"|Q(ListWidget|TableWidget|TreeWidget)Item|get(Text|Item|OpenFileName|SaveFileName|ExistingDirectory)"
    r"|(error|warning|info|message|confirm\w+)Display|showStatusMessage|tryWithErrorDisplay)$"
)
SHOWN_AS = re.compile(r"^(text|toolTip|title|windowTitle|placeholderText|suffix|prefix|helpText|acknowledgementText)$")
# What is not shown: names of threads, the log, style sheets, defects; and names that are the same in all languages.
INTERNAL = {"Worker", "BackgroundJob", "debug", "warning", "exception", "setStyleSheet", "ValueError"}
NAMES = {"Scribble Segment", "ScribbleSegment developers"}
TAG = re.compile(r"<[^<>]*>")


def name_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def literals(node: ast.AST) -> Iterator[ast.Constant]:
    """The texts below a node that nothing translates; keys of dictionaries and tests are not shown."""
    if isinstance(node, ast.Call):
        name = name_of(node.func)
        if name in TRANSLATE or name in INTERNAL:
            return
        if name == "format" and isinstance(node.func, ast.Attribute):
            yield from literals(node.func.value)
            node = ast.Tuple(elts=[*node.args, *(keyword.value for keyword in node.keywords)])
    if isinstance(node, ast.ClassDef) and node.name.endswith("Test"):
        return
    if isinstance(node, ast.Dict):
        node = ast.Tuple(elts=node.values)
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in NAMES:
        yield node
    for child in ast.iter_child_nodes(node):
        yield from literals(child)


def untranslated(source: str) -> list[str]:
    tree = ast.parse(source)
    found: dict[tuple[int, int], str] = {}

    def complain(node: ast.expr, why: str) -> None:
        found.setdefault((node.lineno, node.col_offset), f"{node.lineno}: {ast.unparse(node)[:70]} {why}")

    documents = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and node.body
        if isinstance(node.body[0], ast.Expr)
    }
    for text in literals(tree):
        if id(text) not in documents and PROSE.search(TAG.sub("", text.value)):
            complain(text, "is a sentence that nothing translates")
    for node in ast.walk(tree):
        shown: list[ast.expr] = []
        if isinstance(node, ast.Call):
            name = name_of(node.func)
            if name in TRANSLATE:
                text = node.args[TRANSLATE[name]]
                if not (isinstance(text, ast.Constant) and isinstance(text.value, str)):
                    complain(node, "is put together before it is translated")
            elif SHOWN_BY.match(name):
                shown = node.args if name != "addItem" else node.args[:1]
        elif isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Attribute) and SHOWN_AS.match(target.attr) for target in node.targets
        ):
            shown = [node.value]
        for part in shown:
            for text in literals(part):
                if WORD.search(TAG.sub("", text.value)):
                    complain(text, "is shown and not translated")
    return [found[place] for place in sorted(found)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(MODULE)))
def test_every_text_goes_through_the_translation_functions(file):
    assert untranslated(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "label.text = 'Ready'",
        "label.setText('Ready')",
        "box = qt.QLabel('<b>Ready</b>')",
        "combo.addItem('Liver', 1)",
        "label.text = _('Ready') + ' soon'",
        "say(f'Slice {index} was accepted.')",
        "raise ContextError('There is no such task.')",
        "slicer.util.errorDisplay('Failed')",
        "say(_(f'Slice {index}'))",
        "say(_('Slice {index}').format(index='not known'))",
    ],
)
def test_a_text_that_is_not_translated_is_found(source):
    assert len(untranslated(source)) == 1
