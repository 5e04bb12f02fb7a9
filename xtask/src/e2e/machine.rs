//! What a machine consists of, as far as the mesh could leave something behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A look at the machine.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Everything that was seen, as text: `link eth0`, `mount /run/x`, `process 17 mesh …`.
    things: BTreeSet<String>,
}

impl Machine {
    /// Looks at links, rules, routes, namespaces, mounts, cgroups, processes of ours and files.
    pub(crate) fn look() -> Self {
        let mut things = BTreeSet::new();
        names("/sys/class/net", "link", &mut things);
        names("/run/netns", "network namespace", &mut things);
        names("/run/mesh", "file /run/mesh", &mut things);
        names("/var/lib/mesh", "file /var/lib/mesh", &mut things);
        lines(
            "/proc/self/mounts",
            "mount",
            |line| line.split(' ').nth(1),
            &mut things,
        );
        lines("/proc/net/route", "route", |line| Some(line), &mut things);
        lines(
            "/proc/net/ipv6_route",
            "route",
            |line| line.get(..76),
            &mut things,
        );
        for (program, arguments) in [
            ("nft", "list ruleset"),
            ("iptables-legacy-save", ""),
            ("ip", "rule"),
        ] {
            let output = std::process::Command::new(program)
                .args(arguments.split_whitespace())
                .output();
            if let Ok(output) = output {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                let rules = text.lines().filter(|line| !line.starts_with('#'));
                things.extend(rules.map(|line| format!("rule {program}: {}", line.trim())));
            }
        }
        cgroups(Path::new("/sys/fs/cgroup"), 0, &mut things);
        processes(&mut things);
        Self { things }
    }

    /// What is here and was not in `before`.
    pub(crate) fn beyond(&self, before: &Self) -> Vec<String> {
        self.things.difference(&before.things).cloned().collect()
    }

    /// How many things of each sort were looked at.
    pub(crate) fn summary(&self) -> String {
        let sorts: Vec<String> = [
            "link",
            "network namespace",
            "mount",
            "route",
            "rule",
            "cgroup",
            "process",
            "file",
        ]
        .iter()
        .map(|sort| {
            let count = self
                .things
                .iter()
                .filter(|thing| thing.starts_with(sort))
                .count();
            format!("{count} {sort}s")
        })
        .collect();
        sorts.join(", ").replace("processs", "processes")
    }
}

fn names(dir: &str, sort: &str, things: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    things.extend(
        entries
            .flatten()
            .map(|entry| format!("{sort} {}", entry.file_name().to_string_lossy())),
    );
}

fn lines(
    file: &str,
    sort: &str,
    part: impl Fn(&str) -> Option<&str>,
    things: &mut BTreeSet<String>,
) {
    let text = fs::read_to_string(file).unwrap_or_default();
    things.extend(
        text.lines()
            .filter_map(part)
            .map(|part| format!("{sort} {part}")),
    );
}

/// Every cgroup of every hierarchy whose path names the mesh.
fn cgroups(dir: &Path, depth: u32, things: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if depth > 5 || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if path.to_string_lossy().contains("mesh") {
            things.insert(format!("cgroup {}", path.display()));
        }
        cgroups(&path, depth + 1, things);
    }
}

/// Every process that is one of the scenario's programs or was started with a path of its directory.
fn processes(things: &mut BTreeSet<String>) {
    const PROGRAMS: [&str; 5] = ["mesh", "mesh-echo", "envoy", "redis-server", "tcpdump"];
    let Ok(entries) = fs::read_dir("/proc") else {
        return;
    };
    for entry in entries.flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if pid.parse::<u32>().is_err() {
            continue;
        }
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&arguments).replace('\0', " ");
        let program = fs::read_link(entry.path().join("exe")).unwrap_or_default();
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        if PROGRAMS.contains(&name.as_ref()) || line.contains(super::HOME) {
            things.insert(format!("process {pid} {}", line.trim()));
        }
    }
}
