//! Whether the process that began something is still there.

use std::fs;

/// Names a process of this machine for as long as it was booted: `boot/pid/start`.
pub fn this_process() -> String {
    name_of(std::process::id())
}

fn name_of(pid: u32) -> String {
    format!("{}/{pid}/{}", boot(), start(pid).unwrap_or_default())
}

/// Whether the process of that name runs on this machine.
pub(super) fn is_alive(process: &str) -> bool {
    let pid = process.split('/').nth(1).and_then(|pid| pid.parse().ok());
    pid.is_some_and(|pid| start(pid).is_some() && name_of(pid) == process)
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_string()
}

/// When a process began, in ticks since the machine was booted.
fn start(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19).map(str::to_string)
}

/// Name of this machine.
pub(super) fn controller() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_when_it_began() {
        let own = this_process();
        assert!(is_alive(&own), "{own}");
        let parts: Vec<&str> = own.split('/').collect();
        assert!(!is_alive(&format!("{}/{}/1", parts[0], parts[1])), "another began under the same number");
        assert!(!is_alive(&format!("0000/{}/{}", parts[1], parts[2])), "before the machine was booted again");
        assert!(!is_alive(&format!("{}/4194303/5", parts[0])));
        assert!(!is_alive(""));
    }
}
