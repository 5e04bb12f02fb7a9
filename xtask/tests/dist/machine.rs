//! A machine of its own: namespaces, the host's files beneath a layer that takes every write, and
//! systemd, or something that only waits, as process 1.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// What process 1 is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Init {
    /// systemd, with the units that it is told to start.
    Systemd,
    /// Nothing that knows of services, as in a container.
    Nothing,
}

#[derive(Debug)]
pub(crate) struct Machine {
    /// `unshare`, whose end is that of everything inside.
    outside: Child,
    /// Process 1, as the host numbers it.
    first: u32,
    layers: TempDir,
    cgroups: Vec<PathBuf>,
    init: Init,
    uplink: Option<Uplink>,
}

/// A link into the network of workloads on another machine.
#[derive(Clone, Copy, Debug)]
struct Uplink {
    /// Process 1 of the other machine.
    host: u32,
    addresses: [&'static str; 2],
}

/// Mounts the machine's files and becomes its process 1. The units of this very host are nothing to
/// the machine: it starts none of them.
const BOOT: &str = r#"
set -e
mount -t overlay -o "lowerdir=/,upperdir=$LAYERS/upper,workdir=$LAYERS/work" overlay "$LAYERS/root"
cd "$LAYERS/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
for place in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs "$place"; done
chmod 1777 tmp
for device in null zero full random urandom tty; do cp -a "/dev/$device" dev/; done
mkdir dev/pts dev/shm
mount -t devpts devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
# The kernel is the host's: only what belongs to the namespaces may be changed in it.
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,ro proc/sys
if [ -e proc/sysrq-trigger ]; then mount --bind /dev/null proc/sysrq-trigger; fi
mount -o remount,bind,ro sys
# The boot's id is that of the machine on which this runs: each boot gets one of its own.
cat proc/sys/kernel/random/uuid > run/boot_id
mount --bind run/boot_id proc/sys/kernel/random/boot_id
ip link set lo up
hostname mesh-dist
if [ "$INIT" = Nothing ]; then
    exec chroot . sleep infinity
fi
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mount -t tmpfs tmpfs sys/fs/cgroup
    mkdir sys/fs/cgroup/systemd sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
    mount -t cgroup2 cgroup2 sys/fs/cgroup/unified
fi
if [ ! -e "$LAYERS/prepared" ]; then
    : > etc/machine-id
    # Whoever installs tests on a host may forbid packages to start anything there.
    rm -f usr/sbin/policy-rc.d
    rm -rf etc/systemd/system/*.wants
    mkdir -p etc/systemd/journald.conf.d
    printf '[Journal]\nStorage=volatile\n' > etc/systemd/journald.conf.d/volatile.conf
    for unit in systemd-udevd systemd-resolved systemd-networkd ssh getty@tty1; do
        ln -sf /dev/null "etc/systemd/system/$unit.service"
    done
    : > "$LAYERS/prepared"
fi
export container=mesh
exec chroot . /lib/systemd/systemd --unit=multi-user.target --show-status=no
"#;

/// Boots the machine again for as long as its process 1 asks for that: the kernel ends the process 1
/// of a namespace that calls reboot(2) by SIGHUP. The files stay.
const POWER: &str = r#"
set -e
mount -t tmpfs tmpfs "$LAYERS"
mkdir "$LAYERS/upper" "$LAYERS/work" "$LAYERS/root"
again=129
while [ "$again" = 129 ]; do
    again=0
    unshare --mount --net --uts --ipc --pid --cgroup --fork --kill-child \
        --propagation private bash -c "$BOOT" || again=$?
done
exit "$again"
"#;

/// What dpkg, useradd and systemd write for themselves.
const BOOKKEEPING: &[&str] = &[
    "etc/.pwd.lock",
    "etc/group-",
    "etc/gshadow-",
    "etc/passwd-",
    "etc/shadow-",
    "etc/subgid-",
    "etc/subuid-",
    "var/cache/man",
    "var/lib/dpkg",
    "var/lib/systemd",
    "var/log/alternatives.log",
    "var/log/dpkg.log",
    "var/log/faillog",
    "var/log/lastlog",
];

impl Machine {
    /// Starts it, with loopback and the address 192.0.2.10 as its network.
    pub(crate) fn boot(init: Init) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mesh-dist-{}-{number}", std::process::id());
        let cgroups = cgroups(&name);
        let layers = tempfile::Builder::new().prefix(&name).tempdir().unwrap();
        let enter = cgroups
            .iter()
            .map(|group| format!("echo $$ > {}/cgroup.procs\n", group.display()));
        let script = format!(
            "set -e\n{}exec unshare --mount --pid --fork --kill-child --propagation private \
             bash -c \"$POWER\"",
            enter.collect::<String>()
        );
        let outside = Command::new("bash")
            .args(["-c", &script])
            .env("BOOT", BOOT)
            .env("POWER", POWER)
            .env("INIT", format!("{init:?}"))
            .env("LAYERS", layers.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // From here on its end takes everything away, also when it does not start.
        let mut machine = Self {
            outside,
            first: 0,
            layers,
            cgroups,
            init,
            uplink: None,
        };
        machine.begin();
        machine
    }

    /// Has systemd start the machine anew, with its files and its network.
    pub(crate) fn reboot(&mut self) {
        // It may not live to give an answer.
        self.run(&["systemctl", "reboot"]);
        let gone = format!("/proc/{}", self.first);
        until("systemd has ended", || {
            (!Path::new(&gone).exists()).then_some(())
        });
        self.begin();
    }

    /// Attaches it to the network of workloads on another machine.
    pub(crate) fn attach(&mut self, host: &Self, addresses: [&'static str; 2]) {
        let host = host.first;
        self.uplink = Some(Uplink { host, addresses });
        self.link();
    }

    /// Waits for a boot that has begun, and plugs the network in.
    fn begin(&mut self) {
        self.first = self.wait_for_first(self.init);
        self.loopback();
        self.link();
        if self.init == Init::Systemd {
            until("systemd has started", || {
                let state = self.run(&["systemctl", "is-system-running", "--wait"]);
                (text(&state.stdout).trim() == "running").then_some(())
            });
        }
    }

    fn loopback(&self) {
        for line in [
            "link add eth0 type veth peer name eth1",
            "address add 192.0.2.10/24 dev eth0",
            "link set eth0 up",
            "link set eth1 up",
            "route add default via 192.0.2.1",
        ] {
            self.ip(line);
        }
    }

    fn link(&self) {
        let Some(uplink) = self.uplink else {
            return;
        };
        let (host, own) = (uplink.host.to_string(), self.first);
        // A machine's own address stays when it starts anew; neighbours remember it.
        let make = format!(
            "ip link add vm0 type veth peer name mesh1 address 02:00:5e:00:53:0a netns {own} && \
             ip link set vm0 master mesh0 up"
        );
        let output = Command::new("nsenter")
            .args(["--target", &host, "--net", "sh", "-c", &make])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        self.ip("link set mesh1 up");
        for address in uplink.addresses {
            self.ip(&format!("address add {address} dev mesh1 nodad"));
        }
        for route in ["default via 10.213.0.1", "default via fd6d:6573:68d5::1"] {
            let family = if route.contains("::") { "-6" } else { "-4" };
            self.ip(&format!("{family} route replace {route}"));
        }
    }

    fn ip(&self, line: &str) {
        let words: Vec<&str> = ["ip"].into_iter().chain(line.split(' ')).collect();
        self.ok(&words);
    }

    /// Waits until process 1 is what it is to be.
    fn wait_for_first(&mut self, init: Init) -> u32 {
        let wanted = match init {
            Init::Systemd => "systemd",
            Init::Nothing => "sleep",
        };
        let child = |of: u32| -> Option<u32> {
            let children = format!("/proc/{of}/task/{of}/children");
            let text = fs::read_to_string(children).unwrap_or_default();
            text.split_whitespace().next()?.parse().ok()
        };
        until("process 1 is there", || {
            if let Some(status) = self.outside.try_wait().unwrap() {
                panic!("the machine did not start: {status}");
            }
            // The shell that boots it, its `unshare`, and then process 1.
            let first = child(child(child(self.outside.id())?)?)?;
            let name = fs::read_to_string(format!("/proc/{first}/comm"));
            name.is_ok_and(|name| name.trim() == wanted)
                .then_some(first)
        })
    }

    /// Runs a program in it, as root.
    pub(crate) fn run(&self, line: &[&str]) -> Output {
        Command::new("nsenter")
            .arg(format!("--target={}", self.first))
            .args(["--mount", "--net", "--uts", "--ipc", "--pid", "--cgroup"])
            .arg(format!("--root=/proc/{}/root", self.first))
            .arg(format!("--wd=/proc/{}/root", self.first))
            .args(["env", "--ignore-environment", "LC_ALL=C"])
            .args(["HOME=/root", "DEBIAN_FRONTEND=noninteractive"])
            .arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .args(line)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs a program that must succeed; what it said on both outputs.
    pub(crate) fn ok(&self, line: &[&str]) -> String {
        let output = self.run(line);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "{line:?}: {said}\n{}", self.logs());
        said
    }

    /// Runs a program until it succeeds.
    pub(crate) fn eventually(&self, line: &[&str]) -> String {
        let start = Instant::now();
        loop {
            let output = self.run(line);
            if output.status.success() {
                return text(&output.stdout);
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{line:?}: {output:?}\n{}",
                self.logs()
            );
        }
    }

    /// A file of the machine, as the host reaches it.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.first))
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).unwrap();
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        fs::symlink_metadata(self.path(path)).is_ok()
    }

    /// The process of a unit, which must run.
    pub(crate) fn main_pid(&self, unit: &str) -> u32 {
        let line = ["systemctl", "show", "--value", "--property=MainPID", unit];
        let pid = self.ok(&line).trim().parse().unwrap();
        assert_ne!(pid, 0, "{unit} does not run\n{}", self.logs());
        pid
    }

    /// The effective user of a unit's process.
    pub(crate) fn user_of(&self, unit: &str) -> String {
        let status = self.read(&format!("/proc/{}/status", self.main_pid(unit)));
        let uids = status.lines().find(|line| line.starts_with("Uid:"));
        let uid = uids.unwrap().split_whitespace().nth(2).unwrap().to_owned();
        let entry = self.ok(&["getent", "passwd", &uid]);
        entry.split(':').next().unwrap().to_owned()
    }

    /// Every file that differs from the host's, but for what dpkg, useradd and systemd write for
    /// themselves.
    pub(crate) fn changes(&self) -> BTreeSet<PathBuf> {
        let upper = format!("/proc/{}/root", self.outside.id());
        let layers = self.layers.path().strip_prefix("/").unwrap();
        let upper = Path::new(&upper).join(layers).join("upper");
        let mut changes = BTreeSet::new();
        collect(&upper, Path::new(""), &mut changes);
        // Each boot's systemd has directories of its own for what its services keep a while.
        changes.retain(|path| !path.to_string_lossy().contains("systemd-private-"));
        changes
    }

    /// What its units have said last; for failures.
    fn logs(&self) -> String {
        let line = ["journalctl", "--no-pager", "--lines=30", "--unit=mesh*"];
        let logs = text(&self.run(&line).stdout);
        // Envoy's lists of what it can do are long.
        let short = logs.lines().map(|line| line.get(..400).unwrap_or(line));
        short.collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // With `unshare` process 1 ends, and with that everything inside.
        drop(self.outside.kill());
        drop(self.outside.wait());
        let start = Instant::now();
        while self.cgroups.iter().any(|group| !remove(group)) && start.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
    }
}

/// Groups in each hierarchy that systemd uses, of which the machine sees nothing above.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let roots = if root.join("cgroup.controllers").exists() {
        vec![root.to_owned()]
    } else {
        vec![root.join("systemd"), root.join("unified")]
    };
    roots
        .iter()
        .map(|root| {
            let group = root.join(name);
            fs::create_dir(&group).unwrap_or_else(|error| {
                panic!("systemd needs cgroups, and {}: {error}", group.display())
            });
            group
        })
        .collect()
}

/// Removes a cgroup with those below; whether it is gone.
fn remove(group: &Path) -> bool {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    drop(fs::remove_dir(group));
    !group.exists()
}

/// Adds what differs below a directory of the upper layer.
fn collect(upper: &Path, below: &Path, changes: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(upper.join(below)).unwrap() {
        let name = below.join(entry.unwrap().file_name());
        if BOOKKEEPING.iter().any(|own| name.starts_with(own)) {
            continue;
        }
        let (ours, hosts) = (upper.join(&name), Path::new("/").join(&name));
        let meta = fs::symlink_metadata(&ours).unwrap();
        if !is_same(&ours, &hosts) {
            changes.insert(Path::new("/").join(&name));
        }
        if meta.is_dir() {
            collect(upper, &name, changes);
        }
    }
}

/// Whether a file is as it was: kind, owner, mode and content.
fn is_same(ours: &Path, hosts: &Path) -> bool {
    let our = fs::symlink_metadata(ours).unwrap();
    let Ok(host) = fs::symlink_metadata(hosts) else {
        return false;
    };
    // In an upper layer a character device is what says that a file was removed.
    if our.file_type().is_char_device() {
        return false;
    }
    let about = |meta: &fs::Metadata| (meta.mode(), meta.uid(), meta.gid());
    let content = |path: &Path, meta: &fs::Metadata| {
        if meta.is_symlink() {
            fs::read_link(path)
                .unwrap()
                .into_os_string()
                .into_encoded_bytes()
        } else if meta.is_file() {
            fs::read(path).unwrap()
        } else {
            Vec::new()
        }
    };
    about(&our) == about(&host) && content(ours, &our) == content(hosts, &host)
}

/// Asks until there is an answer.
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::yield_now();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
