// SPDX-License-Identifier: GPL-2.0

//! Bugs on purpose, in a module of their own (`tests/guest/bugs`): on the kernel that can see it each of these
//! tests but the first two has to fail, and the runner has to say by what. `--bugs` runs them, and them alone.

use crate::support::{
    process::attempt,
    tests,
    Guest,
    Test, //
};
use anyhow::{
    ensure,
    Result, //
};

/// The tests of this file. Locks are first: a report of another kind ends the kernel's checks of them.
/// The leak is last, as leaks are looked for behind the last test of a file.
pub(crate) const TESTS: &[Test] = tests![
    none,
    ordered,
    data_race,
    missing_barrier,
    lock_inversion,
    sleep_in_atomic,
    use_after_free,
    leak
];

/// The module.
const MODULE: &str = "/mnt/alrandom/alrandom_bugs.ko";

/// Loads the module with this bug; whether that succeeds.
fn load(bug: u32) -> Result<bool> {
    Ok(attempt(&["insmod", MODULE, &format!("bug={bug}")])?.success)
}

/// Has the bug with this number, and sees nothing wrong.
fn have(bug: u32) -> Result<()> {
    ensure!(load(bug)?, "the module was not loaded");
    ensure!(attempt(&["rmmod", "alrandom_bugs"])?.success);
    Ok(())
}

/// No bug: refused by the module.
fn none(guest: &mut Guest) -> Result<()> {
    guest
        .log
        .announce("alrandom_bugs: loading out-of-tree module taints kernel.");
    ensure!(!load(0)?, "the module was loaded");
    Ok(())
}

/// Two threads that write to one place in turn: no bug, either.
fn ordered(_guest: &mut Guest) -> Result<()> {
    have(8)
}

/// Two threads that write to one place at once.
fn data_race(_guest: &mut Guest) -> Result<()> {
    have(6)
}

/// Two threads that write to one place in turn, but nothing keeps a processor from doing so behind the end of
/// its turn, as some do.
fn missing_barrier(_guest: &mut Guest) -> Result<()> {
    have(7)
}

/// Two locks in both orders.
fn lock_inversion(_guest: &mut Guest) -> Result<()> {
    have(1)
}

/// A lock that sleeps under one that spins.
fn sleep_in_atomic(_guest: &mut Guest) -> Result<()> {
    have(2)
}

/// A read of memory that was freed.
fn use_after_free(_guest: &mut Guest) -> Result<()> {
    have(3)
}

/// Memory that nobody knows of any more.
fn leak(_guest: &mut Guest) -> Result<()> {
    have(4)
}
