"""Images that are the same are one group."""

import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_data.sources.duplicates import tie_groups


def tied_slowly(groups, same):
    """Merge the groups of each set of images, one after the other, under the first of their names."""
    tied = dict(groups)
    for ids in same:
        merged = {tied[name] for name in ids}
        tied = {name: min(merged) if group in merged else group for name, group in tied.items()}
    return tied


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_tied_groups_are_those_of_the_slow_reference_in_its_order(data):
    ids = data.draw(st.permutations([f"{number}.png" for number in range(data.draw(st.integers(1, 12)))]))
    groups = {name: data.draw(st.sampled_from("gfedcba")) for name in ids}
    same = data.draw(st.lists(st.lists(st.sampled_from(ids), max_size=4), max_size=8))
    expected = tied_slowly(groups, same)
    assert list(tie_groups(groups, same).items()) == list(expected.items())


def test_a_chain_of_copies_is_one_group():
    groups = {name: name for name in "edcba"}
    assert tie_groups(groups, [("e", "d"), ("d", "c"), ("a", "c")]) == {
        **dict.fromkeys("edca", "a"),
        "b": "b",
    }


def test_nothing_tied_leaves_the_groups_as_they_are():
    assert tie_groups({"x": "2", "y": "1"}, []) == {"x": "2", "y": "1"}
    assert tie_groups({}, []) == {}


def test_tying_copies_waits_for_no_large_package():
    code = (
        "import sys; from cxr_data.sources.duplicates import tie_groups;"
        "tied = tie_groups({'a.png': '1', 'b.png': '2'}, [('a.png', 'b.png')]);"
        "sys.exit(tied != {'a.png': '1', 'b.png': '1'} or 'scipy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
