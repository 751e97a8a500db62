"""What a conversion shows: no line is wider than a terminal, and no word is lost."""

from cxr_data.convert.progress import Progress


def test_lines_are_as_wide_as_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    long = "WARNING: " + "many words of a sentence " * 9
    with Progress() as progress:
        progress.say(long)
        progress.say("  two  columns")
        progress.finish([("train", "a value " * 20), ("validation", "short")])
    shown = capsys.readouterr().err
    assert max(map(len, shown.splitlines())) <= 60
    assert " ".join(shown.split()).startswith(long.strip())
    assert "\n  two  columns\n" in shown
    assert "\nvalidation  short\n" in shown
    assert f"\n{' ' * 12}value a value" in shown or f"\n{' ' * 12}a value" in shown
