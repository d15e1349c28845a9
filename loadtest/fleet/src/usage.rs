//! What a process costs, read from `/proc`: CPU time, memory, descriptors; and where it runs.
//!
//! User memory and CPU only; socket buffers are the kernel's and belong to no process.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// A process at one moment.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Time on a CPU since its start, seconds; threads that ended are not contained.
    pub cpu_s: f64,
    /// Resident memory, KiB.
    pub rss_kib: u64,
    /// Resident memory with shared pages divided among their users, KiB.
    pub pss_kib: u64,
    /// Most that was ever resident, KiB.
    pub rss_peak_kib: u64,
    /// Open descriptors.
    pub descriptors: u64,
}

/// Reads the usage of process `pid`.
///
/// # Errors
/// When the process is gone, or this is not Linux.
pub fn of(pid: u32) -> io::Result<Usage> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(Usage {
        cpu_s: cpu_s(pid)?,
        rss_kib: kib(&rollup, "Rss:"),
        pss_kib: kib(&rollup, "Pss:"),
        rss_peak_kib: kib(&status, "VmHWM:"),
        descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64,
    })
}

/// Time of process `pid` on a CPU since its start, seconds; threads that ended are not contained.
///
/// # Errors
/// When the process is gone, or this is not Linux.
pub fn cpu_s(pid: u32) -> io::Result<f64> {
    let mut nanos = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the listing and the reading.
        if let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) {
            nanos += text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(nanos as f64 / 1e9)
}

/// Time that all CPUs of the machine together were not idle, seconds, to 10 ms.
///
/// # Errors
/// When this is not Linux.
pub fn busy_s() -> io::Result<f64> {
    let text = fs::read_to_string("/proc/stat")?;
    let ticks = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = ticks.map(|n| n.parse().unwrap_or(0)).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; the two behind them are contained in the first two.
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|n| ticks.get(*n)).sum();
    // A tick is 10 ms in all of Linux's interfaces.
    Ok(busy as f64 / 100.0)
}

/// Raises the soft limit of descriptors to the hard one; answers the limit.
pub fn raise_descriptors() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    // Where raising is refused, the old limit holds and is what the caller has to live with.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The machine in one line.
pub fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cpus} CPUs, Linux {}", kernel.trim())
}

fn kib(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_descriptors() {
        let usage = of(std::process::id()).unwrap();
        assert!(usage.rss_kib > 100 && usage.rss_peak_kib >= usage.rss_kib / 2, "{usage:?}");
        assert!(usage.pss_kib > 0 && usage.descriptors >= 3, "{usage:?}");
    }

    #[test]
    fn a_missing_line_counts_as_nothing() {
        assert_eq!(kib("Rss:  1234 kB\nPss: 5 kB\n", "Pss:"), 5);
        assert_eq!(kib("Rss:  1234 kB\n", "Swap:"), 0);
    }
}
