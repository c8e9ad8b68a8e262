// SPDX-License-Identifier: GPL-2.0

//! Where things are in the guest. Host and agent agree on this.

/// In the initial ram disk: paths there of the modules to load, one a line. Without this file the
/// machine has no disk.
pub const MODULE_LIST: &str = "/modules/list";

/// In the initial ram disk: the disks whose file systems make up the root, one a line, the uppermost first.
pub const DISK_LIST: &str = "/modules/disks";

/// Directory of what the host brings along, the same in the initial ram disk and in the guest's root.
/// It is in memory, so it may be changed there.
pub const PAYLOAD: &str = "/mnt/alrandom";

/// The agent, as it is called from the guest's root.
pub const AGENT: &str = "/mnt/alrandom/bin/vm-agent";

/// A script for the guest's shell to run in its root before its init starts, if there is one.
pub const BEFORE_INIT: &str = "/mnt/alrandom/before-init";

/// The kernel module.
pub const MODULE: &str = "/mnt/alrandom/alrandom.ko";

/// Directory of the modules of a kernel that is not the root's own.
pub const MODULES: &str = "/mnt/alrandom/modules";

/// A build of the module that its self-test has to refuse: a cutoff is off by one.
pub const BROKEN_CUTOFF: &str = "/mnt/alrandom/alrandom-broken-cutoff.ko";

/// A build of the module that delivers bytes twice.
pub const BROKEN_DELIVERY: &str = "/mnt/alrandom/alrandom-broken-delivery.ko";

/// A module with bugs on purpose.
pub const BUGS: &str = "/mnt/alrandom/alrandom_bugs.ko";

/// The module's sources, as they were when it was built.
pub const SOURCES: &str = "/mnt/alrandom/src";

/// The tests that run in the guest.
pub const GUEST_TESTS: &str = "/mnt/alrandom/bin/guest-tests";

/// The name under [`PAYLOAD`] of a path there.
pub fn in_payload(path: &str) -> String {
    let inside = path.strip_prefix(PAYLOAD).unwrap_or(path);
    inside.trim_start_matches('/').to_string()
}
