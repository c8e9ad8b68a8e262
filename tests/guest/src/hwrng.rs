// SPDX-License-Identifier: GPL-2.0

//! The source in the kernel's hardware-RNG core: `/dev/hwrng` and `/sys/class/misc/hw_random`.

use crate::{
    health::{
        STARTUP_TEST,
        STOPPED, //
    },
    support::{
        process::{
            attempt,
            run,
            shell, //
        },
        tests,
        wait::wait_for_exit,
        wait_until,
        Background,
        Guest,
        Test,
        PATIENCE, //
    },
};
use alpharng_emu::{
    control::Configure,
    fault::{
        Fault,
        Kind, //
    },
};
use anyhow::{
    bail,
    ensure,
    Result, //
};
use std::{
    collections::HashSet,
    fs,
    process::{
        Child,
        Command,
        Stdio, //
    },
    thread,
    time::Duration, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    listed_while_a_healthy_device_is_there,
    hwrng_gives_the_device_s_bytes,
    quality_follows_the_min_entropy,
    quality_can_be_set_and_0_leaves_the_source_out,
    the_kernel_s_own_thread_reads,
    unplug_while_hwrng_is_read,
    unload_while_hwrng_is_read,
    failure_while_hwrng_is_read,
    frozen_while_hwrng_is_read,
    nonblocking_reads_do_not_wait,
    blocking_reads_wait,
    dev_random_gives_the_bytes_of_the_manual,
];

/// Where the core shows its sources.
const CORE: &str = "/sys/class/misc/hw_random";

/// Whether the source is listed.
pub(crate) fn is_listed() -> bool {
    fs::read_to_string(format!("{CORE}/rng_available"))
        .is_ok_and(|list| list.split_whitespace().any(|name| name == "alrandom"))
}

/// What a file of the core says.
fn core(file: &str) -> Result<String> {
    Ok(fs::read_to_string(format!("{CORE}/{file}"))?.trim().into())
}

/// Starts a program that reads `/dev/hwrng`, and gives it the time to do so.
pub(crate) fn read_hwrng() -> Result<Child> {
    let reader = Command::new("cat")
        .arg("/dev/hwrng")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    thread::sleep(Duration::from_millis(100));
    Ok(reader)
}

/// Waits until the reader has ended, which it does by itself when its source is gone.
pub(crate) fn ended(reader: &mut Child) -> Result<()> {
    let status = wait_for_exit(reader, PATIENCE)?;
    if status.is_none() {
        reader.kill()?;
        bail!("a reader of /dev/hwrng does not end");
    }
    Ok(())
}

/// Listed from the first good block on, until the device goes.
fn listed_while_a_healthy_device_is_there(guest: &mut Guest) -> Result<()> {
    guest.load_with_hwrng(&[])?;
    ensure!(!is_listed(), "listed without a device");
    guest.plug()?;
    wait_until("the source to be listed", is_listed)?;
    ensure!(core("rng_current")? == "alrandom");
    guest.unplug()?;
    wait_until("the source to be gone", || !is_listed())?;
    guest.replug()?;
    wait_until("the source to be listed again", is_listed)?;
    guest.unload()?;
    ensure!(!is_listed(), "listed without the module");
    Ok(())
}

/// `/dev/hwrng` gives bytes of the device's stream, and none of them twice.
fn hwrng_gives_the_device_s_bytes(guest: &mut Guest) -> Result<()> {
    guest.plug()?;
    guest.load_with_hwrng(&[])?;
    wait_until("the source to be listed", is_listed)?;
    let bytes = run(&[
        "dd",
        "if=/dev/hwrng",
        "bs=4096",
        "count=20",
        "iflag=fullblock",
    ])?
    .bytes;
    ensure!(bytes.len() == 20 * 4096);

    // The core hands its buffer out from the end, so the order is its own: words are looked up.
    let mut stream = guest.stream();
    let taken = stream.take(12 * crate::support::BLOCK);
    let known: HashSet<&[u8]> = taken.windows(4).collect();
    let strange = bytes
        .chunks_exact(4)
        .filter(|word| !known.contains(word))
        .count();
    // A word of four bytes can lie across the end of one of the core's reads, of 64 bytes at most.
    ensure!(
        strange <= bytes.len() / 64 + 1,
        "{strange} of {} words are not the device's",
        bytes.len() / 4
    );
    let distinct: HashSet<&[u8]> = bytes.chunks_exact(16).collect();
    ensure!(distinct.len() == bytes.len() / 16, "bytes came twice");
    Ok(())
}

/// Quality is 128 (of 1024) for each bit of assessed min-entropy per byte.
fn quality_follows_the_min_entropy(guest: &mut Guest) -> Result<()> {
    guest.plug()?;
    for (min_entropy, quality) in [(1, "128"), (6, "768"), (8, "1024")] {
        guest.load_with_hwrng(&[&format!("minEntropy={min_entropy}")])?;
        wait_until("the source to be listed", is_listed)?;
        ensure!(core("rng_quality")? == quality, "{}", core("rng_quality")?);
        guest.unload()?;
    }
    Ok(())
}

/// `hwrngQuality` sets it; with 0 the source is not there although bytes are.
fn quality_can_be_set_and_0_leaves_the_source_out(guest: &mut Guest) -> Result<()> {
    guest.plug()?;
    guest.load_with_hwrng(&["hwrngQuality=500"])?;
    wait_until("the source to be listed", is_listed)?;
    ensure!(core("rng_quality")? == "500");
    guest.unload()?;

    guest.load_with_hwrng(&["hwrngQuality=0"])?;
    run(&[
        "dd",
        "if=/dev/alrandom",
        "of=/dev/null",
        "bs=16000",
        "count=20",
    ])?;
    ensure!(!is_listed());
    guest.unload()?;

    let refused = guest.try_to_load(&["hwrngQuality=1025"])?;
    guest.log.announce("hwrngQuality");
    ensure!(!refused.success);
    Ok(())
}

/// The kernel's thread feeds the kernel's pool by itself: bytes go missing from the stream that
/// nobody in user space has read.
fn the_kernel_s_own_thread_reads(guest: &mut Guest) -> Result<()> {
    guest.plug()?;
    guest.load_with_hwrng(&[])?;
    wait_until("the source to be listed", is_listed)?;
    ensure!(
        !shell("pgrep -x hwrng || ps -e | grep -w hwrng || true")?
            .stdout
            .is_empty(),
        "the kernel has no thread for it"
    );
    wait_until("the first bytes of the stream to be gone", || {
        let read = run(&["dd", "if=/dev/alrandom", "bs=64", "count=1"]);
        let mut stream = guest.stream();
        read.is_ok_and(|dd| stream.expect(&dd.bytes).is_err())
    })
}

/// An unplug ends a read of `/dev/hwrng` and is not held up by it; the next device serves it again.
fn unplug_while_hwrng_is_read(guest: &mut Guest) -> Result<()> {
    guest.load_with_hwrng(&[])?;
    guest.plug()?;
    for _ in 0..5 {
        wait_until("the source to be listed", is_listed)?;
        let mut reader = read_hwrng()?;
        guest.unplug()?;
        ended(&mut reader)?;
        wait_until("the source to be gone", || !is_listed())?;
        guest.replug()?;
    }
    Ok(())
}

/// So does unloading the module.
fn unload_while_hwrng_is_read(guest: &mut Guest) -> Result<()> {
    guest.plug()?;
    for _ in 0..5 {
        guest.load_with_hwrng(&[])?;
        wait_until("the source to be listed", is_listed)?;
        let mut reader = read_hwrng()?;
        guest.unload()?;
        ended(&mut reader)?;
    }
    Ok(())
}

/// So does a failed health test. Once the source has passed its start-up test again, it is back.
fn failure_while_hwrng_is_read(guest: &mut Guest) -> Result<()> {
    guest.plug()?;
    guest.load_with_hwrng(&[])?;
    guest.log.announce(STOPPED);
    for _ in 0..3 {
        wait_until("the source to be listed", is_listed)?;
        let mut reader = read_hwrng()?;
        let stuck = Fault::next(Kind::Stuck { value: 7 });
        guest.emulator.fault(stuck)?;
        ended(&mut reader)?;
        wait_until("the source to be gone", || !is_listed())?;
        fs::write(STARTUP_TEST, "1")?;
    }
    wait_until("the source to be listed again", is_listed)
}

/// A freeze of all programs is no end: the reader goes on behind it. The core waits for bytes with a lock,
/// and a kernel with lockdep reports whoever is frozen with one.
fn frozen_while_hwrng_is_read(guest: &mut Guest) -> Result<()> {
    guest.configure(Configure {
        rate: Some(100_000),
        ..Configure::default()
    })?;
    guest.plug()?;
    guest.load_with_hwrng(&[])?;
    wait_until("the source to be listed", is_listed)?;
    let mut reader = read_hwrng()?;
    for _ in 0..10 {
        guest.freeze_programs(Duration::ZERO)?;
        let next = guest.emulator.status()?.next_block + 5;
        wait_until("the reader to read more", || {
            let status = guest.emulator.status();
            status.is_ok_and(|status| status.next_block > next)
        })?;
    }
    ensure!(reader.try_wait()?.is_none(), "the reader has ended");
    reader.kill()?;
    reader.wait()?;
    Ok(())
}

/// A read that must not wait gets what is ready, or `EAGAIN`.
fn nonblocking_reads_do_not_wait(guest: &mut Guest) -> Result<()> {
    guest.plug()?;
    guest.load_with_hwrng(&[])?;
    wait_until("the source to be listed", is_listed)?;
    guest.wait_until_full()?;
    // From now on the device is silent: what is ready can be read, then there is nothing.
    guest.log.announce("no complete answer in time");
    let silence = Fault::next(Kind::Silent).count(0);
    guest.emulator.fault(silence)?;
    let dd = attempt(&[
        "dd",
        "if=/dev/hwrng",
        "of=/dev/null",
        "bs=64",
        "count=100000",
        "iflag=nonblock",
    ])?;
    ensure!(!dd.success, "100000 reads of a silent device");
    ensure!(
        dd.stderr.contains("Resource temporarily unavailable"),
        "{}",
        dd.stderr
    );
    Ok(())
}

/// A read that may wait does so while the device is silent, and gets all it asked for in the end.
fn blocking_reads_wait(guest: &mut Guest) -> Result<()> {
    guest.plug()?;
    guest.load_with_hwrng(&[])?;
    wait_until("the source to be listed", is_listed)?;
    let first = guest.fall_silent()?;
    let reader = Background::start(|| {
        run(&[
            "dd",
            "if=/dev/hwrng",
            "bs=100000",
            "count=1",
            "iflag=fullblock",
        ])
    })?;
    ensure!(
        reader.goes_on_for(Duration::from_secs(2)),
        "it has read more than there was"
    );
    guest.answer_again(first)?;
    ensure!(reader.join()??.bytes.len() == 100_000);
    Ok(())
}

/// The manual's `dd` from `/dev/random`, which the kernel feeds from the device with no other help.
fn dev_random_gives_the_bytes_of_the_manual(guest: &mut Guest) -> Result<()> {
    guest.plug()?;
    guest.load_with_hwrng(&[])?;
    wait_until("the source to be listed", is_listed)?;
    let dd = shell("cd /tmp && dd if=/dev/random of=download.bin bs=1 count=100000")?;
    let bytes = fs::read("/tmp/download.bin")?;
    fs::remove_file("/tmp/download.bin")?;
    ensure!(dd.stderr.contains("100000+0 records in\n"), "{}", dd.stderr);
    ensure!(bytes.len() == 100_000);
    let distinct: HashSet<&[u8]> = bytes.chunks_exact(16).collect();
    ensure!(distinct.len() == bytes.len() / 16, "bytes came twice");
    Ok(())
}
