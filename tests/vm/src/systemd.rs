// SPDX-License-Identifier: GPL-2.0

//! The guest with systemd as its init, for what only shows there: services, and what is loaded at boot.
//!
//! The agent brings the root up as always, puts what follows into it, and becomes systemd, which starts the
//! agent again, as a service, when all else is up.

use anyhow::{
    Context,
    Result, //
};
use std::{
    fs,
    os::unix::fs::symlink,
    path::Path, //
};

/// Parameter of the kernel's that asks the agent for this. Its prefix is no module's, so nobody else looks
/// at it.
pub const PARAMETER: &str = "vm_agent.init=systemd";

/// Argument of the agent's with which the service starts it.
pub const SERVE: &str = "serve-as-service";

/// systemd's call: what to bring up, and that each unit is told of on the console, for a boot that hangs.
pub const INIT: [&str; 3] = ["/sbin/init", "--unit=vm-agent.target", "--show-status=yes"];

/// Where what is installed goes: the kind of unit file that a restart would lose.
const UNITS: &str = "run/systemd/system";

/// What to bring up: what any machine without a graphical desktop does, and the agent.
const TARGET: &str = "\
[Unit]
Description=Test machine
Wants=multi-user.target vm-agent.service
After=multi-user.target vm-agent.service
";

/// The agent. Its end is the machine's, which the host is waiting for. What a job leaves behind lives on, as
/// it does without systemd.
fn service() -> String {
    format!(
        "\
[Unit]
Description=Agent of the test machine
After=multi-user.target
SuccessAction=reboot-immediate
FailureAction=reboot-immediate

[Service]
ExecStart={} {SERVE}
KillMode=process
TasksMax=infinity
StandardOutput=journal+console
StandardError=journal+console
",
        crate::layout::AGENT
    )
}

/// Limits that suit an emulated machine on a busy host: no unit is given up before the host gives up the boot.
const MANAGER: &str = "\
[Manager]
DefaultTimeoutStartSec=900
DefaultDeviceTimeoutSec=900
";

/// Units that take time and change nothing here, or that would write to the console, which is the log.
const MASKED: [&str; 16] = [
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty-static.service",
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "systemd-binfmt.service",
    "systemd-journal-flush.service",
    "systemd-logind.service",
    "systemd-pcrphase-sysinit.service",
    "systemd-pcrphase.service",
    "systemd-random-seed.service",
    "systemd-tmpfiles-clean.timer",
];

/// Services that a package starts at boot and a test starts when it wants them.
const NOT_AT_BOOT: [&str; 1] = ["rngd.service"];

/// An identity (machine-id(5)), without which systemd takes this for the first boot and enables every service
/// there is.
const MACHINE_ID: &str = "a1f4a2d04e8b4b0f9c1d2e3f40515263\n";

/// Puts all of it into the root at `root`.
///
/// # Errors
///
/// If that can't be written to.
pub fn install(root: &Path) -> Result<()> {
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        let directory = path.parent().map_or(Ok(()), fs::create_dir_all);
        directory
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("can't write {}", path.display()))
    };
    write(&format!("{UNITS}/vm-agent.target"), TARGET)?;
    write(&format!("{UNITS}/vm-agent.service"), &service())?;
    write("run/systemd/system.conf.d/vm-agent.conf", MANAGER)?;
    write("etc/machine-id", MACHINE_ID)?;
    // Newer than /usr, so that nothing is rebuilt that the root already has (systemd-update-done.service(8)).
    write("etc/.updated", "")?;
    write("var/.updated", "")?;
    for unit in MASKED {
        let path = root.join(UNITS).join(unit);
        symlink("/dev/null", &path).with_context(|| format!("can't mask {unit}"))?;
    }
    for unit in NOT_AT_BOOT {
        let wanted = root
            .join("etc/systemd/system/multi-user.target.wants")
            .join(unit);
        if wanted.is_symlink() {
            fs::remove_file(&wanted).with_context(|| format!("can't disable {unit}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_there_masked_and_disabled() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let wants = root.join("etc/systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wants).unwrap();
        for unit in ["rngd.service", "other.service"] {
            symlink("/usr/lib/systemd/system/x", wants.join(unit)).unwrap();
        }
        install(root).unwrap();
        assert!(!wants.join("rngd.service").is_symlink());
        assert!(wants.join("other.service").is_symlink());
        let units = root.join("run/systemd/system");
        let masked = fs::read_link(units.join("serial-getty@ttyS0.service")).unwrap();
        assert_eq!(masked, Path::new("/dev/null"));
        let text = fs::read_to_string(units.join("vm-agent.service")).unwrap();
        assert!(text.contains("\nExecStart=/mnt/alrandom/bin/vm-agent serve-as-service\n"));
        let id = fs::read_to_string(root.join("etc/machine-id")).unwrap();
        let id = id.trim();
        assert!(id.len() == 32 && id.chars().all(|digit| digit.is_ascii_hexdigit()));
    }
}
