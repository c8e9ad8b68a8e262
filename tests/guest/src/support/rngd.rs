// SPDX-License-Identifier: GPL-2.0

//! Both versions of rngd, and what they give to the kernel.

use super::{
    process::{
        attempt,
        run,
        shell, //
    },
    wait::wait_until,
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use std::{
    fs,
    path::Path, //
};

/// Folder with the programs of newer Debians (tests/vm/root.conf).
pub(crate) const NEWER: &str = "/opt/newer";

/// Folders of the kernel's, which a program in [`NEWER`] needs as well.
const KERNEL_FOLDERS: [&str; 3] = ["dev", "proc", "sys"];

/// Where the kernel's tracing is.
const TRACING: &str = "/sys/kernel/tracing";

/// The tracing event of the beginning of ioctl(2).
const EVENT: &str = "events/syscalls/sys_enter_ioctl";

/// What the request is called with which rngd gives bytes to the kernel: `RNDADDENTROPY` in the kernel's
/// `uapi/linux/random.h`.
const RNDADDENTROPY: &str = "cmd == 0x40085203";

/// The name of the process.
const PROCESS: &str = "rngd";

/// A version of rngd.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Rngd {
    /// Of rng-tools5, in Debian 13.
    Five,
    /// Of rng-tools 6, in newer Debians.
    Six,
}

impl Rngd {
    /// What a shell's command line begins with that means this version.
    pub(crate) fn prefix(self) -> String {
        match self {
            Self::Five => String::new(),
            Self::Six => format!("chroot {NEWER} "),
        }
    }

    /// Makes sure that it is the version that the name says, and that it finds what it needs.
    ///
    /// # Errors
    ///
    /// If it is not.
    pub(crate) fn prepare(self) -> Result<()> {
        if self == Self::Six {
            for folder in KERNEL_FOLDERS {
                let inside = format!("{NEWER}/{folder}");
                if !attempt(&["mountpoint", "-q", &inside])?.success {
                    run(&["mount", "--rbind", &format!("/{folder}"), &inside])?;
                }
            }
        }
        let version = shell(&format!("{}rngd --version 2>&1", self.prefix()))?.stdout;
        let number = match self {
            Self::Five => "5",
            Self::Six => "6",
        };
        let found = version.split_whitespace().nth(1).unwrap_or_default();
        ensure!(
            found.starts_with(number),
            "this is not rngd {number}: {version}"
        );
        Ok(())
    }
}

/// The ids of the processes of rngd that run.
pub(crate) fn processes() -> Vec<u32> {
    let found = attempt(&["pgrep", "-x", PROCESS]).map(|ended| ended.stdout);
    let found = found.unwrap_or_default();
    found
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .collect()
}

/// Ends rngd when this is dropped: it has left the test's process group.
pub(crate) struct Ending;

impl Drop for Ending {
    fn drop(&mut self) {
        // There may be none.
        let _ = attempt(&["pkill", "-x", PROCESS]);
        let _ = wait_until("rngd to end", || processes().is_empty());
    }
}

/// Watches, by the kernel's own tracing, who gives bytes to the entropy pool.
pub(crate) struct Feeding;

impl Feeding {
    /// Watches from now on.
    ///
    /// # Errors
    ///
    /// If the kernel cannot.
    pub(crate) fn watch() -> Result<Self> {
        if !Path::new(TRACING).join("trace").exists() {
            run(&["mount", "-t", "tracefs", "tracefs", TRACING])?;
        }
        for (file, text) in [
            (format!("{EVENT}/filter"), RNDADDENTROPY),
            ("trace".into(), ""),
            (format!("{EVENT}/enable"), "1"),
        ] {
            let path = Path::new(TRACING).join(file);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(Self)
    }

    /// The ids of the processes of rngd that have given bytes, once for each time.
    pub(crate) fn by(&self) -> Vec<u32> {
        let trace = fs::read_to_string(Path::new(TRACING).join("trace")).unwrap_or_default();
        // A line begins with the process's name and id: `  rngd-142   [000] ...`.
        let heads = trace
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        let ids =
            heads.filter_map(|head| head.strip_prefix(PROCESS)?.strip_prefix('-')?.parse().ok());
        ids.collect()
    }

    /// Waits until process `id` has given bytes.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub(crate) fn wait_for(&self, id: u32) -> Result<()> {
        wait_until("rngd to give bytes to the kernel", || {
            self.by().contains(&id)
        })
    }
}

impl Drop for Feeding {
    fn drop(&mut self) {
        for (file, text) in [("enable", "0"), ("filter", "0")] {
            let _ = fs::write(Path::new(TRACING).join(EVENT).join(file), text);
        }
    }
}
