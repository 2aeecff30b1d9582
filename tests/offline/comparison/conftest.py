"""The result file that most tests of comparisons start from."""

from pathlib import Path

import pytest

from tests.offline.comparison.results import pair_of_arms


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return pair_of_arms(tmp_path)
