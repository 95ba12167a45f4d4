from __future__ import annotations

import pytest

from tests.helpers import tiny
from tests.helpers.served import Tiny


@pytest.fixture(scope="module")
def lm() -> Tiny:
    return Tiny(tiny.llama(320), tiny.byte_tokenizer())
