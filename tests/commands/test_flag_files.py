"""A file of flags repeats what was given, and nothing else."""

import pytest

from cxr_data.core.errors import UsageError
from cxr_train.flags.own_flags import flags_text


@pytest.mark.parametrize("name", ["data\n--seed=7", "data\r--seed=7", "data\udcff"])
def test_a_name_that_would_become_another_flag_is_refused(name):
    with pytest.raises(UsageError, match="--run_dir: "):
        flags_text(leave_out=(), resolved={"run_dir": name})
    lines = flags_text(leave_out=(), resolved={"run_dir": "胸 --seed=7"}).splitlines()
    assert lines[-1] == "--run_dir=胸 --seed=7"  # after flags of other tests, where there are some
