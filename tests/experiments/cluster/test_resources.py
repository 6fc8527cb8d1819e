import random
import re
from dataclasses import fields

import pytest

from experiments.cluster import resources
from experiments.cluster.resources import Resources
from experiments.paths import CLUSTER_EXAMPLE
from experiments.studies.profiles import GROUPS, PROFILES


@pytest.fixture
def write(tmp_path):
    def written(text):
        path = tmp_path / "cluster.toml"
        path.write_text(text)
        return path

    return written


@pytest.fixture
def read(write):
    """Read a text as a profile file; text without a table goes below [all], together with a time."""

    def found(text):
        return resources.read(write(text if text.startswith("[") else f'[all]\ntime = "12 h"\n{text}'))

    return found


@pytest.fixture
def minutes(read):
    return lambda text: read(f'[all]\nwarning = "1 s"\ntime = "{text}"').of("smoke").time


@pytest.mark.parametrize(
    ("expected", "texts"),
    [
        (
            90,
            ("1.5 h", "90 min", "90min", "1:30:00", "01:30:00", "0-1:30:00", "0-01:30", "5400 s"),
        ),
        (2_880, ("2 d", "48 h", "48:00:00", "2-0", "2-00:00", "2-00:00:00", "2880 min")),
        (6, ("0.1 h", "6 min", "360 s", "0:06:00")),
        (2, ("61 s", "1.5 min", "0:01:01", "0:02:00", "119.5 s")),
    ],
)
def test_equal_times_are_equal_and_part_of_a_minute_counts_as_one(minutes, expected, texts):
    assert [minutes(text) for text in texts] == [expected] * len(texts)


def test_any_time_as_slurm_writes_it_comes_back(minutes):
    draw = random.Random(0)
    for _ in range(200):
        total = draw.randrange(1, 20 * 24 * 60)
        days, rest = divmod(total, 24 * 60)
        clock = f"{rest // 60:02d}:{rest % 60:02d}"
        assert minutes(f"{days}-{clock}:00") == total
        assert minutes(f"{days}-{clock}") == total
        assert minutes(f"{total // 60}:{total % 60:02d}:00") == total
        assert minutes(f"{days}-{clock}:{draw.randrange(1, 60):02d}") == total + 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [("32 GB", 32_768), ("32G", 32_768), ("500 MB", 500), ("500M", 500), ("1.5 GB", 1_536), ("0.25 MB", 1)],
)
def test_memory_is_in_slurms_megabytes(read, text, expected):
    assert read(f'memory = "{text}"').of("laptop").memory == expected


@pytest.mark.parametrize(("text", "expected"), [("5 min", 300), ("90 s", 90), ("0:10:30", 630), ("0.5 s", 1)])
def test_a_warning_is_in_seconds(read, text, expected):
    assert read(f'warning = "{text}"').of("laptop").warning == expected


def test_what_is_not_given_is_the_default(read):
    assert read("").of("finish") == Resources(time=720)


def test_tables_go_before_more_general_ones_key_by_key(read):
    found = read(
        """[all]
        time = "1 h"
        gres = "gpu:1"
        cpus = 4
        setup = ["module load cuda"]
        [all.options]
        exclude = "node7"
        nice = 5
        [paper]
        time = "2 h"
        cpus = 6
        options = { nice = 10, exclusive = true }
        [paper-cifar100]
        time = "3 h"
        setup = []
        [finish]
        cpus = 16
        options.mail-type = "END"
        """
    )
    shared = {"gres": "gpu:1", "setup": ("module load cuda",)}
    common = {"exclude": "node7", "nice": "5"}
    group = {"exclude": "node7", "nice": "10", "exclusive": True}
    assert found.of("laptop") == Resources(time=60, cpus=4, options=common, **shared)
    assert found.of("finish") == Resources(time=60, cpus=16, options={**common, "mail-type": "END"}, **shared)
    for name in ("paper", "paper-svhn", "paper-cifar10"):
        assert found.of(name) == Resources(time=120, cpus=6, options=group, **shared)
    assert found.of("paper-cifar100") == Resources(time=180, gres="gpu:1", cpus=6, options=group)


def test_the_tables_of_a_file_do_not_change_when_they_are_read(read):
    found = read('options.exclude = "node7"\n[finish]\noptions.nice = 3')
    assert found.of("finish").options == {"exclude": "node7", "nice": "3"}
    assert found.of("smoke").options == {"exclude": "node7"}


def test_the_example_reads_and_names_every_key():
    found = resources.read(CLUSTER_EXAMPLE)
    shared = Resources(time=720, partition="gpu", gres="gpu:1", memory=32_768, cpus=8)
    assert found.of("paper-svhn") == found.of("fashion") == shared
    assert found.of("paper-cifar100").time == 24 * 60
    assert found.of("finish").cpus == 16
    text = CLUSTER_EXAMPLE.read_text()
    missing = [one.name for one in fields(Resources) if not re.search(rf"^#? ?{one.name} = ", text, re.M)]
    assert missing == ["options"] and "[all.options]" in text
    assert all(len(line) <= 120 for line in text.splitlines())


def test_what_the_example_has_in_comments_reads_too(read):
    text = re.sub(r"^# (?=[a-z-]+ = )", "", CLUSTER_EXAMPLE.read_text(), flags=re.M)
    found = read(f"[all]\n{text.partition('[all]')[2]}").of("fashion")
    assert (found.account, found.qos, found.constraint) == ("project42", "long", "a100|h100")
    assert found.options == {"exclude": "node7", "mail-type": "FAIL", "exclusive": True}


TIME = r"expected a time in quotes with its unit, such as \"12 h\", \"90 min\", \"2 d\", \"12:00:00\""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cpus = \ntries = 1", r"cluster.toml is not TOML: .*line 3"),
        ("cpus = 1\ncpus = 2", r"cluster.toml is not TOML: .*"),
        ("cpu = 8", r"unknown key in \S*cluster.toml, \[all\]: 'cpu'. Did you mean cpus\?"),
        ("[paper-cifar1000]", r"table in \S*cluster.toml: 'paper-cifar1000'. Did you mean paper-cifar100"),
        ("[Finish]", r"unknown table in \S*cluster.toml: 'Finish'. Did you mean finish\?"),
        ("[[all]]", r"all is \[\{\}\], outside any table"),
        ("[finish]\nruns_at_once = 2", r"\[finish\]: runs_at_once has no meaning"),
        ("[finish]\ntasks_at_once = 2", r"\[finish\]: tasks_at_once has no meaning"),
        ("[all]\ntime = 720", rf"cluster.toml, \[all\]: time is 720; {TIME}"),
        ('[all]\ntime = "720"', rf"time is '720'; {TIME}"),
        ('[all]\ntime = "12:00"', rf"time is '12:00'; {TIME}"),
        ("[all]\ntime = 12:00:00", rf"time is datetime.time\(12, 0\); {TIME}"),
        ('[all]\ntime = "12 hours"', rf"time is '12 hours'; {TIME}"),
        ('[all]\ntime = "1:75:00"', rf"time is '1:75:00'; {TIME}"),
        ('[all]\ntime = "1-24:00:00"', rf"time is '1-24:00:00'; {TIME}"),
        ('[all]\ntime = "-1 h"', rf"time is '-1 h'; {TIME}"),
        ('[all]\ntime = "0 h"', rf"time is '0 h'; {TIME}"),
        ('[all]\ntime = "0:00:00"', rf"time is '0:00:00'; {TIME}"),
        ('[all]\ntime = "12 h\\n"', rf"time is '12 h\\n'; {TIME}"),
        ('[all]\ntime = "١٢ h"', rf"time is '١٢ h'; {TIME}"),
        ("[all]\ntime = true", rf"time is True; {TIME}"),
        ("memory = 32", r"memory is 32; expected memory in quotes with its unit, MB or GB"),
        ('memory = "32"', r"memory is '32'; expected memory .* MB or GB"),
        ('memory = "32 gb"', r"memory is '32 gb'; expected memory .* MB or GB"),
        ('memory = "32 GiB"', r"memory is '32 GiB'; expected memory .* MB or GB"),
        ('memory = "0 GB"', r"memory is '0 GB'; expected memory .* MB or GB"),
        ("cpus = true", r"cpus is True; expected a whole number above 0"),
        ("cpus = 0", r"cpus is 0; expected a whole number above 0"),
        ("cpus = 8.0", r"cpus is 8.0; expected a whole number above 0"),
        ('tries = "3"', r"tries is '3'; expected a whole number above 0"),
        ("tries = 0", r"tries is 0; expected a whole number above 0"),
        ("runs_at_once = -1", r"runs_at_once is -1; expected a whole number above 0"),
        ("tasks_at_once = 0", r"tasks_at_once is 0; expected a whole number above 0"),
        ('partition = ""', r"partition is ''; expected a name in quotes, such as \"gpu\""),
        ('qos = " long"', r"qos is ' long'; expected a name in quotes"),
        ('account = "a\\nb"', r"account is 'a\\nb'; expected a name in quotes"),
        ("constraint = []", r"constraint is \[\]; expected features of nodes in quotes"),
        ("gres = 1", r"gres is 1; expected generic resources in quotes, such as \"gpu:1\""),
        ("warning = 300", r"warning is 300; expected a time in quotes with its unit"),
        ('warning = "1 d"', r"warning is '1 d'; expected a time .* at most 65,535 s"),
        (
            'warning = "12 h"',
            r"cluster.toml, \[all\]: warning is 43,200 s; expected less than the time of \[all\], 43,200 s",
        ),
        ('[paper]\nwarning = "1 h"\n[all]\ntime = "30 min"', r"\[paper\]: warning is 3,600 s; .* 1,800 s"),
        ('warning = "1 h"\n[finish]\ntime = "1 h"', r"\[all\]: warning is 3,600 s; .* \[finish\], 3,600 s"),
        ('[all]\ntime = "5 min"', r"by default, warning is 300 s; .* \[all\], 300 s"),
        ('setup = "module load cuda"', r"setup is 'module load cuda'; expected a list of shell commands"),
        ('setup = ["module load cuda", " "]', r"setup is \['module load cuda', ' '\]; .* none of them empty"),
        ("setup = [1]", r"setup is \[1\]; expected a list of shell commands"),
        ('setup = ["a\\nb"]', r"setup is \['a\\nb'\]; expected a list of shell commands"),
        ('options = "--exclude=node7"', r"options is '--exclude=node7'; expected a table of its own"),
        ('options.time = "1 h"', r"\[all.options\]: time is '1 h'; expected the key time of \[all\]"),
        ('options.mem-per-cpu = "4G"', r"mem-per-cpu is '4G'; expected the key memory of \[all\]"),
        ("options.cpus-per-task = 4", r"cpus-per-task is 4; expected the key cpus of \[all\]"),
        ("options.exclude = 1.5", r"exclude is 1.5; expected text, a whole number, or true"),
        ("options.exclusive = false", r"exclusive is False; expected text, a whole number, or true"),
        ('options.comment = ""', r"comment is ''; expected text, a whole number, or true"),
        ('options.mail_type = "END"', r"mail_type is 'END'; expected the long name of an option of sbatch"),
        ('options.--exclude = "a"', r"--exclude is 'a'; expected the long name of an option of sbatch"),
        ('options.x = "a"\n[finish.options]\ngres = "gpu:1"', r"\[finish.options\]: gres .* key gres"),
    ],
)
def test_bad_files_are_named(read, text, message):
    with pytest.raises(ValueError, match=message):
        read(text)


@pytest.mark.parametrize(
    "option",
    [
        *("array", "dependency", "output", "error", "job-name", "signal", "requeue", "no-requeue"),
        *("open-mode", "chdir", "nodes", "ntasks"),
    ],
)
def test_options_that_a_submission_sets_are_refused(read, option):
    with pytest.raises(ValueError, match=rf"{option} is '1'; remove it: the submission sets"):
        read(f'options.{option} = "1"')


@pytest.mark.parametrize("option", ["partition", "account", "qos", "constraint", "gres", "time", "mem"])
def test_options_with_keys_of_their_own_are_refused(read, option):
    key = {"mem": "memory"}.get(option, option)
    with pytest.raises(ValueError, match=rf"{option} is '1'; expected the key {key} of \[all\]"):
        read(f'options.{option} = "1"')


def test_keys_outside_of_a_table_are_named(write):
    with pytest.raises(ValueError, match=r"partition is 'gpu', outside any table; expected \[all\]"):
        resources.read(write('partition = "gpu"'))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none.toml does not exist; copy .*cluster.example.toml to it"):
        resources.read(tmp_path / "none.toml")
    with pytest.raises(ValueError, match=r"cannot be read: Is a directory"):
        resources.read(tmp_path)
    (tmp_path / "latin.toml").write_bytes("[all] # Köln".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin.toml is not TOML: 'utf-8'"):
        resources.read(tmp_path / "latin.toml")


def test_jobs_without_a_time_are_named_when_they_are_asked_for(read):
    found = read('[paper-svhn]\ntime = "1 h"')
    assert found.of("paper-svhn").time == 60
    with pytest.raises(ValueError, match=r"no time for the jobs of 'finish'; .* \[all\] or \[finish\]"):
        found.of("finish")


@pytest.mark.parametrize("name", ["all", "papper", "options"])
def test_only_profiles_and_the_last_job_have_resources(read, name):
    with pytest.raises(ValueError, match=rf"unknown profile '{name}'"):
        read("").of(name)


def test_every_profile_has_resources_and_members_of_a_group_are_profiles(read):
    found = read("[paper]\ncpus = 3\n[all]\ntime = '1 h'")
    assert {found.of(name).cpus for name in PROFILES if name not in GROUPS["paper"]} == {None}
    assert {found.of(name).cpus for name in GROUPS["paper"]} == {3}
