// SPDX-License-Identifier: GPL-2.0

//! Waiting, never for ever.

use anyhow::{
    bail,
    Result, //
};
use std::{
    process::{
        Child,
        ExitStatus, //
    },
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// How long to wait for something that has to happen soon. Generous: the machine may be emulated, on
/// a busy host.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// How often to look.
const PAUSE: Duration = Duration::from_millis(5);

/// How often to look where looking takes work, or the wait is long.
const SLOW_PAUSE: Duration = Duration::from_millis(500);

/// Waits until `condition` holds.
///
/// # Errors
///
/// If it does not within [`PATIENCE`]; `what` says what was waited for.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    wait_for(what, || condition().then_some(()))
}

/// Waits until `condition` holds, for what takes longer than others.
///
/// # Errors
///
/// If it does not within `limit`; `what` says what was waited for.
pub(crate) fn wait_until_within(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> bool,
) -> Result<()> {
    wait_for_within(limit, SLOW_PAUSE, what, || condition().then_some(()))
}

/// Waits until `find` finds something.
///
/// # Errors
///
/// As [`wait_until`].
pub(crate) fn wait_for<T>(what: &str, find: impl FnMut() -> Option<T>) -> Result<T> {
    wait_for_within(PATIENCE, PAUSE, what, find)
}

/// Waits until `find` finds something, `limit` at most; looks after each `pause`.
fn wait_for_within<T>(
    limit: Duration,
    pause: Duration,
    what: &str,
    mut find: impl FnMut() -> Option<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = find() {
            return Ok(found);
        }
        if start.elapsed() > limit {
            bail!("waited {} s in vain for {what}", limit.as_secs());
        }
        thread::sleep(pause);
    }
}

/// Waits for a process to end; `None` if it has not within `limit`.
///
/// # Errors
///
/// The operating system's.
pub(crate) fn wait_for_exit(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > limit {
            return Ok(None);
        }
        thread::sleep(PAUSE);
    }
}
