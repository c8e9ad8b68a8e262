// SPDX-License-Identifier: GPL-2.0

//! Everything at once, again and again: devices that come and go at any moment, modules that are loaded
//! and unloaded, drivers that are bound and unbound, under readers of all kinds that are interrupted,
//! stopped and killed. The moments are random; the seed that they follow from is printed.
//!
//! On a kernel that is made to look for bugs there are more rounds than on others, and as many as are asked
//! for on any.

use crate::support::{
    crowd::{
        expect_many_once,
        pause,
        Readers,
        Shared,
        Victim,
        HALF_PLUGGED, //
    },
    sys::catch,
    tests,
    wait_until,
    Guest,
    Node,
    Test,
    UsbDevice,
    BLOCK, //
};
use alpharng_emu::{
    control::Configure,
    fault::At, //
};
use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use fastrand::Rng;
use rustix::{
    process::Signal,
    system::delete_module, //
};
use std::{
    ffi::CStr,
    fs,
    thread,
    time::Duration, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    plugged_and_unplugged_under_everything,
    loaded_and_unloaded_under_openers,
    bound_and_unbound_under_readers,
    authorized_and_configured_under_readers,
    bytes_delivered_twice_are_seen,
];

/// The module's name.
const MODULE: &CStr = c"alrandom";

/// A build of the module that delivers bytes twice, which the test machine puts next to the good one.
const BROKEN: &str = "alrandom-broken-delivery.ko";

/// Bytes per second of the device: every block that it sends is made again at the end.
const RATE: u64 = 1_000_000;

/// The random moments of a test; the seed is printed.
fn moments() -> Rng {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    Rng::with_seed(seed)
}

/// Plugged in and pulled out at any moment: while the kernel still asks what it is, in the start-up block,
/// in the middle of an answer, and when it idles; under readers of all sizes, of `/dev/hwrng` and of
/// `/proc`, who are interrupted, stopped and killed. No reader hangs or sees a wrong error, and no byte is
/// delivered twice or made up.
fn plugged_and_unplugged_under_everything(guest: &mut Guest) -> Result<()> {
    let rounds = guest.rounds(40, 100);
    let mut rng = moments();
    for line in HALF_PLUGGED {
        guest.log.announce(line);
    }
    catch(Signal::USR1, false)?;
    guest.configure(Configure {
        rate: Some(RATE),
        ..Configure::default()
    })?;
    guest.load_with_hwrng(&[])?;
    let readers = Readers::of_the_node()?.and_others()?;
    for round in 0..rounds {
        let what = || format!("round {round} of {rounds}");
        guest.emulator.plug().with_context(what)?;
        let victim = Victim::start()?;
        match rng.u32(..4) {
            // Not known yet, or just so.
            0 => pause(&mut rng, 150),
            // In an answer, the first or a later one.
            1 => {
                let next = guest.emulator.status()?.next_block;
                let block = At::Block(next + rng.u64(..6));
                guest.emulator.unplug_at(block, rng.usize(..BLOCK))?;
                wait_until("the device to be pulled out", || {
                    guest.emulator.status().is_ok_and(|status| !status.plugged)
                })
                .with_context(what)?;
            }
            // At work.
            _ => {
                let bytes = readers.shared.bytes();
                wait_until("readers to get bytes", || {
                    readers.shared.bytes() > bytes + BLOCK as u64
                })
                .with_context(what)?;
                for _ in 0..rng.usize(..4) {
                    readers.interrupt(&mut rng)?;
                    victim.signal(
                        rng.choice([Signal::STOP, Signal::CONT])
                            .unwrap_or(Signal::CONT),
                    );
                    pause(&mut rng, 20);
                }
            }
        }
        if guest.emulator.status()?.plugged {
            guest.emulator.unplug().with_context(what)?;
        }
        guest.wait_until_gone().with_context(what)?;
        victim.end().with_context(what)?;
    }
    let shared = readers.end(guest)?;
    expect_many_once(guest, &shared)?;
    // It works as ever.
    guest.replug()?;
    Node::open()?.read_all(10 * BLOCK)?;
    Ok(())
}

/// Loaded and unloaded at any moment, while programs open the node, read and close it, and look at the
/// files in `/proc`: unloading is refused or ends everything first.
fn loaded_and_unloaded_under_openers(guest: &mut Guest) -> Result<()> {
    let rounds = guest.rounds(15, 40);
    let mut rng = moments();
    let device = guest.plug()?;
    let mut openers = Readers::none();
    for size in [8, 16_000] {
        openers.start(move |shared| {
            // There without the module, it is not.
            let result = Node::open().map(|node| shared.note(node.read(size)));
            thread::sleep(Duration::from_millis(10));
            result.unwrap_or(Ok(()))
        })?;
    }
    openers.start(|_| {
        for path in ["/proc/alrandom/info", "/proc/alrandom/health"] {
            // Nor are they.
            let _ = fs::read_to_string(path);
        }
        // Not without end: one of two emulated processors would do nothing else.
        thread::sleep(Duration::from_millis(1));
        Ok(())
    })?;
    let mut refused = 0;
    for round in 0..rounds {
        guest
            .load_with_hwrng(&[])
            .with_context(|| format!("round {round}"))?;
        pause(&mut rng, 60);
        wait_until("the module to be unloaded", || {
            // Not by rmmod: until that has started, an opener has the node again.
            let unloaded = delete_module(MODULE, libc::O_NONBLOCK).is_ok();
            refused += u32::from(!unloaded);
            unloaded
        })
        .with_context(|| format!("round {round}"))?;
        ensure!(device.is_with_cdc_acm(), "round {round}");
    }
    println!("{rounds} times, refused {refused} times");
    openers.leave()?;
    let sent = guest.emulator.status()?.next_block;
    ensure!(sent > 0);
    Ok(())
}

/// Has `take` take the device away (`true`) and give it back (`false`) at any moment, under readers: they
/// get errors in between and go on, and no byte is delivered twice. `take` is told the round, too.
fn taken_away_under_readers(
    guest: &mut Guest,
    take: impl Fn(&UsbDevice, u32, bool) -> Result<()>,
) -> Result<()> {
    let rounds = guest.rounds(40, 100);
    let mut rng = moments();
    catch(Signal::USR1, false)?;
    guest.configure(Configure {
        rate: Some(RATE),
        ..Configure::default()
    })?;
    let device = guest.plug()?;
    guest.load_with_hwrng(&[])?;
    let readers = Readers::of_the_node()?.and_others()?;
    for round in 0..rounds {
        let what = || format!("round {round}");
        pause(&mut rng, 60);
        if rng.bool() {
            readers.interrupt(&mut rng)?;
        }
        take(&device, round, true).with_context(what)?;
        pause(&mut rng, 10);
        take(&device, round, false).with_context(what)?;
        // Or when it is about to be so.
        if rng.bool() {
            wait_until("the device to be in use", || device.is_in_use()).with_context(what)?;
        }
    }
    let bytes = readers.shared.bytes();
    wait_until("readers to get bytes", || {
        readers.shared.bytes() > bytes + BLOCK as u64
    })?;
    let shared = readers.end(guest)?;
    if shared.bytes() == 0 {
        bail!("nothing was read");
    }
    expect_many_once(guest, &shared)
}

/// Bound and unbound by root in sysfs.
fn bound_and_unbound_under_readers(guest: &mut Guest) -> Result<()> {
    taken_away_under_readers(guest, |device, _, away| {
        let file = if away { "unbind" } else { "bind" };
        let path = format!("/sys/bus/usb/drivers/alrandom/{file}");
        fs::write(&path, device.data_interface()?).context(path)
    })
}

/// Authorized and not, configured and not, in turn: its interfaces go and come, and the stock serial driver
/// gets them first.
fn authorized_and_configured_under_readers(guest: &mut Guest) -> Result<()> {
    taken_away_under_readers(guest, |device, round, away| {
        let attribute = ["authorized", "bConfigurationValue"][(round % 2) as usize];
        device.set_attribute(attribute, if away { "0" } else { "1" })
    })
}

/// The storms' check of what was delivered does see bytes that come twice: with a build of the module whose
/// readers leave the second half of what they have taken to the next.
fn bytes_delivered_twice_are_seen(guest: &mut Guest) -> Result<()> {
    guest.module.set_file_name(BROKEN);
    let node = guest.start()?;
    let shared = Shared::default();
    for _ in 0..20 {
        shared.note(node.read(4096))?;
    }
    let found = expect_many_once(guest, &shared);
    let found = found.err().context("nothing was seen")?.to_string();
    ensure!(found.ends_with("was delivered 2 times"), "{found}");
    Ok(())
}
