"""Settings that are declared once: the flags that follow, the dataclass that the flags give, the checks."""

import dataclasses
from collections.abc import Mapping, Sequence

import pytest
from absl import flags
from absl.testing import flagsaver

from cxr_data.audit.audit import AuditConfig
from cxr_data.commands.audit_dataset import FindingsOptions
from cxr_data.commands.data_service import ServiceOptions
from cxr_data.commands.index_tfrecords import IndexOptions
from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.commands.verify_tfrecords import VerifyOptions
from cxr_data.convert.config import SharderConfig
from cxr_data.core.errors import UsageError
from cxr_data.core.settings import check_settings, required, setting, settings_of
from cxr_data.input.options import ReadOptions
from cxr_data.synthetic.sample import SampleConfig
from cxr_train.ablate import GridOptions
from cxr_train.evaluate import TargetOptions
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.explanation.options import ExplainOptions
from cxr_train.export import ExportOptions
from cxr_train.flags.training import StartOptions
from cxr_train.predict import PredictOptions
from cxr_train.recipe.recipe import Recipe
from cxr_train.runs.config import TrainConfig

# Fields that are no setting of their own: the program gives them.
GIVEN = {
    AuditConfig: {"quiet"},
    EvaluationOptions: {"train_split", "validation_split", "compare"},
    ExplainOptions: set(),
    ExportOptions: set(),
    FindingsOptions: set(),
    GridOptions: set(),
    IndexOptions: set(),
    PredictOptions: set(),
    ReadOptions: {"worker"},
    Recipe: set(),
    SampleConfig: set(),
    ServiceOptions: set(),
    SharderConfig: {"quiet"},
    StartOptions: set(),
    TargetOptions: set(),
    # What the flags of StartOptions come to.
    TrainConfig: {"backbone", "data", "run_dir", "batch_size", "weights", "recipe", "read"},
    VerifyOptions: set(),
}


@dataclasses.dataclass(frozen=True)
class Bare:
    how: str = setting("none", "How.", choices=("none", "some", "all"), bare="some")


@pytest.mark.parametrize(
    ("word", "value"), [("--how", "some"), ("--nohow", "none"), ("--how=all", "all"), ("--how=true", "some")]
)
def test_a_flag_may_be_written_without_its_value(word, value):
    values = flags.FlagValues()
    define_flags(Bare, flag_values=values)
    assert values(["program", word, "rest"])[1:] == ["rest"]
    assert from_flags(Bare, flag_values=values).how == value
    assert values["how"].serialize() == f"--how={value}"
    with pytest.raises(flags.IllegalFlagValueError, match="none|some|all"):
        values(["program", "--how=other"])


def parse_widths(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split("-"))


def parse_pairs(entries: Sequence[str]) -> dict[str, str]:
    return dict(entry.split(":") for entry in entries)


@dataclasses.dataclass(frozen=True)
class Config:
    """One field of every kind; their names are no flags of any command."""

    t_place: str = required("Place.")
    t_given: str
    t_text: str = setting("", "Text.")
    t_way: str = setting("slow", "Way.", choices=("slow", "fast"))
    t_odd: int = setting(1, "Odd number.", choices=(1, 3))
    t_count: int = setting(2, "Count.", at_least=1, at_most=5)
    t_rate: float | None = setting(None, "Rate.", at_least=0)
    t_on: bool = setting(True, "Whether it is on.")
    t_names: tuple[str, ...] = setting((), "Names.")
    t_widths: tuple[int, ...] = setting("8-4", "Widths.", parse=parse_widths, flag="t_w")
    t_pairs: Mapping[str, str] = setting((), "Pairs.", parse=parse_pairs)
    t_folder: str | None = setting(None, "Folder.", path=True)
    t_files: tuple[str, ...] = setting((), "Files.", path=True)
    t_here: str | None = setting(None, "Folder here.", path=True, local=True)
    t_all_here: tuple[str, ...] = setting((), "Files here.", path=True, local=True)
    t_left_out: int = setting(7, "No flag of this command.")
    t_quiet: bool = False

    def __post_init__(self) -> None:
        check_settings(self)


define_flags(Config, leave_out=["t_left_out"])


@flagsaver.flagsaver
def parse(*line: str) -> Config:
    flags.FLAGS(["program", *line])
    return from_flags(Config, t_given="given", t_left_out=Config.t_left_out)


def test_flags_that_are_not_given_make_the_defaults():
    made = parse("--t_place=here")
    assert made == Config("here", "given")
    assert (made.t_widths, made.t_pairs, made.t_rate, made.t_names) == ((8, 4), {}, None, ())
    assert "t_left_out" not in flags.FLAGS
    assert "t_quiet" not in flags.FLAGS


def test_every_flag_reaches_its_field():
    line = "--t_place=x --t_text=a,b --t_way=fast --t_odd=3 --t_count=5 --t_rate=0.5 --not_on --t_names=a,b"
    made = parse(*line.split(), "--t_w=3-2-1", "--t_pairs=a:b")
    assert made == Config("x", "given", "a,b", "fast", 3, 5, 0.5, False, ("a", "b"), (3, 2, 1), {"a": "b"})


def test_the_home_of_a_user_is_written_as_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    made = parse("--t_place=~", "--t_text=~/a", "--t_folder=~/x~/y", "--t_files=~/b,c/~,s3://~/d")
    assert (made.t_folder, made.t_files) == ("/home/me/x~/y", ("/home/me/b", "c/~", "s3://~/d"))
    assert (made.t_place, made.t_text) == ("~", "~/a")  # no paths
    assert parse("--t_place=x", "--t_folder=s3://bucket/x").t_folder == "s3://bucket/x"
    with pytest.raises(flags.IllegalFlagValueError, match="t_folder.*~nobody_at_all"):
        parse("--t_place=x", "--t_folder=~nobody_at_all/x")


def test_only_what_a_command_cannot_have_on_an_object_store_must_be_local():
    assert parse("--t_place=x", "--t_here=a", "--t_all_here=b,c").t_all_here == ("b", "c")
    for line in ("--t_here=s3://bucket/x", "--t_all_here=a,s3://bucket/x"):
        with pytest.raises(UsageError, match=f"{line.split('=')[0]}=s3://bucket/x"):
            parse("--t_place=x", line)


LOCAL = {
    AuditConfig: {"follow_links"},
    EvaluationOptions: {"by_table"},
    ExportOptions: {"output", "images"},
    GridOptions: {"grid"},
    IndexOptions: {"data"},
    PredictOptions: {"panels"},
    ReadOptions: {"cache_dir"},
    SampleConfig: {"output"},
    SharderConfig: {"follow_links", "log_json"},
    StartOptions: {"weights"},
    TargetOptions: {"output", "compare"},
}


@pytest.mark.parametrize("config", GIVEN, ids=lambda config: config.__name__)
def test_the_paths_that_must_be_local(config):
    assert {f.name for f, declared in settings_of(config) if declared.local} == LOCAL.get(config, set())


PATHS = {
    *("data", "source", "output", "against", "exclude", "exclude_findings", "follow_links", "log_json"),
    *("run_dir", "weights", "compare", "panels", "submission", "grid", "cache_dir", "table", "by_table"),
    *("split_file", "write_split_file"),
}


@pytest.mark.parametrize("config", GIVEN, ids=lambda config: config.__name__)
def test_every_path_is_declared_as_one(config):
    for field, declared in settings_of(config):
        is_image_file = config is ExportOptions and field.name == "images"
        assert declared.path == (field.name in PATHS or is_image_file), field.name
        if declared.help.startswith(("Folder", "File", "Directory")):
            assert declared.path, field.name


@pytest.mark.parametrize(
    ("line", "error", "named"),
    [
        ([], UsageError, "--t_place "),
        (["--t_place="], UsageError, "--t_place "),
        (["--t_place=x", "--t_way=quick"], flags.IllegalFlagValueError, "--t_way=quick"),
        (["--t_place=x", "--t_count=0"], flags.IllegalFlagValueError, "--t_count=0"),
        (["--t_place=x", "--t_count=6"], flags.IllegalFlagValueError, "--t_count=6"),
        (["--t_place=x", "--t_odd=2"], UsageError, "--t_odd=2: .*1, 3"),
    ],
)
def test_what_a_flag_may_not_be_is_refused_by_name(line, error, named):
    with pytest.raises(error, match=named):
        parse(*line)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"t_way": "quick"}, "--t_way=quick: .*slow, fast"),
        ({"t_odd": 2}, "--t_odd=2: .*1, 3"),
        ({"t_count": 0}, "--t_count=0: .*at least 1"),
        ({"t_count": 6}, "--t_count=6: .*at most 5"),
        ({"t_rate": float("nan")}, "--t_rate=nan: .*at least 0"),
    ],
)
def test_a_program_is_refused_the_same(values, named):
    with pytest.raises(UsageError, match=named):
        Config("x", "given", **values)


def test_two_settings_of_one_name_are_a_defect():
    with pytest.raises(flags.DuplicateFlagError):
        define_flags(dataclasses.make_dataclass("Other", [("t_text", str, setting("", "Text."))]))


@pytest.mark.parametrize("config", GIVEN, ids=lambda config: config.__name__)
def test_every_field_has_a_flag_with_help_or_is_given_by_the_program(config):
    settings = {field.name: declared for field, declared in settings_of(config)}
    assert {field.name for field in dataclasses.fields(config)} - set(settings) == GIVEN[config]
    for name, declared in settings.items():
        assert declared.help[0].isupper(), name
        assert declared.help.endswith("."), name
        if declared.parse and not declared.required:
            declared.parse(declared.default)
