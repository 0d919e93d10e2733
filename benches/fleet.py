#!/usr/bin/env python3
"""Times the whole program against real sshds, beside the floor: OpenSSH and one hand-written shell script.

  benches/fleet.py [--setpoint target/release/setpoint] [--hosts 1,10,50] [--rtt 0,50,150] [--runs 5]
                   [--parts ping,tasks,growth,many,audit,recording] [--nice -15]

Needs root, Linux with overlayfs and network namespaces, OpenSSH (client and server) and Python 3.9; no package and no
network. It makes its own hosts: each is an sshd in namespaces of its own, over a copy-on-write view of this machine's
root file system, whose changes live in memory. Behind `--rtt` is a delay line of our own between two TUN devices, as
not every kernel has netem. All of it is gone when the script ends, however it ends.

Every run is cold: no connection outlives the run before it. What is printed are medians. `trips` is how much a run
grows for each millisecond of round trip, which counts those that wait for each other and nothing else.
"""
import argparse, atexit, fcntl, heapq, json, os, pathlib, random, re, select, shutil, signal, statistics, struct
import subprocess, sys, tempfile, time

NET = "10.213"
FAR = "setpoint-far"
HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
SSH = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"


def sh(*words, check=True, **more):
    quiet = {} if check else {"stderr": subprocess.DEVNULL}
    return subprocess.run(words, check=check, stdout=subprocess.PIPE, text=True, **quiet, **more).stdout


def address(host):
    return f"{NET}.{1 + host // 250}.{1 + host % 250}"


# ---- hosts -----------------------------------------------------------------------------------------------------------


class Hosts:
    """sshds in namespaces, behind a namespace that is the far side of the line."""

    def __init__(self, place):
        self.place, self.processes, self.line = place, [], None
        atexit.register(self.end)
        sh("mount", "-t", "tmpfs", "-o", "mode=755", "fleet", place)
        sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{place}/key")
        sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{place}/host_key")
        sh("ip", "netns", "add", FAR)
        far = ("ip", "-n", FAR)
        sh(*far, "link", "set", "lo", "up")
        sh(*far, "link", "add", "hosts", "type", "bridge")
        sh(*far, "addr", "add", f"{NET}.0.1/16", "dev", "hosts")
        sh(*far, "link", "set", "hosts", "up")
        sh("ip", "netns", "exec", FAR, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        self.direct()

    def direct(self):
        """The near side, without a delay: a pair of virtual cables."""
        sh("ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", FAR)
        self.address_line()

    def address_line(self):
        sh("ip", "addr", "add", "10.212.0.1/30", "dev", "near")
        sh("ip", "link", "set", "near", "up")
        sh("ip", "-n", FAR, "addr", "add", "10.212.0.2/30", "dev", "far")
        sh("ip", "-n", FAR, "link", "set", "far", "up")
        sh("ip", "route", "add", f"{NET}.0.0/16", "via", "10.212.0.2", "dev", "near")

    def delay(self, rtt):
        """Puts the line between here and the hosts; 0 takes the delay out."""
        if self.line:
            self.line.end()
            self.line = None
        sh("ip", "link", "del", "near", check=False)
        sh("ip", "-n", FAR, "link", "del", "far", check=False)
        if rtt:
            self.line = Line(rtt / 2000)
            self.address_line()
        else:
            self.direct()

    def up(self, count):
        for host in range(len(self.processes) + 1, count + 1):
            self.start(host)
        deadline = time.monotonic() + 30
        for host in range(1, count + 1):
            while subprocess.run(self.ssh(host, "true"), stderr=subprocess.DEVNULL).returncode:
                if time.monotonic() > deadline:
                    sys.exit(f"host {host} did not come up: see {self.place}/{host}/log")
                time.sleep(0.1)

    def start(self, host):
        top, name = f"{self.place}/{host}", f"setpoint-h{host}"
        for part in ("upper/root/.ssh", "upper/etc/ssh", "work", "root"):
            os.makedirs(f"{top}/{part}")
        upper = f"{top}/upper"
        shutil.copy(f"{self.place}/key.pub", f"{upper}/root/.ssh/authorized_keys")
        for file in (".bashrc", ".bash_profile", ".bash_login", ".profile"):
            open(f"{upper}/root/{file}", "w").close()  # what this machine's root has its shell do is not measured
        for path in (f"{upper}/root", f"{upper}/root/.ssh"):
            os.chmod(path, 0o700)
        sftp = "Subsystem sftp internal-sftp"
        with open(f"{upper}/etc/ssh/fleet.conf", "w") as f:
            f.write(f"HostKey /etc/ssh/fleet_key\nMaxStartups 2000\nMaxSessions 2000\nUseDNS no\nUsePAM no\n{sftp}\n")
            f.write("PermitRootLogin prohibit-password\nAuthorizedKeysFile /root/.ssh/authorized_keys\nStrictModes no\n")
        shutil.copy(f"{self.place}/host_key", f"{upper}/etc/ssh/fleet_key")
        os.chmod(f"{upper}/etc/ssh/fleet_key", 0o600)
        sh("ip", "netns", "add", name)
        sh("ip", "link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", f"h{host}", "netns", FAR)
        sh("ip", "-n", FAR, "link", "set", f"h{host}", "master", "hosts", "up")
        sh("ip", "-n", name, "link", "set", "lo", "up")
        sh("ip", "-n", name, "addr", "add", f"{address(host)}/16", "dev", "eth0")
        sh("ip", "-n", name, "link", "set", "eth0", "up")
        sh("ip", "-n", name, "route", "add", "default", "via", f"{NET}.0.1")
        script = f"""set -e
            mount -t overlay overlay -o lowerdir=/,upperdir={upper},workdir={top}/work {top}/root
            cd {top}/root
            mount -t proc proc proc; mount --rbind /dev dev; mount -t tmpfs tmpfs tmp; mount -t tmpfs tmpfs run
            mkdir -p run/sshd; hostname {name}
            exec chroot . "$(command -v sshd || echo /usr/sbin/sshd)" -D -e -f /etc/ssh/fleet.conf"""
        with open(f"{top}/log", "w") as log:
            words = ["ip", "netns", "exec", name, "unshare", "-m", "-u", "-i", "-p", "-f", "--kill-child", "sh", "-c", script]
            self.processes.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def ssh(self, host, command):
        return ["ssh", *SSH.split(), "-o", "BatchMode=yes", "-i", f"{self.place}/key", f"root@{address(host)}", command]

    def inventory(self, count, names=None):
        path = f"{self.place}/inventory{count}-{names or count}.ini"
        with open(path, "w") as f:
            for number in range(names or count):
                f.write(f"node{number + 1:04} ansible_host={address(number % count + 1)}\n")
            f.write(f"[all:vars]\nansible_user=root\nansible_ssh_private_key_file={self.place}/key\n")
            f.write(f"ansible_ssh_common_args=-F /dev/null {SSH}\n")
        return path

    def packets(self):
        link = json.loads(sh("ip", "-s", "-j", "link", "show", "near"))[0]["stats64"]
        return link["rx"]["packets"] + link["tx"]["packets"]

    def end(self):
        if self.line:
            self.line.end()
        for process in self.processes:
            process.kill()
            process.wait()
        for host in range(1, len(self.processes) + 1):
            sh("ip", "netns", "del", f"setpoint-h{host}", check=False)
        sh("ip", "netns", "del", FAR, check=False)
        sh("ip", "link", "del", "near", check=False)
        sh("umount", "-l", self.place, check=False)
        shutil.rmtree(self.place, ignore_errors=True)


class Line:
    """Two TUN devices, one on each side, and a thread that carries packets between them, each of them late."""

    def __init__(self, delay):
        self.near, self.far = self.tun("near"), self.tun("far")
        sh("ip", "link", "set", "far", "netns", FAR)
        self.delay, (self.wake, self.woken) = delay, os.pipe()
        # A process of its own, so that our measuring does not delay packets further.
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.carry()
            finally:
                os._exit(0)

    @staticmethod
    def tun(name):
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        layer3_without_header = 0x0001 | 0x1000
        fcntl.ioctl(device, 0x400454CA, struct.pack("16sH22x", name.encode(), layer3_without_header))
        return device

    def carry(self):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        other, waiting, number = {self.near: self.far, self.far: self.near}, [], 0
        while True:
            due = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            readable, _, _ = select.select([self.near, self.far], [], [], due)
            for device in readable:
                for _ in range(64):
                    try:
                        packet = os.read(device, 65535)
                    except BlockingIOError:
                        break
                    number += 1
                    heapq.heappush(waiting, (time.monotonic() + self.delay, number, other[device], packet))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, device, packet = heapq.heappop(waiting)
                try:
                    os.write(device, packet)
                except OSError:
                    pass  # a full queue drops, as a router's does

    def end(self):
        os.kill(self.pid, signal.SIGTERM)
        os.waitpid(self.pid, 0)
        os.close(self.near)
        os.close(self.far)


# ---- work ------------------------------------------------------------------------------------------------------------


def tasks(count):
    """A play of everyday tasks, and the same as a person would write it in sh; both change nothing the second time."""
    base = "/srv/fleet"
    play = ["- hosts: all", "  gather_facts: false", "  tasks:"]
    script = ["set -e", f"B={base}", "T=$(mktemp -d /tmp/w.XXXXXX)", "trap 'rm -rf $T' EXIT", 'mkdir -p "$T/lines"']

    def task(module, args):
        play.append(f"    - name: task {len(play)}\n      {module}: {{{args}}}")

    task("file", f"path: {base}, state: directory, mode: '0755'")
    task("file", f"path: {base}/lines, state: directory, mode: '0755'")
    for number in range(count - 2):
        kind = number % 5
        if kind == 0:
            task("file", f"path: {base}/d{number}, state: directory, mode: '0750'")
            script.append(f'mkdir -m 750 "$T/d{number}"')
        elif kind in (1, 2):
            task("copy", f'dest: {base}/f{number}, mode: "0640", content: "setting {number}\\n"')
            script.append(f'echo "setting {number}" >"$T/f{number}"; chmod 640 "$T/f{number}"')
        elif kind == 3:
            task("lineinfile", f'path: {base}/lines/l{number}, create: true, mode: "0644", line: "line {number}"')
            script.append(f'echo "line {number}" >"$T/lines/l{number}"; chmod 644 "$T/lines/l{number}"')
        else:
            task("file", f"path: {base}/s{number}, src: {base}/f{number - 2}, state: link")
            script.append(f'ln -s {base}/f{number - 2} "$T/s{number}"')
    script.append('chmod 755 "$T" "$T/lines"; list() { cd "$1" && find . -printf "%p %y %m %u %g %l\\n" | sort; }')
    script.append('if diff -r --no-dereference "$T" "$B" >/dev/null 2>&1 && [ "$(list "$T")" = "$(list "$B")" ]; then')
    script.append('echo changed=0; else mkdir -p "$B"; cp -a "$T/." "$B/"; echo changed=1; fi')
    return "\n".join(play) + "\n", "\n".join(script) + "\n"


PING = "- hosts: all\n  gather_facts: false\n  tasks:\n    - ping:\n"


def measure(words, hosts, stdin=None, state="state.db"):
    """Wall clock, CPU and memory of a program and of what it waited for; packets on the line."""
    before, started = hosts.packets(), time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        child = subprocess.Popen(words, stdin=stdin or subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=hosts.place,
                                 env={**os.environ, "HOME": hosts.place, "SETPOINT_STATE": state if state == "none" else f"{hosts.place}/{state}"})
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - started
        log.seek(0)
        text = log.read()
    if child.returncode:
        sys.exit(f"{' '.join(words)}: exit {child.returncode}\n{text[-2000:]}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "mb": usage.ru_maxrss / 1024,
            "packets": hosts.packets() - before}, text


class Bench:
    def __init__(self, options):
        self.options = options
        self.hosts = Hosts(tempfile.mkdtemp(prefix="setpoint-fleet-"))
        self.rows = []

    def file(self, name, text):
        path = f"{self.hosts.place}/{name}"
        with open(path, "w") as f:
            f.write(text)
        return path

    def setpoint(self, play, count, names=None):
        return [self.options.setpoint, "run", "-i", self.hosts.inventory(count, names), play, "-f", "50"]

    def floor(self, script, count):
        """One ssh a host, fifty at a time; the script on standard input."""
        addresses = self.file(f"addresses{count}", "".join(f"{address(host + 1)}\n" for host in range(count)))
        remote = f"ssh {SSH} -o BatchMode=yes -i {self.hosts.place}/key root@$0 " + (f"sh -s <{script}" if script else "true")
        return ["xargs", "-a", addresses, "-P", "50", "-n", "1", "sh", "-c", remote]

    def pair(self, title, count, rtt, play, script):
        """Both in turn, so that both meet the same weather."""
        runs = {"floor": [], "setpoint": []}
        commands = {"floor": self.floor(script, count), "setpoint": self.setpoint(play, count)}
        for words in commands.values():  # what is first is not what is measured: it may change something
            measure(words, self.hosts)
        for _ in range(self.options.runs):
            for name, words in commands.items():
                result, text = measure(words, self.hosts)
                changed = sum(map(int, re.findall(r"changed=(\d+)", text)))
                if changed:
                    sys.exit(f"{title}: {name} changed {changed} things on converged hosts\n{text[-2000:]}")
                runs[name].append(result)
        medians = {name: {key: statistics.median(run[key] for run in list_) for key in list_[0]} for name, list_ in runs.items()}
        self.rows.append((title, count, rtt, medians))
        ratio = medians["setpoint"]["wall"] / medians["floor"]["wall"]
        print(f"{title}, {count} hosts, {rtt} ms: {ratio:.2f} of the floor", file=sys.stderr, flush=True)

    def trips(self, title, count, name):
        """Seconds of wall clock for each second of round trip."""
        points = [(rtt / 1000, medians[name]["wall"]) for t, c, rtt, medians in self.rows if (t, c) == (title, count)]
        if len(points) < 2:
            return ""
        (x0, y0), (x1, y1) = min(points), max(points)
        return f"{(y1 - y0) / (x1 - x0):.1f}"

    def run(self):
        parts, options = self.options.parts, self.options
        play, script = tasks(50)
        play, script = self.file("tasks.yml", play), self.file("tasks.sh", script)
        ping = self.file("ping.yml", PING)
        self.hosts.up(max(options.hosts))
        for rtt in options.rtt:
            self.hosts.delay(rtt)
            for count in options.hosts:
                if "ping" in parts:
                    self.pair("ping", count, rtt, ping, None)
                if "tasks" in parts:
                    self.pair("50 converged tasks", count, rtt, play, script)
        self.hosts.delay(0)
        self.table()
        if "growth" in parts:
            self.growth()
        if "many" in parts:
            self.many(ping)

        if "audit" in parts:
            self.audit(ping, 1, 10_000, range(200, 20_000))
            self.audit(ping, options.fleet, 1_000, range(20, 2_000))
        if "recording" in parts:
            self.recording()

    def audit(self, ping, count, files, sizes):
        """An audit from the store, beside connecting to the same hosts and `sha256sum` of the same files on one of them;
        all with warm caches, in turn."""
        self.hosts.up(count)
        tree, state, random_ = f"{self.hosts.place}/audit{count}", f"audit{count}.db", random.Random(1)
        for number in range(files):
            os.makedirs(f"{tree}/{number // 500:03}", exist_ok=True)
            with open(f"{tree}/{number // 500:03}/file-{number:05}", "wb") as f:
                f.write(random_.randbytes(random_.choice(sizes)))
        task = f"copy: {{src: {tree}/, dest: /srv/audit{count}/, mode: '0644'}}"
        play = self.file(f"audit{count}.yml", f"- hosts: all\n  gather_facts: false\n  tasks:\n    - {task}\n")
        measure(self.setpoint(play, count), self.hosts, state=state)
        audit = [self.options.setpoint, "drift", "audit", "-i", self.hosts.inventory(count), "-f", "50"]
        connect = self.setpoint(ping, count)
        remote = f"cd /srv/audit{count}; a=$(date +%s%N); find . -type f -print0 | xargs -0 sha256sum >/dev/null; b=$(date +%s%N); echo $((b - a))"
        walls = {"audit": [], "connecting": [], "sha256sum": []}
        for turn in range(self.options.runs + 1):
            hashed = int(sh(*self.hosts.ssh(1, remote), stderr=subprocess.DEVNULL)) / 1e9
            connected, _ = measure(connect, self.hosts, state="none")
            audited, text = measure(audit, self.hosts, state=state)
            found = re.search(r"(\d+) of (\d+) resources in sync", text)
            if not found or found[1] != found[2] or int(found[2]) < count * files:
                sys.exit(f"the audit did not find {count * files} files in sync\n{text[-2000:]}")
            if turn:  # the first only warms what is read
                for name, wall in (("audit", audited["wall"]), ("connecting", connected["wall"]), ("sha256sum", hashed)):
                    walls[name].append(wall)
        audited, connected, hashed = (statistics.median(walls[name]) for name in ("audit", "connecting", "sha256sum"))
        print(f"\n{count} host(s), {files} recorded files each: audit {audited:.2f} s, connecting {connected:.2f} s, "
              f"sha256sum on one host {hashed:.2f} s")
        print(f"audit / sha256sum: {audited / hashed:.2f}; without connecting: {(audited - connected) / hashed:.2f}")
        print(f"audit - connecting: {audited - connected:+.2f} s ({audited / connected:.2f} times)", flush=True)

    def recording(self):
        """What the state store costs a run: the same converged run with and without, in turn."""
        count = min(10, max(self.options.hosts))
        words = self.setpoint(self.file("recorded.yml", tasks(200)[0]), count)
        runs = {"none": [], "recorded.db": []}
        for state in runs:
            measure(words, self.hosts, state=state)
        for _ in range(2 * self.options.runs):
            for state, list_ in runs.items():
                list_.append(measure(words, self.hosts, state=state)[0])
        wall, cpu = ({state: statistics.median(run[key] for run in list_) for state, list_ in runs.items()} for key in ("wall", "cpu"))
        print(f"\n200 tasks on {count} hosts: {wall['none']:.3f} s without a store, {wall['recorded.db']:.3f} s recorded: "
              f"{100 * (wall['recorded.db'] / wall['none'] - 1):+.1f}% of the time, "
              f"{cpu['recorded.db'] - cpu['none']:+.2f} s of {cpu['none']:.2f} s CPU", flush=True)

    def table(self):
        if not self.rows:
            return
        print("| work | hosts | round trip | | wall s | ratio | CPU s | MB | packets | trips |\n" + "|---" * 10 + "|")
        for title, count, rtt, medians in self.rows:
            for name, median in medians.items():
                ratio = median["wall"] / medians["floor"]["wall"]
                print(f"| {title} | {count} | {rtt} ms | {name} | {median['wall']:.3f} | {ratio:.2f} | {median['cpu']:.2f} | "
                      f"{median['mb']:.0f} | {median['packets']:.0f} | {self.trips(title, count, name)} |")

    def medians(self, words, keys):
        runs = [measure(words, self.hosts)[0] for _ in range(self.options.runs)]
        return [statistics.median(run[key] for run in runs) for key in keys]

    def growth(self):
        """What more hosts and more converged tasks cost."""
        print("\n| 50 converged tasks, hosts | wall s | ms a host | CPU s | CPU ms a host | MB |\n|---|---|---|---|---|---|")
        words = self.file("tasks.yml", tasks(50)[0])
        for count in self.options.hosts:
            measure(self.setpoint(words, count), self.hosts)
            wall, cpu, mb = self.medians(self.setpoint(words, count), ("wall", "cpu", "mb"))
            print(f"| {count} | {wall:.3f} | {1000 * wall / count:.0f} | {cpu:.2f} | {1000 * cpu / count:.1f} | {mb:.0f} |", flush=True)
        print("\n| converged tasks, 1 host | wall s | CPU s | MB | packets |\n|---|---|---|---|---|")
        for count in (10, 100, 500):
            words = self.setpoint(self.file(f"tasks{count}.yml", tasks(count)[0]), 1)
            measure(words, self.hosts)
            cells = self.medians(words, ("wall", "cpu", "mb", "packets"))
            print(f"| {count} | {cells[0]:.3f} | {cells[1]:.2f} | {cells[2]:.0f} | {cells[3]:.0f} |", flush=True)

    def many(self, ping):
        """A thousand names: what the controller keeps for each."""
        print("\n| names in a play | wall s | CPU s | MB | KB a name |\n|---|---|---|---|---|")
        base = None
        for names in (1, 1000):
            result, _ = measure(self.setpoint(ping, min(len(self.hosts.processes), names), names), self.hosts)
            base = base or result["mb"]
            each = f"{(result['mb'] - base) * 1024 / (names - 1):.0f}" if names > 1 else ""
            print(f"| {names} | {result['wall']:.3f} | {result['cpu']:.2f} | {result['mb']:.0f} | {each} |", flush=True)


def main():
    numbers = lambda text: [int(word) for word in text.split(",")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setpoint", default=str(ROOT / "target/release/setpoint"), help="the program to measure")
    parser.add_argument("--hosts", type=numbers, default=[1, 10, 50], help="numbers of hosts")
    parser.add_argument("--fleet", type=int, default=100, help="number of hosts of the large audit")
    parser.add_argument("--rtt", type=numbers, default=[0, 50, 150], help="round trips in ms")
    parser.add_argument("--runs", type=int, default=5, help="runs of each, of which the median is told")
    parser.add_argument("--nice", type=int, default=0, help="on a busy machine, -15 gives what is measured the CPUs first")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=["ping", "tasks", "growth", "many", "audit", "recording"])
    options = parser.parse_args()
    options.setpoint = os.path.abspath(options.setpoint)
    if os.geteuid():
        sys.exit("this makes network namespaces and mounts: it needs root")
    missing = [name for name in ("ip", "ssh", "ssh-keygen", "unshare", "xargs") if not shutil.which(name)]
    if not (shutil.which("sshd") or os.path.exists("/usr/sbin/sshd")):
        missing.append("sshd")
    if missing:
        sys.exit(f"not installed: {', '.join(missing)} (Debian: iproute2 openssh-client openssh-server util-linux findutils)")
    if not os.path.exists(options.setpoint):
        sys.exit(f"there is no {options.setpoint}: cargo build --release, or name another with --setpoint")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.nice(options.nice)
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} CPUs, which carry the hosts too; load {load:.1f} before\n", flush=True)
    Bench(options).run()


if __name__ == "__main__":
    main()
