"""What checks answers tells as much as a test does when it fails."""

import pytest

pytest.register_assert_rewrite("cli_verbs.answers")
