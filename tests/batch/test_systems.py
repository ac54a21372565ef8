"""Batch systems from outside: profiles, scripts, the understanding of answers, and one system with real processes."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from park.batch.profiles import BUILT_IN, Ask, filled, profile, script_of
from park.batch.systems import Allocation, cancel, find, look, own_user, submit, understood
from park.errors import BatchError, InvalidRequest
from park.kernel.node.allocation import pbs_seconds_left
from tests.support.fabric import until

ASK = Ask("exec kernel", nodes=2, ppn=8, walltime_seconds=14_400)


def with_config(folder: Path, text: str) -> dict[str, str]:
    """An environment whose park.toml has this text."""
    (folder / "park").mkdir()
    (folder / "park" / "park.toml").write_text(text)
    return {"XDG_CONFIG_HOME": str(folder), "XDG_CONFIG_DIRS": "/nowhere"}


# -- scripts -----------------------------------------------------------------------------------------


def test_the_script_for_torque() -> None:
    assert script_of(BUILT_IN["torque"], ASK).splitlines() == [
        "#!/bin/sh",
        "#PBS -N park",
        "#PBS -l nodes=2:ppn=8",
        "#PBS -l walltime=04:00:00",
        "exec kernel",
    ]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("torque", ["#PBS -q long", "#PBS -A beam", "#PBS -l mem=8gb"]),
        ("pbs", ["#PBS -l select=2:ncpus=8:mpiprocs=8", "#PBS -q long", "#PBS -A beam"]),
        ("slurm", ["#SBATCH --nodes=2", "#SBATCH --cpus-per-task=8", "#SBATCH --time=04:00:00"]),
        ("slurm", ["#SBATCH --partition=long", "#SBATCH --account=beam", "#PBS -l mem=8gb"]),
        ("sge", ["#$ -pe mpi 16", "#$ -l h_rt=04:00:00", "#$ -q long"]),
        ("local", ["#LOCAL slots=8 seconds=14400"]),
    ],
)
def test_each_system_is_asked_in_its_own_words(name: str, lines: list[str]) -> None:
    ask = Ask(
        'cd "$HOME" && a=$$; kernel', 2, 8, 14_400, queue="long", account="beam", lines=("#PBS -l mem=8gb",)
    )
    text = script_of(BUILT_IN[name], ask).splitlines()
    assert text[-1] == 'cd "$HOME" && a=$$; kernel'
    assert set(lines) <= set(text)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (Ask("x", nodes=0), "nodes=0 and ppn=1 are no numbers from 1 on"),
        (Ask("x", name="4 fits"), "'4 fits' is no name of a batch job"),
        (Ask("x", queue="long\nrm"), "is no printable line of a script"),
    ],
)
def test_a_script_that_cannot_be_is_refused(ask: Ask, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        script_of(BUILT_IN["torque"], ask)


def test_only_names_in_braces_stand_for_values() -> None:
    assert filled("a@b.org $x $$ @{name} @", {"name": "n"}) == "a@b.org $x $$ n @"
    with pytest.raises(InvalidRequest, match=r"has @\{nmae\}, and there is only name"):
        filled("@{nmae}", {"name": "n"})


# -- profiles ----------------------------------------------------------------------------------------


def test_park_toml_changes_profiles_and_adds_some(tmp_path: Path) -> None:
    environment = with_config(
        tmp_path,
        '[batch.torque]\ncancel = ["/opt/qdel", "@{id}"]\nstates = {Z = "ended"}\n'
        '[batch.second]\nsystem = "slurm"\nlist = ["ssh", "head2", "squeue"]\n',
    )
    torque = profile("torque", environment)
    assert torque.cancel == ("/opt/qdel", "@{id}")
    assert (torque.states["Z"], torque.states["R"]) == ("ended", "running")
    second = profile("second", environment)
    assert (second.name, second.list) == ("second", ("ssh", "head2", "squeue"))
    assert second.submit == BUILT_IN["slurm"].submit
    with pytest.raises(InvalidRequest, match=r"there are torque, pbs, .*, second \(did you mean torque\?\)"):
        profile("torqe", environment)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[batch.own]\nsubmit = ["x"]', r"\[batch.own\] of park.toml needs system = "),
        ('[batch.torque]\nrecord = "("', "is no regular expression"),
        (f'[batch.torque]\nrecord = "{"(" * 5000}"', "is no regular expression"),
        ('[batch.torque]\nrecord = "a{99999999999999999999}"', "is no regular expression"),
        ('[batch.torque]\nsubmit = "qsub"', "is no list of texts"),
        ('[batch.torque]\nstates = {R = "runs"}', "is none of queued, running, ended, unknown"),
        ('[batch.torque]\nsumbit = ["qsub"]', r"batch.torque.sumbit is not known.*did you mean submit"),
    ],
)
def test_a_profile_that_cannot_be_is_refused(tmp_path: Path, text: str, words: str) -> None:
    environment = with_config(tmp_path, text)
    with pytest.raises(InvalidRequest, match=words):
        profile("own" if "own" in text else "torque", environment)


# -- answers -----------------------------------------------------------------------------------------

QSTAT = """\
Job Id: 4711.head
    Job_Name = first
    Job_Owner = ada@head.cluster.org
    job_state = R
    queue = batch

Job Id: 4712.head
    Job_Name = second
    Job_Owner = bob@head.cluster.org
    job_state = Q
    queue = batch

Job Id: 4713.head
    Job_Name = third
    Job_Owner = ada@head.cluster.org
    job_state = Q
    queue = batch
    comment = Not Running: not enough of the right type of nodes are avail
\table
    etime = Mon Jan  1 00:00:00 2029

Job Id: 4714.head
    Job_Name = fourth
    Job_Owner = ada@head.cluster.org
    job_state = Y
    queue = long
"""


def test_the_answer_of_torque() -> None:
    jobs = understood(BUILT_IN["torque"], QSTAT)
    assert [(job.id, job.name, job.state, job.place) for job in jobs.values()] == [
        ("4711.head", "first", "running", 0),
        ("4712.head", "second", "queued", 1),
        ("4713.head", "third", "queued", 2),
        ("4714.head", "fourth", "unknown", 0),
    ]
    assert jobs["4713.head"].reason == "Not Running: not enough of the right type of nodes are available"
    assert jobs["4714.head"].reason == "state Y"
    assert list(understood(BUILT_IN["torque"], QSTAT, "bob")) == ["4712.head"]


def test_the_answers_of_slurm_and_sge() -> None:
    slurm = understood(
        BUILT_IN["slurm"],
        "7|ada|batch|PD|Resources|fit\n9_2|ada|batch|R|None|fit\n8|ada|batch|CG|None|fit\n",
    )
    assert slurm == {
        "7": Allocation("7", "fit", "queued", "Resources", 1),
        "9_2": Allocation("9_2", "fit", "running"),
        "8": Allocation("8", "fit", "ended"),
    }
    sge = """<?xml version='1.0'?><job_info><queue_info>
    <job_list state="running"><JB_job_number>3</JB_job_number><JB_name>a</JB_name><JB_owner>ada</JB_owner>
      <state>r</state><queue_name>all.q@n1</queue_name></job_list></queue_info>
    <job_list state="pending"><JB_job_number>5</JB_job_number><JB_name>b</JB_name><JB_owner>ada</JB_owner>
      <state>qw</state><queue_name></queue_name></job_list></job_info>"""
    assert understood(BUILT_IN["sge"], sge) == {
        "3": Allocation("3", "a", "running"),
        "5": Allocation("5", "b", "queued", "", 1),
    }


PBS = """\
Job Id: 88[].pbs01
    Job_Name = sweep
    Job_Owner = bob@login2.site.org
    job_state = B
    queue = workq
    array = True

Job Id: 90.pbs01
    Job_Name = park-3
    Job_Owner = ada@login1.site.org
    resources_used.walltime = 00:10:00
    job_state = R
    queue = workq
    exec_host = cn07.site.org/0*8+cn08.site.org/0*8
    Resource_List.walltime = 100:00:00
    Variable_List = PBS_O_HOME=/home/ada,PBS_O_HOST=login1.site.org,PBS_O_LOGNAM
\tE=ada,BASH_FUNC_ml%%=() {  eval $($LMOD_DIR/ml_cmd "$@")
}
    comment = Job run at Mon Nov 04 at 10:00 on (cn07:ncpus=8)+(cn08:ncpus=8)

Job Id: 91.pbs01
    Job_Name = park-4
    Job_Owner = ada@login1.site.org
    job_state = S
    queue = workq

Job Id: 92.pbs01
    Job_Name = park-5
    Job_Owner = ada@login1.site.org
    job_state = H
    queue = workq

Job Id: 70.pbs01
    Job_Name = park-1
    Job_Owner = ada@login1.site.org
    job_state = F
    queue = workq
    Exit_status = 271
"""


def test_the_answer_of_pbs_pro() -> None:
    jobs = understood(BUILT_IN["pbs"], PBS, "ada")
    assert {job.id: (job.name, job.state, job.reason) for job in jobs.values()} == {
        "90.pbs01": ("park-3", "running", "Job run at Mon Nov 04 at 10:00 on (cn07:ncpus=8)+(cn08:ncpus=8)"),
        "91.pbs01": ("park-4", "queued", "state S"),
        "92.pbs01": ("park-5", "queued", "state H"),
        "70.pbs01": ("park-1", "ended", ""),
    }
    assert understood(BUILT_IN["pbs"], PBS)["88[].pbs01"].state == "running"
    assert find(jobs, "90.pbs01.site.org") is jobs["90.pbs01"]
    assert pbs_seconds_left(PBS[PBS.index("Job Id: 90") : PBS.index("Job Id: 91")]) == 100 * 3600 - 600


def sge_jobs(*jobs: tuple[int, str, str, str]) -> str:
    """An answer of SGE: number, state, queue and tasks of each job."""
    return "<job_info><queue_info>" + "".join(
        f'<job_list state="{"pending" if "w" in state else "running"}"><JB_job_number>{number}</JB_job_number>'
        f"<JAT_prio>0.5</JAT_prio><JB_name>park-{number}</JB_name><JB_owner>ada</JB_owner><state>{state}</state>"
        f"<queue_name>{queue}</queue_name><slots>8</slots><tasks>{tasks}</tasks></job_list>"
        for number, state, queue, tasks in jobs
    )


def test_an_array_of_sge_runs_if_one_of_its_tasks_does_and_odd_states_are_known() -> None:
    answer = sge_jobs(
        (7, "hr", "long.q@cn01.site.org", ""),
        (8, "r", "all.q@cn02.site.org", "3"),
        (9, "T", "all.q@cn02.site.org", ""),
        (10, "dr", "all.q@cn02.site.org", ""),
        (8, "qw", "", "4-10:1"),
        (11, "Eqw", "", ""),
        (12, "qw", "", ""),
    )
    assert [
        (job.id, job.state, job.reason, job.place) for job in understood(BUILT_IN["sge"], answer).values()
    ] == [
        ("7", "running", "", 0),
        ("8", "running", "", 0),
        ("9", "queued", "state T", 1),
        ("10", "ended", "", 0),
        ("11", "queued", "state Eqw", 2),
        ("12", "queued", "", 3),
    ]


def test_a_name_of_another_s_job_may_have_any_letter() -> None:
    answer = "7|bob|batch|PD|Priority|a|R|b\n9|ada|batch|PD|Resources|park-9\n"
    assert understood(BUILT_IN["slurm"], answer)["9"] == Allocation("9", "park-9", "queued", "Resources", 2)


@settings(max_examples=30)
@given(st.sampled_from(sorted(BUILT_IN)), st.text(max_size=200))
def test_no_answer_is_too_odd(name: str, answer: str) -> None:
    for job in understood(BUILT_IN[name], answer).values():
        assert job.id


# -- commands ----------------------------------------------------------------------------------------


def left_of(number: str) -> list[str]:
    """The processes of a job of the local system."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"PARK_LOCAL_JOB={number}\0".encode() in (folder / "environ").read_bytes():
                found.append(folder.name)
    return found


def test_the_local_system_runs_lists_and_cancels_real_processes(tmp_path: Path) -> None:
    local, me = profile("local", {}), own_user()
    ask = Ask(
        "cat $PBS_NODEFILE; (trap '' TERM; echo $$ >&2; sleep 61) & sleep 60", ppn=2, walltime_seconds=600
    )
    number = submit(local, script_of(local, ask), tmp_path, "parktest")
    try:
        assert look(local, me)[number] == Allocation(number, "parktest", "running")
        until(lambda: (tmp_path / "parktest.out").read_text() == f"{socket.gethostname()}\n" * 2)
        assert number not in look(local, "stranger")
    finally:
        cancel(local, number)
    until(lambda: number not in look(local, me), 50)
    assert left_of(number) == [], "a process that ignores SIGTERM is killed"
    cancel(local, number)  # it is gone


def test_a_script_that_ends_is_gone_from_the_list(tmp_path: Path) -> None:
    local = profile("local", {})
    script = script_of(local, Ask('echo "$PBS_JOBID $PBS_WALLTIME"; echo fault >&2', walltime_seconds=90))
    number = submit(local, script, tmp_path, "parktest")
    until(lambda: number not in look(local))
    assert (tmp_path / "parktest.out").read_text() == f"{number} 90\n"
    assert (tmp_path / "parktest.err").read_text() == "fault\n"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("no-such-qsub",), "no-such-qsub of own is not on the path of this machine: use a machine"),
        (
            ("sh", "-c", "echo illegal queue >&2; exit 3"),
            "sh has failed with code 3: illegal queue",
        ),
        (("echo", "Welcome to head"), "has answered 'Welcome to head', in which there is no id"),
        (("sleep", "9"), "sleep has not answered in 0.2 s"),
    ],
)
def test_a_command_that_fails_is_told_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], words: str
) -> None:
    monkeypatch.setattr("park.batch.systems.COMMAND_SECONDS", 0.2 if command[0] == "sleep" else 20)
    text = f'[batch.own]\nsystem = "torque"\nsubmit = {list(command)}\n'
    own = profile("own", with_config(tmp_path, text))
    with pytest.raises(BatchError, match=words):
        submit(own, "#!/bin/sh\n", tmp_path / "jobs", "parktest")
