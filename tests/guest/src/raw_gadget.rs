// SPDX-License-Identifier: GPL-2.0

//! Devices that mean harm, without the controller of a virtual machine in between: what it would refuse
//! or repair comes to the kernel as it is. For a kernel with `CONFIG_USB_RAW_GADGET` and
//! `CONFIG_USB_DUMMY_HCD`.

use crate::support::{
    guest::{
        GIVEN_UP,
        GIVING_UP, //
    },
    raw_gadget::{
        Behaviour,
        Description,
        Gadget,
        ENDPOINTS, //
    },
    run,
    tests,
    wait_until,
    Guest,
    Node,
    Stream,
    Test,
    BLOCK, //
};
use alpharng_emu::descriptors::{
    Identity,
    Interfaces,
    Raw,
    Speed, //
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use rustix::io::Errno;
use std::{
    thread,
    time::{
        Duration,
        Instant, //
    }, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    a_whole_device_works,
    odd_packet_sizes,
    a_foreign_class,
    descriptors_that_the_core_refuses,
    endless_data,
    gone_at_each_step_of_the_enumeration,
    gone_in_the_middle,
    mutations,
];

/// A healthy device with blocks of `seed`.
fn healthy(seed: u64) -> Result<Description> {
    let [notify, bulk_in, bulk_out] = ENDPOINTS;
    let identity = Identity {
        vendor_id: 0x3975,
        product_id: 0x0005,
        serial: "RAW".to_owned(),
        speed: Speed::High,
        interfaces: Interfaces {
            notify,
            bulk_in,
            bulk_out,
            ..Interfaces::default()
        },
        raw: Raw::default(),
    };
    let descriptor = |value| identity.descriptor(value).context("no descriptor");
    Ok(Description {
        device: descriptor(0x0100)?,
        configuration: descriptor(0x0200)?,
        serial: identity.serial.clone(),
        behaviour: Behaviour::Answer(seed),
        gone_at: None,
    })
}

/// Loads the module and what plays the devices, and announces what the kernel says of them. Also of a healthy
/// one transfers fail at its end, until the kernel has noticed that it is gone.
fn start(guest: &mut Guest) -> Result<Node> {
    run(&["modprobe", "dummy_hcd"])?;
    run(&["modprobe", "raw_gadget"])?;
    for line in [
        "usb ",
        "hub ",
        "cdc_acm ",
        "dummy_udc",
        "gadget.0",
        "raw_gadget",
        "not an AlphaRNG: ",
        "trying again",
        "given up until somebody reads again",
        GIVEN_UP,
    ] {
        guest.log.announce(line);
    }
    guest.load(&[])?;
    Node::open()
}

/// Plugs a healthy device in, checks that it works at once, and pulls it out.
fn expect_healthy(guest: &Guest, node: &Node) -> Result<()> {
    let gadget = Gadget::plug(&healthy(guest.seed)?)?;
    let mut bytes = Vec::new();
    wait_until("the healthy device to be used", || {
        node.read(BLOCK).is_ok_and(|read| {
            bytes = read;
            true
        })
    })?;
    Stream::of(guest.seed).expect(&bytes)?;
    drop(gadget);
    expect_gone(node)
}

/// Waits until nothing is used any more.
fn expect_gone(node: &Node) -> Result<()> {
    wait_until("the device to be gone", || {
        node.read(1) == Err(Errno::NODEV)
    })
}

/// Plugs a device in until the kernel is done with it, and reads what it gives, if it is used. Whether it was.
fn survive(node: &Node, description: &Description) -> Result<bool> {
    const LEVEL: Duration = Duration::from_millis(800);
    const READING: Duration = Duration::from_secs(3);

    let reader = Node::open_nonblocking()?;
    let gadget = Gadget::plug(description)?;
    let mut last = (0, Instant::now());
    wait_until("the kernel to be done with the device", || {
        let requests = gadget.requests();
        if requests != last.0 {
            last = (requests, Instant::now());
        }
        last.0 > 0 && last.1.elapsed() > LEVEL
    })?;
    let used = !crate::hostile::bound().is_empty();
    let start = Instant::now();
    while used && start.elapsed() < READING && reader.read(BLOCK).is_err() {
        thread::sleep(Duration::from_millis(20));
    }
    drop(gadget);
    expect_gone(node)?;
    Ok(used)
}

/// The baseline: all of a healthy device, byte for byte.
fn a_whole_device_works(guest: &mut Guest) -> Result<()> {
    let node = start(guest)?;
    let _gadget = Gadget::plug(&healthy(guest.seed)?)?;
    let mut stream = Stream::of(guest.seed);
    let mut bytes = Vec::new();
    wait_until("the device to be used", || {
        node.read(1).is_ok_and(|read| {
            bytes = read;
            true
        })
    })?;
    bytes.extend(node.read_all(8 * BLOCK)?);
    stream.expect(&bytes)
}

/// Sizes of packets that no bulk endpoint has.
fn odd_packet_sizes(guest: &mut Guest) -> Result<()> {
    let node = start(guest)?;
    for size in [
        0u16, 1, 7, 8, 63, 64, 511, 513, 1023, 1024, 2047, 2048, 0x1fff, 0xffff,
    ] {
        let mut odd = healthy(guest.seed)?;
        for endpoint in [53, 60] {
            odd.configuration[endpoint + 4..][..2].copy_from_slice(&size.to_le_bytes());
        }
        let used = survive(&node, &odd);
        let used = used.with_context(|| format!("packets of {size} bytes"))?;
        println!(
            "packets of {size} bytes: {}",
            if used { "used" } else { "not used" }
        );
        ensure!(size != 0 || !used);
    }
    expect_healthy(guest, &node)
}

/// The ids of the device, and a class that is another's.
fn a_foreign_class(guest: &mut Guest) -> Result<()> {
    let node = start(guest)?;
    for class in [0, 3, 7, 8, 9, 0x0e, 0xe0, 0xfe, 0xff] {
        let mut foreign = healthy(guest.seed)?;
        foreign.configuration[44 + 5] = class;
        let used = survive(&node, &foreign);
        ensure!(
            !used.with_context(|| format!("class {class}"))?,
            "class {class} is used"
        );
    }
    expect_healthy(guest, &node)
}

/// Descriptors with which the kernel cannot even begin.
fn descriptors_that_the_core_refuses(guest: &mut Guest) -> Result<()> {
    let node = start(guest)?;
    for (name, change) in crate::hostile::UNUSABLE {
        let mut bad = healthy(guest.seed)?;
        change(&mut bad.device, &mut bad.configuration);
        // Some of them are repaired.
        survive(&node, &bad).context(*name)?;
    }
    expect_healthy(guest, &node)
}

/// Data without a command and without an end: given up.
fn endless_data(guest: &mut Guest) -> Result<()> {
    let node = start(guest)?;
    let mut endless = healthy(guest.seed)?;
    endless.behaviour = Behaviour::Endless;
    let gadget = Gadget::plug(&endless)?;
    let start = Instant::now();
    guest.log.wait_for(GIVEN_UP)?;
    ensure!(start.elapsed() < GIVING_UP);
    drop(gadget);
    expect_gone(&node)?;
    expect_healthy(guest, &node)
}

/// Pulled out in each control request until it is in use.
fn gone_at_each_step_of_the_enumeration(guest: &mut Guest) -> Result<()> {
    let node = start(guest)?;
    let reader = Node::open_nonblocking()?;
    let mut steps = 0;
    loop {
        let mut short_lived = healthy(guest.seed)?;
        short_lived.gone_at = Some(steps);
        let mut gadget = Gadget::plug(&short_lived)?;
        let mut used = false;
        wait_until("the device to go, or to be used", || {
            used = reader.read(1).is_ok();
            used || gadget.is_gone()
        })?;
        drop(gadget);
        expect_gone(&node).with_context(|| format!("gone in request {steps}"))?;
        if used {
            break;
        }
        steps += 1;
        ensure!(steps < 100, "it never gets through");
    }
    // Descriptors of device and configuration, each in two steps, and SET_CONFIGURATION at least.
    ensure!(steps >= 5, "only {steps} requests");
    println!("gone in each of {steps} requests");
    expect_healthy(guest, &node)
}

/// Pulled out at any moment: in the middle of the enumeration, of binding, of answers.
fn gone_in_the_middle(guest: &mut Guest) -> Result<()> {
    let node = start(guest)?;
    let reader = Node::open_nonblocking()?;
    let cycles = guest.rounds(20, 60);
    let seed = fastrand::u64(..);
    println!("seed {seed}, {cycles} cycles");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut used = 0;
    for cycle in 0..cycles {
        let moment = Duration::from_millis(random.u64(0..4_000));
        let gadget = Gadget::plug(&healthy(guest.seed)?)?;
        let start = Instant::now();
        while start.elapsed() < moment {
            used += u32::from(reader.read(BLOCK).is_ok_and(|bytes| !bytes.is_empty()));
            thread::sleep(Duration::from_millis(10));
        }
        drop(gadget);
        expect_gone(&node).with_context(|| format!("cycle {cycle}, after {moment:?}"))?;
    }
    println!("{used} reads in between");
    ensure!(used > 0, "no moment was late enough");
    expect_healthy(guest, &node)
}

/// Descriptors with random changes, one after the other; a healthy device now and then.
fn mutations(guest: &mut Guest) -> Result<()> {
    let node = start(guest)?;
    let cases = guest.rounds(20, 120);
    let seed = fastrand::u64(..);
    println!("seed {seed}, {cases} cases");
    let mut used = 0;
    for case in 0..cases {
        let mut random = fastrand::Rng::with_seed(seed.wrapping_add(case.into()));
        let mut bad = healthy(guest.seed)?;
        crate::hostile::mutate(&mut random, &mut bad.device, &mut bad.configuration);
        let was_used = survive(&node, &bad);
        used += u32::from(was_used.with_context(|| {
            format!(
                "case {case} of seed {seed}: {:02x?} {:02x?}",
                bad.device, bad.configuration
            )
        })?);
        if case % 20 == 0 {
            expect_healthy(guest, &node).with_context(|| format!("behind case {case}"))?;
        }
    }
    println!("{used} of {cases} were used");
    expect_healthy(guest, &node)
}
