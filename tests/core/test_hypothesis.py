"""The tree of hypotheses."""

from __future__ import annotations

from w2s_chains import Hypothesis
from w2s_chains.core.hypothesis import common_ancestor


def test_common_ancestor():
    root = Hypothesis.root("")
    a = root.extend("a")
    b, c = a.extend("b"), a.extend("c")
    assert common_ancestor([b.extend("x"), c]) is a
    assert common_ancestor([b]) is b
    assert common_ancestor([b, a]) is a
    assert common_ancestor([b, root.extend("z")]) is root
