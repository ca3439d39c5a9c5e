#!/usr/bin/python3
"""vm.py: the Debian of root.sh with a kernel of its own, under QEMU without any help of the processor: a machine that can be put to sleep.
What it writes is gone with it. Must not change anything outside but its state under /run and the image in the cache.

  vm.py up NAME [--netns NETNS] [SOURCE:PATH]...   start it, 10 s; its way out (10.0.2.2) leads to that network namespace's loopback;
                                                   SOURCE, a file, is at PATH, for anybody to run
  vm.py in NAME CMD...                             run CMD in it as root; its exit status
  vm.py sleep NAME                                 suspend it to memory; it sleeps when this returns
  vm.py wake NAME                                  wake it up
  vm.py down NAME                                  end it
  vm.py missing                                    says what has to be installed first; nothing when all is there"""
import base64, hashlib, json, os, pathlib, shlex, shutil, signal, socket, subprocess, sys, time

HERE = pathlib.Path(__file__).resolve().parent
STATE = pathlib.Path("/run/kvpn-vm")
KERNEL = "linux-image-cloud-amd64"
# Waiting for the boot, and for an answer to a command.
BOOT, ANSWER = 150, 300

AGENT = r"""[Unit]
Description=the other end of vm.py
After=multi-user.target
[Service]
ExecStart=/bin/bash -c 'stty raw -echo; for m in virtio_net tun; do modprobe $m; done; echo up; \
    while read -r line; do bash -c "$(base64 -d <<<"$line")" >/run/out 2>/run/err </dev/null; \
    echo "$? $(base64 -w0 /run/out)- $(base64 -w0 /run/err)-"; done'
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
StandardInput=file:/dev/ttyS1
StandardOutput=file:/dev/ttyS1
KillMode=process
[Install]
WantedBy=default.target
"""
# What has no work in it.
MASKED = ["systemd-networkd", "systemd-networkd-wait-online", "systemd-timesyncd", "getty@tty1", "serial-getty@ttyS0", "systemd-update-utmp",
          "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "NetworkManager", "NetworkManager-wait-online"]


def fail(text):
    sys.exit(f"vm: {text}")


def run(*words, **options):
    return subprocess.run(words, check=True, text=True, stdout=subprocess.PIPE, **options).stdout


def missing():
    if os.uname().machine != "x86_64":
        return "a machine with an x86_64 processor"
    programs = {"qemu-system-x86_64": "qemu-system-x86", "mke2fs": "e2fsprogs", "apt-get": "a Debian-like machine"}
    return " ".join(package for program, package in programs.items() if not shutil.which(program))


def fetch_kernel(folder):
    shown = run("apt-cache", "show", "--no-all-versions", KERNEL)
    package = next(line for line in shown.splitlines() if line.startswith("Depends:")).split()[1]
    run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package, cwd=folder)


def image():
    """The folder with disk and kernel, made once: 10 s, 300 MB."""
    root = pathlib.Path(run(HERE / "root.sh").strip())
    key = hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest()[:8]
    done = root.with_name(f"{root.name}-vm-{key}")
    if done.exists():
        return done
    print(f"vm: building {done}", file=sys.stderr)
    new = root.with_name(f"{root.name}-vm-new")
    shutil.rmtree(new, ignore_errors=True)
    tree = new / "tree"
    new.mkdir()
    try:
        fetch_kernel(new)
    except subprocess.CalledProcessError:
        # What apt knows is old, or nothing.
        run("apt-get", "-qq", "update")
        fetch_kernel(new)
    subprocess.run(["dpkg-deb", "-x", *new.glob("*.deb"), new / "kernel"], check=True)
    # Hard links: nothing that is there already may be written, only replaced.
    subprocess.run(["cp", "-al", root, tree], check=True)
    modules, = (new / "kernel/lib/modules").iterdir()
    shutil.copytree(modules, tree / "lib/modules" / modules.name)
    run("chroot", tree, "depmod", modules.name)
    units = tree / "etc/systemd/system"
    (units / "kvpn-vm.service").write_text(AGENT)
    (units / "multi-user.target.wants").mkdir(exist_ok=True)
    (units / "multi-user.target.wants/kvpn-vm.service").symlink_to("../kvpn-vm.service")
    for unit in MASKED:
        link = units / (unit if "." in unit else f"{unit}.service")
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    for name, text in (("fstab", "/dev/nvme0n1 / ext4 defaults 0 0\n"), ("machine-id", ""), ("hostname", "kvpn-vm\n")):
        (tree / "etc" / name).unlink(missing_ok=True)
        (tree / "etc" / name).write_text(text)
    run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", tree, new / "disk.img", "700M")
    next((new / "kernel/boot").glob("vmlinuz-*")).rename(new / "vmlinuz")
    for part in (tree, new / "kernel"):
        shutil.rmtree(part)
    for package in new.glob("*.deb"):
        package.unlink()
    new.rename(done)
    return done


def up(name, *words):
    enter, files = [], list(words)
    if files[:1] == ["--netns"]:
        enter, files = ["nsenter", f"--net=/run/netns/{files[1]}"], files[2:]
    if missing():
        fail(f"needs {missing()}: apt-get install {missing()}")
    parts, own = image(), STATE / name
    if own.exists():
        fail(f"{name} is up already (or was not ended: vm.py down {name})")
    own.mkdir(parents=True)
    disks = [f"{parts}/disk.img"] + [file.split(":")[0] for file in files]
    drives = [word for number, disk in enumerate(disks) for word in (
        "-drive", f"file={disk},format=raw,if=none,id=d{number},snapshot=on", "-device", f"nvme,drive=d{number},serial={number}")]
    log = (own / "log").open("w")
    process = subprocess.Popen(
        [*enter, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "512", "-smp", "2", "-nodefaults", "-no-user-config",
         "-display", "none", "-no-reboot", "-kernel", f"{parts}/vmlinuz",
         "-append", "root=/dev/nvme0n1 rw console=ttyS0 quiet panic=-1 mitigations=off systemd.show_status=no net.ifnames=0",
         "-qmp", f"unix:{own}/qmp,server=on,wait=off", "-serial", f"file:{own}/console", "-serial", f"unix:{own}/agent,server=on,wait=off", *drives,
         "-nic", "user,model=virtio-net-pci"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    (own / "pid").write_text(str(process.pid))
    try:
        with talk(own, BOOT, process) as agent:
            while agent.readline().strip() != b"up":
                pass
    except OSError as error:
        sys.stderr.write((own / "log").read_text() + (own / "console").read_text(errors="replace")[-3000:])
        down(name)
        fail(f"{name} did not boot: {error}")
    for number, file in enumerate(files, 1):
        path = shlex.quote(file.split(":")[1])
        inside(name, "bash", "-c", f"install -D -m 755 /dev/nvme{number}n1 {path}")


def talk(own, limit, process=None, end_of="agent"):
    """A line to the agent, or to QEMU itself."""
    end = time.monotonic() + 10
    while True:
        try:
            with socket.socket(socket.AF_UNIX) as line:
                line.settimeout(limit)
                line.connect(f"{own}/{end_of}")
                # It has no other user: the line is hung up when this file is closed.
                return line.makefile("rwb")
        except OSError:
            if time.monotonic() > end or process and process.poll() is not None:
                raise
            time.sleep(0.02)


def tell(agent, *words):
    agent.write(base64.b64encode(shlex.join(words).encode()) + b"\n")
    agent.flush()


def inside(name, *words):
    own = STATE / name
    if not own.exists():
        fail(f"{name} is not up")
    with talk(own, ANSWER) as agent:
        tell(agent, *words)
        status, out, err = agent.readline().split()
    os.write(1, base64.b64decode(out[:-1]))
    os.write(2, base64.b64decode(err[:-1]))
    return int(status)


def qemu(own, *commands):
    """A line to QEMU (QMP), which has got these commands."""
    line = talk(own, ANSWER, end_of="qmp")
    for command in ("qmp_capabilities", *commands):
        line.write(json.dumps({"execute": command}).encode() + b"\n")
        line.flush()
        while "return" not in json.loads(line.readline()):
            pass
    return line


def sleep(name):
    own = STATE / name
    with qemu(own) as events, talk(own, ANSWER) as agent:
        tell(agent, "bash", "-c", "echo mem >/sys/power/state")
        while json.loads(events.readline()).get("event") != "SUSPEND":
            pass


def wake(name):
    """The answer to what was told before the sleep says that it is over."""
    own = STATE / name
    with talk(own, ANSWER) as agent, qemu(own, "system_wakeup"):
        agent.readline()


def down(name):
    own = STATE / name
    try:
        pid = int((own / "pid").read_text())
        # Only a process that is still this machine's.
        if str(own).encode() in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
            while pathlib.Path(f"/proc/{pid}/cmdline").exists() and pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                time.sleep(0.02)
    except (FileNotFoundError, ProcessLookupError):
        pass
    shutil.rmtree(own, ignore_errors=True)


def main(words):
    match words:
        case ["up", name, *files]:
            up(name, *files)
        case ["in", name, _, *_]:
            sys.exit(inside(name, *words[2:]))
        case ["sleep", name]:
            sleep(name)
        case ["wake", name]:
            wake(name)
        case ["down", name]:
            down(name)
        case ["missing"]:
            print(missing(), end="")
        case _:
            print(__doc__, file=sys.stderr)
            sys.exit(2)


if os.geteuid() != 0:
    fail("needs root: it boots what root.sh makes")
main(sys.argv[1:])
