// SPDX-License-Identifier: GPL-2.0
//! The program: a virtual AlphaRNG for QEMU.

#![forbid(unsafe_code)]

mod server;

use std::path::PathBuf;
use std::process::ExitCode;

use alpharng_emu::descriptors::{Identity, Interfaces, Raw, Speed};
use alpharng_emu::device::{Options, MAX_PENDING};
use alpharng_emu::stream::SourceSpec;
use clap::{ArgAction, Parser};

use server::{Server, Settings, Verbosity};

/// Text behind the list of options.
const EXAMPLE: &str = "\
Example, with any QEMU that has usb-redir (a Linux guest sees /dev/ttyACM0):

  qemu-system-x86_64 ... -device qemu-xhci,id=xhci \\
      -chardev socket,id=usb0,path=/tmp/usb0.sock,server=on,wait=off \\
      -device usb-redir,chardev=usb0,bus=xhci.0 &
  alpharng-emu --usbredir /tmp/usb0.sock --control-listen /tmp/emu.sock

In the guest, `stty raw -echo < /dev/ttyACM0`, then write an x to it and read 16001 bytes. On the
host, with any program that talks to a unix socket:

  echo '{\"op\":\"fault\",\"kind\":\"status\",\"value\":4}' | socat - /tmp/emu.sock
  echo '{\"op\":\"unplug\"}' | socat - /tmp/emu.sock

Requests: reset, configure, plug, unplug, status, fault, control_fault, clear_faults; each is one
JSON object on a line, and so is each answer. README.md lists their fields.";

/// A virtual AlphaRNG random number generator.
///
/// Speaks the usbredir protocol to QEMU's usb-redir device, so that the guest's own USB host
/// controller finds the unit on its bus. One process serves several units. A control socket lets a
/// test plug, unplug, configure and break them.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLE, max_term_width = 100)]
struct Arguments {
    /// QEMU's socket of a usb-redir device; the k-th one is device k. Tried until QEMU is there
    #[arg(long, value_name = "SOCKET", required = true)]
    usbredir: Vec<PathBuf>,

    /// Connect to this socket for the control protocol, such as that of a virtserialport
    #[arg(long, value_name = "SOCKET")]
    control_connect: Option<PathBuf>,

    /// Make this socket for the control protocol
    #[arg(long, value_name = "SOCKET")]
    control_listen: Option<PathBuf>,

    /// Do not plug device 0 in at the start; the others never are
    #[arg(long)]
    unplugged: bool,

    /// USB ids; given more than once, the k-th is device k's, the last those of all further ones
    #[arg(long, value_name = "VENDOR:PRODUCT", default_value = "1fc9:8111", value_parser = ids)]
    id: Vec<(u16, u16)>,

    /// Serial number of device k, k-th; without one, EMU00000 and so on
    #[arg(long, value_name = "TEXT")]
    serial: Vec<String>,

    /// Speed of the bus
    #[arg(long, value_enum, default_value_t)]
    speed: Speed,

    /// Where the data come from: os, seeded:NUMBER or file:PATH; for several devices as for --id
    #[arg(long, default_value = "os", value_parser = source)]
    source: Vec<SourceSpec>,

    /// Bytes per second that each device produces; 0 for no limit
    #[arg(long, value_name = "BYTES", default_value_t)]
    rate: u64,

    /// Cut answers into transfers of these lengths, the last one repeats: 8192,7809
    #[arg(long, value_name = "BYTES", value_delimiter = ',')]
    split: Vec<usize>,

    /// Bytes that an earlier owner left unread in the device
    #[arg(long, value_name = "BYTES", default_value_t)]
    leftover: usize,

    /// Numbers of the interfaces and endpoints
    #[arg(
        long,
        value_name = "NAME=NUMBER,...",
        default_value = "communications=0,data=1,notify=1,in=2,out=3",
        value_parser = interfaces
    )]
    interfaces: Interfaces,

    /// Notifications per second on the interrupt endpoint
    #[arg(long, value_name = "NUMBER", default_value_t)]
    interrupts: u32,

    /// Commands whose answers can wait at once, from 1 to 16; what comes beyond is dropped
    #[arg(long, value_name = "NUMBER", default_value_t = MAX_PENDING)]
    queue: usize,

    /// End when QEMU's last connection closes, instead of waiting for it to come back
    #[arg(long)]
    once: bool,

    /// Log every command; twice: every packet
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,

    /// Log only what goes wrong
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
}

/// Reads `vendor:product` in hexadecimal.
fn ids(text: &str) -> Result<(u16, u16), String> {
    let number = |digits: &str| u16::from_str_radix(digits, 16).ok();
    text.split_once(':')
        .and_then(|(vendor, product)| Some((number(vendor)?, number(product)?)))
        .ok_or_else(|| "ids are two hexadecimal numbers, such as 3975:0005".to_owned())
}

/// Reads a source.
fn source(text: &str) -> Result<SourceSpec, String> {
    match text.split_once(':') {
        None if text == "os" => Ok(SourceSpec::Os),
        Some(("seeded", seed)) => seed
            .parse()
            .map(|seed| SourceSpec::Seeded { seed })
            .map_err(|e| format!("the seed: {e}")),
        Some(("file", path)) => Ok(SourceSpec::File { path: path.into() }),
        _ => Err("a source is os, seeded:NUMBER or file:PATH".to_owned()),
    }
}

/// Reads `name=number` pairs.
fn interfaces(text: &str) -> Result<Interfaces, String> {
    let mut interfaces = Interfaces::default();
    for pair in text.split(',') {
        let (name, number) = pair
            .split_once('=')
            .ok_or_else(|| format!("\"{pair}\" is not NAME=NUMBER"))?;
        let field = match name {
            "communications" => &mut interfaces.communications,
            "data" => &mut interfaces.data,
            "notify" => &mut interfaces.notify,
            "in" => &mut interfaces.bulk_in,
            "out" => &mut interfaces.bulk_out,
            _ => {
                return Err(format!(
                    "\"{name}\" is none of communications, data, notify, in, out"
                ))
            }
        };
        *field = number
            .parse()
            .map_err(|e| format!("the number of {name}: {e}"))?;
    }
    interfaces.check()?;
    Ok(interfaces)
}

impl Arguments {
    /// What device `k` is made of.
    fn options(&self, k: usize) -> Options {
        let (vendor_id, product_id) = of_device(&self.id, k).unwrap_or((0x1fc9, 0x8111));
        Options {
            identity: Identity {
                vendor_id,
                product_id,
                serial: self
                    .serial
                    .get(k)
                    .cloned()
                    .unwrap_or_else(|| format!("EMU{k:05}")),
                speed: self.speed,
                interfaces: self.interfaces,
                raw: Raw::default(),
            },
            source: of_device(&self.source, k).unwrap_or_default(),
            rate: self.rate,
            split: self.split.clone(),
            leftover: self.leftover,
            interrupts: self.interrupts,
            queue: self.queue,
        }
    }

    /// What the program is to do.
    fn settings(self) -> Settings {
        let ports = (0..)
            .zip(&self.usbredir)
            .map(|(k, path)| (path.clone(), self.options(k)))
            .collect();
        Settings {
            ports,
            plugged: !self.unplugged,
            control_connect: self.control_connect,
            control_listen: self.control_listen,
            verbosity: match (self.quiet, self.verbose) {
                (true, _) => Verbosity::Errors,
                (false, 0) => Verbosity::Events,
                (false, 1) => Verbosity::Commands,
                (false, _) => Verbosity::Packets,
            },
            once: self.once,
        }
    }
}

/// The value for device `k` of those given: its own, or the last.
fn of_device<T: Clone>(values: &[T], k: usize) -> Option<T> {
    values.get(k).or(values.last()).cloned()
}

fn main() -> ExitCode {
    let settings = Arguments::parse().settings();
    let result = Server::new(settings).and_then(|mut server| {
        server
            .run()
            .map_err(|e| format!("cannot wait for the sockets: {e}"))
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("alpharng-emu: {error}");
            ExitCode::FAILURE
        }
    }
}
