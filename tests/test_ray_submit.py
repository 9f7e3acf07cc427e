"""`ray up`, `ray submit`, `ray down` for real: by cluster/onprem.yaml, over SSH, on this machine.

`ray stop` and `ray down` end every Ray process that they see, and the launcher knows no SSH port
but 22. So all of it lives in namespaces of its own: processes, network (loopback only) and mounts.
That takes root, sshd, rsync, tmux, iproute2 and unshare; without them the tests are skipped, and
where LMC_CI_MUST_SUBMIT is set that is a failure.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from ray_support import PATIENCE, files, wait_until

from lmc_ray.store import Store

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

PROJECT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
TOOLS = ("unshare", "nsenter", "ip", "mount", "sshd", "ssh", "ssh-keygen", "rsync", "tmux")
PATH = f"{BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def what_is_missing() -> str | None:
    if os.geteuid() != 0:
        return "not root"
    missing = [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]
    if missing:
        return f"no {', '.join(missing)}"
    words = ["unshare", "--pid", "--fork", "--mount-proc", "--net", "--mount", "true"]
    ended = subprocess.run(words, capture_output=True, text=True)
    return f"unshare: {ended.stderr.strip()}" if ended.returncode else None


Started = tuple[subprocess.Popen[bytes], Path]


@dataclass(frozen=True)
class Machine:
    """Namespaces that look like a machine of their own, and the folder that is all it has.

    Attributes:
        folder: `laptop` and `node` are the homes of the two sides of SSH, `shared` both see.
        pid: of the first process inside.
    """

    folder: Path
    pid: int

    @property
    def config(self) -> Path:
        return self.folder / "onprem.yaml"

    @property
    def results(self) -> Path:
        return self.folder / "shared" / "results"

    def start(
        self, *words: str | Path, home: str = "laptop"
    ) -> tuple[subprocess.Popen[bytes], Path]:
        """A command inside, in the project's folder, and the file that its output goes to.

        No pipe: SSH's shared connection outlives its command and would hold it open.
        """
        environment = {
            "HOME": str(self.folder / home),
            "PATH": PATH,
            "RAY_USAGE_STATS_ENABLED": "0",
            "TERM": "xterm",
        }
        inside = ["nsenter", "-t", str(self.pid), "-p", "-n", "-m", f"--wdns={PROJECT}"]
        log = self.folder / f"said-{time.monotonic_ns()}"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*inside, *map(str, words)],
                env=environment,
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        return process, log

    def run(self, *words: str | Path, status: int = 0, home: str = "laptop") -> str:
        """Run a command inside and return what it says."""
        process, log = self.start(*words, home=home)
        try:
            process.wait(2 * PATIENCE)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{words} does not end:\n{log.read_text()}")
        finally:
            process.kill()
        said = log.read_text().replace("\r\n", "\n")
        assert process.returncode == status, said
        return said

    def begin(self, *words: str | Path) -> None:
        """Start Ray inside; again where its agents took longer than the 15 s that they have."""
        said = ""
        for _ in range(3):
            process, log = self.start(*words)
            with suppress(subprocess.TimeoutExpired):
                if process.wait(PATIENCE) == 0:
                    return
            process.kill()
            said = log.read_text()
            assert "timed out during startup" in said, said
        pytest.fail(f"{words} fails three times, of late with:\n{said}")

    def submit(self, *words: str, status: int = 0) -> str:
        return self.run("ray", "submit", "--no-config-cache", self.config, *words, status=status)

    def processes(self, part: str) -> list[int]:
        """Processes inside whose command line has `part`, by their numbers inside."""
        listed = self.run("ps", "-eo", "pid=,args=").splitlines()
        return [int(line.split()[0]) for line in listed if part in line]


UNSHARED = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--net", "--mount")

SSHD = """
    mount -t tmpfs tmpfs /run && mkdir /run/sshd
    for shared in /tmp/ray /tmp/ray_ssh_$(printf root | sha256sum | cut -c1-10); do
      mkdir -p $shared {home}.own$shared && mount --bind {home}.own$shared $shared
    done
    # ssh knows its user's home from here, not from HOME.
    sed -E 's|^(root:.*):[^:]*(:[^:]*)$|\\1:{home}\\2|' /etc/passwd > {home}.passwd
    mount --bind {home}.passwd /etc/passwd
    $(command -v sshd) -f {home}.sshd -E {home}.log
    touch {home}.ready
    while :; do sleep 1000; done  # the first process takes in the orphans; bash buries them
"""
"""The rest of a machine's first process, once its network is up."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with sshd on port 22 of its own loopback."""
    with booted(tmp_path_factory.mktemp("machine"), {"node": "127.0.0.1"}) as machine:
        yield machine


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Machine]:
    """Two machines and a cable between them; the commands run on the first."""
    with booted(tmp_path, {"node": "10.77.0.1", "worker": "10.77.0.2"}) as machine:
        yield machine


@contextmanager
def booted(folder: Path, addresses: Mapping[str, str]) -> Iterator[Machine]:
    """Machines by the names of their homes; the second is a machine inside the first."""
    problem = what_is_missing()
    if problem:
        if os.environ.get("LMC_CI_MUST_SUBMIT"):
            pytest.fail(f"`ray submit` cannot be tested here: {problem}")
        pytest.skip(f"`ray submit` cannot be tested here: {problem}")
    homes(folder, addresses)
    network = ["set -e", "ip link set lo up"]
    for name, address in list(addresses.items())[1:]:
        inside = f"""
            set -e
            until ip link set {name} up 2> /dev/null; do sleep 0.1; done
            {plugged_in(name, address)}
            {SSHD.format(home=folder / name)}
        """
        (folder / f"{name}.sh").write_text(inside)
        network += [
            f"ip link add node type veth peer name {name}",
            f"{' '.join(UNSHARED)} bash {folder / name}.sh &",
            "mine=$(readlink /proc/self/ns/net)",
            'until [ "$(readlink /proc/$!/ns/net)" != "$mine" ]; do sleep 0.1; done',
            f"ip link set {name} netns $!",
            "ip link set node up",
            plugged_in("node", addresses["node"]),
        ]
    script = "\n".join((*network, SSHD.format(home=folder / "node")))
    environment = {"PATH": PATH, "HOME": str(folder)}
    process = subprocess.Popen([*UNSHARED, "bash", "-c", script], env=environment)
    try:
        for name in addresses:
            ready = folder / f"{name}.ready"
            wait_until(lambda at=ready: at.exists() or process.poll() is not None, "no namespaces")
        assert process.poll() is None, "the namespaces could not be made"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        yield Machine(folder, int(children.split()[0]))
    finally:
        process.kill()  # and with the first process inside, all others go
        process.wait()


def plugged_in(device: str, address: str) -> str:
    """Ray asks the way to the world for its own address; there is none beyond the cable."""
    lines = ("ip link set lo up", f"ip addr add {address}/24 dev {device}")
    return "; ".join((*lines, f"ip route add default dev {device}"))


def homes(folder: Path, addresses: Mapping[str, str]) -> None:
    """Both sides of SSH: keys, a token, sshd's configuration, an environment, images."""
    for name in ("laptop/.ssh", "laptop/.ray", "shared/results"):
        (folder / name).mkdir(parents=True)
    key = folder / "laptop" / ".ssh" / "id_ed25519"
    host = folder / "host_key"
    for each in (key, host):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", each], check=True)
    token = folder / "laptop" / ".ray" / "auth_token"
    token.touch(0o600)
    token.write_text("0123456789abcdef" * 4)
    for name, address in addresses.items():
        authorized = folder / name / ".ssh" / "authorized_keys"
        authorized.parent.mkdir(parents=True)
        authorized.write_text(key.with_suffix(".pub").read_text())
        # A busy machine takes long to start Ray.
        (folder / name / ".bashrc").write_text("export RAY_raylet_start_wait_time_s=90\n")
        (folder / f"{name}.sshd").write_text(
            f"""
            ListenAddress {address}
            HostKey {host}
            AuthorizedKeysFile {authorized}
            PermitRootLogin prohibit-password
            PasswordAuthentication no
            StrictModes no
            UsePAM no
            MaxStartups 100
            SetEnv HOME={folder / name}
            """
        )
        made_environment(folder / name / "lmc-env")
    images(folder / "shared" / "data" / "MNIST" / "raw")
    (folder / "onprem.yaml").write_text(derived(folder, *addresses.values()))


def derived(folder: Path, head: str, *workers: str) -> str:
    """cluster/onprem.yaml with these machines' addresses, user and paths, and nothing else."""
    text = (PROJECT / "cluster" / "onprem.yaml").read_text()
    for given, here in {
        "head_ip: 192.168.1.10": f"head_ip: {head}",
        "worker_ips: [192.168.1.11, 192.168.1.12]": f"worker_ips: [{', '.join(workers)}]",
        "LMC_MAX_CPUS=48": "LMC_MAX_CPUS=2",
        "ssh_user: lab": "ssh_user: root",
        "~/.ssh/id_ed25519": str(folder / "laptop" / ".ssh" / "id_ed25519"),
        "/srv/lmc": str(folder / "shared"),
    }.items():
        assert text.count(given) >= 1, given
        text = text.replace(given, here)
    return text


def made_environment(folder: Path) -> None:
    """What the lock would install, without installing it: this environment's libraries, borrowed.

    The file's own commands find the mark of the lock and go on to install the package, here and
    nowhere else.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    libraries = subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip()
    (Path(libraries) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    ray = folder / "bin" / "ray"
    ray.write_text(f"#!{python}\nfrom ray.scripts.scripts import main\n\nmain()\n")
    ray.chmod(0o755)
    with (PROJECT / "requirements.lock").open("rb") as lock:
        digest = subprocess.run(["sha256sum"], stdin=lock, capture_output=True, check=True).stdout
    (folder / ".lock").write_bytes(digest)


def images(folder: Path) -> None:
    """A small MNIST of noise, in torchvision's layout."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, count in (("train", 600), ("t10k", 200)):
        pixels = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for kind, values in (("images-idx3", pixels), ("labels-idx1", labels)):
            sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
            header = bytes((0, 0, 8, values.ndim)) + sizes
            (folder / f"{name}-{kind}-ubyte").write_bytes(header + values.tobytes())


@pytest.fixture(scope="module")
def cluster(machine: Machine) -> Iterator[Machine]:
    """The machine after `ray up`; `ray down` at the end."""
    begin = time.monotonic()
    machine.begin("ray", "up", "-y", "--no-config-cache", machine.config)
    print(f"\nray up took {time.monotonic() - begin:.1f} s")
    yield machine
    with suppress(AssertionError):  # tested by the last test
        machine.run("ray", "down", "-y", machine.config)


def counts(machine: Machine, sweep: str) -> dict[str, int]:
    """Rows of every table of a sweep."""
    with Store(str(machine.results)).database(sweep) as database:
        names = ("runs", "accuracies", "paths", "barriers", "trials")
        rows = {name: database.sql(f"SELECT count(*) FROM {name}").fetchall() for name in names}
    return {name: count for name, [(count,)] in rows.items()}


def test_the_file_is_valid(machine: Machine) -> None:
    python = machine.folder / "laptop" / "validate.py"
    python.write_text("from lmc_ray.cli import main\n\nmain()\n")
    said = machine.run("env", f"PYTHONPATH={PROJECT}", "python", python, "validate", machine.config)
    assert said == f"{machine.config}: OK\n"


def test_submit(cluster: Machine) -> None:
    begin = time.monotonic()
    said = cluster.submit("sweeps/mcsgd.py", "--smoke", "--name", "first")
    print(f"\nray submit took {time.monotonic() - begin:.1f} s")
    assert f"Results:     {cluster.results} (sweep first)" in said
    assert "MC-SGD" in said
    assert all(counts(cluster, "first").values())
    store = Store(str(cluster.results))
    assert not store.verify()
    with store.database("first") as database:
        found = database.sql("SELECT DISTINCT benchmark, tasks FROM runs").fetchall()
    assert found == [("rotated-mnist", 2)], "LMC_BENCHMARK did not reach the sweep"
    # The workers came from the package that the file's commands installed on the node.
    assert (cluster.folder / "node" / "lmc-ray" / "lmc_ray").is_dir()


def test_a_mistake_is_one_line_and_status_1(cluster: Machine) -> None:
    """`ray submit` gives 1 for whatever status its script ended with."""
    said = cluster.submit("sweeps/mcsgd.py", "--benchmark", "rotated-mnits", status=1)
    assert "mcsgd: error: unknown benchmark 'rotated-mnits': did you mean 'rotated-mnist'?" in said
    assert "Traceback" not in said


def test_strangers_are_refused(cluster: Machine) -> None:
    """Without the token Ray lets nobody in."""
    code = "import ray; ray.init('127.0.0.1:6379', logging_level='ERROR')"
    python = cluster.folder / "node" / "lmc-env" / "bin" / "python"
    said = cluster.run(python, "-c", code, home="shared", status=1)
    assert "auth" in said.lower(), said


def test_a_dropped_connection(cluster: Machine) -> None:
    """It ends the run, nothing is lost, and submitted again under its name the sweep goes on."""
    options = ("--name", "dropped", "--tasks", "2", "--trials", "5", "--seeds", "2")
    process, _ = cluster.start(
        "ray", "submit", "--no-config-cache", cluster.config, "sweeps/continual.py", *options
    )
    runs = cluster.results / "runs" / "sweep=dropped"
    wait_until(lambda: len(list(runs.glob("*.parquet"))) >= 2, "nothing was committed")
    for pid in cluster.processes("ssh: "):  # the shared connection of the launcher
        cluster.run("kill", "-9", str(pid))
    for pid in cluster.processes("ssh -tt"):  # which may have ended with it
        cluster.run("sh", "-c", f"kill -9 {pid} || true")
    process.wait(PATIENCE)
    wait_until(lambda: not cluster.processes("node/continual.py"), "the driver lives on")
    store = Store(str(cluster.results))
    assert not [finding for finding in store.verify() if not finding.harmless]
    before = files(runs)
    cluster.submit("sweeps/continual.py", *options)
    after = files(runs)
    assert before.items() <= after.items(), "what was committed stays"
    assert len(after) > len(before)


def test_tmux_goes_on_without_a_connection(cluster: Machine) -> None:
    said = cluster.submit("--tmux", "sweeps/mcsgd.py", "--smoke", "--name", "tmux")
    assert "ray attach" in said
    wait_until(lambda: cluster.processes("node/mcsgd.py"), "it was not started")
    wait_until(lambda: not cluster.processes("node/mcsgd.py"), "it does not end")
    assert counts(cluster, "tmux") == counts(cluster, "first")


def test_down(cluster: Machine) -> None:
    assert cluster.processes("raylet")
    cluster.run("ray", "down", "-y", cluster.config)
    assert not cluster.processes("raylet")


def test_gpus_that_are_yet_to_be_launched(machine: Machine) -> None:
    """A head that does not train and no worker: the sweep asks for GPUs and waits for them."""
    node = machine.folder / "node" / "lmc-env" / "bin"
    limits = ("LMC_MAX_CPUS=4", "LMC_MAX_GPUS=1", "RAY_ADDRESS=127.0.0.1:6379")
    common = (
        "env",
        f"PATH={node}:{PATH}",
        "RAY_AUTH_MODE=disabled",
        "RAY_raylet_start_wait_time_s=90",
        f"PYTHONPATH={PROJECT}",
    )
    start = (*common, "ray", "start", "--object-store-memory=200000000")
    machine.begin(*start, "--head", "--port=6379", "--num-cpus=0", "--include-dashboard=false")
    results = machine.folder / "shared" / "launched"
    script = PROJECT / "sweeps" / "mcsgd.py"
    process, log = machine.start(
        *(*common, *limits, "python", script, "--smoke", "--method", "stable-sgd"),
        *("--results", results),
    )
    try:
        asked = machine.folder / "asked.py"
        asked.write_text(ASKED)
        look = (*common, limits[2], "python", asked)
        wait_until(
            lambda: "{'CPU': 1.0, 'GPU': 0.25}" in machine.run(*look), "no GPU was asked for"
        )
        assert not list(results.rglob("runs/**/*.parquet")), "the head trained"
        wait_until(lambda: "has 0 CPUs and 0 GPUs now" in log.read_text(), "it does not say so")
        machine.begin(*start, "--address=127.0.0.1:6379", "--num-cpus=4", "--num-gpus=1")
        assert process.wait(PATIENCE) == 0, log.read_text()
        with Store(str(results)).database() as database:
            assert database.sql("SELECT count(*) > 0 FROM runs").fetchall() == [(True,)]
    finally:
        process.kill()
        machine.run(*common, "ray", "stop", "--force")


ASKED = '''"""What the running sweep waits for."""

import ray
from ray.autoscaler.v2.sdk import get_cluster_status

ray.init(logging_level="ERROR")
status = get_cluster_status(ray.get_runtime_context().gcs_address)
demands = status.resource_demands
for demand in (*demands.ray_task_actor_demand, *demands.placement_group_demand):
    for bundle in demand.bundles_by_count:
        print(dict(sorted(bundle.bundle.items())), bundle.count)
'''


def test_every_worker_joins(pair: Machine) -> None:
    """Ray's newer autoscaler would count the head as one of them."""
    pair.begin("ray", "up", "-y", "--no-config-cache", pair.config)
    code = """
        import time, ray
        ray.init("10.77.0.1:6379", logging_level="ERROR")
        while sum(node["Alive"] for node in ray.nodes()) < 2:
            time.sleep(1)
    """
    python = pair.folder / "node" / "lmc-env" / "bin" / "python"
    pair.run("env", "RAY_AUTH_MODE=token", python, "-c", dedent(code), home="node")
