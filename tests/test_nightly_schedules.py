"""The schedules in cluster/nightly: what they start, and that two starts do not meet."""

import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "cluster" / "nightly"
PLACE = "/opt/lmc-ray"


def options(command: str) -> set[str]:
    return set(re.findall(r"--[a-z-]+", command))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    """With the checkout at another place, for systemd looks whether the program is there."""
    for name in ("lmc-ray-nightly.service", "lmc-ray-nightly.timer"):
        text = (FOLDER / name).read_text()
        program = f"{PLACE}/.venv/bin/python"
        (tmp_path / name).write_text(text.replace(program, "/bin/true").replace(PLACE, "/tmp"))
    done = subprocess.run(
        ["systemd-analyze", "verify", *sorted(map(str, tmp_path.iterdir()))],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "lmc-ray" not in done.stderr, done.stderr


def test_systemd_keeps_to_the_exit_statuses() -> None:
    """4, incomplete, is started again; 2 and 3 would only say the same again."""
    service = (FOLDER / "lmc-ray-nightly.service").read_text()
    assert "\nRestart=on-failure\n" in service
    assert "\nRestartPreventExitStatus=2 3\n" in service
    (start,) = re.findall(r"^ExecStart=(.*)$", service, re.MULTILINE)
    assert start.split()[:2] == [f"{PLACE}/.venv/bin/python", f"{PLACE}/sweeps/nightly.py"]
    assert options(start) == {"--sweep"}
    assert "\nTimeoutStartSec=20h\n" in service, "a oneshot has no limit of its own"
    assert re.search(r"^After=.*\bremote-fs.target$", service, re.MULTILINE)
    assert "\nPersistent=true\n" in (FOLDER / "lmc-ray-nightly.timer").read_text()


def crontab() -> tuple[dict[str, str], list[list[str]]]:
    """The environment, and the lines: five fields of time and a command."""
    lines = [
        line
        for line in (FOLDER / "crontab").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    times = [line.split(maxsplit=5) for line in lines if line[0].isdigit()]
    variables = dict(line.split("=", 1) for line in lines if not line[0].isdigit())
    return variables, times


def test_crontab_lines_are_whole() -> None:
    variables, lines = crontab()
    assert (FOLDER / "crontab").read_text().endswith("\n"), "cron leaves out a torn last line"
    assert set(variables) == {"SHELL", "LMC_RESULTS", "LMC_SWEEP", "LOCKS"}
    assert len(lines) == 2
    for minute, hour, *days, command in lines:
        assert (0 <= int(minute) < 60, 0 <= int(hour) < 24, days) == (True, True, ["*"] * 3)
        assert "%" not in command, "cron would end the line there"
        assert "sweeps/nightly.py --sweep" in command


def test_of_two_starts_by_cron_the_second_leaves(tmp_path: Path) -> None:
    """The crontab's own line, run by its own shell, with a night that only waits.

    Another sweep's night has a lock of its own; one that hangs is ended.
    """
    variables, lines = crontab()
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        '#!/bin/sh\necho "$@" >> started\nwhile [ ! -e done ]; do sleep 0.1; done\nexit 3\n'
    )
    python.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", **variables, "LOCKS": str(tmp_path)}
    command = lines[0][-1].replace(PLACE, str(tmp_path))
    hasty = command.replace("timeout -k 5m 20h", "timeout -k 5m 1s")
    assert hasty != command

    def start(command: str = command, **more: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([variables["SHELL"], "-c", command], env=environment | more)

    first, started = start(), tmp_path / "started"
    try:
        end = time.monotonic() + 60
        while not started.exists():
            assert time.monotonic() < end, "the first did not start"
            time.sleep(0.05)
        assert start().wait(60) == 0, "the second leaves in peace"
        assert start(hasty, LMC_SWEEP="other").wait(60) == 124
        assert first.poll() is None
    finally:
        (tmp_path / "done").touch()
        status = first.wait(60)
    assert status == 3, "the verdict comes through"
    nights = [f"sweeps/nightly.py --sweep {name}\n" for name in (variables["LMC_SWEEP"], "other")]
    assert started.read_text() == "".join(nights)
    assert start().wait(60) == 3, "the lock is free again"


def test_the_night_on_kubernetes_ends_and_has_the_date_of_its_name(tmp_path: Path) -> None:
    """Pods may wait for a node past midnight."""
    manifest = (ROOT / "cluster" / "kuberay" / "nightly-cronjob.yaml").read_text()
    objects = {each["kind"]: each for each in yaml.safe_load_all(manifest)}
    pod = objects["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (tmp_path / "rayjob.yaml").write_text(objects["ConfigMap"]["data"]["rayjob.yaml"])
    for name, does in (("kubectl", '[ "$1" = create ] && cat'), ("date", "echo 2026-11-24")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [each.replace("/manifests", str(tmp_path)) for each in pod["containers"][0]["command"]],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    night = yaml.safe_load(done.stdout)
    assert night["metadata"]["name"] == "nightly-2026-11-24"
    assert night["spec"]["entrypoint"].endswith(" --night 2026-11-24")
    assert 0 < night["spec"]["activeDeadlineSeconds"] < 24 * 3600
    assert "DATE" not in done.stdout


def test_the_scripts_of_the_shell_are_whole() -> None:
    subprocess.run(["sh", "-n", FOLDER / "submit.sh"], check=True, timeout=60)


@pytest.mark.parametrize(
    ("has_token", "given", "mode"),
    [(True, {}, "token"), (True, {"RAY_AUTH_MODE": "disabled"}, "disabled"), (False, {}, "")],
)
def test_a_job_is_submitted_with_the_token_that_is_there(
    tmp_path: Path, has_token: bool, given: dict[str, str], mode: str
) -> None:
    """Ray does not look for it unless told to."""
    (tmp_path / ".ray").mkdir()
    if has_token:
        (tmp_path / ".ray" / "auth_token").write_text("0123")
    ray = tmp_path / "ray"
    ray.write_text('#!/bin/sh\necho "$RAY_AUTH_MODE" > "$HOME/mode"\n')
    ray.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "RAY": str(ray), **given}
    command = ["sh", FOLDER / "submit.sh", "--sweep", "mine"]
    subprocess.run(command, check=True, timeout=60, env=environment)
    assert (tmp_path / "mode").read_text() == f"{mode}\n"


def submitted(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """submit.sh with options, and with a `ray` that knows no job and tells what it is given."""
    ray = folder / "ray"
    ray.write_text('#!/bin/sh\n[ "$2" = status ] && exit 1\necho "$@"\n')
    ray.chmod(0o755)
    return subprocess.run(
        ["sh", FOLDER / "submit.sh", *options],
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "RAY": str(ray)},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "add --sweep NAME"),
        (("--results", "/srv/results"), "add --sweep NAME"),
        (("--sweep", ""), "add --sweep NAME"),
        (("--sweep", "mine", "--pinned", "my.toml"), "--pinned 'my.toml' names nothing"),
        (("--pinned=my.toml", "--sweep", "mine"), "--pinned 'my.toml' names nothing"),
        (("--sweep=mine", "--results", "results"), "--results 'results' names nothing"),
        (("--sweep=mine", "--results="), "--results '' names nothing"),
        (("--sweep=mine", "--data", "s3://images"), "--data 's3://images' names nothing"),
        (("--sweep=mine", "--data=../images"), "--data '../images' names nothing"),
    ],
)
def test_a_night_that_could_not_run_is_not_submitted(
    tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    done = submitted(tmp_path, *options)
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr.startswith("submit.sh: error: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_jobs_of_two_roots_have_two_names(tmp_path: Path) -> None:
    roots = ("s3://bucket/one", "s3://bucket/two", "/srv/results", "~/results", "s3://bucket/one")
    jobs: list[str] = []
    for root in roots:
        done = submitted(tmp_path, "--results", root, "--sweep", "mine", "--data=/srv/images")
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith(f" --results {root} --sweep mine --data=/srv/images\n")
        jobs += re.findall(r"--submission-id (nightly-mine-\d{4}-\d\d-\d\d-\w+) ", done.stdout)
    assert len(jobs) == len(roots)
    assert len(set(jobs)) == len(set(roots))
    assert jobs[0] == jobs[-1]
