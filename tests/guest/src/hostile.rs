// SPDX-License-Identifier: GPL-2.0

//! Devices that mean harm, as far as they can be had over usbredir: their descriptors are malformed, their
//! answers endless, their control requests never end, they go away in the middle of anything. The module
//! declines them or works with them; a healthy device beside them or behind them works at once.

use crate::support::{
    guest::{
        serial,
        GIVEN_UP,
        GIVING_UP, //
    },
    info::{
        read_text,
        NO_DEVICE, //
    },
    leaks::Leaks,
    stream::blocks_of,
    tests,
    wait::wait_until_within,
    wait_until,
    Guest,
    Info,
    Node,
    Stream,
    Test,
    UsbDevice,
    BLOCK, //
};
use alpharng_emu::{
    control::Configure,
    descriptors::{
        Bytes,
        Identity,
        Interfaces,
        Raw,
        Speed, //
    },
    fault::{
        ControlAnswer,
        ControlFault,
        ControlRequest,
        Fault,
        Kind, //
    },
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use rustix::io::Errno;
use std::{
    collections::BTreeMap,
    fs,
    thread,
    time::{
        Duration,
        Instant, //
    }, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![
    descriptors_that_are_declined,
    descriptors_that_will_do,
    descriptors_with_any_outcome,
    texts_that_are_none,
    gone_in_a_control_request,
    control_requests_that_fail,
    control_requests_that_never_end,
    an_answer_before_its_command_is_taken,
    answers_without_a_command,
    endless_answers,
    a_byte_now_and_then,
    mutations,
];

/// The kernel's own lines about devices that are not as they should be: of the USB core, and of drivers
/// that are offered them.
const KERNEL_SAYS: [&str; 10] = [
    "usb 1-",
    "usb 2-",
    "usb 3-",
    "usb usb",
    "cdc_acm ",
    "usbhid ",
    "usb-storage ",
    "hub ",
    "SCSI subsystem",
    "xhci_hcd ",
];

/// Offsets in the configuration descriptor of [`healthy`] (tests/emulator/src/descriptors.rs).
mod at {
    /// Of the configuration's own descriptor: `wTotalLength`, `bNumInterfaces`, `bConfigurationValue`.
    pub(super) const TOTAL: usize = 2;
    pub(super) const INTERFACES: usize = 4;
    pub(super) const VALUE: usize = 5;
    /// Of the communications interface's: the whole, the functional descriptors, their union, and the
    /// endpoint.
    pub(super) const COMMUNICATIONS: usize = 9;
    pub(super) const HEADER: usize = 18;
    pub(super) const UNION: usize = 32;
    pub(super) const NOTIFY: usize = 37;
    /// The data interface's, and its endpoints'.
    pub(super) const DATA: usize = 44;
    pub(super) const IN: usize = 53;
    pub(super) const OUT: usize = 60;
    pub(super) const END: usize = 67;
}

/// Offsets in a descriptor.
mod field {
    /// Of an interface: `bAlternateSetting`, `bNumEndpoints`, `bInterfaceClass`.
    pub(super) const ALTERNATE: usize = 3;
    pub(super) const ENDPOINTS: usize = 4;
    pub(super) const CLASS: usize = 5;
    /// Of an endpoint: `bEndpointAddress`, `bmAttributes`, `wMaxPacketSize`.
    pub(super) const ADDRESS: usize = 2;
    pub(super) const ATTRIBUTES: usize = 3;
    pub(super) const PACKET: usize = 4;
}

/// The device and configuration descriptors of a healthy device.
fn healthy() -> Result<(Vec<u8>, Vec<u8>)> {
    let identity = Identity {
        vendor_id: 0x1fc9,
        product_id: 0x8111,
        serial: serial(0),
        speed: Speed::High,
        interfaces: Interfaces::default(),
        raw: Raw::default(),
    };
    let descriptor = |value| identity.descriptor(value).context("no descriptor");
    let (device, configuration) = (descriptor(0x0100)?, descriptor(0x0200)?);
    ensure!((device.len(), configuration.len()) == (18, at::END));
    ensure!(configuration[at::DATA + 1] == 4 && configuration[at::UNION + 2] == 6);
    Ok((device, configuration))
}

/// Sets `wTotalLength` to what there is.
fn total(configuration: &mut [u8]) {
    let [low, high] = u16::try_from(configuration.len())
        .unwrap_or(u16::MAX)
        .to_le_bytes();
    configuration[at::TOTAL] = low;
    configuration[at::TOTAL + 1] = high;
}

/// Replaces the bytes from `start` to `end` and corrects the length.
fn replace(configuration: &mut Vec<u8>, start: usize, end: usize, bytes: &[u8]) {
    configuration.splice(start..end, bytes.iter().copied());
    total(configuration);
}

/// What is wrong with a device: a name, and how to change its device and configuration descriptors.
pub(crate) type Malformed = (&'static str, fn(&mut Vec<u8>, &mut Vec<u8>));

/// The same, and whether the module is asked: whether there is a data interface of such a device.
type Declined = (&'static str, bool, fn(&mut Vec<u8>, &mut Vec<u8>));

/// The module's line about a data interface that it declines, but for the reason.
const NOT_OURS: &str = "not an AlphaRNG: ";

/// Those that cannot be used, since something is missing that it takes.
const DECLINED: &[Declined] = &[
    ("no endpoints", true, |_, c| {
        c[at::DATA + field::ENDPOINTS] = 0;
        replace(c, at::IN, at::END, &[]);
    }),
    ("no bulk OUT", true, |_, c| {
        c[at::OUT + field::ADDRESS] = 0x83
    }),
    ("no bulk IN", true, |_, c| c[at::IN + field::ADDRESS] = 0x02),
    ("two endpoints with one address", true, |_, c| {
        c[at::OUT + field::ADDRESS] = 0x82;
    }),
    ("interrupt endpoints", true, |_, c| {
        for endpoint in [at::IN, at::OUT] {
            c[endpoint + field::ATTRIBUTES] = 3;
            c[endpoint + 6] = 9;
        }
    }),
    ("isochronous endpoints", true, |_, c| {
        for endpoint in [at::IN, at::OUT] {
            c[endpoint + field::ATTRIBUTES] = 1;
            c[endpoint + 6] = 4;
        }
    }),
    ("packets of no bytes", true, |_, c| {
        c[at::IN + field::PACKET..][..2].fill(0);
    }),
    ("endpoints with number 0", true, |_, c| {
        c[at::IN + field::ADDRESS] = 0x80;
        c[at::OUT + field::ADDRESS] = 0;
    }),
    ("one interface for both roles", false, |_, c| {
        c[at::INTERFACES] = 1;
        c[at::COMMUNICATIONS + field::ENDPOINTS] = 3;
        c[at::UNION + 4] = 0;
        replace(c, at::DATA, at::IN, &[]);
    }),
    ("data interface of a vendor's class", false, |_, c| {
        c[at::DATA + field::CLASS] = 0xff;
    }),
    ("endpoints in another setting only", true, |_, c| {
        let mut setting = c[at::DATA..at::IN].to_vec();
        setting[field::ENDPOINTS] = 0;
        c[at::DATA + field::ALTERNATE] = 1;
        replace(c, at::DATA, at::DATA, &setting);
    }),
    ("human interface device", false, |_, c| {
        c[at::COMMUNICATIONS + field::CLASS] = 3;
        c[at::DATA + field::CLASS] = 3;
    }),
    ("mass storage", false, |_, c| {
        c[at::COMMUNICATIONS + field::CLASS] = 0xff;
        c[at::DATA + field::CLASS..][..3].copy_from_slice(&[8, 6, 0x50]);
    }),
    ("configuration cut short", false, |_, c| {
        c.truncate(at::DATA + 3)
    }),
    ("total length of the header alone", false, |_, c| {
        c[at::TOTAL] = 9;
    }),
    ("data interface's descriptor cut short", false, |_, c| {
        c[at::DATA] = 3;
    }),
    ("endpoints' descriptors of no length", true, |_, c| {
        c[at::IN] = 0;
    }),
    ("functional descriptors of no length", false, |_, c| {
        c[at::HEADER] = 0;
    }),
    ("packets of 1024 bytes", true, |_, c| {
        c[at::IN + field::PACKET + 1] = 4;
        c[at::OUT + field::PACKET + 1] = 4;
    }),
    ("other ids", false, |d, _| d[8] ^= 1),
];

/// Those with which nothing is wrong that matters.
const WORKS: &[Malformed] = &[
    // As much as the controller of the test machine has room for.
    ("total length that is a lie", |_, c| c[at::TOTAL + 1] = 0x0f),
    ("255 interfaces", |_, c| c[at::INTERFACES] = 255),
    ("no interfaces, but two", |_, c| c[at::INTERFACES] = 0),
    ("no union", |_, c| replace(c, at::UNION, at::NOTIFY, &[])),
    ("union that names itself", |_, c| c[at::UNION + 4] = 0),
    ("union that names nobody", |_, c| c[at::UNION + 4] = 99),
    ("several unions", |_, c| {
        replace(
            c,
            at::NOTIFY,
            at::NOTIFY,
            &[5, 0x24, 6, 1, 0, 5, 0x24, 6, 7, 9],
        );
    }),
    ("union cut short", |_, c| {
        replace(c, at::UNION, at::NOTIFY, &[4, 0x24, 6, 0]);
    }),
    ("one functional descriptor over all", |_, c| {
        c[at::HEADER] = 19;
    }),
    ("another setting", |_, c| {
        let mut setting = c[at::DATA..].to_vec();
        setting[field::ALTERNATE] = 1;
        replace(c, at::END, at::END, &setting);
    }),
    ("3800 bytes of other descriptors", |_, c| {
        // Of an endpoint, and with the subtype of a union.
        let other = [vec![200, 0x25], vec![6; 198]].concat();
        replace(c, at::UNION, at::UNION, &other.repeat(19));
    }),
    ("bytes behind the end", |_, c| {
        replace(c, at::END, at::END, &[0, 1, 255, 4, 2]);
    }),
    ("device of no class", |d, _| d[4] = 0),
    ("device of a class that is none", |d, _| d[4..7].fill(0xee)),
    ("no notifications", |_, c| {
        c[at::COMMUNICATIONS + field::ENDPOINTS] = 0;
        replace(c, at::NOTIFY, at::DATA, &[]);
    }),
];

/// Those of which this or that may become: what the kernel and the controller make of them decides.
const ANY: &[Malformed] = &[
    ("packets of 1 byte", |_, c| {
        c[at::IN + field::PACKET..][..2].copy_from_slice(&[1, 0]);
    }),
    ("packets of 64 bytes", |_, c| {
        c[at::IN + field::PACKET..][..2].copy_from_slice(&[64, 0]);
    }),
    ("packets of 511 bytes", |_, c| {
        c[at::IN + field::PACKET..][..2].copy_from_slice(&[0xff, 1]);
    }),
    ("packets of 65535 bytes", |_, c| {
        c[at::IN + field::PACKET..][..2].fill(0xff);
    }),
    ("configuration with value 0", |_, c| c[at::VALUE] = 0),
    ("both interfaces with one number", |_, c| {
        c[at::DATA + 2] = 0
    }),
    ("interface with number 255", |_, c| c[at::DATA + 2] = 255),
    ("endpoints' descriptors that end behind the end", |_, c| {
        c[at::OUT] = 255;
    }),
    ("30 endpoints", |_, c| {
        c[at::DATA + field::ENDPOINTS] = 30;
        let more: Vec<u8> = (1..=28)
            .flat_map(|k| {
                [
                    7,
                    5,
                    if k < 14 { k + 2 } else { 0x80 | (k - 12) },
                    2,
                    0,
                    2,
                    0,
                ]
            })
            .collect();
        replace(c, at::END, at::END, &more);
    }),
    ("version 0.0 of the standard", |d, _| d[2..4].fill(0)),
    ("version ff.ff of the standard", |d, _| d[2..4].fill(0xff)),
];

/// Those that the USB core does not even let in. They are not for the controller of a virtual machine: the
/// driver of xHCI controllers waits for ever, now and then, for a command that enables a slot, when a port
/// has had so many attempts that failed (`xhci_alloc_dev()`).
pub(crate) const UNUSABLE: &[Malformed] = &[
    ("no configuration", |d, _| d[17] = 0),
    ("total length of 65535 bytes", |_, c| {
        c[at::TOTAL..][..2].fill(0xff);
    }),
    ("endpoint 0 with packets of 255 bytes", |d, _| d[7] = 255),
    ("endpoint 0 with packets of no bytes", |d, _| d[7] = 0),
    ("device descriptor cut short", |d, _| d.truncate(11)),
    ("device descriptor of no length", |d, _| d[0] = 0),
    ("device descriptor of another type", |d, _| d[1] = 2),
    ("no device descriptor", |d, _| d.clear()),
    ("no configuration descriptor", |_, c| c.clear()),
    ("configuration descriptor of one byte", |_, c| c.truncate(1)),
    ("configuration of another type", |_, c| c[1] = 7),
    ("255 configurations", |d, _| d[17] = 255),
];

/// The interfaces that are bound to the module.
pub(crate) fn bound() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/bus/usb/drivers/alrandom") else {
        return Vec::new();
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.contains(':'))
        .collect()
}

/// How many devices the kernel knows, without hubs that are part of a controller.
fn plugged() -> usize {
    let Ok(entries) = fs::read_dir("/sys/bus/usb/devices") else {
        return 0;
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    names
        .filter(|name| {
            let name = name.to_string_lossy();
            !name.starts_with("usb") && !name.contains(':')
        })
        .count()
}

/// Loads the module, and announces what the kernel says.
fn start(guest: &mut Guest) -> Result<Node> {
    for line in KERNEL_SAYS {
        guest.log.announce(line);
    }
    guest.load(&[])?;
    Node::open()
}

/// Makes device 0, which is not plugged in, one with these descriptors.
fn malform(guest: &mut Guest, device: Vec<u8>, configuration: Vec<u8>) -> Result<()> {
    guest.configure(Configure {
        descriptors: Some(Raw {
            device: Some(Bytes(device)),
            configuration: Some(Bytes(configuration)),
            strings: BTreeMap::new(),
        }),
        ..Configure::default()
    })
}

/// Makes device 0 a healthy one again.
fn heal(guest: &mut Guest) -> Result<()> {
    guest.emulator.clear_faults()?;
    guest.configure(Configure {
        descriptors: Some(Raw::default()),
        ..Configure::default()
    })
}

/// Pulls both devices out, and waits until the kernel has noticed.
fn clear(guest: &mut Guest) -> Result<()> {
    guest.emulator.unplug()?;
    guest.device(1, |device| device.unplug())?;
    wait_until("the devices to be gone", || {
        plugged() == 0 && bound().is_empty()
    })
}

/// Whether to see to a healthy device behind case `k`: behind each where there is time.
fn is_checkpoint(k: usize) -> bool {
    Leaks::can_be_found() || k % 4 == 3
}

/// Plugs a healthy device in, the second, and checks that it works at once.
fn expect_healthy(guest: &mut Guest, node: &Node) -> Result<()> {
    guest.plug_for_nobody(1)?;
    // It is set to its first block at each plug.
    Stream::of(guest.seed + 1).expect(&read_when_used(node)?)
}

/// Reads a block as soon as there is a device that is used. That a driver is bound is shown before it has
/// begun.
fn read_when_used(node: &Node) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    wait_until("a device to be used", || {
        node.read(BLOCK).is_ok_and(|read| {
            bytes = read;
            true
        })
    })?;
    ensure!(bytes.len() == BLOCK);
    Ok(bytes)
}

/// Plugs device 0 in, and waits until nothing is asked of it any more: the kernel is done with it.
fn plug_and_settle(guest: &mut Guest) -> Result<()> {
    const LEVEL: Duration = Duration::from_millis(300);
    let before = guest.emulator.status()?.control_requests;
    guest.emulator.plug()?;
    let mut last = (before, Instant::now());
    wait_until("the kernel to be done with the device", || {
        thread::sleep(LEVEL / 8);
        let asked = guest
            .emulator
            .status()
            .map(|status| status.control_requests);
        if asked.as_ref().ok() != Some(&last.0) {
            last = (asked.unwrap_or(before), Instant::now());
        }
        last.0 > before && last.1.elapsed() > LEVEL
    })
}

/// They are declined, with a line in the log where the module was asked at all; a healthy device beside
/// them is used.
fn descriptors_that_are_declined(guest: &mut Guest) -> Result<()> {
    let node = start(guest)?;
    guest.log.announce(NOT_OURS);
    for (k, (name, asked, change)) in DECLINED.iter().enumerate() {
        let (mut device, mut configuration) = healthy()?;
        change(&mut device, &mut configuration);
        let declined = || -> Result<()> {
            let told = guest.log.count(NOT_OURS);
            malform(guest, device, configuration)?;
            plug_and_settle(guest)?;
            ensure!(bound().is_empty(), "{:?} are bound", bound());
            if is_checkpoint(k) {
                expect_healthy(guest, &node)?;
                let healthy = UsbDevice::find(&serial(1)).context("no healthy device")?;
                let own = healthy.data_interface()?;
                let own = own.split(':').next().unwrap_or_default().to_owned();
                let others = bound().into_iter().filter(|name| !name.starts_with(&own));
                let others: Vec<_> = others.collect();
                ensure!(others.is_empty(), "{others:?} are bound");
            }
            ensure!(guest.emulator.status()?.commands.other() == 0);
            ensure!(guest.emulator.status()?.next_block == 0, "it was asked");
            // Whoever has such a device learns why it is not used; of others nothing is said.
            let lines = guest.log.count(NOT_OURS) - told;
            ensure!(
                (lines > 0) == *asked && lines < 4,
                "{lines} lines in the log"
            );
            clear(guest)
        };
        declined().context(*name)?;
    }
    println!("{} were declined", DECLINED.len());
    heal(guest)?;
    expect_healthy(guest, &node)
}

/// They are used.
fn descriptors_that_will_do(guest: &mut Guest) -> Result<()> {
    let node = start(guest)?;
    for (name, change) in WORKS {
        let (mut device, mut configuration) = healthy()?;
        change(&mut device, &mut configuration);
        let mut works = || -> Result<()> {
            malform(guest, device.clone(), configuration.clone())?;
            let next = guest.emulator.status()?.next_block;
            guest.emulator.plug()?;
            Stream::from_block(guest.seed, next + 1).expect(&read_when_used(&node)?)?;
            clear(guest)?;
            ensure!(node.read(1) == Err(Errno::NODEV));
            Ok(())
        };
        works().context(*name)?;
    }
    println!("{} have worked", WORKS.len());
    heal(guest)?;
    expect_healthy(guest, &node)
}

/// Plugs a device with these descriptors in, case `k`, reads if it is used, and has a healthy device work behind
/// it. Returns whether it was used.
fn survive(
    guest: &mut Guest,
    node: &Node,
    k: usize,
    device: Vec<u8>,
    configuration: Vec<u8>,
) -> Result<bool> {
    malform(guest, device, configuration)?;
    plug_and_settle(guest)?;
    let used = !bound().is_empty();
    if used {
        let reader = Node::open_nonblocking()?;
        let mut bytes = Vec::new();
        let start = Instant::now();
        while bytes.is_empty() && start.elapsed() < Duration::from_secs(2) {
            thread::sleep(Duration::from_millis(20));
            bytes = reader.read(BLOCK).unwrap_or_default();
        }
        // Nothing but blocks of its own.
        let sent = guest.emulator.status()?.next_block;
        let whole = bytes.len() / BLOCK * BLOCK;
        blocks_of(guest.seed, sent, &bytes[..whole])?;
    }
    clear(guest)?;
    ensure!(read_text()? == NO_DEVICE);
    if is_checkpoint(k) {
        expect_healthy(guest, node)?;
        clear(guest)?;
    }
    Ok(used)
}

/// They are declined or used.
fn descriptors_with_any_outcome(guest: &mut Guest) -> Result<()> {
    let node = start(guest)?;
    for line in ["alrandom ", "trying again", GIVEN_UP] {
        guest.log.announce(line);
    }
    let mut used = Vec::new();
    for (k, (name, change)) in ANY.iter().enumerate() {
        let (mut device, mut configuration) = healthy()?;
        change(&mut device, &mut configuration);
        let was_used = survive(guest, &node, k, device, configuration);
        if was_used.context(*name)? {
            used.push(*name);
        }
    }
    println!(
        "{} of {} were used: {}",
        used.len(),
        ANY.len(),
        used.join(", ")
    );
    heal(guest)?;
    expect_healthy(guest, &node)
}

/// Texts that are none: too long, too short, half characters, ends of lines and a terminal's orders. None of
/// it matters, and none of it comes to the files of the module.
fn texts_that_are_none(guest: &mut Guest) -> Result<()> {
    let node = start(guest)?;
    let utf16 = |text: &str| -> Vec<u8> {
        let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        [vec![(units.len() + 2) as u8, 3], units].concat()
    };
    let texts = [
        utf16("A\nalrandom: BUG\r\n\x1b[31mred\x07"),
        utf16("../../../etc/passwd %s%n%x"),
        [vec![255, 3], vec![0; 253]].concat(),
        [vec![254, 3], [0x00, 0xd8].repeat(126)].concat(),
        vec![4, 3, 0xff],
        vec![2, 3],
        vec![0, 3],
        vec![255, 9, 1, 2, 3],
        Vec::new(),
    ];
    for text in &texts {
        let strings = (0..4).map(|index| (index, Bytes(text.clone())));
        // The list of languages is a text of a kind, too: bad in one half of the cases.
        let strings = strings.skip(usize::from(text.len() % 2 == 0)).collect();
        let next = guest.emulator.status()?.next_block;
        guest.configure(Configure {
            descriptors: Some(Raw {
                strings,
                ..Raw::default()
            }),
            ..Configure::default()
        })?;
        let mut works = || -> Result<()> {
            guest.emulator.plug()?;
            Stream::from_block(guest.seed, next + 1).expect(&read_when_used(&node)?)?;
            // The file has its nine lines and no others.
            ensure!(Info::read()?.tests_enabled);
            clear(guest)
        };
        works().with_context(|| {
            format!("{:02x?}, {} bytes", &text[..text.len().min(9)], text.len())
        })?;
    }
    println!("{} texts", texts.len());
    heal(guest)?;
    expect_healthy(guest, &node)
}

/// The device is pulled out in the middle of a control request: the last before drivers are offered it, and the
/// module's own. (Each costs five seconds, until the kernel has noticed; raw_gadget.rs has them all.)
fn gone_in_a_control_request(guest: &mut Guest) -> Result<()> {
    let node = start(guest)?;
    for request in [
        ControlRequest::SetConfiguration,
        ControlRequest::SetControlLineState,
    ] {
        guest
            .emulator
            .control_fault(ControlFault::next(request, ControlAnswer::Unplug))?;
        guest.emulator.plug()?;
        wait_until("the device to go", || {
            guest.emulator.status().is_ok_and(|status| !status.plugged)
        })?;
        clear(guest).with_context(|| format!("gone in {request:?}"))?;
        ensure!(node.read(1) == Err(Errno::NODEV));
    }
    expect_healthy(guest, &node)
}

/// Control requests that the device refuses or that fail: none of those that matter to the module is needed.
fn control_requests_that_fail(guest: &mut Guest) -> Result<()> {
    let node = start(guest)?;
    for (request, skip, answer) in [
        (ControlRequest::SetControlLineState, 0, ControlAnswer::Stall),
        (ControlRequest::SetControlLineState, 0, ControlAnswer::Empty),
        (
            ControlRequest::SetControlLineState,
            0,
            ControlAnswer::IoError,
        ),
        (ControlRequest::SetLineCoding, 0, ControlAnswer::Stall),
        // Behind those of device and configuration: all texts.
        (ControlRequest::GetDescriptor, 6, ControlAnswer::Stall),
        (ControlRequest::GetDescriptor, 6, ControlAnswer::Empty),
        (ControlRequest::SetInterface, 0, ControlAnswer::Stall),
        (ControlRequest::ClearHalt, 0, ControlAnswer::Stall),
    ] {
        let next = guest.emulator.status()?.next_block;
        let fault = ControlFault::next(request, answer).skip(skip).count(0);
        guest.emulator.control_fault(fault)?;
        let mut works = || -> Result<()> {
            guest.emulator.plug()?;
            Stream::from_block(guest.seed, next + 1).expect(&read_when_used(&node)?)?;
            guest.emulator.clear_faults()?;
            clear(guest)
        };
        works().with_context(|| format!("{request:?} {answer:?}"))?;
    }
    expect_healthy(guest, &node)
}

/// A control request that never ends costs five seconds, the time that the kernel gives it, and keeps nobody
/// from pulling the device out meanwhile.
fn control_requests_that_never_end(guest: &mut Guest) -> Result<()> {
    let node = start(guest)?;
    guest.plug_and_hold_line_state()?;
    clear(guest)?;
    ensure!(node.read(1) == Err(Errno::NODEV));

    let next = guest.emulator.status()?.next_block;
    guest.plug_and_hold_line_state()?;
    Stream::from_block(guest.seed, next + 1).expect(&read_when_used(&node)?)?;
    clear(guest)?;
    expect_healthy(guest, &node)
}

/// What looks like an answer comes, but the command is never taken: an attempt that fails, not a reader that
/// waits for ever.
fn an_answer_before_its_command_is_taken(guest: &mut Guest) -> Result<()> {
    let node = guest.start_with(&["maxCommands=1"])?;
    guest.wait_until_full()?;
    let bad = guest.emulator.status()?.next_block;
    guest.emulator.fault(Fault::at(bad, Kind::Unasked))?;
    guest.log.announce("trying again");
    let bytes = node.read_all(8 * BLOCK)?;
    guest
        .log
        .wait_for("the device does not take commands, trying again")?;
    guest.expect_stream_but(&bytes, &[bad, bad + 1, bad + 2])
}

/// More than any earlier owner can have left is there before the first command: it is none of ours.
fn answers_without_a_command(guest: &mut Guest) -> Result<()> {
    guest
        .log
        .announce("the device does not stop sending, trying again");
    guest.configure(Configure {
        leftover: Some(1 << 20),
        ..Configure::default()
    })?;
    let node = guest.start()?;
    let bytes = node.read_all(4 * BLOCK)?;
    ensure!(guest.emulator.status()?.leftover == 0);
    // The first answer behind a failure is not used, nor is the start-up test's.
    guest.expect_stream_but(&bytes, &[1])
}

/// Answers that never end: the device is given up after a bounded number of bytes; nothing is delivered.
fn endless_answers(guest: &mut Guest) -> Result<()> {
    let node = start(guest)?;
    for line in ["trying again", "given up until", GIVEN_UP] {
        guest.log.announce(line);
    }
    let fault = Fault::next(Kind::Extra { bytes: 1 << 20 });
    guest.emulator.fault(fault.count(0))?;
    guest.emulator.plug()?;
    // That a driver is bound is shown before it has begun.
    let mut outcome = Err(Errno::NODEV);
    let start = Instant::now();
    wait_until_within(GIVING_UP, "a reader to be told", || {
        outcome = node.read(1);
        outcome != Err(Errno::NODEV)
    })?;
    ensure!(outcome == Err(Errno::IO), "{outcome:?}");
    ensure!(start.elapsed() < GIVING_UP);
    guest.log.wait_for(GIVEN_UP)?;
    // Half a MiB in each attempt, of a MiB behind each answer.
    let bytes = guest.emulator.status()?.bytes;
    ensure!(bytes < 15 << 20, "{bytes} bytes");
    guest.emulator.clear_faults()?;
    clear(guest)?;
    expect_healthy(guest, &node)
}

/// A byte every 40 ms, for ever, so that the line is never quiet: the device is given up. It takes a minute
/// and more, so it is for the kernel that has time.
fn a_byte_now_and_then(guest: &mut Guest) -> Result<()> {
    /// As [`GIVING_UP`], but four times as long for each attempt.
    const DRIPPING: Duration = Duration::from_secs(240);

    if !Leaks::can_be_found() {
        return Ok(());
    }
    let node = start(guest)?;
    for line in ["trying again", "given up until", GIVEN_UP] {
        guest.log.announce(line);
    }
    guest.configure(Configure {
        rate: Some(25),
        split: Some(vec![1]),
        ..Configure::default()
    })?;
    guest.emulator.plug()?;
    wait_until("the device to be in use", || !bound().is_empty())?;
    wait_until_within(DRIPPING, "the device to be given up", || {
        guest.log.count(GIVEN_UP) > 0
    })?;
    ensure!(node.read(1).is_err());
    clear(guest)?;
    expect_healthy(guest, &node)
}

/// Descriptors with random changes: the kernel and the module survive each.
fn mutations(guest: &mut Guest) -> Result<()> {
    let cases = guest.rounds(8, 60);
    let seed = fastrand::u64(..);
    println!("seed {seed}, {cases} cases");
    let node = start(guest)?;
    for line in ["alrandom ", "trying again", GIVEN_UP] {
        guest.log.announce(line);
    }
    let mut used = 0;
    for case in 0..cases {
        let mut random = fastrand::Rng::with_seed(seed.wrapping_add(case.into()));
        let (mut device, mut configuration) = healthy()?;
        mutate(&mut random, &mut Vec::new(), &mut configuration);
        // What the USB core does not let in is for raw-gadget, see UNUSABLE.
        configuration.resize(configuration.len().max(9), 0);
        configuration[..2].copy_from_slice(&[9, 2]);
        device[17] = 1;
        total(&mut configuration);
        let was_used = survive(
            guest,
            &node,
            case as usize,
            device.clone(),
            configuration.clone(),
        );
        used += u32::from(was_used.with_context(|| {
            format!("case {case} of seed {seed}: {device:02x?} {configuration:02x?}")
        })?);
    }
    println!("{used} of {cases} were used");
    heal(guest)?;
    expect_healthy(guest, &node)
}

/// Changes a few bytes, mostly of the configuration.
pub(crate) fn mutate(
    random: &mut fastrand::Rng,
    device: &mut Vec<u8>,
    configuration: &mut Vec<u8>,
) {
    for _ in 0..random.usize(1..6) {
        let bytes = if random.u8(..10) == 0 {
            &mut *device
        } else {
            &mut *configuration
        };
        let at = random.usize(..bytes.len().max(1));
        let Some(byte) = bytes.get_mut(at) else {
            continue;
        };
        match random.u8(..8) {
            0 => *byte = 0,
            1 => *byte = 0xff,
            2 => *byte = random.u8(..),
            3 | 4 => *byte ^= 1 << random.u8(..8),
            5 => *byte = byte.wrapping_add(1),
            6 => bytes.truncate(at.max(1)),
            _ => {
                let end = bytes.len().min(at + random.usize(1..20));
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
                if bytes.len() > 9 && bytes[1] == 2 {
                    total(bytes);
                }
            }
        }
    }
}
