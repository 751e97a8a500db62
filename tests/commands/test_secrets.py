"""Keys of object stores, from the environment or a flag, in no error, log or file."""

import json

import pytest
from embedded_sources import write_embedded_sources
from in_process import run_command

from cxr_data.core import storage
from cxr_data.core.errors import UsageError
from cxr_train.runs.environment import describe_environment

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
IDENTITY = "AKIAIOSFODNN7EXAMPLE"
WEIGHTS = f"s3://{IDENTITY}:{SECRET}@bucket/weights.h5"
KEYS = {"AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ACCESS_KEY_ID": IDENTITY, "AWS_SESSION_TOKEN": f"{SECRET}2"}


@pytest.fixture
def keys(monkeypatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("command", "flag", "value"),
    [
        ("cxr_data.commands.make_tfrecords", "source", f"s3://{IDENTITY}:{SECRET}@bucket/x"),
        ("cxr_data.commands.make_tfrecords", "beam_options", f"--s3_secret_access_key={SECRET}"),
        ("cxr_data.commands.audit_dataset", "against", f"s3://{IDENTITY}:{SECRET}@bucket/x"),
        ("cxr_train.main", "run_dir", f"s3://user:{SECRET}@bucket/x"),
        ("cxr_train.main", "data", f"s3://bucket/{SECRET}"),
        ("cxr_train.folds", "runs", f"s3://user:{SECRET}@bucket/x"),
        ("cxr_train.embed", "output", f"s3://bucket/{SECRET}"),
        ("cxr_train.predict", "panels", f"https://host/x?X-Amz-Signature={SECRET}"),
    ],
)
def test_a_flag_that_holds_a_key_is_refused_and_not_repeated(command, flag, value, keys, tmp_path):
    flags = tmp_path / "flags.txt"
    flags.write_text(f"--{flag}={value}\n")
    for argument in (f"--{flag}={value}", f"--flagfile={flags}"):
        done = run_command(command, argument)
        assert done.code == 2
        assert f"--{flag}: " in done.output
        assert "AWS_SECRET_ACCESS_KEY" in done.output
        assert SECRET not in done.output
        assert IDENTITY not in done.output


@pytest.mark.parametrize(
    ("command", "argument"), [("predict", f"s3://u:{SECRET}@bucket/x"), ("run", f"s3://u:{SECRET}@b/x")]
)
def test_an_argument_that_holds_a_key_is_refused_and_not_repeated(command, argument):
    done = run_command(f"cxr_train.{command}", argument)
    assert done.code == 2
    assert "AWS_SECRET_ACCESS_KEY" in done.output
    assert SECRET not in done.output


@pytest.mark.parametrize(
    ("command", "flag", "content"),
    [
        ("ablate", "grid", {"a": {"weights": WEIGHTS}}),
        ("search", "space", {"weights": [WEIGHTS]}),
        ("transfer", "methods", {"erm": {"weights": WEIGHTS}}),
    ],
)
def test_commands_that_start_runs_refuse_keys_in_flags_and_files(command, flag, content, keys, tmp_path):
    (tmp_path / "file.json").write_text(json.dumps(content))
    write_embedded_sources(tmp_path / "data")
    places = (f"--data={tmp_path / 'data'}", f"--run_dir={tmp_path / 'runs'}")
    for given in (f"--{flag}={tmp_path / 'file.json'}", f"--weights={WEIGHTS}"):
        done = run_command(f"cxr_train.{command}", *places, given, "--epochs=2")
        assert done.code == 2
        assert "--weights: " in done.output
        assert "AWS_SECRET_ACCESS_KEY" in done.output
        assert SECRET not in done.output
        assert IDENTITY not in done.output
        assert not (tmp_path / "runs").exists()


def test_a_path_that_holds_a_key_is_refused_in_programs_too(keys):
    with pytest.raises(UsageError) as caught:
        storage.read_bytes(f"s3://user:{SECRET}@bucket/x")
    assert SECRET not in str(caught.value)


def test_a_run_does_not_describe_the_keys_of_its_environment(keys):
    described = json.dumps(describe_environment())
    assert not [value for value in KEYS.values() if value in described]
