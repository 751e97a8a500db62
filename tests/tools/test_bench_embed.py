"""The benchmark of embeddings: what it times is written, and removed."""

from embeddings import FEATURES, pictures

from tools.bench.embed import measure


def test_every_way_is_measured_and_nothing_is_left(tmp_path):
    data = pictures(tmp_path / "data")
    rows = measure(data, tmp_path / "scratch", features=FEATURES, batch_size=8, rounds=1)
    assert rows[0].way == "read"
    assert len(rows) == 4
    assert all(row.clock > 0 and row.processor > 0 for row in rows)
    assert not (tmp_path / "scratch").exists()
