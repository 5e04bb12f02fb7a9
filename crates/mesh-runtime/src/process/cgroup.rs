//! Control groups: how all processes of a unit are found and ended, whatever they forked.
//!
//! One hierarchy is enough for that: version 2 where it is mounted, else a controller of version 1.
//! No limit is set.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Makes the cgroup `below` in the first hierarchy that lets us; `None` when none does.
pub(super) fn create(below: &Path) -> Option<PathBuf> {
    hierarchies().into_iter().find_map(|hierarchy| {
        let path = hierarchy.join(below);
        // Another engine may remove a parent that is empty between two of our steps.
        let made = (0..3).any(|_| fs::create_dir_all(&path).is_ok());
        (made && path.join(PROCESSES).exists()).then_some(path)
    })
}

/// All processes in a cgroup and those below it.
pub(crate) fn processes(cgroup: &Path) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for directory in with_children(cgroup)? {
        match fs::read_to_string(directory.join(PROCESSES)) {
            Ok(text) => found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Ends all processes in a cgroup at once, and returns when none is left.
pub(crate) fn kill(cgroup: &Path) -> io::Result<()> {
    let give_up = Instant::now() + Duration::from_secs(10);
    loop {
        let processes = processes(cgroup)?;
        if processes.is_empty() {
            return Ok(());
        }
        if Instant::now() > give_up {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("processes {processes:?} do not end"),
            ));
        }
        // Version 2 since Linux 5.14; also takes those that fork meanwhile.
        if fs::write(cgroup.join("cgroup.kill"), "1").is_err() {
            for process in processes {
                kill_one(process)?;
            }
        }
        // The kernel tells nobody on version 1; an ended process leaves within a tick.
        thread::sleep(Duration::from_millis(2));
    }
}

/// Removes a cgroup with those below it, and then its parents up to and with `mesh`, as far as
/// nobody uses them.
pub(super) fn remove(cgroup: &Path) -> io::Result<()> {
    for directory in with_children(cgroup)?.iter().rev() {
        remove_directory(directory)?;
    }
    for parent in cgroup.ancestors().skip(1) {
        if remove_directory(parent).is_err() || parent.ends_with(TOP) {
            break;
        }
    }
    Ok(())
}

/// Where cgroups of this path exist, in any hierarchy.
pub(super) fn existing(below: &Path) -> Vec<PathBuf> {
    let paths = hierarchies()
        .into_iter()
        .map(|hierarchy| hierarchy.join(below));
    paths.filter(|path| path.is_dir()).collect()
}

/// Above all our cgroups.
pub(super) const TOP: &str = "mesh";

/// The file that lists processes, and takes one.
pub(crate) const PROCESSES: &str = "cgroup.procs";

fn kill_one(process: u32) -> io::Result<()> {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    let Some(pid) = pid else {
        return Ok(());
    };
    match kill_process(pid, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The cgroup and all below it, parents first; nothing when it is not there.
fn with_children(cgroup: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![cgroup.to_path_buf()];
    let mut next = 0;
    while let Some(directory) = found.get(next).cloned() {
        match fs::read_dir(&directory) {
            Ok(entries) => {
                for entry in entries {
                    let entry = entry?;
                    if entry.file_type()?.is_dir() {
                        found.push(entry.path());
                    }
                }
            }
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
        next += 1;
    }
    Ok(found)
}

fn remove_directory(directory: &Path) -> io::Result<()> {
    let give_up = Instant::now() + Duration::from_secs(2);
    loop {
        match fs::remove_dir(directory) {
            Err(error) if is_gone(&error) => return Ok(()),
            // An ended process counts until it is reaped, which is up to its parent.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                let in_use = with_children(directory)?.len() > 1;
                if in_use || Instant::now() > give_up {
                    return Err(error);
                }
            }
            result => return result,
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn is_gone(error: &io::Error) -> bool {
    // A cgroup that is removed while it is read answers ENODEV.
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

fn hierarchies() -> Vec<PathBuf> {
    let mountinfo = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    mounted(&mountinfo)
}

/// Mount points of hierarchies that can hold our cgroups, the best first.
///
/// Lines are as in `proc_pid_mountinfo(5)`: the fifth field is the mount point, and after a field
/// `-` come the type, the source and the options of the file system.
fn mounted(mountinfo: &str) -> Vec<PathBuf> {
    let mut found: Vec<(usize, PathBuf)> = Vec::new();
    for line in mountinfo.lines() {
        let Some((mount, file_system)) = line.split_once(" - ") else {
            continue;
        };
        let Some(point) = mount.split(' ').nth(4) else {
            continue;
        };
        let mut fields = file_system.split(' ');
        let (kind, options) = (fields.next(), fields.nth(1).unwrap_or_default());
        let has = |controller: &str| options.split(',').any(|option| option == controller);
        let rank = match kind {
            Some("cgroup2") => 0,
            Some("cgroup") if has("pids") => 1,
            Some("cgroup") if has("freezer") => 2,
            Some("cgroup") if has("memory") => 3,
            _ => continue,
        };
        // Mount points of cgroups have no characters that the kernel would have to escape.
        if !point.contains('\\') {
            found.push((rank, PathBuf::from(point)));
        }
    }
    found.sort_by_key(|(rank, _)| *rank);
    found.into_iter().map(|(_, point)| point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_two_is_preferred_and_version_one_is_taken_where_it_is_alone() {
        let hybrid = "\
30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
        let found = mounted(hybrid);
        let expected = ["unified", "pids", "memory"].map(|it| Path::new("/sys/fs/cgroup").join(it));
        assert_eq!(found, expected);
        let alone = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw,nsdelegate\n";
        assert_eq!(mounted(alone), [PathBuf::from("/sys/fs/cgroup")]);
        assert!(mounted("").is_empty());
    }
}
