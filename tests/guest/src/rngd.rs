// SPDX-License-Identifier: GPL-2.0

//! rngd of rng-tools5 and of rng-tools 6, called as README.md says.

use crate::support::{
    node::Node,
    process::{
        attempt,
        run,
        shell, //
    },
    readme,
    rngd::{
        processes,
        Ending,
        Feeding,
        Rngd, //
    },
    tests, wait_until, Guest, Test,
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use std::fs;

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    rngd_5_returns_silently_feeds_the_kernel_and_outlives_an_unplug,
    rngd_6_returns_silently_feeds_the_kernel_and_outlives_an_unplug,
    rngd_5_gives_the_kernel_the_device_s_bytes,
    rngd_6_gives_the_kernel_the_device_s_bytes,
    rngd_6_measures_the_device,
    rngtest_finds_nothing_wrong,
];

/// The README's section.
const SECTION: &str = "rngd";

/// What version 5 reads when it starts, to see whether there is a source. Then it takes what the kernel wants
/// from the processor's generator, if there is one.
const READ_BY_5: usize = 8;

/// What version 6 reads: as much when it starts, and then a block of FIPS 140-2, 20000 bits.
const READ_BY_6: usize = 8 + 2500;

/// Where strace(1) writes to.
const STRACE: &str = "/tmp/rngd.strace";

/// The command of the manual, as the README has it.
fn command(rngd: Rngd, part: &str) -> Result<String> {
    let line = readme::line(SECTION, part)?;
    let command = line
        .strip_prefix("sudo ")
        .context("no sudo in the command")?;
    Ok(format!("{}{command}", rngd.prefix()))
}

/// `rngd -r /dev/alrandom` returns at once and without a word; the daemon reads from the device and gives to
/// the kernel. It is still there when the device has gone and come back.
fn returns_silently_and_feeds(guest: &mut Guest, rngd: Rngd) -> Result<()> {
    guest.start()?;
    rngd.prepare()?;
    let feeding = Feeding::watch()?;
    let _ending = Ending;

    let started = shell(&command(rngd, "rngd -r /dev/alrandom")?)?;
    ensure!(
        started.stdout.is_empty() && started.stderr.is_empty(),
        "it said: {}{}",
        started.stdout,
        started.stderr
    );
    wait_until("the daemon to run", || processes().len() == 1)?;
    let daemon = processes();
    feeding.wait_for(daemon[0])?;

    // What it has read is missing from the stream.
    let bytes = Node::open()?.read_all(64)?;
    let taken = guest.stream().take(4 * crate::support::BLOCK);
    let place = taken
        .windows(bytes.len())
        .position(|window| window == bytes);
    let place = place.context("the bytes behind rngd's are not the device's")?;
    let least = match rngd {
        Rngd::Five => READ_BY_5,
        Rngd::Six => READ_BY_6,
    };
    ensure!(place >= least, "rngd has read {place} bytes only");

    guest.unplug()?;
    guest.replug()?;
    ensure!(processes() == daemon, "the daemon is gone");
    Ok(())
}

/// So does the one of rng-tools5.
fn rngd_5_returns_silently_feeds_the_kernel_and_outlives_an_unplug(
    guest: &mut Guest,
) -> Result<()> {
    returns_silently_and_feeds(guest, Rngd::Five)
}

/// So does the one of rng-tools 6.
fn rngd_6_returns_silently_feeds_the_kernel_and_outlives_an_unplug(
    guest: &mut Guest,
) -> Result<()> {
    returns_silently_and_feeds(guest, Rngd::Six)
}

/// The bytes of each `RNDADDENTROPY` in a trace of strace(1) with `-xx`.
fn given(trace: &str) -> Result<Vec<Vec<u8>>> {
    let calls = trace
        .lines()
        .filter(|line| line.contains("RNDADDENTROPY") && line.ends_with("= 0"));
    calls
        .map(|line| {
            let digits = line.split('"').nth(1).context("no bytes in the trace")?;
            let bytes = digits
                .split("\\x")
                .skip(1)
                .map(|digits| u8::from_str_radix(digits, 16));
            Ok(bytes.collect::<Result<Vec<u8>, _>>()?)
        })
        .collect()
}

/// With the device as the only source, the bytes that the kernel is given are the device's, and are credited
/// with 8 bits each.
fn gives_the_device_s_bytes(guest: &mut Guest, rngd: Rngd, part: &str) -> Result<()> {
    guest.start()?;
    rngd.prepare()?;
    let _ending = Ending;
    let daemon = command(rngd, part)?.replace("rngd -r", "rngd -f -r");
    let trace = || fs::read_to_string(STRACE).unwrap_or_default();
    let _ = fs::remove_file(STRACE);
    shell(&format!(
        "strace -f -qq -xx -s 4096 -e trace=ioctl,read -o {STRACE} {daemon} > /tmp/rngd.log 2>&1 &"
    ))?;
    wait_until("rngd to give bytes to the kernel", || {
        given(&trace()).is_ok_and(|given| !given.is_empty())
    })?;

    let trace = trace();
    let taken = guest.stream().take(4 * crate::support::BLOCK);
    for bytes in given(&trace)? {
        ensure!(bytes.len() >= 16, "only {} bytes", bytes.len());
        ensure!(
            taken.windows(bytes.len()).any(|window| window == bytes),
            "the kernel was given bytes that are not the device's"
        );
        let credit = format!(
            "entropy_count={}, buf_size={}",
            8 * bytes.len(),
            bytes.len()
        );
        ensure!(trace.contains(&credit), "not {credit}");
    }
    Ok(())
}

/// So does the one of rng-tools5.
fn rngd_5_gives_the_kernel_the_device_s_bytes(guest: &mut Guest) -> Result<()> {
    gives_the_device_s_bytes(guest, Rngd::Five, "--no-drng")
}

/// So does the one of rng-tools 6.
fn rngd_6_gives_the_kernel_the_device_s_bytes(guest: &mut Guest) -> Result<()> {
    gives_the_device_s_bytes(guest, Rngd::Six, "-x rdrand")
}

/// The test mode of rng-tools 6 tells how much it gets from the device.
fn rngd_6_measures_the_device(guest: &mut Guest) -> Result<()> {
    guest.start()?;
    Rngd::Six.prepare()?;
    let before = guest.wait_until_full()?;
    let measure = command(Rngd::Six, "rngd -t")?;
    // Until it is interrupted, as by Ctrl-C; its own status is of no account.
    let said = attempt(&["sh", "-c", &format!("timeout -s INT 6 {measure}")])?;
    let said = said.stdout + &said.stderr;
    ensure!(said.contains("Entropy gathered: "), "{said}");
    ensure!(said.contains("Entropy rate: "), "{said}");
    let after = guest.emulator.status()?.blocks;
    ensure!(after > before, "nothing was read from the device");
    Ok(())
}

/// The FIPS 140-2 tests of rng-tools5 find what they find in good randomness: 1 in 1250 blocks fails by chance.
fn rngtest_finds_nothing_wrong(guest: &mut Guest) -> Result<()> {
    guest.start()?;
    let line = readme::line(SECTION, "rngtest")?.replace("sudo ", "");
    let said = run(&["sh", "-c", &format!("{line} || true")])?.stderr;
    let number = |what: &str| -> Option<u32> {
        let line = said.lines().find(|line| line.contains(what))?;
        line.rsplit(' ').next()?.parse().ok()
    };
    let good = number("FIPS 140-2 successes: ").with_context(|| said.clone())?;
    let bad = number("FIPS 140-2 failures: ").with_context(|| said.clone())?;
    ensure!(good + bad == 1000 && bad <= 5, "{said}");
    Ok(())
}
