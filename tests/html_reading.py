"""What a page says, and that nothing in it can run or reach the network."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "input", "link", "hr", "base", "embed"}


class Reader(HTMLParser):
    """Every element, attribute and text of a page."""

    def __init__(self):
        super().__init__()
        self.elements, self.attributes, self.text, self.script, self._open = [], [], [], "", []

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] == "script":
            self.script += data
        self.text.append(data)

    def values(self, name):
        return [value for _, attribute, value in self.attributes if attribute == name]


def read(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader._open == []
    return reader


def check_harmless(reader):
    assert reader.elements.count("script") == 1
    assert reader.elements.count("style") == 1
    for tag in (
        "iframe",
        "object",
        "embed",
        "form",
        "input",
        "base",
        "link",
        "img",
        "foreignobject",
        "math",
        "animate",
    ):
        assert tag not in reader.elements
    for tag, name, value in reader.attributes:
        assert not name.startswith("on"), (tag, name, value)
        if name in {"href", "xlink:href", "src"}:
            assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value)
        assert name not in {"srcdoc", "action", "formaction", "srcset", "ping"}
        if name != "aria-label":
            assert not re.search(r"url\((?!#)", value), (tag, name, value)
    (policy,) = [v for v in reader.values("content") if "default-src" in v]
    digest = base64.b64encode(hashlib.sha256(reader.script.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )
    ids = reader.values("id")
    assert len(ids) == len(set(ids))
