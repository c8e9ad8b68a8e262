// SPDX-License-Identifier: GPL-2.0

//! Allocations that fail, on a kernel with `CONFIG_FAILSLAB` and `CONFIG_FAIL_PAGE_ALLOC`: the first that
//! a system call makes, then the second, and so on until it makes no more (of those that loading takes,
//! which are hundreds, only some unless more are asked for: most are the kernel's own). Each time it fails
//! cleanly or does without, and the next attempt works. That nothing is lost is found out behind the last
//! test.

use crate::support::{
    guest::is_loaded,
    info::read_text,
    node::NODE,
    tests,
    wait_until,
    Guest,
    Node,
    Test,
    BLOCK, //
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use rustix::io::Errno;
use std::{
    fs,
    io,
    path::Path, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![load, probe, open, read_of_what_is_ready, proc_files];

/// Where the kernel is told which allocations may fail.
const FAULTS: [&str; 2] = [
    "/sys/kernel/debug/failslab",
    "/sys/kernel/debug/fail_page_alloc",
];

/// How many more allocations succeed before one fails, for the thread that asks
/// (Documentation/fault-injection/fault-injection.rst).
const FAIL_NTH: &str = "/proc/thread-self/fail-nth";

/// Most allocations that a system call here can make; more are a call that allocates for ever.
const MOST: u32 = 20_000;

/// Lets allocations fail that may sleep, of any size, and has the kernel say nothing of it.
fn prepare(guest: &mut Guest) -> Result<()> {
    for directory in FAULTS {
        for (file, value) in [("ignore-gfp-wait", "N"), ("verbose", "0")] {
            let path = format!("{directory}/{file}");
            fs::write(&path, value).with_context(|| format!("cannot write to {path}"))?;
        }
    }
    fs::write(format!("{}/min-order", FAULTS[1]), "0")?;
    // What the kernel says of an allocation that nobody should have let fail: here it is on purpose.
    for line in [
        "page allocation failure",
        "SLUB: Unable to allocate memory",
        "kmemleak: Cannot allocate",
    ] {
        guest.log.announce(line);
    }
    Ok(())
}

/// Has allocation `n` of `call` fail, counted from 1. Returns whether there was one, and what `call`
/// returned.
fn with_failure<T>(n: u32, call: impl FnOnce() -> T) -> Result<(bool, T)> {
    // Opened before, since opening allocates.
    let file = fs::File::options().read(true).write(true).open(FAIL_NTH)?;
    let text = n.to_string();
    rustix::io::write(&file, text.as_bytes())?;
    let result = call();
    let mut left = [0; 16];
    let count = rustix::io::pread(&file, &mut left, 0)?;
    rustix::io::write(&file, b"0")?;
    let left: u32 = String::from_utf8_lossy(&left[..count]).trim().parse()?;
    Ok((left == 0, result))
}

/// Has each allocation of `call` fail in turn, and gives what it returned to `check`, until it makes no
/// more. Returns how many failed.
fn sweep<T>(mut call: impl FnMut() -> T, mut check: impl FnMut(T) -> Result<()>) -> Result<u32> {
    for n in 1..MOST {
        let (injected, result) = with_failure(n, &mut call)?;
        check(result).with_context(|| format!("allocation {n}"))?;
        if !injected {
            println!("{} allocations failed in turn", n - 1);
            return Ok(n - 1);
        }
    }
    anyhow::bail!("more than {MOST} allocations")
}

/// Loading: it fails with ENOMEM and leaves nothing behind, or does without what it lacks.
fn load(guest: &mut Guest) -> Result<()> {
    /// Of the last ones, which the module makes itself, each fails; of those before, some: so many, or as
    /// many as was asked for.
    const LAST: u32 = 40;
    const SOME: u32 = 20;

    let rounds = guest.rounds(SOME, SOME);
    prepare(guest)?;
    guest.plug()?;
    // Of the module itself, and of the kernel's core that loads it.
    guest.log.announce("alrandom: ");
    guest.log.announce("not in the kernel's hw_random");
    for line in [
        // ENOMEM, which the driver core makes another error of now and then.
        "-12",
        "usbcore: error -22 registering interface driver alrandom",
        "bus_add_driver: failed to create module links",
        "bus_add_driver: add_bind_files(alrandom) failed",
        "kobject: can not set name properly!",
        "execmem: unable to allocate memory",
    ] {
        guest.log.announce(line);
    }
    // Of the memory for the file's contents.
    guest
        .log
        .announce_report("vmalloc error: ", " pages reserved");
    let module = fs::File::open(&guest.module)?;
    let load_with_failure = |n| {
        let load = || rustix::system::finit_module(&module, c"hwrngQuality=0", 0);
        let (injected, result) = with_failure(n, load)?;
        match result {
            Ok(()) => guest.unload()?,
            // The driver core has another word for it now and then, which is passed on.
            Err(Errno::NOMEM | Errno::INVAL) => {}
            Err(error) => return Err(error).context("finit_module(2)"),
        }
        ensure!(!is_loaded() && !Path::new(NODE).exists());
        ensure!(!Path::new("/proc/alrandom").exists());
        Ok(injected)
    };

    let (mut some, mut none) = (0, MOST);
    while some + 1 < none {
        let middle = (some + none) / 2;
        let injected = load_with_failure(middle).with_context(|| format!("allocation {middle}"))?;
        *(if injected { &mut some } else { &mut none }) = middle;
    }
    ensure!(some > LAST + SOME, "only {some} allocations");
    let before = some - LAST;
    let rounds = rounds.clamp(1, before);
    println!("{} of {some} allocations fail in turn", rounds + LAST);
    let chosen = (1..=rounds).map(|k| k * before / rounds);
    for n in chosen.chain(before + 1..=some) {
        load_with_failure(n).with_context(|| format!("allocation {n}"))?;
    }

    guest.load(&[])?;
    Node::open()?.read_all(BLOCK)?;
    Ok(())
}

/// Binding a device: it is not bound, or works; the next attempt succeeds.
fn probe(guest: &mut Guest) -> Result<()> {
    const DRIVER: &str = "/sys/bus/usb/drivers/alrandom";
    prepare(guest)?;
    guest.log.announce("out of memory for the device's buffers");
    guest
        .log
        .announce("probe with driver alrandom failed with error -12");
    guest.log.announce("driver_sysfs_add failed");
    let device = guest.plug()?;
    guest.load(&[])?;
    let node = Node::open()?;
    let interface = device.data_interface()?;
    let unbind = format!("{DRIVER}/unbind");
    let bind = fs::File::options()
        .write(true)
        .open(format!("{DRIVER}/bind"))?;
    fs::write(&unbind, &interface)?;
    let failed = sweep(
        || rustix::io::write(&bind, interface.as_bytes()),
        |result| {
            let in_use = device.is_in_use();
            ensure!(result.is_ok() == in_use, "{result:?}, in use: {in_use}");
            if in_use {
                fs::write(&unbind, &interface)?;
            }
            ensure!(node.read(1) == Err(Errno::NODEV));
            Ok(())
        },
    )?;
    ensure!(failed > 10, "only {failed} allocations have failed");
    rustix::io::write(&bind, interface.as_bytes())?;
    node.read_all(10 * BLOCK)?;
    Ok(())
}

/// Opening the node.
fn open(guest: &mut Guest) -> Result<()> {
    prepare(guest)?;
    let node = guest.start()?;
    let flags = rustix::fs::OFlags::RDONLY;
    let failed = sweep(
        || rustix::fs::open(NODE, flags, rustix::fs::Mode::empty()),
        |result| {
            ensure!(matches!(result, Ok(_) | Err(Errno::NOMEM | Errno::NFILE)));
            Ok(())
        },
    )?;
    ensure!(failed > 0, "no allocation has failed");
    guest.stream().expect(&node.read_all(50_000)?)
}

/// A read that finds bytes ready allocates nothing, be it small or large, so nothing can fail.
fn read_of_what_is_ready(guest: &mut Guest) -> Result<()> {
    prepare(guest)?;
    let node = guest.start()?;
    let mut stream = guest.stream();
    // Written to, so that the pages are there.
    let mut bytes = vec![1; 2 * BLOCK];
    for count in [1, 16, 256, 4096, BLOCK, 2 * BLOCK - 1] {
        guest.wait_until_full()?;
        let (injected, result) = with_failure(1, || rustix::io::read(&node, &mut bytes[..count]))?;
        ensure!(result == Ok(count), "{result:?}");
        ensure!(!injected, "a read of {count} bytes has allocated memory");
        stream.expect(&bytes[..count])?;
    }
    Ok(())
}

/// The files in /proc.
fn proc_files(guest: &mut Guest) -> Result<()> {
    prepare(guest)?;
    let node = guest.start()?;
    node.read_all(BLOCK)?;
    guest.wait_until_full()?;
    let text = read_text()?;
    for path in [crate::support::info::INFO, crate::health::HEALTH] {
        let failed = sweep(
            || fs::read_to_string(path),
            |result| {
                let in_memory = |error: &io::Error| error.raw_os_error() == Some(libc::ENOMEM);
                ensure!(
                    result.as_ref().map_or_else(in_memory, |_| true),
                    "{result:?}"
                );
                Ok(())
            },
        )?;
        ensure!(failed > 0, "no allocation has failed");
    }
    wait_until("the file to be as before", || {
        read_text().is_ok_and(|now| now == text)
    })
}
