//! What processes use of the machine, as /proc tells it.

use std::fs;
use std::io;
use std::time::Duration;

use crate::UnitStats;

/// The sum over these processes; those that ended meanwhile count for nothing.
pub(super) fn of(processes: &[u32]) -> io::Result<UnitStats> {
    let mut sum = UnitStats::default();
    for process in processes {
        let read = |file: &str| match fs::read_to_string(format!("/proc/{process}/{file}")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // The process ended between opening and reading.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            read => read.map(Some),
        };
        let (Some(stat), Some(statm)) = (read("stat")?, read("statm")?) else {
            continue;
        };
        let ticks = ticks(&stat).unwrap_or_default();
        let millis = ticks.saturating_mul(1000) / rustix::param::clock_ticks_per_second();
        let page = u64::try_from(rustix::param::page_size()).unwrap_or_default();
        sum.cpu = sum.cpu.saturating_add(Duration::from_millis(millis));
        sum.memory_bytes += resident_pages(&statm)
            .unwrap_or_default()
            .saturating_mul(page);
        sum.processes += 1;
    }
    Ok(sum)
}

/// Ticks in user and kernel mode: fields 14 and 15. Source: `proc_pid_stat(5)`.
fn ticks(stat: &str) -> Option<u64> {
    // The second field is a name in parentheses, and may have any character in it.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let kernel: u64 = fields.next()?.parse().ok()?;
    user.checked_add(kernel)
}

/// The second field. Source: `proc_pid_statm(5)`.
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 1 0 5 0 0";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (a"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let used = of(&[std::process::id()]).unwrap();
        assert_eq!(used.processes, 1);
        assert!(used.memory_bytes > 100_000, "{used:?}");
    }
}
