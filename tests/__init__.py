import pytest

pytest.register_assert_rewrite("tests.helpers")  # a failing helper shows its values, too
